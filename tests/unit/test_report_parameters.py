"""Parameters in a report: what the flights tell, what they do not, and what could not be done."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from tests.report_support import figure_of, text_of

from sim2sky.analysis.identification import Identification, ParameterEstimate
from sim2sky.analysis.replay import CHANNELS, Model, ReplayError
from sim2sky.report.page import Plot, Table
from sim2sky.report.parameter_section import parameter_section, with_identified
from sim2sky.report.refused import Refused
from sim2sky.report.replay_section import Replay, replay_section


def errors(size: float) -> tuple[ReplayError, ...]:
    return tuple(
        ReplayError(h, dict.fromkeys(CHANNELS, size * h), np.full((1, len(CHANNELS)), size * h), 10, 0)
        for h in (0.1, 0.5, 1.0, 5.0)
    )


def identified(*parameters: ParameterEstimate, after: float | None = 0.1) -> Identification:
    known = {
        "airframe": "ultrastick25e",
        "flights": ("a", "b", "c"),
        "held_out": ("c",),
        "windows": 57,
        "verdict": "identified",
        "parameters": parameters,
        "before_solving": (),
        "model": Model(),
        "nominal": Model(),
        "noise": {},
        "gusts": (0.0, 0.0, 0.0),
        "wind": {},
        "replay_before": () if after is None else errors(2.0 * after),
        "replay_after": () if after is None else errors(after),
    }
    return Identification(**(dict.fromkeys(f.name for f in fields(Identification)) | known))


TOLD = ParameterEstimate("thrust_scale", "1", 1.0, 0.8, 0.75, 0.85, True, "", "flight")
TOLD_FROM_ZERO = ParameterEstimate("aileron_offset", "of travel", 0.0, 0.03, 0.02, 0.04, True, "", "flight")
UNTOLD = ParameterEstimate("CLq", "1", 1.0, 1.0, 0.3, 1.7, False, "60 s of elevator multisine", "prior")


def test_a_refusal_stands_in_its_place_and_nobody_asked_is_nothing():
    assert "too few flights" in text_of(parameter_section(Refused("too few flights")))
    assert parameter_section(None) is None


def test_parameters_told_and_untold_are_kept_apart():
    section = parameter_section(identified(UNTOLD, TOLD, TOLD_FROM_ZERO))
    told, untold = (b for b in section.blocks if isinstance(b, Table))
    assert [r[0] for r in told.rows] == ["thrust_scale", "aileron_offset"]
    assert told.rows[0][2:] == ["1.00", "0.800", "0.750 to 0.850", "−20.0 %"]
    assert told.rows[1][-1] == "n/a", "nothing is relative to zero"
    assert [r[0] for r in untold.rows] == ["CLq"] and untold.rows[0][-1] == "60 s of elevator multisine"
    assert [d["y"] for d in figure_of(section).data] == [["thrust_scale"]]
    point = figure_of(section).data[0]
    assert point["x"][0] == pytest.approx(-20.0)
    assert point["x"][0] + point["error_x"]["array"][0] == pytest.approx(-15.0)
    assert "3 flights, 57 windows" in section.lead


def test_a_negative_prior_keeps_its_interval_the_right_way_round():
    section = parameter_section(identified(ParameterEstimate("x", "1", -2.0, -1.0, -1.2, -0.8, True, "", "flight")))
    point = figure_of(section).data[0]
    assert point["error_x"]["array"][0] == pytest.approx(10.0)
    assert point["error_x"]["arrayminus"][0] == pytest.approx(10.0)


def test_where_not_one_parameter_is_told_it_says_so():
    section = parameter_section(identified(UNTOLD, after=None))
    assert "Cannot tell a single parameter" in text_of(section)
    assert not any(isinstance(b, Plot) for b in section.blocks)


def test_what_was_identified_joins_the_replay():
    shown = (Replay("simulated flights", "--sim", errors(0.05)), Replay("flights", "--real", errors(0.2)))
    joined = with_identified(shown, identified(TOLD))
    section = replay_section(joined)
    table = next(b for b in section.blocks if isinstance(b, Table))
    assert table.caption.endswith("simulated flights → flights → held-out flights, as identified")
    assert next(r for r in table.rows if r[0] == "altitude [m]")[4] == "0.250 → 1.00 → 0.500"
    assert with_identified(shown, identified(TOLD, after=None)) is shown
    assert with_identified(shown, None) is shown
    assert len(with_identified(Refused("x"), identified(TOLD))) == 1, "better than nothing"
