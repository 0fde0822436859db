"""The sections on the gap itself: verdict, intervals, the specification's plot, the decision and its rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim2sky.analysis.comparison import MARGIN, MetricComparison
from sim2sky.analysis.comparison_plot import bars_of, comparison_png
from sim2sky.analysis.gap_analysis import GapAnalysis, PerformanceMetrics
from sim2sky.report.figures import Interval, interval_plot
from sim2sky.report.html import number, signed
from sim2sky.report.page import Block, Fact, Picture, Plot, Section, Table, Text, Tone, Verdict

__all__ = ["bar_section", "decision_section", "facts", "interval_section", "probability", "verdict"]

THRESHOLDS = {"success": -15.0, "tracking_error": 50.0, "control_effort": 30.0, "episode_length": -30.0}
"""The specification's, as changes in percent (success: percentage points)."""
NARROWEST, WIDEST = 60.0, 500.0
"""Of the axis above 0, in percent."""
TONES: dict[str, Tone] = {
    "gap": "bad", "no gap": "good", "undecided": "unsure", "not enough flights": "unsure", "missing": "unsure",
}  # fmt: skip
NEXT = {
    "RETRAIN": (
        "Next: sim2sky identify LOG -o PATCH.yaml finds the parameters, sim2sky retrain trains in the corrected "
        "simulation and promotes the new agent only where it is provably not worse."
    ),
    "DEPLOYED": "Next: keep flying and logging; compare again when aircraft, agent or weather change.",
    "FLY MORE": "Next: fly more of the same flights, add them to the log and run this command again.",
}


def verdict(a: GapAnalysis) -> Verdict:
    """The answer in a word and a sentence; its colour follows what is to be done."""
    word: str = a.verdict if a.strict else {"RETRAIN": "gap", "DEPLOYED": "no gap"}.get(a.decision, a.verdict)
    return Verdict(word, TONES[word], _sentence(a, word), a.decision, a.rule)


def _sentence(a: GapAnalysis, word: str) -> str:
    if not a.strict:
        return "By the specification's point rule on observed means alone: how sure that is, it does not say."
    if word == "gap":
        worse = [
            f"{c.metric.label} {change(c)} ({interval(c)})"
            for c in a.metrics
            if c.metric.primary and c.finding == "gap"
        ]
        return f"In flight, against simulation: {'; '.join(worse)}."
    if word == "no gap":
        return f"Every interval of the four metrics excludes a loss of {MARGIN:.0%}."
    return " ".join(text for text in a.recommendations if not _is_finding(text))


def _is_finding(text: str) -> bool:
    """Whether it says what was found; the others say what is missing for a verdict."""
    return text.startswith(("Warning", "✓"))


def change(c: MetricComparison) -> str:
    """The estimate as a change from simulation."""
    return _change(c, c.estimate)


def interval(c: MetricComparison) -> str:
    """Its interval, both ends as changes."""
    if not math.isfinite(c.estimate):
        return number(math.nan)
    return f"{signed(_percent(c, c.low))} to {_change(c, c.high)}"


def _change(c: MetricComparison, value: float) -> str:
    return signed(_percent(c, value)) + (" points" if c.is_difference else " %")


def probability(p: float) -> str:
    """A p-value; very small ones are no more than that."""
    return "< 0.001" if p < 0.001 else number(p, 2)


def _percent(c: MetricComparison, value: float) -> float:
    return 100.0 * (value if c.is_difference else value - 1.0)


def facts(a: GapAnalysis) -> list[Fact]:
    """The numbers on top."""
    listed = [
        Fact("in simulation", str(len(a.sim.flights)), f"flights ({a.sim.source}), {_minutes(a.sim.flights)}"),
        Fact("in flight", str(len(a.real.flights)), f"flights ({a.real.source}), {_minutes(a.real.flights)}"),
    ]
    return listed + [
        Fact(c.metric.label, change(c) if math.isfinite(c.estimate) else "n/a", _says(c))
        for c in a.metrics
        if c.metric.primary
    ]


def _minutes(flights: Sequence[object]) -> str:
    return f"{sum(getattr(f, 'duration_s', 0.0) for f in flights) / 60.0:.1f} min"


