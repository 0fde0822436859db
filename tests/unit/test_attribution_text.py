"""What attribution says of causes: numbers, units, settings, advice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim2sky.analysis.attribution_text import advice_for, describe, reported
from sim2sky.analysis.hypotheses import HYPOTHESES, PARAMETERS, Hypothesis
from sim2sky.analysis.log_evidence import LogEvidence
from sim2sky.analysis.replay_fit import Fit
from sim2sky.cli_gap_causes import causes_json, causes_lines
from sim2sky.errors import Sim2SkyError
from sim2sky.report.refused import Refused


def fitted(cause="x", **values):
    names = {name.replace("__", "."): x for name, x in values.items()}
    std = {name: 0.1 * PARAMETERS[name].width for name in names}
    return Fit(Hypothesis(cause, tuple(names)), names, std, 5.0, np.zeros(1), np.zeros(len(PARAMETERS)))


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        (fitted(action_delay_s=0.11), "action delay +0.110 s (0.090..0.130)"),
        (fitted(mass_offset_kg=-0.2), "mass -0.20 kg"),
        (fitted(thrust_scale=math.log(0.8)), "thrust x0.80 (0.77..0.83)"),
        (fitted(coefficient_scales__CD0=0.5), "drag coefficient CD0 x1.50"),
        (fitted(coefficient_scales__Cma=-0.2), "Cma x0.80"),
        (fitted(command_offset__rudder=0.1), "rudder offset +0.10 ("),
        (fitted(command_scale__aileron=-2.0), "aileron travel x-1.00"),
        (fitted(command_scale__aileron=-2.0), "moves the wrong way"),
        (fitted(command_swap__aileron__rudder=1.02), "aileron and rudder exchanged"),
        (fitted(command_swap__aileron__rudder=0.4), "40 % of aileron and rudder exchanged"),
        (fitted(offsets__q_radps=0.04), "q bias +0.040 rad/s"),
        (fitted(offsets__climb_rate_mps=0.8), "climb rate bias +0.80 m/s"),
    ],
)
def test_a_cause_is_said_with_number_unit_and_interval(fit, text):
    assert text in describe(fit)


def test_many_parameters_are_cut_to_the_largest():
    values = {f"coefficient_scales.{c}": float(x) for x, c in enumerate(("CL0", "CLa", "Cma", "Cmq", "Cm0", "CLq"), 1)}
    fit = Fit(Hypothesis("a", tuple(values)), values, dict.fromkeys(values, 0.1), 1.0, np.zeros(1), np.zeros(1))
    text = describe(fit)
    assert text.startswith("CLq x7.00")
    assert text.endswith("and 2 more")
    assert "CL0" not in text


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_can_be_said_and_set(name):
    fit = Fit(Hypothesis("a", (name,)), {name: 0.2}, {name: 0.01}, 1.0, np.zeros(1), np.zeros(1))
    assert describe(fit)
    assert reported(fit) == {name: pytest.approx(PARAMETERS[name].value(0.2))}


def test_values_are_relative_and_no_change_is_no_change():
    for parameter in PARAMETERS.values():
        neutral = parameter.value(0.0)
        assert neutral == (0.0 if parameter.kind == "add" else 1.0)


def test_noise_and_wind():
    noise = LogEvidence(9.0, math.log(2.0), 0.05, 0.0, np.zeros(1), np.zeros((1, 1)))
    assert describe(noise, "sensor noise").startswith("sensor noise x2.00 (1.81..2.21)")
    assert reported(noise, "sensor noise") == {"noise_scale": pytest.approx(2.0)}
    wind = LogEvidence(9.0, 6.0, 0.5, 3.0, np.zeros(1), np.zeros((1, 1)))
    assert describe(wind, "wind") == "wind of 9.0 m/s instead of 3.0 m/s"
    assert reported(wind, "wind") == {"wind_mps": pytest.approx(9.0)}


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        (("inertia", "actuator"), "doublets"),
        (("thrust", "drag"), "three airspeeds"),
        (("sensor bias", "wind"), "circle"),
        (("delay", "thrust"), "more flights"),
    ],
)
def test_advice_names_the_manoeuvre_that_tells_a_pair_apart(pair, word):
    assert word in advice_for(pair)
    assert all(name in advice_for(pair) for name in pair)


def test_advice_needs_causes():
    with pytest.raises(Sim2SkyError):
        advice_for([])


def test_every_pair_of_causes_has_advice():
    causes = sorted({h.cause for h in HYPOTHESES} | {"wind", "sensor noise"})
    assert all(advice_for([a, b]) for a in causes for b in causes if a != b)


def test_a_refusal_is_said_and_nothing_is_said_where_nobody_asked():
    refused = Refused("not supported: too short (fly longer)")
    assert causes_lines(refused) == ["", "cause: cannot tell: not supported: too short (fly longer)"]
    assert causes_json(refused) == {"verdict": "refused", "reason": refused.reason}
    assert causes_lines(None) == []
    assert causes_json(None) is None
