"""`sim2sky retrain`: the ladder climbed, the flights against the champion, the decision printed, and an exit code."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, ConfigError

if TYPE_CHECKING:
    from sim2sky.config.retraining import Rung
    from sim2sky.training.train import Progress as Trained
    from sim2sky.validation.campaign import Progress as Flown

__all__ = ["retrain"]

_EXIT = {"promoted": EXIT_PASS, "champion stays": EXIT_FAIL, "undecided": EXIT_INCONCLUSIVE}


def retrain(
    agent: Path,
    /,
    *,
    randomization: Annotated[Path, Parameter(help="YAML patch, as sim2sky identify writes it")],
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="folder for the challenger and the record; it resumes")
    ],
    log: Annotated[list[Path] | None, Parameter(help="flight log to learn from offline; may be repeated")] = None,
    rungs: Annotated[
        str | None, Parameter(help="of refit, offline, residual; by default all, offline only with --log")
    ] = None,
    timesteps: Annotated[int, Parameter(help="of training per rung")] = 100_000,
    pairs: Annotated[int, Parameter(help="most paired flights per condition against the champion")] = 400,
    seed: Annotated[int, Parameter(help="of training and flights")] = 0,
    workers: Annotated[int, Parameter(help="processes for the flights; 0: one per core")] = 0,
    json: Annotated[bool, Parameter(name="--json", negative=(), help="print the verdict as JSON")] = False,
) -> int:
    """Train a challenger on what identification found; promote it (0) only where it is shown to fly better.

    Exit code 1: the champion stays; 3: undecided, and it stays as well.

    Parameters
    ----------
    agent
        The champion's .zip, in the folder of its training run.
    """
    from sim2sky.cli_commands import extras, print_json
    from sim2sky.config.loader import load_settings
    from sim2sky.config.randomization import RandomizationPatch

    patch = load_settings(randomization, RandomizationPatch)
    logs = tuple(log or ())
    by_default = "refit,offline,residual" if logs else "refit,residual"
    chosen = _rungs(by_default if rungs is None else rungs)
    with extras():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from sim2sky.validation import retraining
        from sim2sky.validation.promotion import PromotionRules

        rules = PromotionRules(max_pairs=pairs, group=min(PromotionRules().group, pairs))
        plan = retraining.RetrainPlan(
            agent, patch, output, logs, chosen, timesteps=timesteps, seed=seed, rules=rules, workers=workers
        )
        console = Console(file=sys.stderr)
        columns = TextColumn("      {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
        say = functools.partial(print, file=sys.stderr if json else sys.stdout, flush=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("training", total=timesteps)

            def trained(p: Trained) -> None:
                bar.update(task, completed=p.timesteps, total=p.total_timesteps, description="training")

            def flown(name: str, p: Flown) -> None:
                bar.update(task, completed=p.done, total=p.total, description=name)

            try:
                result = retraining.retrain(plan, say=say, on_training=trained, on_flight=flown)
            except KeyboardInterrupt:
                print("the same command goes on where this one stopped", file=sys.stderr)
                raise
    if json:
        print_json(result.to_json())
    else:
        print(retraining.render(result))
        if result.model is not None:
            print(f"{result.model}: export or deploy it as any agent")
    return _EXIT[result.verdict]


def _rungs(text: str) -> tuple[Rung, ...]:
    from sim2sky.config.retraining import RUNGS

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RUNGS:
            raise ConfigError(f"there is no rung '{name}'", hint=f"one or more of: {', '.join(RUNGS[:3])}")
    return tuple(rung for rung in RUNGS if rung in names)  # safest first, in whatever order they are named
