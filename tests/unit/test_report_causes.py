"""Causes in a report: the one that is told, none that is told, and what could not be done."""

from __future__ import annotations

from tests.report_support import figure_of, text_of

from sim2sky.analysis.attribution import CANNOT_TELL, NOTHING, Attribution, Cause
from sim2sky.report.cause_section import attribution_section
from sim2sky.report.page import Table, Text
from sim2sky.report.refused import Refused

CAUSES = (
    Cause("delay", 0.71, 0.68, 0.74, 1500.0, "action delay +0.100 s explains 71 % of the difference", {"delay": 0.1}),
    Cause("mass", 0.2, 0.1, 0.3, 2.0, "mass +0.3 kg explains 20 % of the difference", {"mass_offset_kg": 0.3}),
    Cause("wind", 1e-9, 0.0, 2e-5, -1.7, "wind explains 0 % of the difference"),
)


def test_the_cause_is_named_coloured_and_first():
    section = attribution_section(Attribution(CAUSES, "delay", 0.001))
    assert section.blocks[0] == Text(
        "Most likely: delay. Action delay +0.100 s explains 71 % of the difference.", "bad"
    )  # fmt: skip
    colours = {d["y"][0]: d["marker"]["color"] for d in figure_of(section).data}
    assert colours == {"delay": "--real", "mass": "--muted", "wind": "--muted"}
    assert figure_of(section).layout["yaxis"]["categoryarray"][-1] == "delay", "on top"
    table = next(b for b in section.blocks if isinstance(b, Table))
    assert table.rows[0][:4] == ["delay", "71%", "68% to 74%", "1500"]
    assert table.rows[2][1:3] == ["0%", "0% to 0%"]


def test_cannot_tell_is_an_answer_with_its_advice():
    section = attribution_section(Attribution(CAUSES, CANNOT_TELL, 0.01, "fly steps in throttle"))
    assert section.blocks[0] == Text("Cannot tell which cause it is. Fly steps in throttle.", "unsure")
    assert {d["marker"]["color"] for d in figure_of(section).data} == {"--muted"}, "no cause is singled out"


def test_nothing_to_explain_has_neither_figure_nor_table():
    section = attribution_section(Attribution((), NOTHING, 0.4))
    assert len(section.blocks) == 1 and section.blocks[0].tone == "good" and "p = 0.40" in section.blocks[0].text


def test_a_refusal_stands_in_its_place_and_nobody_asked_is_nothing():
    assert "too few flights" in text_of(attribution_section(Refused("too few flights")))
    assert attribution_section(None) is None
