"""The retraining of an agent: rung by rung, safest first, until a challenger beats the champion or the ladder ends.

The champion's files are read and never written. The challenger's appear in the output folder after the decision only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.agent.contract import canonical_json
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.config.retraining import RealEnvSettings, Rung
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.deployment.bundling import export_bundle
from sim2sky.errors import BundleError, ConfigError, Sim2SkyError
from sim2sky.telemetry.log_files import replacing
from sim2sky.training.continuous_learning import Finetuned, finetune, publish, refitted_environment
from sim2sky.training.starting_point import StartingPoint, open_starting_point
from sim2sky.training.train import Progress as TrainingProgress
from sim2sky.training.transitions import vehicle_of
from sim2sky.validation.campaign import Progress
from sim2sky.validation.flight import safety_of
from sim2sky.validation.promotion import Promotion, PromotionRules, Verdict, judge

__all__ = ["Attempt", "RetrainPlan", "Retrained", "render", "retrain"]

RECORD = "promotion.json"
REPORT = "promotion.txt"


@dataclass(frozen=True)
class RetrainPlan:
    """One retraining.

    Attributes:
        agent: the champion's zip.
        patch: what identification found.
        output: folder for the challenger, its record and the work between; the same plan goes on in it.
        logs: flight logs, for the rung `offline`.
        rungs: tried in this order.
        timesteps: of training per rung.
        seed: of training and flights.
        rules: of the promotion; `alpha` is shared among the rungs.
        workers: processes for the flights; 0 for one per core.
    """

    agent: Path
    patch: RandomizationPatch
    output: Path
    logs: tuple[Path, ...] = ()
    rungs: tuple[Rung, ...] = ("refit", "offline", "residual")
    timesteps: int = 100_000
    seed: int = 0
    rules: PromotionRules = field(default_factory=PromotionRules)
    workers: int = 0

    def to_json(self, champion: str) -> dict[str, Any]:
        """What decides the outcome; not where files lie, nor the number of workers."""
        logs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.logs]
        return {
            "champion_sha256": champion,
            "patch": self.patch.model_dump(mode="json"),
            "logs_sha256": logs,
            "rungs": list(self.rungs),
            "timesteps": self.timesteps,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Attempt:
    """One rung: what training said, and the flights against the champion; None where there was no challenger."""

    rung: Rung
    note: str
    promotion: Promotion | None


@dataclass(frozen=True)
class Retrained:
    """How a retraining ended.

    Attributes:
        verdict: `promoted` with the model in `model`; otherwise the champion stays.
        attempts: the rungs tried, in order.
        model: the challenger's zip where it was promoted.
    """

    verdict: Verdict
    attempts: tuple[Attempt, ...]
    model: Path | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "verdict": self.verdict,
            "model": None if self.model is None else str(self.model),
            "attempts": [
                {"rung": a.rung, "note": a.note, **({} if a.promotion is None else a.promotion.to_json())}
                for a in self.attempts
            ],
        }


def retrain(
    plan: RetrainPlan,
    *,
    say: Callable[[str], None] = lambda _: None,
    on_training: Callable[[TrainingProgress], None] | None = None,
    on_flight: Callable[[str, Progress], None] | None = None,
) -> Retrained:
    """Retrain an agent; after an interruption, by Ctrl-C or a power cut, the same plan goes on.

    Args:
        plan: see `RetrainPlan`.
        say: told one line per step.
        on_training, on_flight: told of progress.

    Raises:
        ConfigError: the output holds another retraining or the champion, or the patch does not fit.
        AgentError, ContractError, FlightLogError, NotSupportedError: agent or logs cannot be used.
        KeyboardInterrupt: interrupted.
    """
    start = open_starting_point(plan.agent)
    if "vehicle" in plan.rungs:
        raise ConfigError(
            "learning in flight is no rung of a retraining", hint="ask finetune_with_real_data for it by name"
        )
    if not plan.rungs or len(set(plan.rungs)) != len(plan.rungs):
        raise ConfigError("a retraining needs rungs, each once", hint="refit, offline, residual")
    if "offline" in plan.rungs and not plan.logs:
        raise ConfigError("the rung 'offline' learns from flight logs", hint="give --log REAL.h5, or leave it out")
    work = _open_output(plan, start)
    settings = RealEnvSettings(vehicle=vehicle_of(plan.logs), randomization=plan.patch, logs=plan.logs, seed=plan.seed)
    old = start.settings.environment
    new = refitted_environment(settings, old)
    if plan.patch.apply(old) == old:
        raise ConfigError("the patch changes nothing in the agent's training environment", hint="nothing to retrain")
    champion = _exported(plan.agent, work / "champion", start)
    rules = replace(plan.rules, alpha=plan.rules.alpha / len(plan.rungs))
    attempts: list[Attempt] = []
    for rung in plan.rungs:
        say(f"{rung}: training")
        chosen = settings.model_copy(update={"rung": rung})
        folder = work / rung
        try:
            made: Finetuned = finetune(start, chosen, plan.timesteps, folder, on_progress=on_training)
        except Sim2SkyError as error:
            if len(plan.rungs) == 1:
                raise
            attempts.append(Attempt(rung, error.message, None))
            say(f"{rung}: no challenger: {error.message}")
            continue
        if not made.finished:
            raise KeyboardInterrupt
        say(f"{rung}: {made.note}; flying against the champion")
        challenger = _exported(folder / "model.zip", work / f"{rung}-bundle", start)
        promotion = judge(
            champion,
            challenger,
            old,
            new,
            rules=rules,
            seed=plan.seed,
            workers=plan.workers,
            folder=work / "flights",
            progress=on_flight,
        )
        attempts.append(Attempt(rung, made.note, promotion))
        say(f"{rung}: {promotion.verdict}: {promotion.reason}")
        if promotion.verdict == "promoted":
            break
    verdict = _verdict(attempts)
    model = plan.output / "model.zip" if verdict == "promoted" else None
    result = Retrained(verdict, tuple(attempts), model)
    record = {RECORD: json.dumps(result.to_json(), indent=1).encode(), REPORT: (render(result) + "\n").encode()}
    if model is not None:
        publish(work / attempts[-1].rung, model, record)
    else:
        for name, content in record.items():
            with replacing(plan.output / name) as temporary:
                temporary.write_bytes(content)
    return result


def _verdict(attempts: Sequence[Attempt]) -> Verdict:
    verdicts = [a.promotion.verdict for a in attempts if a.promotion is not None]
    if "promoted" in verdicts:
        return "promoted"
    return "undecided" if "undecided" in verdicts else "champion stays"


def _open_output(plan: RetrainPlan, start: StartingPoint) -> Path:
    output = plan.output
    if output.resolve() == plan.agent.resolve().parent:
        raise ConfigError(f"{output} is the champion's own folder", hint="name another output folder")
    try:
        mark = canonical_json(plan.to_json(start.sha256))
        output.mkdir(parents=True, exist_ok=True)
        path = output / "plan.json"
        if path.is_file():
            if path.read_bytes() != mark:
                raise ConfigError(
                    f"{output} holds a retraining of another agent, patch or settings", hint="name another folder"
                )
        elif any(output.iterdir()):
            raise ConfigError(f"{output}: exists and is not empty", hint="name another folder, or remove this one")
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(mark)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or output}: {error.strerror}", hint="name another folder or file"
        ) from error
    return output / "work"


def _exported(zip_path: Path, folder: Path, start: StartingPoint) -> Bundle:
    """The bundle of an agent with the limits of its vehicle; one that is there from before an interruption is used."""
    with contextlib.suppress(BundleError):
        return open_bundle(folder)
    shutil.rmtree(folder, ignore_errors=True)
    limits = resolve_safety(SafetySettings(extends="default")).values
    name = start.path.resolve().parent.name
    safety = functools.partial(safety_of, limits)
    return export_bundle(zip_path, folder, agent_name=name, safety=safety, replace=True).bundle


def render(result: Retrained) -> str:
    """The decision as text: per rung what was tried, flown and concluded, and the verdict last."""
    lines: list[str] = []
    for attempt in result.attempts:
        lines.append(f"{attempt.rung}: {attempt.note}")
        p = attempt.promotion
        if p is None:
            continue
        for name, c in (("old", p.old), ("new", p.new)):
            lines.append(
                f"  {name} conditions, {c.pairs} pairs: success {c.challenger_successes} against "
                f"{c.champion_successes} (won {c.won}, lost {c.lost}; gain {c.success_low:+.3f} to "
                f"{c.success_high:+.3f}), tracking error {c.challenger_error:.3f} against {c.champion_error:.3f} "
                f"tolerances (ratio {1 / c.tracking_gain:.2f}, {1 / c.tracking_high:.2f} to {1 / c.tracking_low:.2f}), "
                f"command activity {c.challenger_activity:.2f} against {c.champion_activity:.2f} 1/s"
            )
        lines.append(f"  {p.verdict}: {p.reason}")
    if result.verdict == "promoted":
        lines.append("PROMOTED: the challenger takes the champion's place")
    else:
        lines.append("CHAMPION STAYS" + (" (undecided)" if result.verdict == "undecided" else ""))
    return "\n".join(lines)
