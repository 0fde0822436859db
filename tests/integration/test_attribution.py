"""Attribution on flights of aircraft that differ in one known way, in none, or in two."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flown_flights import flown
from sim2sky.analysis.attribution import CANNOT_TELL, NOTHING, attribute
from sim2sky.analysis.hypotheses import HYPOTHESES, PARAMETERS, trial
from sim2sky.analysis.replay import Model
from sim2sky.analysis.windows import cut_windows
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.hidden_aircraft import CAUSES, hidden_aircraft
from sim2sky.environments.jsbsim_plant import PlantParameters
from sim2sky.errors import ConfigError, NotSupportedError

BASE = EnvironmentSettings()


def changed(randomization=None, disturbances=None, sensors=None):
    data = BASE.model_dump()
    data["randomization"] |= randomization or {}
    data["disturbances"] |= disturbances or {}
    data["disturbances"]["sensors"] |= sensors or {}
    return EnvironmentSettings.model_validate(data)


@pytest.fixture(scope="module")
def sim():
    return flown(BASE, range(20))


def real(settings, count=8):
    return flown(settings, range(500, 500 + count), source="virtual")


CASES = {
    "delay": (changed(disturbances={"action_delay_s": (0.1, 0.1)}), "action_delay_s", 0.1, 0.02),
    "actuator": (changed({"actuator_bandwidth_scale": (0.35, 0.35)}), "actuator_bandwidth_scale", 0.35, 0.12),
    "trim": (changed({"command_offset": {"aileron": (0.1, 0.1)}}), "command_offset.aileron", 0.1, 0.02),
    "sensor noise": (changed(sensors={"noise_scale": (3.5, 3.5)}), "noise_scale", 3.5, 0.4),
    "wind": (changed(disturbances={"wind_mps": (10.0, 10.0)}), "wind_mps", 10.0, 1.5),
    "sensor bias": (
        changed(sensors={"offsets": {"climb_rate_mps": (0.9, 0.9)}}),
        "offsets.climb_rate_mps", 0.9, 0.3,
    ),
    "action map": (changed({"command_swap": ("aileron", "rudder")}), "command_swap.aileron.rudder", 1.0, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("cause", CASES)
def test_a_single_clear_cause_is_named_with_its_size(sim, cause):
    settings, key, value, tolerance = CASES[cause]
    found = attribute(sim, real(settings), windows=32)
    first = found.causes[0]
    assert first.name == cause, [(c.name, round(c.log_bayes)) for c in found.causes[:3]]
    assert found.verdict == cause
    assert first.parameters[key] == pytest.approx(value, abs=tolerance)
    assert first.explained > 0.5
    assert 0.0 <= first.low <= first.explained <= first.high <= 1.0
    assert "explains" in first.description
    assert found.p_value <= 0.05
    assert not found.advice
    assert json.loads(json.dumps(found.to_json()))["verdict"] == cause


def test_every_cause_has_a_name_that_the_hidden_aircraft_knows(sim):
    found = attribute(sim, real(changed({"thrust_scale": (0.7, 0.7)})), windows=32)
    assert {c.name for c in found.causes} <= set(CAUSES)
    assert {h.cause for h in HYPOTHESES} | {"sensor noise", "wind"} == set(CAUSES)
    assert "thrust" in [c.name for c in found.causes[:2]]
    ranks = [c.log_bayes for c in found.causes]
    assert ranks == sorted(ranks, reverse=True)


def test_flights_of_the_simulator_itself_leave_nothing_to_explain(sim):
    found = attribute(sim, real(BASE), windows=32)
    assert found.verdict == NOTHING
    assert found.causes == ()
    assert found.p_value > 0.05


def test_two_causes_at_once_are_not_pinned_on_a_third(sim):
    both = changed({"thrust_scale": (0.75, 0.75)}, {"action_delay_s": (0.1, 0.1)})
    found = attribute(sim, real(both), windows=32)
    assert found.verdict in {"delay", "thrust", CANNOT_TELL}
    assert found.causes[0].name == "delay"


def test_an_aircraft_that_differs_in_everything_is_not_pinned_on_one_cause(sim):
    """Noise and delay and trim and coefficients, none of which explains half."""
    found = attribute(sim, real(hidden_aircraft(18, BASE)), windows=32)
    assert found.verdict == CANNOT_TELL or found.causes[0].explained >= 0.5
    assert len([c for c in found.causes if c.log_bayes > 3.0]) >= 2
    if found.verdict == CANNOT_TELL:
        assert "sim2sky" in found.advice


def test_the_same_logs_get_the_same_answer(sim):
    flights = real(CASES["trim"][0], 5)
    assert attribute(sim, flights, windows=24) == attribute(sim, flights, windows=24)


def test_one_long_flight_is_as_good_as_many_short_ones(sim):
    """A log of one flight is cut into pieces, each with its own turbulence."""
    long = changed(disturbances={"action_delay_s": (0.1, 0.1)})
    data = long.model_dump()
    data["task"]["duration_s"] = 160.0
    flights = flown(EnvironmentSettings.model_validate(data), range(900, 901), source="virtual")
    assert len(flights) == 1
    assert attribute(sim, flights, windows=30).verdict == "delay"


# Refusals -------------------------------------------------------------------------------------------------------------


def test_too_few_flights_are_refused_with_what_it_takes(sim):
    with pytest.raises(NotSupportedError, match="20 simulated and 1 real") as refusal:
        attribute(sim, sim[:1])
    assert "fly more" in refusal.value.hint


def test_flights_too_short_are_refused(sim):
    def cut(flight):
        arrays = {name: value[:18] for name, value in vars(flight).items() if isinstance(value, np.ndarray)}
        return replace(flight, **arrays)

    with pytest.raises(NotSupportedError, match="not supported"):
        attribute(sim, [cut(f) for f in sim[:8]])


def test_logs_without_commands_are_refused(sim):
    blind = [replace(f, controls=np.full_like(f.controls, np.nan)) for f in sim[:8]]
    with pytest.raises(NotSupportedError, match="commands"):
        attribute(sim, blind)


def test_two_airframes_are_refused(sim):
    with pytest.raises(ConfigError, match="aerosonde"):
        attribute(sim, [replace(f, airframe="aerosonde") for f in sim[:8]])


def test_a_simulated_log_with_settings_that_are_none_is_refused(sim):
    odd = [replace(f, config={"environment": {"aircraft": "ultrastick25e", "wings": 3}}) for f in sim]
    with pytest.raises(ConfigError, match="environment"):
        attribute(odd, sim[:8])


# Hypotheses -----------------------------------------------------------------------------------------------------------


def test_every_hypothesis_uses_known_parameters_once():
    for hypothesis in HYPOTHESES:
        assert len(set(hypothesis.parameters)) == len(hypothesis.parameters)
        assert set(hypothesis.parameters) <= set(PARAMETERS)
        assert (hypothesis.width > 0.0).all()


def test_no_change_is_the_base_itself(sim):
    windows = cut_windows(sim[:1], 1.0)
    base = Model(PlantParameters(mass_offset_kg=0.1, coefficient_scale={"Cma": 1.2}), 0.05, {"roll_rad": 0.01})
    same = trial(base, windows, {})
    assert same.model == base
    assert same.windows is windows
    np.testing.assert_allclose(same.starts[:, 3], windows.starts[:, 3] - 0.01)


def test_changes_come_on_top_of_the_base(sim):
    windows = cut_windows(sim[:1], 1.0)
    base = Model(PlantParameters(mass_offset_kg=0.1, coefficient_scale={"Cma": 1.2}, thrust_scale=0.9), 0.05)
    values = {
        "mass_offset_kg": 0.2, "coefficient_scales.Cma": 0.5, "thrust_scale": np.log(2.0), "action_delay_s": 0.03,
        "command_offset.rudder": -0.1, "offsets.q_radps": 0.04,
    }  # fmt: skip
    p = trial(base, windows, values).model
    assert p.parameters.mass_offset_kg == pytest.approx(0.3)
    assert p.parameters.coefficient_scale["Cma"] == pytest.approx(1.8)
    assert p.parameters.thrust_scale == pytest.approx(1.8)
    assert p.action_delay_s == pytest.approx(0.08)
    assert p.parameters.command_offset == {"rudder": -0.1}
    assert p.sensor_bias == {"q_radps": 0.04}


def test_an_exchange_of_two_surfaces_is_one_of_the_hypotheses(sim):
    windows = cut_windows(sim[:1], 1.0)
    swap = {"command_swap.aileron.rudder": 1.0}
    mixed = trial(Model(), windows, swap).windows.controls
    np.testing.assert_allclose(mixed, windows.controls[..., [2, 1, 0, 3]])
    assert tuple(swap) in {h.parameters for h in HYPOTHESES}
