"""`sim2sky gap`: two flight logs compared, the verdict and the numbers behind it printed, and an exit code."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim2sky.cli_commands import extras, print_json
from sim2sky.cli_gap_causes import attributed, causes_json, causes_lines
from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from sim2sky.analysis.attribution import Attribution
    from sim2sky.analysis.comparison import MetricComparison
    from sim2sky.analysis.sim_to_real_gap import GapAnalysis
    from sim2sky.report.refused import Refused

__all__ = ["render", "run_gap"]

SHOWN, SHOWN_P = 5, 0.05
MUCH = 0.01
_EXIT = {"RETRAIN": EXIT_FAIL, "DEPLOYED": EXIT_PASS, "FLY MORE": EXIT_INCONCLUSIVE}


def run_gap(
    sim: Path, real: Path, *, strict: bool, as_json: bool, report: Path | None = None, identify: bool = False
) -> int:
    """Compare two logs; 0 DEPLOYED, 1 RETRAIN, 3 FLY MORE.

    Raises:
        ConfigError: the logs cannot be compared, or the report cannot be written.
        FlightLogError: a log cannot be read.
    """
    with extras():
        from sim2sky.analysis.sim_to_real_gap import SimToRealGapAnalyzer

        if report is not None:
            from sim2sky.outputs import require_writable

            require_writable(report, "the report")
        analyzer = SimToRealGapAnalyzer(strict=strict)
        analyzer.load_sim_data(sim)
        analyzer.load_real_data(real)
        analysis = analyzer.analyse()
        found = attributed(sim, real) if report is not None or analysis.verdict == "gap" else None
        if report is not None:
            options = [*([] if strict else ["--no-strict"]), *(["--identify"] if identify else [])]
            command = shlex.join(["sim2sky", "gap", str(sim), str(real), "--report", str(report), *options])
            _report(report, analysis, found, identify=identify, command=command)
    if as_json:
        print_json({**analysis.to_json(), "attribution": causes_json(found)})
    else:
        print(render(analysis, causes_lines(found)))
    return _EXIT[analysis.decision]


def _report(
    path: Path, analysis: GapAnalysis, attribution: Attribution | Refused | None, *, identify: bool, command: str
) -> None:
    """Write the report, with causes and, where asked for, parameters; what cannot be found out says so there."""
    from rich.console import Console

    from sim2sky.analysis.flights import load_flights
    from sim2sky.analysis.identification import identify as identify_flights
    from sim2sky.report.gap_report import write_gap_report
    from sim2sky.report.refused import Refused, or_refused
    from sim2sky.report.replay_section import replays

    own_command = f"sim2sky identify {shlex.quote(str(analysis.real.path))}"
    identification = Refused(f"identifying takes minutes; {own_command} does it, and --identify with --report")
    with Console(stderr=True).status("replaying") as status:
        replay = or_refused(lambda: replays(analysis))
        if identify:
            status.update("identifying parameters")
            identification = or_refused(lambda: identify_flights(load_flights(analysis.real.path), say=status.update))
        status.update("writing the report")
        write_gap_report(
            path, analysis, attribution=attribution, identification=identification, replay=replay, command=command
        )
    print(f"report: {path}", file=sys.stderr)


def render(a: GapAnalysis, causes: Sequence[str] = ()) -> str:
    """The analysis for a reader, verdict first, decision last, `causes` before the recommendations."""
    lines = [f"{a.verdict}: {a.real.title} against {a.sim.title}"]
    lines += [f"note: {warning}" for warning in a.warnings]
    level = f"{a.confidence:.0%} interval"
    lines += ["", f"{'metric':34} {a.sim.source:>9} {a.real.source:>9}  {'real - or / sim':>15}  {level:>18}  says"]
    lines += [_row(c) for c in a.metrics]
    if a.events:
        lines += ["", "events in flight (what follows them is not counted above):"]
        lines += [f"  {e.flight} {e.time_s:8.2f} s  {e.description}" for e in a.events]
        lines += [f"  with what follows them the verdict would be: {a.verdict_with_events}"]
    if a.event_note:
        lines += ["", a.event_note]
    lines += _shift(a)
    lines += causes
    lines += ["", *a.recommendations, "", f"rule: {a.rule}", a.decision]
    return "\n".join(lines)


def _row(c: MetricComparison) -> str:
    unit = "" if c.metric.unit in ("1", "of full travel") else f", {c.metric.unit}"
    name = f"{c.metric.label}{unit}"
    name = name if c.metric.primary else f"  {name}"
    if c.finding == "missing":
        return f"{name:34} {c.sim:9.3g} {c.real:9.3g}  {c.reason}"
    sign = "+" if c.is_difference else ""
    high = "inf" if math.isinf(c.high) else f"{c.high:{sign}.2f}"
    interval = f"{c.low:{sign}.2f} to {high}"
    says = c.finding if c.metric.primary else ""
    if c.evident:
        says = f"{says} (worse, p {c.p_worse:.1g})" if says else "worse"
    return f"{name:34} {c.sim:9.3g} {c.real:9.3g}  {c.estimate:{sign}15.2f}  {interval:>18}  {says}"


def _shift(a: GapAnalysis) -> list[str]:
    """The signals that differ most, and the timing."""
    if a.shift is None:
        return []
    told = [s for s in a.shift.signals if s.p_value <= SHOWN_P][:SHOWN]
    lines = ["", "signals that differ most (distance in standard deviations of the simulated; p by permuting flights):"]
    for s in told:
        bands = ", ".join(f"{b.low_hz:g}-{b.high_hz:g} Hz x{b.ratio:.2g}" for b in s.bands)
        extra = f"; at its limit {s.saturation_real:.1%} of the time" if s.saturation_real > MUCH else ""
        lines.append(f"  {s.signal:16} {s.distance:5.2f}  p {s.p_value:<6.2g} power {bands}{extra}")
    if not told:
        lines = ["", "no signal differs evidently"]
    for source, t in ((a.sim.source, a.shift.sim_timing), (a.real.source, a.shift.real_timing)):
        delay = f", {t.delay_median_s * 1e3:.2g} ms from state to command" if math.isfinite(t.delay_median_s) else ""
        lines.append(f"  {source}: {t.rate_hz:.4g} Hz, jitter {t.jitter_p99_s * 1e3:.2g} ms (p99){delay}")
    return lines
