"""Flies a fault file case by case, and judges each against what was expected of it.

A case passes when the flight went as expected, every fault of its script really struck, and the fallback law took over
in time where a time is given. What was not flown has not passed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sim2sky.errors import LinkError
from sim2sky.hil.fault_schedule import Case, FaultSettings
from sim2sky.hil.faulty_plant import FaultPlan, FaultReport
from sim2sky.hil.hil_test import run_hil
from sim2sky.runtime.safety import Mode

__all__ = ["CaseResult", "classify", "fly_cases", "judge", "render"]

_MARKS = {True: "✓", False: "✗"}


@dataclass(frozen=True)
class CaseResult:
    """What came of one case.

    Attributes:
        case: as it was asked.
        outcome: how it went; `not flown` where it was not.
        why: why it did not pass; empty where it did.
        takeover_s: from the beginning of the first fault to the fallback law's first command; None where it gave none.
        guarded_s: how long the policy was not in command.
        applied: how often each kind of fault struck.
        detail: the error that ended the run, or how the aircraft left its envelope.
    """

    case: Case
    outcome: str
    why: str
    takeover_s: float | None = None
    guarded_s: float = 0.0
    applied: Mapping[str, int] | None = None
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether it went as expected."""
        return self.why == ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "name": self.case.name,
            "severity": self.case.severity,
            "expected": self.case.expect,
            "outcome": self.outcome,
            "passed": self.passed,
            "why": self.why,
            "takeover_s": self.takeover_s,
            "guarded_s": self.guarded_s,
            "applied": dict(self.applied or {}),
            "detail": self.detail,
        }


def classify(report: FaultReport) -> str:
    """How a flight went, in the words of `Expectation`."""
    if report.outcome is None:
        return "ends"
    if report.outcome.termination != "completed":
        return "lost"
    if not report.guarded:
        return "completes"
    return "recovers" if report.modes[-1] == Mode.POLICY else "guarded"


def judge(case: Case, report: FaultReport | None, error: str = "") -> CaseResult:
    """Compare a flight with what was expected.

    Args:
        case: what was asked.
        report: what happened; None where it was not flown.
        error: what ended the run, if anything did.
    """
    if report is None:
        return CaseResult(case, "not flown", error or "not flown")
    outcome = classify(report)
    began = min(fault.start_s for fault in case.faults)
    takeover = report.takeover_s(began)
    reasons: list[str] = []
    if outcome != case.expect:
        reasons.append(f"{outcome} instead of {case.expect}")
    if missed := [fault.kind for fault in case.faults if not report.applied[fault.kind]]:
        reasons.append(f"'{missed[0]}' never struck")
    if case.within_s is not None and (takeover is None or takeover > case.within_s):
        when = "never" if takeover is None else f"after {takeover:g} s"
        reasons.append(f"the fallback law took over {when}, not within {case.within_s:g} s")
    detail = error or ("" if report.outcome is None or outcome != "lost" else report.outcome.termination)
    return CaseResult(
        case, outcome, "; ".join(reasons), takeover, report.guarded / report.rate_hz, dict(report.applied), detail
    )


def fly_cases(
    command_for_agent: Sequence[str],
    settings: FaultSettings,
    *,
    link: Literal["udp", "tcp"] = "udp",
    log_dir: Path | None = None,
    progress: Callable[[CaseResult], None] = lambda _: None,
    **how: Any,
) -> list[CaseResult]:
    """Fly all cases, one after another, with one flight agent as long as it lives.

    Args:
        command_for_agent: see `run_hil`.
        settings: the cases.
        link: UDP or TCP.
        log_dir: for flight logs, a folder `run_0`, ... per flight agent; None: no logs.
        progress: told each result.
        how: further arguments of `run_hil`.

    Returns:
        One result per case, in order.

    Raises:
        LinkError: the flight agent does not start at all.
    """
    results: list[CaseResult] = []
    runs = 0
    while len(results) < len(settings.cases):
        rest = settings.cases[len(results) :]
        plan = FaultPlan([case.faults for case in rest], settings.seed)
        begun = len(results)

        def flown(episode: int, _: object, *, rest: Sequence[Case], plan: FaultPlan) -> None:
            results.append(judge(rest[episode], plan.reports[episode]))
            progress(results[-1])

        hook = functools.partial(flown, rest=rest, plan=plan)
        seeds = [settings.seed] * len(rest)
        folder = None if log_dir is None else log_dir / f"run_{runs}"
        if folder is not None:
            folder.mkdir(exist_ok=True)
        runs += 1
        try:
            run_hil(
                command_for_agent,
                settings.environment,
                seeds,
                link=link,
                log_dir=folder,
                faults=plan,
                progress=hook,
                **how,
            )
        except LinkError as error:
            done = len(results) - begun
            if done == len(rest):  # all were flown, and the agent did not end as told
                raise
            if not plan.reports:
                raise
            results.append(judge(rest[done], plan.reports[done], error.message))
            progress(results[-1])
    return results


def render(results: Sequence[CaseResult]) -> str:
    """The matrix as text: a line per fault, a column per severity, and below it what did not go as expected."""
    names = list(dict.fromkeys(r.case.name for r in results))
    severities = list(dict.fromkeys(r.case.severity for r in results))
    cells = {(r.case.name, r.case.severity): r for r in results}
    wide = max(map(len, [*names, "fault"])) + 2
    lines = ["fault".ljust(wide) + "".join(s.ljust(26) for s in severities)]
    for name in names:
        row = name.ljust(wide)
        for severity in severities:
            r = cells.get((name, severity))
            took = "" if r is None or r.takeover_s is None else f" {r.takeover_s:.2f} s"
            row += ("-" if r is None else f"{_MARKS[r.passed]} {r.outcome}{took}").ljust(26)
        lines.append(row.rstrip())
    lines += [f"✗ {r.case.title}: {r.why}" + (f" ({r.detail})" if r.detail else "") for r in results if not r.passed]
    lines.append(f"{sum(r.passed for r in results)} of {len(results)} as expected")
    return "\n".join(lines)
