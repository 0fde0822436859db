"""`sim2sky deploy --targets FILE`: many targets, one table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sim2sky.config.fleet import load_fleet

if TYPE_CHECKING:
    from sim2sky.deployment.deploy_fleet import FleetResult
    from sim2sky.deployment.deploy_plan import DeployPlan
    from sim2sky.validation.checks import ProgressHook

__all__ = ["run_fleet", "table_text"]


def run_fleet(
    plan: DeployPlan, targets: Path, *, say: Callable[[str], None], progress: ProgressHook, now: Callable[[], str]
) -> FleetResult:
    """Deploy to every target of a file.

    Raises:
        ConfigError: the file is wrong.
        Sim2SkyError: as `deploy_fleet`.
    """
    from sim2sky.deployment.deploy_fleet import deploy_fleet

    result = deploy_fleet(plan, load_fleet(targets), say=say, progress=progress, now=now)
    if result.targets:
        say("")
        say(table_text(result, sys.stdout.isatty()))
    return result


def table_text(result: FleetResult, colour: bool = False) -> str:
    """One row for each target, then why those failed that did, with what helps."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if colour else 160, force_terminal=colour, no_color=not colour, highlight=False)
    table = Table("target", "verdict", "step", "release", "p99 ms", "HIL")
    style = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    for t in result.targets:
        p99 = "" if t.p99_ms is None else f"{t.p99_ms:.3f}"
        hil = t.hil.partition(": ")[2] or t.hil
        table.add_row(t.name, f"[{style[t.outcome]}]{t.outcome}[/]", f"{t.step}/6", t.release, p99, hil)
    with console.capture() as captured:
        console.print(table)
    lines = [captured.get().rstrip()]
    passed = sum(t.outcome == "pass" for t in result.targets)
    lines.append(f"{passed} of {len(result.targets)} targets passed all six steps")
    for t in result.targets:
        if t.outcome != "pass":
            lines.append(f"✗ {t.name} ({t.url}): {t.reason}")
            lines += [f"  -> {t.hint}"] if t.hint else []
    return "\n".join(lines)
