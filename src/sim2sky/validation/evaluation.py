"""How well a freshly trained agent flies, beside the classical autopilot on the same unseen episodes.

The agent is exported first, so that what is judged is what would be deployed: the exported policy behind its guard.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sim2sky.config import load_settings
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.training import TrainingSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.environments.episode import EpisodeOutcome, fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.state import Command, Sample, Setpoint
from sim2sky.validation.campaign import campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.flying_export import safety_of
from sim2sky.validation.statistics import clopper_pearson

__all__ = ["EvaluationRow", "evaluate_agent", "render_evaluation", "save_evaluation"]

EVALUATION_STREAM = 11  # episodes nobody else flies
DELAY_S = 0.1


@dataclass(frozen=True)
class EvaluationRow:
    """One pilot in one condition.

    Attributes:
        lower_bound: of the success rate, exact, one-sided 95 %.
        tracking_rmse: mean over completed episodes, by channel.
        action_rate: sum of absolute command changes per second, mean over episodes.
    """

    pilot: str
    conditions: str
    episodes: int
    successes: int
    lower_bound: float
    tracking_rmse: dict[str, float]
    action_rate: float


def _row(pilot: str, conditions: str, outcomes: Sequence[EpisodeOutcome]) -> EvaluationRow:
    successes = sum(o.success for o in outcomes)
    flown = [o for o in outcomes if o.termination == "completed"]
    names = outcomes[0].tracking_rmse
    return EvaluationRow(
        pilot=pilot,
        conditions=conditions,
        episodes=len(outcomes),
        successes=successes,
        lower_bound=clopper_pearson(successes, len(outcomes), side="lower").low,
        tracking_rmse={n: statistics.fmean(o.tracking_rmse[n] for o in flown) if flown else math.nan for n in names},
        action_rate=statistics.fmean(o.action_rate for o in outcomes),
    )


def _fly_autopilot(environment: EnvironmentSettings, seed: int) -> EpisodeOutcome:
    vehicle = SimVehicle(environment)
    autopilot = Autopilot(vehicle.airframe.gains, 1.0 / environment.rate_hz)

    def pilot(sample: Sample, setpoint: Setpoint, _: int) -> Command:
        return autopilot.command(sample, setpoint)

    return fly_episode(vehicle, pilot, seed)


def evaluate_agent(
    run: Path,
    *,
    episodes: int = 200,
    workers: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[EvaluationRow]:
    """Fly a finished training run as trained, without and with 100 ms of action delay, and the autopilot likewise.

    Args:
        run: folder with `model.zip` and `config.yaml`, as `sim2sky train` leaves it.
        episodes: per pilot and condition.
        workers: processes; 0 for one per core.
        progress: told the name of each block before it is flown.

    Raises:
        ConfigError: the folder is no finished run.
        Sim2SkyError: the agent cannot be exported or flown.
    """
    import joblib

    if not (run / "model.zip").is_file():
        raise ConfigError(f"{run}: holds no finished training run", hint="sim2sky train OUTPUT makes one")
    environment = load_settings(run / "config.yaml", TrainingSettings).environment
    limits = resolve_safety(SafetySettings(extends="default")).values
    seeds = campaign_seeds(0, episodes, stream=EVALUATION_STREAM)
    conditions = {"as trained": environment, "no action delay": _delayed(environment, 0.0)}
    conditions[f"action delay {DELAY_S * 1000:.0f} ms"] = _delayed(environment, DELAY_S)
    rows: list[EvaluationRow] = []
    with tempfile.TemporaryDirectory(prefix="sim2sky-evaluation-") as scratch:
        bundle = export_bundle(
            run / "model.zip",
            Path(scratch) / "bundle",
            agent_name=run.resolve().name,
            safety=lambda vehicle: safety_of(limits, vehicle),
        ).bundle
        for name, flown_in in conditions.items():
            if progress is not None:
                progress(name)
            outcomes = fly_campaign(FlightJob.of(bundle, flown_in), seeds, workers=workers)
            rows.append(_row(bundle.agent, name, outcomes))
            if flown_in.task.name == "hsa":  # the autopilot's task
                parallel: Any = joblib.Parallel(n_jobs=workers or -1)
                outcomes = parallel(joblib.delayed(_fly_autopilot)(flown_in, seed) for seed in seeds)
                rows.append(_row("autopilot", name, outcomes))
    return rows


def _delayed(environment: EnvironmentSettings, delay_s: float) -> EnvironmentSettings:
    disturbances = environment.disturbances.model_copy(update={"action_delay_s": (delay_s, delay_s)})
    return environment.model_copy(update={"disturbances": disturbances})


def render_evaluation(rows: Sequence[EvaluationRow]) -> str:
    """A table: success with its lower bound, tracking errors, action rate."""
    channels = list(rows[0].tracking_rmse)
    head = f"{'pilot':<12}{'conditions':<22}{'success':>10}{'at least':>10}"
    lines = [head + "".join(f"{c:>20}" for c in channels) + f"{'action rate 1/s':>17}"]
    for r in rows:
        errors = "".join(f"{r.tracking_rmse[c]:>20.3f}" for c in channels)
        success = f"{r.successes}/{r.episodes}"
        lines.append(
            f"{r.pilot:<12}{r.conditions:<22}{success:>10}{r.lower_bound:>10.3f}{errors}{r.action_rate:>17.2f}"
        )
    lines.append("'at least' is the exact one-sided 95 % lower bound of the success rate; errors are root mean squares")
    lines.append("of the true error over the second half of the completed episodes.")
    return "\n".join(lines)


def save_evaluation(rows: Sequence[EvaluationRow], path: Path) -> None:
    """Write the rows beside the agent."""
    data = [asdict(r) for r in rows]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    temporary.replace(path)
