"""`sim2sky retrain`: the ladder climbed, the flights against the champion, the decision printed, and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sim2sky.cli_commands import extras, print_json
from sim2sky.config.loader import load_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.config.retraining import RUNGS, Rung
from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, ConfigError

if TYPE_CHECKING:
    from sim2sky.training.train import Progress as Trained
    from sim2sky.validation.campaign import Progress as Flown

__all__ = ["run_retrain"]

_EXIT = {"promoted": EXIT_PASS, "champion stays": EXIT_FAIL, "undecided": EXIT_INCONCLUSIVE}


def run_retrain(
    agent: Path,
    output: Path,
    *,
    randomization: Path,
    logs: Sequence[Path],
    rungs: str | None,
    timesteps: int,
    pairs: int,
    seed: int,
    workers: int,
    as_json: bool,
) -> int:
    """`sim2sky retrain`: 0 promoted, 1 the champion stays, 3 undecided.

    Raises:
        ConfigError: an option, the patch or the output folder is wrong.
    """
    patch = load_settings(randomization, RandomizationPatch)
    by_default: tuple[Rung, ...] = ("refit", "offline", "residual") if logs else ("refit", "residual")
    chosen = by_default if rungs is None else _rungs(rungs)
    with extras():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from sim2sky.validation.promotion import PromotionRules
        from sim2sky.validation.retraining import RetrainPlan, render, retrain

        rules = PromotionRules(max_pairs=pairs, group=min(PromotionRules().group, pairs))
        plan = RetrainPlan(
            agent, patch, output, tuple(logs), chosen, timesteps=timesteps, seed=seed, rules=rules, workers=workers
        )
        console = Console(file=sys.stderr)
        columns = TextColumn("      {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
        say = functools.partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("training", total=timesteps)

            def trained(p: Trained) -> None:
                bar.update(task, completed=p.timesteps, total=p.total_timesteps, description="training")

            def flown(name: str, p: Flown) -> None:
                bar.update(task, completed=p.done, total=p.total, description=name)

            try:
                result = retrain(plan, say=say, on_training=trained, on_flight=flown)
            except KeyboardInterrupt:
                print("the same command goes on where this one stopped", file=sys.stderr)
                raise
    if as_json:
        data: dict[str, Any] = result.to_json()
        print_json(data)
    else:
        print(render(result))
        if result.model is not None:
            print(f"{result.model}: export or deploy it as any agent")
    return _EXIT[result.verdict]


def _rungs(text: str) -> tuple[Rung, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RUNGS:
            raise ConfigError(f"there is no rung '{name}'", hint=f"one or more of: {', '.join(RUNGS[:3])}")
    # Safest first, in whatever order they are named.
    return tuple(rung for rung in RUNGS if rung in cast("Sequence[Rung]", names))
