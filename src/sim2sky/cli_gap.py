"""`sim2sky gap`: two flight logs compared, the verdict and the numbers behind it printed, and an exit code."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim2sky.cli_commands import extras, print_json
from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from sim2sky.analysis.comparison import MetricComparison
    from sim2sky.analysis.sim_to_real_gap import GapAnalysis

__all__ = ["render", "run_gap"]

_EXIT = {"RETRAIN": EXIT_FAIL, "DEPLOYED": EXIT_PASS, "FLY MORE": EXIT_INCONCLUSIVE}


def run_gap(sim: Path, real: Path, *, strict: bool, as_json: bool, report: Path | None = None) -> int:
    """Compare two logs; 0 DEPLOYED, 1 RETRAIN, 3 FLY MORE.

    Raises:
        ConfigError: the logs cannot be compared, or the report cannot be written.
        FlightLogError: a log cannot be read.
    """
    with extras():
        from sim2sky.analysis.sim_to_real_gap import SimToRealGapAnalyzer

        analyzer = SimToRealGapAnalyzer(strict=strict)
        analyzer.load_sim_data(sim)
        analyzer.load_real_data(real)
        analysis = analyzer.analyse()
        if report is not None:
            from sim2sky.report.gap_report import write_gap_report
            from sim2sky.report.refused import or_refused
            from sim2sky.report.replay_section import replays

            command = ["sim2sky", "gap", str(sim), str(real), "--report", str(report)]
            write_gap_report(
                report,
                analysis,
                replay=or_refused(lambda: replays(analysis)),
                command=shlex.join(command if strict else [*command, "--no-strict"]),
            )
            print(f"report: {report}", file=sys.stderr)
    if as_json:
        print_json(analysis.to_json())
    else:
        print(render(analysis))
    return _EXIT[analysis.decision]


def render(a: GapAnalysis) -> str:
    """The analysis for a reader, verdict first, decision last."""
    lines = [f"{a.verdict}: {a.real.title} against {a.sim.title}"]
    lines += [f"note: {warning}" for warning in a.warnings]
    level = f"{a.confidence:.0%} interval"
    lines += ["", f"{'metric':30} {a.sim.source:>9} {a.real.source:>9}  {'real - or / sim':>15}  {level:>18}  says"]
    lines += [_row(c) for c in a.metrics]
    if a.events:
        lines += ["", "events in flight (what follows them is not counted above):"]
        lines += [f"  {e.flight} {e.time_s:8.2f} s  {e.description}" for e in a.events]
        lines += [f"  with what follows them the verdict would be: {a.verdict_with_events}"]
    if a.event_note:
        lines += ["", a.event_note]
    lines += ["", *a.recommendations, "", f"rule: {a.rule}", a.decision]
    return "\n".join(lines)


def _row(c: MetricComparison) -> str:
    name = f"{c.metric.label}{'' if c.metric.unit == '1' else f', {c.metric.unit}'}"
    name = name if c.metric.primary else f"  {name}"
    if c.finding == "missing":
        return f"{name:30} {c.sim:9.3g} {c.real:9.3g}  {c.reason}"
    sign = "+" if c.is_difference else ""
    high = "inf" if math.isinf(c.high) else f"{c.high:{sign}.2f}"
    interval = f"{c.low:{sign}.2f} to {high}"
    says = c.finding if c.metric.primary else "worse" if c.evident else ""
    if c.metric.primary and c.evident:
        says += f" (worse, p {c.p_worse:.1g})"
    return f"{name:30} {c.sim:9.3g} {c.real:9.3g}  {c.estimate:{sign}15.2f}  {interval:>18}  {says}"