def interval_section(a: GapAnalysis) -> Section:
    """Every metric with its interval, drawn and as tables, and what the analysis says to it."""
    rows = [_row(c) for c in a.metrics if c.finding != "missing"]
    level = f"{a.confidence:.0%}"
    found = [text for text in a.recommendations if _is_finding(text)]
    blocks: list[Block] = [Text(text, "good" if text.startswith("✓") else "bad") for text in found]
    if rows:
        limit = min(max(NARROWEST, *(1.3 * r.value for r in rows)), WIDEST)
        clipped = any(r.high > limit for r in rows)
        figure = interval_plot(
            "intervals",
            rows,
            x_title="change [%; success: points]",
            alt="; ".join(f"{c.metric.label}: {change(c)}, interval {interval(c)}" for c in a.metrics),
            caption=f"Square: estimate. Line: {level} interval. Shaded: within ±{MARGIN:.0%} of simulation."
            + (
                " What ends in an arrow or at the edge goes on beyond it; the table has the numbers." if clipped else ""
            ),
            band=(-100.0 * MARGIN, 100.0 * MARGIN),
            mark_name="the specification's threshold",
            unit=" %",
            limits=(-100.0, limit),
        )
        blocks.append(Plot(figure))
    blocks.append(_table(f"What decides ({level} intervals, one value per flight)", a, primary=True))
    blocks.append(_table("What explains (not part of the verdict)", a, primary=False))
    if a.warnings:
        blocks.append(Text("\n".join(["Before you rely on it:", *a.warnings]), "unsure"))
    return Section(
        "intervals",
        "How sure is it",
        "Where a line lies wholly within the shading the metric is as in simulation; where it crosses the edge on the "
        "worse side, these flights cannot exclude a gap.",
        blocks,
    )


def _row(c: MetricComparison) -> Interval:
    color = {"gap": "--bad", "no gap": "--good"}.get(c.finding, "--unsure") if c.metric.primary else "--muted"
    marks = (THRESHOLDS[c.metric.name],) if c.metric.name in THRESHOLDS else ()
    return Interval(
        c.metric.label, _percent(c, c.estimate), _percent(c, c.low), _percent(c, c.high), color, marks
    )  # fmt: skip


def _table(caption: str, a: GapAnalysis, *, primary: bool) -> Table:
    chosen = [c for c in a.metrics if c.metric.primary == primary]
    rows = [
        [
            c.metric.label if c.metric.unit == "1" else f"{c.metric.label} [{c.metric.unit}]",
            f"{number(c.sim)} (n = {len(c.sim_values)})",
            f"{number(c.real)} (n = {len(c.real_values)})",
            change(c) if math.isfinite(c.estimate) else number(math.nan),
            interval(c),
            probability(c.p_worse),
            _says(c),
        ]
        for c in chosen
    ]
    head = ["metric", a.sim.source, a.real.source, "change", f"{a.confidence:.0%} interval", "p (worse)", "says"]
    tones: list[Tone] = [TONES[c.finding] if primary else "plain" for c in chosen]
    return Table(caption, head, rows, numeric=(1, 2, 3, 4, 5), tones=tones)


def _says(c: MetricComparison) -> str:
    if c.finding == "missing":
        return c.reason
    if not c.metric.primary:
        return "worse" if c.evident else ""
    says = {"gap": "gap", "no gap": "no gap", "undecided": "cannot tell"}[c.finding]
    return f"{says}, but evidently worse" if c.evident and c.finding != "gap" else says


def bar_section(a: GapAnalysis) -> Section:
    """The specification's plot."""
    bars = bars_of(PerformanceMetrics.of(a.sim.flights), PerformanceMetrics.of(a.real.flights), a.metrics)
    alt = "; ".join(f"{b.name}: simulation {number(b.sim)}, real {number(b.real)}" for b in bars)
    return Section(
        "bars",
        "Simulation against flight",
        f"Means over all flights, in units of simulation; the line on a bar is the {a.confidence:.0%} interval.",
        [
            Picture(
                comparison_png(bars, a.real.source),
                alt,
                "The same picture is written by SimToRealGapAnalyzer.plot_comparison.",
            )
        ],
    )


def decision_section(a: GapAnalysis) -> Section:
    """What is to be done, and by which rule."""
    rows = [
        [
            c.metric.label,
            change(c) if math.isfinite(c.estimate) else "n/a",
            interval(c),
            probability(c.p_worse),
            _says(c),
        ]
        for c in a.metrics
        if c.metric.primary
    ]
    tones: list[Tone] = [TONES[c.finding] for c in a.metrics if c.metric.primary]
    head = ["metric", "change", "interval", "p (worse)", "says"]
    return Section(
        "decision",
        f"Decision: {a.decision}",
        f"Rule: {a.rule}.",
        [Table("Numbers behind it", head, rows, (1, 2, 3), tones=tones), Text(NEXT[a.decision], verdict(a).tone)],
    )
