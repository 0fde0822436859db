"""`sim2sky hil --faults`: the fault file flown, the matrix printed, and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim2sky.cli_commands import extras, print_json
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.validation import ValidationSettings
from sim2sky.errors import EXIT_FAIL, EXIT_PASS, ConfigError

if TYPE_CHECKING:
    from sim2sky.hil.fault_matrix import CaseResult

__all__ = ["run_faults"]


def run_faults(
    target: str,
    faults: Path,
    *,
    config: Path | None,
    episodes: int | None,
    link: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Fly a fault file on a target; 0 only where every case went as expected.

    Raises:
        ConfigError: the file or an option is wrong.
    """
    if episodes is not None:
        raise ConfigError("--episodes does not go with --faults", hint="every case of the fault file is one flight")
    settings = load_settings(config or default_path("validation"), ValidationSettings, section="validation")
    changes: dict[str, Any] = {"hil_link": link} if link is not None else {}
    settings = ValidationSettings.model_validate({**settings.model_dump(), **changes})
    with extras():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from sim2sky.deployment.targets import open_target
        from sim2sky.hil.fault_matrix import render
        from sim2sky.hil.fault_schedule import FaultSettings
        from sim2sky.validation.fault_check import fly_faults

        cases = load_settings(faults, FaultSettings, section="faults")
        console = Console(file=sys.stderr)
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("faults", total=len(cases.cases))

            def flown(result: CaseResult) -> None:
                bar.update(task, advance=1, description=result.case.title)

            results = fly_faults(open_target(target), cases, settings, log_dir=output, progress=flown)
    passed = all(result.passed for result in results)
    if as_json:
        print_json({"verdict": "pass" if passed else "fail", "cases": [result.to_json() for result in results]})
    else:
        print(render(results))
    return EXIT_PASS if passed else EXIT_FAIL
