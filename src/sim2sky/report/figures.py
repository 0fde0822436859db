"""Figures of a report as plain data for plotly.js; a colour `--name` is a variable of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.report.series import envelope, packed

__all__ = ["Figure", "Interval", "Line", "Marks", "Moment", "Panel", "Stretch", "interval_plot", "panels", "ranking"]

Json = dict[str, Any]
Floats = NDArray[np.float64]
ROW_PX = 44
PANEL_PX = 118
OCTAVES = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]
TEXT = {"size": 12, "color": "--ink"}


@dataclass(frozen=True)
class Figure:
    """What a page draws.

    Attributes:
        name: of the element; unique in the page.
        data, layout: for plotly.
        alt: what is to be seen, in words, for who cannot see it.
        caption: below the figure.
        legend: name, colour and dash of what is drawn; above the figure, as text that wraps.
    """

    name: str
    data: list[Json]
    layout: Json
    alt: str
    caption: str = ""
    legend: Sequence[tuple[str, str, str]] = ()

    @property
    def height_px(self) -> int:
        """Of the element, so that nothing moves when the plot appears."""
        return int(self.layout["height"])

    def to_json(self) -> Json:
        """For the page's script."""
        return {"data": self.data, "layout": self.layout}


@dataclass(frozen=True)
class Interval:
    """A row of `interval_plot`.

    Attributes:
        label: of the row.
        value, low, high: what was estimated; NaN where it could not be.
        color: of the marker and the line.
        marks: further points of the row, such as a threshold.
    """

    label: str
    value: float
    low: float
    high: float
    color: str = "--ink"
    marks: tuple[float, ...] = ()


def interval_plot(
    name: str,
    rows: Sequence[Interval],
    *,
    x_title: str,
    alt: str,
    caption: str = "",
    band: tuple[float, float] | None = None,
    zero: float = 0.0,
    mark_name: str = "threshold",
    unit: str = "",
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Figure:
    """A point and its interval per row (forest plot), the first row on top; a `band` is shaded, `zero` a line.

    Intervals end at `limits` at the latest; a point beyond is an arrow there.
    """
    labels = [row.label for row in rows]
    data: list[Json] = []
    for row in rows:
        if not math.isfinite(row.value):
            continue
        value, low, high = (min(max(v, limits[0]), limits[1]) for v in (row.value, row.low, row.high))
        bounded = math.isfinite(low) and math.isfinite(high)
        point: Json = {
            "type": "scatter", "mode": "markers", "x": [value], "y": [row.label], "showlegend": False,
            "marker": {"color": row.color, "size": 11, "symbol": _symbol(row.value, limits, bounded=bounded)},
            "hovertemplate": "%{y}: %{x:.3g}" + unit + "<extra></extra>",
        }  # fmt: skip
        if bounded:
            plus, minus = max(high - value, 0.0), max(value - low, 0.0)
            point["error_x"] = {
                "type": "data", "symmetric": False, "array": [plus], "arrayminus": [minus],
                "color": row.color, "thickness": 3, "width": 7,
            }  # fmt: skip
        data.append(point)
    marks = [(mark, row.label) for row in rows for mark in row.marks]
    if marks:
        data.append({
            "type": "scatter", "mode": "markers", "x": [m for m, _ in marks], "y": [y for _, y in marks],
            "marker": {"symbol": "line-ns-open", "size": 26, "color": "--bad", "line": {"width": 3}},
            "showlegend": False,
            "hovertemplate": mark_name + ": %{x:.3g}" + unit + "<extra></extra>",
        })  # fmt: skip
    shapes = [_line(zero)]
    if band is not None:
        shapes.insert(0, _band(*band))
    layout = _layout((ROW_PX if len(rows) < 10 else 30) * len(rows) + 66, top=8)
    layout.update(
        shapes=shapes,
        xaxis=_axis(title=x_title, zeroline=False),
        yaxis=_axis(
            categoryorder="array", categoryarray=labels[::-1], automargin=True, showgrid=False,
            range=[-0.6, len(labels) - 0.4],
        ),
    )  # fmt: skip
    return Figure(name, data, layout, alt, caption, ((mark_name, "--bad", "mark"),) if marks else ())


def ranking(name: str, labels: Sequence[str], values: Sequence[float], *, x_title: str, alt: str, caption: str = "",
            colors: Sequence[str] | None = None) -> Figure:  # fmt: skip
    """Horizontal bars, the first on top."""
    data: list[Json] = [{
        "type": "bar", "orientation": "h", "x": [_finite(v) for v in values], "y": list(labels),
        "marker": {"color": list(colors or ["--accent"] * len(labels))},
        "hovertemplate": "%{y}: %{x:.3g}<extra></extra>", "showlegend": False,
    }]  # fmt: skip
    layout = _layout(26 * len(labels) + 66, top=8)
    layout.update(
        bargap=0.35,
        xaxis=_axis(title=x_title, rangemode="tozero"),
        yaxis=_axis(categoryorder="array", categoryarray=list(labels)[::-1], automargin=True, showgrid=False),
    )
    return Figure(name, data, layout, alt, caption)


@dataclass(frozen=True)
class Line:
    """A curve of a panel.

    Attributes:
        name: in the legend; curves of one name are one entry there.
        x, y: (n,); drawn as their envelope where there are many.
        color: of the curve.
        dash: `solid`, `dash` or `dot`.
        width: in pixels.
    """

    name: str
    x: Floats
    y: Floats
    color: str
    dash: str = "solid"
    width: float = 1.6
    markers: bool = False


@dataclass(frozen=True)
class Panel:
    """One of several plots above each other.

    Attributes:
        title: above it, with the unit.
        lines: its curves.
        log: logarithmic vertical axis.
    """

    title: str
    lines: Sequence[Line]
    log: bool = False


@dataclass(frozen=True)
class Moment:
    """A vertical line through all panels: what happened then."""

    time_s: float
    label: str
    color: str = "--bad"


@dataclass(frozen=True)
class Stretch:
    """A shaded stretch of all panels."""

    start_s: float
    end_s: float
    color: str = "--shade"


@dataclass(frozen=True)
class Marks:
    """What is drawn across all panels."""

    moments: Sequence[Moment] = ()
    stretches: Sequence[Stretch] = field(default=())


def panels(
    name: str,
    items: Sequence[Panel],
    *,
    x_title: str,
    alt: str,
    caption: str = "",
    log_x: bool = False,
    marks: Marks | None = None,
    panel_px: int = PANEL_PX,
) -> Figure:
    """Plots above each other that share the horizontal axis."""
    gap = 30
    top, bottom = 24, 46
    height = top + bottom + len(items) * panel_px + (len(items) - 1) * gap
    inner = height - top - bottom
    layout = _layout(height, top=top, bottom=bottom)
    layout["annotations"] = []
    data: list[Json] = []
    legend: dict[str, tuple[str, str, str]] = {}
    for i, panel in enumerate(items):
        high = 1.0 - i * (panel_px + gap) / inner
        low = max(high - panel_px / inner, 0.0)
        key = "" if i == 0 else str(i + 1)
        layout[f"yaxis{key}"] = _axis(domain=[low, high], **(_decades(panel) if panel.log else {"nticks": 5}))
        layout["annotations"].append(_title(panel.title, high))
        for line in panel.lines:
            x, y = envelope(line.x, line.y)
            data.append({
                "type": "scatter", "mode": "lines+markers" if line.markers else "lines", "name": line.name,
                "showlegend": False, "x": packed(x), "y": packed(y),
                "xaxis": "x", "yaxis": f"y{key}", "line": {"color": line.color, "dash": line.dash, "width": line.width},
                "hovertemplate": "%{y:.4g}", "connectgaps": False,
            })  # fmt: skip
            legend[line.name] = (line.name, line.color, line.dash)
    last = f"y{len(items)}" if len(items) > 1 else "y"
    layout["xaxis"] = _axis(
        title=x_title,
        anchor=last,
        **({"type": "log", "tickvals": OCTAVES, "ticktext": [f"{f:g}" for f in OCTAVES]} if log_x else {}),
    )
    layout["hovermode"] = "x unified"
    marks = marks or Marks()
    layout["shapes"] = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": s.start_s, "x1": s.end_s, "y0": 0, "y1": 1,
         "line": {"width": 0}, "fillcolor": s.color, "layer": "below"}
        for s in marks.stretches
    ] + [
        {"type": "line", "xref": "x", "yref": "paper", "x0": m.time_s, "x1": m.time_s, "y0": 0, "y1": 1,
         "line": {"color": m.color, "width": 1.5, "dash": "dot"}}
        for m in marks.moments
    ]  # fmt: skip
    layout["annotations"] += [
        {"xref": "x", "yref": "paper", "x": m.time_s, "y": 1, "text": m.label, "showarrow": False, "yanchor": "bottom",
         "xanchor": "center", "font": {"size": 12, "color": m.color}}
        for m in marks.moments
    ]  # fmt: skip
    return Figure(name, data, layout, alt, caption, tuple(legend.values()))


