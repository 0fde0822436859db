"""Aircraft drawn from a seed: fixed, reproducible, different from the data sheet where they say so and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.config import EnvironmentSettings
from sim2sky.config.environment import COEFFICIENTS, SENSORS
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.environments.airframes import AIRFRAMES, airframe
from sim2sky.environments.disturbances import draw_scenario
from sim2sky.environments.hidden_aircraft import CAUSES, hidden_aircraft, nominal_aircraft, single_cause
from sim2sky.environments.jsbsim_plant import find_trim
from sim2sky.errors import ConfigError

BASE = nominal_aircraft(EnvironmentSettings())
SEEDS = st.integers(0, 2**63)
AIRCRAFT = st.sampled_from(sorted(AIRFRAMES))

CHANGES = {
    "delay": {"disturbances.action_delay_s"},
    "actuator": {"randomization.actuator_bandwidth_scale", "randomization.actuator_rate_scale"},
    "thrust": {"randomization.thrust_scale"},
    "drag": {"randomization.coefficient_scales.CD0"},
    "mass": {"randomization.mass_offset_kg"},
    "cg": {"randomization.cg_offset_m"},
    "inertia": {"randomization.inertia_scale"},
    "aerodynamics": {f"randomization.coefficient_scales.{name}" for name in COEFFICIENTS},
    "sensor bias": {f"disturbances.sensors.offsets.{name}" for name in SENSORS},
    "sensor noise": {"disturbances.sensors.noise_scale"},
    "trim": {f"randomization.command_offset.{s}" for s in ("aileron", "elevator", "rudder")},
    "action map": {
        *(f"randomization.command_scale.{s}" for s in ("aileron", "elevator", "rudder")), "randomization.command_swap"
    },
    "wind": {"disturbances.wind_mps"},
}  # fmt: skip
"""What each cause may touch."""


def of(aircraft: str) -> EnvironmentSettings:
    return nominal_aircraft(EnvironmentSettings.model_validate({"aircraft": aircraft}))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def changed(after: EnvironmentSettings, before: EnvironmentSettings = BASE) -> set[str]:
    old, new = leaves(before.model_dump()), leaves(after.model_dump())
    assert set(old) <= set(new)
    return {key for key, value in new.items() if old.get(key) != value}


def test_every_cause_has_a_maker_and_a_line_in_this_table():
    assert set(CHANGES) == set(CAUSES)
    assert len(CAUSES) == len(set(CAUSES)) == 13


@given(SEEDS, AIRCRAFT)
@settings(max_examples=50)
def test_the_same_seed_is_the_same_aircraft(seed, aircraft):
    base = of(aircraft)
    assert hidden_aircraft(seed, base) == hidden_aircraft(seed, base)
    assert hidden_aircraft(seed, base) != hidden_aircraft(seed + 1, base)


@given(SEEDS, AIRCRAFT, st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=50)
def test_the_aircraft_stays_the_same_from_flight_to_flight_and_only_the_weather_changes(seed, aircraft, one, other):
    hidden, plane = hidden_aircraft(seed, of(aircraft)), airframe(aircraft)
    a, b = draw_scenario(hidden, plane, one), draw_scenario(hidden, plane, other)
    assert a.parameters == b.parameters
    assert a.action_delay_substeps == b.action_delay_substeps
    assert a.observation_delay_substeps == b.observation_delay_substeps
    assert a.sensor_sigma == b.sensor_sigma
    for scenario in (a, b):
        wind = np.hypot(scenario.air.wind_north_mps, scenario.air.wind_east_mps)
        low, high = hidden.disturbances.wind_mps
        assert low - 1e-9 <= wind <= high + 1e-9
    if one != other:
        assert a.air != b.air


@given(SEEDS, AIRCRAFT)
@settings(max_examples=30)
def test_everything_that_belongs_to_the_aircraft_is_one_value(seed, aircraft):
    hidden = hidden_aircraft(seed, of(aircraft))
    r, d = hidden.randomization, hidden.disturbances
    assert set(r.coefficient_scales) == set(COEFFICIENTS)
    assert set(d.sensors.offsets) == set(SENSORS)
    for low, high in (
        r.mass_offset_kg, r.cg_offset_m, r.thrust_scale, r.actuator_bandwidth_scale, r.actuator_rate_scale,
        *r.coefficient_scales.values(), *r.command_offset.values(), d.action_delay_s,
        d.observation_delay_s, d.sensors.noise_scale, *d.sensors.offsets.values(),
    ):  # fmt: skip
        assert low == high
    assert d.wind_mps[0] < d.wind_mps[1]
    delay_s = d.action_delay_s[0] + d.observation_delay_s[0]
    assert 0.02 <= delay_s <= 0.2
    mass = airframe(aircraft).mass_kg
    assert -0.03 * mass < r.mass_offset_kg[0] < 0.21 * mass


def test_inertia_and_turbulence_stay_as_documented():
    base = EnvironmentSettings.model_validate(
        {"disturbances": {"turbulence_w20_mps": [3, 4]}, "randomization": {"inertia_scale": [0.9, 1.1]}}
    )
    hidden = hidden_aircraft(3, base)
    assert hidden.randomization.inertia_scale == (0.9, 1.1)
    assert hidden.disturbances.turbulence_w20_mps == (3.0, 4.0)
    assert not {"inertia_scale", "turbulence_w20_mps", "elevator_offset", "command_scale", "command_swap"} & {
        key.split(".")[1] for key in changed(hidden, base)
    }


def test_every_hidden_aircraft_can_hold_level_flight():
    plane = airframe("ultrastick25e")
    for seed in range(20):
        scenario = draw_scenario(hidden_aircraft(seed, BASE), plane, 0)
        command, alpha = find_trim(plane, plane.cruise_airspeed_mps, parameters=scenario.parameters)
        assert 0.1 < command.throttle < 0.95
        assert abs(command.elevator) < 0.5
        assert 0.0 < alpha < 0.2


@given(st.sampled_from(CAUSES), SEEDS, AIRCRAFT)
@settings(max_examples=200)
def test_a_single_cause_changes_its_own_parameters_and_nothing_else(cause, seed, aircraft):
    base = of(aircraft)
    after = single_cause(cause, seed, base)
    assert after == single_cause(cause, seed, base)
    touched = changed(after, base)
    assert touched
    assert touched <= CHANGES[cause]
    # ... in the aircraft that flies as well, not only in its description.
    one, other = (draw_scenario(s, airframe(aircraft), 5) for s in (base, after))
    assert one != other
    assert one.initial.airspeed_mps == other.initial.airspeed_mps
    assert one.setpoint == other.setpoint


def test_a_cause_adds_to_a_base_that_is_not_nominal():
    base = single_cause("aerodynamics", 1, single_cause("sensor bias", 1, single_cause("trim", 1, BASE)))
    touched = changed(base)
    for cause in CAUSES:
        after = single_cause(cause, 7, base)
        assert changed(after, base) <= CHANGES[cause]
        assert touched <= changed(after)


def test_a_range_is_moved_as_a_whole():
    base = BASE.model_copy(
        update={"disturbances": BASE.disturbances.model_copy(update={"action_delay_s": (0.02, 0.05)})}
    )
    low, high = single_cause("delay", 0, base).disturbances.action_delay_s
    assert high - low == pytest.approx(0.03)
    assert 0.1 <= low <= 0.22


def test_directions_and_kinds_depend_on_the_seed():
    thrust = {single_cause("thrust", s, BASE).randomization.thrust_scale[0] > 1.0 for s in range(12)}
    cg = {single_cause("cg", s, BASE).randomization.cg_offset_m[0] > 0.0 for s in range(12)}
    assert thrust == cg == {True, False}
    maps = [single_cause("action map", s, BASE).randomization for s in range(30)]
    assert any(m.command_swap for m in maps)
    factors = [bounds[0] for m in maps for bounds in m.command_scale.values()]
    assert -1.0 in factors
    assert any(0.4 <= f <= 0.6 for f in factors)


def test_a_hidden_aircraft_is_a_patch_like_any_other():
    hidden = hidden_aircraft(4, BASE)
    patch = RandomizationPatch.between(BASE, hidden)
    assert patch.apply(BASE) == hidden
    assert patch.revert(hidden) == BASE


def test_nominal_is_the_data_sheet_in_the_same_air():
    base = EnvironmentSettings.model_validate(
        {
            "disturbances": {"wind_mps": [1, 2], "action_delay_s": [0, 0.1], "sensors": {"noise_scale": [2, 2]}},
            "randomization": {"thrust_scale": [0.5, 0.6]},
        }
    )
    nominal = nominal_aircraft(base)
    assert nominal.randomization.thrust_scale == (1.0, 1.0)
    assert nominal.disturbances.action_delay_s == (0.0, 0.0)
    assert nominal.disturbances.wind_mps == (1.0, 2.0)
    assert nominal.disturbances.sensors.noise_scale == (2.0, 2.0)


def test_wrong_causes_and_seeds_are_refused():
    with pytest.raises(ConfigError, match="no cause 'luck'"):
        single_cause("luck", 0, BASE)
    for make in (lambda: hidden_aircraft(-1, BASE), lambda: single_cause("mass", -1, BASE)):
        with pytest.raises(ConfigError, match="0 or above"):
            make()
