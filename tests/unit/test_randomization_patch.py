"""Randomisation patches: applied, taken back, refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.config import EnvironmentSettings, dump_yaml, load_settings, parse_settings
from sim2sky.config.environment import COEFFICIENTS, SENSORS
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.errors import ConfigError

PATCH = """\
aircraft: ultrastick25e
written_by: a test
randomization:
  thrust_scale: [0.78, 0.84]
  coefficient_scales: {Clda: [0.9, 0.97]}
  command_offset: {aileron: [0.05, 0.05]}
disturbances:
  action_delay_s: [0.08, 0.1]
  sensors: {noise_scale: [1.5, 2.0]}
"""


def ranges(low: float, high: float):
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda r: (min(r), max(r)))


environments = st.builds(
    lambda thrust, mass, delay, noise, coefficients, offsets, swap: EnvironmentSettings.model_validate(
        {
            "randomization": {
                "thrust_scale": thrust,
                "mass_offset_kg": mass,
                "coefficient_scales": coefficients,
                "command_swap": swap,
            },
            "disturbances": {"action_delay_s": delay, "sensors": {"noise_scale": noise, "offsets": offsets}},
        }
    ),
    ranges(0.5, 1.5),
    ranges(-0.5, 0.5),
    ranges(0.0, 0.3),
    ranges(0.0, 3.0),
    st.dictionaries(st.sampled_from(COEFFICIENTS), ranges(0.5, 2.0), max_size=3),
    st.dictionaries(st.sampled_from(SENSORS), ranges(-0.1, 0.1), max_size=3),
    st.none() | st.just(("aileron", "rudder")),
)


@given(before=environments, after=environments)
def test_a_patch_between_two_environments_leads_there_and_back(before, after):
    patch = RandomizationPatch.between(before, after, written_by="hypothesis")
    again = parse_settings(dump_yaml(patch), RandomizationPatch, source="patch.yaml")
    assert again.apply(before) == after
    assert again.revert(after) == before


def test_a_patch_changes_what_it_names_and_nothing_else(tmp_path):
    path = tmp_path / "patch.yaml"
    path.write_text(PATCH)
    env = AircraftEnv({"disturbances": {"wind_mps": [1.0, 2.0]}}, randomization=path)
    d, r = env.settings.disturbances, env.settings.randomization
    assert d.action_delay_s == (0.08, 0.1) and d.wind_mps == (1.0, 2.0)
    assert d.sensors.noise_scale == (1.5, 2.0) and d.sensors.airspeed_mps == 0.3
    assert r.thrust_scale == (0.78, 0.84) and r.inertia_scale == (1.0, 1.0)
    for seed in range(5):
        env.reset(seed=seed)
        drawn = env.vehicle.scenario["parameters"]
        assert 0.9 <= drawn["coefficient_scale"]["Clda"] <= 0.97 and drawn["coefficient_scale"]["Cma"] == 1.0
        assert drawn["command_offset"]["aileron"] == 0.05 and drawn["command_offset"]["elevator"] == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aircraft: aerosonde\nrandomization: {thrust_scale: [0.5, 0.6]}", "is for 'aerosonde'"),
        ("randomization: {thrust: [0.5, 0.6]}", "did you mean 'thrust_scale'"),
        ("randomization: {coefficient_scales: {Clxx: [0.5, 0.6]}}", "no aerodynamic coefficient Clxx"),
        ("randomization: {command_scale: {flaps: [1, 1]}}", "aileron"),
        ("disturbances: {sensors: {offsets: {gps: [0, 1]}}}", "roll_rad"),
        ("disturbances: {action_delay_s: [0.3, 0.1]}", "is above"),
        ("task: {name: rate}", "unknown key 'task'"),
    ],
)
def test_a_wrong_patch_is_refused_with_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "patch.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        AircraftEnv(randomization=path)


def test_a_patch_without_what_it_replaced_cannot_be_reverted(tmp_path):
    path = tmp_path / "patch.yaml"
    path.write_text(PATCH)
    with pytest.raises(ConfigError, match="cannot be reverted"):
        load_settings(path, RandomizationPatch).revert(EnvironmentSettings())


def test_a_patch_does_not_change_the_task():
    with pytest.raises(ConfigError, match="neither aircraft nor task"):
        RandomizationPatch.between(EnvironmentSettings(), EnvironmentSettings(rate_hz=40.0))


def test_the_coefficients_that_have_a_scale_are_those_of_every_airframe():
    for frame in AIRFRAMES.values():
        assert set(COEFFICIENTS) == set(frame.coefficients) - {"CLm"}