def _decades(panel: Panel) -> Json:
    """A logarithmic axis with a tick per decade, or more where it spans hardly one."""
    values = np.concatenate([line.y for line in panel.lines])
    values = values[values > 0.0]
    wide = values.size > 0 and math.log10(values.max() / values.min()) > 1.3
    return {"type": "log", "exponentformat": "power", "dtick": 1 if wide else "D2"}


def _symbol(value: float, limits: tuple[float, float], *, bounded: bool) -> str:
    shape = "triangle-left" if value < limits[0] else "triangle-right" if value > limits[1] else "square"
    return shape if bounded else f"{shape}-open"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _title(text: str, y: float) -> Json:
    return {
        "xref": "paper", "yref": "paper", "x": 0, "y": y, "text": text, "showarrow": False, "xanchor": "left",
        "yanchor": "bottom", "font": {"size": 12, "color": "--muted"},
    }  # fmt: skip


def _axis(**more: object) -> Json:
    title = more.pop("title", None)
    axis: Json = {
        "gridcolor": "--grid", "linecolor": "--grid", "zerolinecolor": "--grid", "tickfont": TEXT, "automargin": True,
    }  # fmt: skip
    if title:
        axis["title"] = {"text": title, "font": TEXT, "standoff": 8}
    return {**axis, **more}


def _layout(height: int, *, top: int = 30, bottom: int = 50) -> Json:
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 12, "t": top, "b": bottom},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": TEXT,
        "showlegend": False,
        "hoverlabel": {"font": {"size": 12}},
    }


def _line(x: float) -> Json:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
        "line": {"color": "--ink", "width": 1, "dash": "dot"},
    }  # fmt: skip


def _band(low: float, high: float) -> Json:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1,
        "fillcolor": "--band", "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
