"""Figures: what plotly itself accepts, with what was asked for in them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import sim2sky.report
from sim2sky.report.figures import (
    Interval,
    Line,
    Marks,
    Moment,
    Panel,
    Stretch,
    interval_plot,
    panels,
    ranking,
)

ROWS = [
    Interval("success rate", -10.0, -24.0, 5.0, "--unsure", (-15.0,)),
    Interval("tracking error", 42.0, 12.0, 80.0, "--bad", (50.0,)),
    Interval("control effort", 3.0, math.nan, math.nan),
    Interval("episode length", math.nan, math.nan, math.nan),
]
T = np.linspace(0.0, 10.0, 201)


def forest():
    return interval_plot("forest", ROWS, x_title="change [%]", alt="intervals", band=(-20.0, 20.0), unit=" %")


def history():
    items = [
        Panel("altitude [m]", [Line("measured", T, np.sin(T), "--sim"), Line("setpoint", T, T, "--setpoint", "dash")]),
        Panel("power", [Line("measured", T, np.exp(T), "--sim")], log=True),
    ]
    marks = Marks([Moment(3.0, "1")], [Stretch(4.0, 5.0)])
    return panels("history", items, x_title="time [s]", alt="a flight", marks=marks)


def all_figures():
    return [forest(), history(), ranking("rank", ["a", "b"], [0.5, math.nan], x_title="share", alt="ranks")]


def with_colours(value):
    """Style variables replaced as the page's script does."""
    if isinstance(value, str) and value.startswith("--"):
        return "#123456"
    if isinstance(value, list):
        return [with_colours(v) for v in value]
    if isinstance(value, dict):
        return {k: with_colours(v) for k, v in value.items()}
    return value


@pytest.mark.parametrize("figure", all_figures(), ids=lambda f: f.name)
def test_plotly_knows_every_key_and_value(figure):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    made = graph_objects.Figure(with_colours(figure.to_json()))
    assert len(made.data) == len(figure.data) > 0


@pytest.mark.parametrize("figure", all_figures(), ids=lambda f: f.name)
def test_figures_are_strict_json(figure):
    json.dumps(figure.to_json(), allow_nan=False)


@pytest.mark.parametrize("figure", all_figures(), ids=lambda f: f.name)
def test_every_colour_is_a_variable_of_the_style_sheet(figure):
    css = (Path(sim2sky.report.__file__).parent / "templates" / "report.css").read_text()
    light = set(re.findall(r"(--[\w-]+):", css.split("@media")[0]))
    used = set(re.findall(r'"(--[\w-]+)"', json.dumps([figure.to_json(), list(figure.legend)])))
    assert used and used <= light


def test_light_and_dark_define_the_same_colours():
    css = (Path(sim2sky.report.__file__).parent / "templates" / "report.css").read_text()
    light, dark = css.split("@media", 1)
    assert set(re.findall(r"(--[\w-]+):", light)) == set(re.findall(r"(--[\w-]+):", dark.split("* {")[0]))


def test_an_interval_is_drawn_from_its_low_to_its_high_end():
    point = next(d for d in forest().data if d["y"] == ["tracking error"] and "error_x" in d)
    assert point["x"][0] - point["error_x"]["arrayminus"][0] == 12.0
    assert point["x"][0] + point["error_x"]["array"][0] == 80.0


def test_without_an_interval_the_point_is_hollow_and_without_a_value_there_is_none():
    points = {d["y"][0]: d for d in forest().data if len(d["y"]) == 1}
    assert points["control effort"]["marker"]["symbol"] == "square-open"
    assert "error_x" not in points["control effort"]
    assert "episode length" not in points
    assert forest().layout["yaxis"]["categoryarray"][0] == "episode length", "but its row is there"


def test_what_lies_beyond_the_limits_is_an_arrow_at_them():
    rows = [Interval("a", 900.0, 700.0, 1200.0), Interval("b", 10.0, -5.0, 1200.0), Interval("c", -200.0, -300.0, 0.0)]
    points = interval_plot("x", rows, x_title="x", alt="x", limits=(-100.0, 500.0)).data
    assert [p["marker"]["symbol"] for p in points] == ["triangle-right", "square", "triangle-left"]
    assert [p["x"] for p in points] == [[500.0], [10.0], [-100.0]]
    assert points[1]["error_x"]["array"] == [490.0], "an interval ends at the limit"


def test_the_band_lies_below_and_thresholds_are_in_their_rows():
    figure = forest()
    assert (figure.layout["shapes"][0]["x0"], figure.layout["shapes"][0]["x1"]) == (-20.0, 20.0)
    thresholds = figure.data[-1]
    assert dict(zip(thresholds["y"], thresholds["x"], strict=True)) == {"success rate": -15.0, "tracking error": 50.0}


def test_panels_share_their_axis_and_do_not_overlap():
    layout = history().layout
    assert layout["yaxis"]["domain"][0] > layout["yaxis2"]["domain"][1]
    assert layout["xaxis"]["anchor"] == "y2" and layout["yaxis2"]["type"] == "log"


def test_moments_and_stretches_cross_all_panels():
    shapes = history().layout["shapes"]
    assert [s["type"] for s in shapes] == ["rect", "line"]
    assert all(s["yref"] == "paper" and (s["y0"], s["y1"]) == (0, 1) for s in shapes)


def test_the_legend_names_each_curve_once():
    assert history().legend == (("measured", "--sim", "solid"), ("setpoint", "--setpoint", "dash"))
