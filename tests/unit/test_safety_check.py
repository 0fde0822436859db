"""The safety check passes the shipped limits and refuses limits that are absent, boundless or contradictory."""

import pytest

from sim2sky.config.deployment import DeploymentSettings
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.validation.safety_check import REQUIRED, check_safety

DEFAULT = resolve_safety(SafetySettings(extends="default")).values


@pytest.mark.parametrize("name", sorted(AIRFRAMES))
def test_every_shipped_configuration_passes_for_every_airframe(name: str) -> None:
    airframe = AIRFRAMES[name]
    validation = load_settings(default_path("validation"), ValidationSettings, section="validation")
    deployment = load_settings(default_path("deployment"), DeploymentSettings, section="deployment")
    for safety in (validation.safety, deployment.safety, deployment.validation_settings(validation).safety):
        assert check_safety(resolve_safety(safety).values, airframe) == ([], [])


def test_the_specifications_own_block_is_missing_what_its_check_asks_for() -> None:
    """The contradiction that ADR 0002 settles."""
    block = {
        "preflight_checks_required": True,
        "kill_switch_enabled": True,
        "geofence_enabled": True,
        "max_altitude_m": 500,
        "max_range_m": 500,
    }
    missing, _ = check_safety(block, None)
    assert {"aileron_max", "elevator_max", "altitude_min"} <= set(missing)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_limit_is_missed(name: str) -> None:
    missing, _ = check_safety({k: v for k, v in DEFAULT.items() if k != name}, AIRFRAMES["ultrastick25e"])
    assert missing == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aileron_max": 1e9}, "aileron_max 1e+09 deg is beyond the actuator's travel of 25 deg"),
        ({"aileron_max": 25.1}, "beyond the actuator's travel"),
        ({"elevator_max": -25.0}, "'elevator_max' must be above 0"),
        ({"rudder_max": 1.0}, "rudder_max 1 deg leaves less than 20%"),
        ({"altitude_min": 600.0}, "max_altitude_m must lie above altitude_min"),
        ({"altitude_min": 455.0, "altitude_buffer_m": 10.0}, "less than 50 m between"),
        ({"altitude_min": -100.0}, "less than 10 m to the ground"),
        ({"max_altitude_m": 1e9}, "max_altitude_m 1e+09 is above"),
        ({"max_range_m": 1e9}, "max_range_m 1e+09 is above"),
        ({"max_range_m": 50.0}, "less than three turn radii"),
        ({"kill_switch_enabled": False}, "kill_switch_enabled is False: it must be true"),
        ({"geofence_enabled": False}, "geofence_enabled is False"),
        ({"preflight_checks_required": False}, "preflight_checks_required is False"),
        ({"roll_max": 170.0}, "roll_max 170 deg is not within"),
        ({"pitch_max": 89.0}, "pitch_max 89 deg is not within"),
        ({"pitch_min": 10.0}, "pitch_min must be in"),
        ({"pitch_min": -80.0}, "pitch_min -80 deg is not within"),
        ({"throttle_max": 0.3}, "too little to climb"),
        ({"throttle_max": 0.55}, "below the 0.6"),
        ({"throttle_min": 0.5}, "too much to descend"),
        ({"surface_slew_per_s": 1e6}, "limits nothing"),
        ({"stale_data_ms": 5000.0, "blind_data_ms": 6000.0}, "stale_data_ms 5000 is above"),
        ({"fallback_bank_deg": 41.0}, "more than the fallback law's 40 deg"),
        ({"fallback_bank_deg": 72.0}, "roll_max 70 would stop it"),
        ({"hold_last_ms": 1000.0}, "hold_last_ms 1000 is above 200"),
        ({"airspeed_min_mps": 5.0}, "below the stall at 8.9"),
        ({"airspeed_min_mps": 17.0}, "above the airspeeds this aircraft flies at"),
        ({"airspeed_max_mps": 18.0}, "below the airspeeds this aircraft flies at"),
        ({"geofence_polygons": [[[100, 100], [200, 100], [200, 200]]]}, "polygon 1 does not contain home"),
        ({"stale_data_ms": 300.0, "blind_data_ms": 200.0}, "blind_data_ms must not be below"),
    ],
)
def test_insane_limits_are_refused_by_name(change: dict[str, object], message: str) -> None:
    missing, problems = check_safety({**DEFAULT, **change}, AIRFRAMES["ultrastick25e"])
    assert missing == []
    assert any(message in problem for problem in problems), problems


def test_an_unknown_limit_is_refused() -> None:
    _, problems = check_safety({**DEFAULT, "aileron_maximum": 3.0}, None)
    assert "unknown safety limit 'aileron_maximum'" in problems[0]


def test_without_an_airframe_only_absolute_rules_apply() -> None:
    assert check_safety({**DEFAULT, "aileron_max": 60.0}, None) == ([], [])
    assert check_safety({**DEFAULT, "max_altitude_m": 1e9}, None)[1]
