"""Learning from real flights: a ladder of ways to improve a trained agent, safest first.

refit: train on in the refitted simulator. offline: update from logged transitions. residual: a bounded correction on
the frozen policy. vehicle: on the vehicle itself, behind its guard, only when asked for by name. None of them decides
whether the result may fly: that is `validation.promotion`'s business.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim2sky.config.environment import CALIBRATED_BIAS, EnvironmentSettings, Sensor
from sim2sky.config.loader import load_settings, validate_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.config.retraining import RealEnvSettings, Rung
from sim2sky.errors import ConfigError, NotSupportedError
from sim2sky.telemetry.log_files import replacing
from sim2sky.training.refit import continue_training, refit_settings
from sim2sky.training.starting_point import StartingPoint, open_starting_point
from sim2sky.training.train import Progress

__all__ = ["AGENT_FILES", "Finetuned", "finetune", "finetune_with_real_data", "publish", "refitted_environment"]

AGENT_FILES = ("vecnormalize.pkl", "contract.json", "config.yaml", "run.json", "model.zip")
"""Files of an agent; the zip last, so that its presence means that the others are there."""


@dataclass(frozen=True)
class Finetuned:
    """What a rung left behind.

    Attributes:
        rung: which one.
        folder: of the run, with the agent's files.
        finished: False after an interruption; the same call goes on.
        note: what happened, in a sentence.
    """

    rung: Rung
    folder: Path
    finished: bool
    note: str


def finetune_with_real_data(
    sim_model_path: str,
    real_env_config: dict[str, Any],
    n_timesteps: int = 10000,
    output_path: str = "models/finetuned.zip",
) -> Finetuned:
    """Fine-tune a simulation-trained agent with what was learned from real flights.

    Args:
        sim_model_path: the champion's zip, in the folder of its training run.
        real_env_config: keys of `RealEnvSettings`: `vehicle` is `virtual`, `hil` or `mavlink`, `rung` one of the
            ladder (the safest that has what it needs by default), `randomization`, `logs`, `seed`.
        n_timesteps: simulated or flown steps; for `offline`, logged transitions drawn for updates.
        output_path: the new zip; `vecnormalize.pkl`, `contract.json` and `config.yaml` are written beside it. Its
            folder must not hold another agent. The run itself is kept in a folder `NAME.run` beside it, and an
            interrupted call goes on from there.

    Raises:
        ConfigError: a key or value is wrong, or the output is the champion's own folder.
        AgentError, ContractError, FlightLogError: agent or logs cannot be used, or do not belong together.
        NotSupportedError: what this rung cannot do, with the rungs that can.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    settings = validate_settings(real_env_config, RealEnvSettings, source="real_env_config")
    output = Path(output_path)
    start = open_starting_point(Path(sim_model_path))
    _check_output(output, start)
    run = output.with_suffix(".run")
    result = finetune(start, settings, n_timesteps, run)
    if not result.finished:
        raise KeyboardInterrupt
    publish(run, output)
    return result


def _check_output(output: Path, start: StartingPoint) -> None:
    if output.suffix != ".zip":
        raise ConfigError(f"{output}: an agent is a .zip", hint="give output_path a name that ends in .zip")
    folder = output.parent
    if folder.resolve() == start.path.parent.resolve():
        raise ConfigError(
            f"{output} would overwrite files of the champion {start.path}", hint="name another folder for output_path"
        )
    others = [p.name for p in folder.glob("*.zip") if p.name != output.name] if folder.is_dir() else []
    if others:
        raise ConfigError(
            f"{folder} holds another agent, {others[0]}, whose normaliser would be overwritten",
            hint="name another folder for output_path",
        )


def refitted_environment(settings: RealEnvSettings, before: EnvironmentSettings) -> EnvironmentSettings:
    """The agent's training environment with what identification found, and with what no flight can tell: a sensor's
    bias looks right in every log, and moves the aircraft all the same. Where the patch says nothing of a sensor, its
    bias is drawn from what a calibrated one may have, lest a challenger gains by going to the edge of a tolerance.

    Raises:
        ConfigError: the patch is missing, for another aircraft, or wrong.
    """
    patch = settings.randomization
    if isinstance(patch, Path):
        patch = load_settings(patch, RandomizationPatch)
    if patch is None:
        return before
    after = patch.apply(before)
    sensors = after.disturbances.sensors
    unknown: dict[Sensor, tuple[float, float]] = {name: (-limit, limit) for name, limit in CALIBRATED_BIAS.items()}
    known = sensors.model_copy(update={"offsets": {**unknown, **sensors.offsets}})
    return after.model_copy(update={"disturbances": after.disturbances.model_copy(update={"sensors": known})})


def finetune(
    start: StartingPoint,
    settings: RealEnvSettings,
    timesteps: int,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Finetuned:
    """Take one rung, in a run folder that an interrupted call goes on from.

    Raises:
        As `finetune_with_real_data`.
    """
    if timesteps < 1:
        raise ConfigError(f"{timesteps} timesteps are no training", hint="give at least 1")
    rung = settings.chosen
    environment = refitted_environment(settings, start.settings.environment)
    run = refit_settings(start, environment, timesteps, settings.seed)
    match rung:
        case "refit":
            result = continue_training(start, run, folder, on_progress=on_progress)
            note = f"trained on for {result.timesteps} steps, half of them in the refitted simulator"
            return Finetuned(rung, folder, result.finished, note)
        case "residual":
            from sim2sky.training.residual import train_residual

            result = train_residual(start, run, folder, on_progress=on_progress)
            note = f"a residual of at most 10 % of the authority, trained for {result.timesteps} steps"
            return Finetuned(rung, folder, result.finished, note)
        case "offline":
            from sim2sky.training.offline_updates import update_offline

            note = update_offline(start, run, settings, folder, on_progress=on_progress)
            return Finetuned(rung, folder, True, note)
        case "vehicle":
            return _on_vehicle(start, settings, run, folder, on_progress)


def _on_vehicle(
    start: StartingPoint,
    settings: RealEnvSettings,
    run: Any,
    folder: Path,
    on_progress: Callable[[Progress], None] | None,
) -> Finetuned:
    if settings.vehicle != "virtual":
        raise NotSupportedError(
            f"learning in flight on a vehicle of kind '{settings.vehicle}': between episodes an aircraft must be put "
            "back to a start, which neither a flight plan nor a plant behind a link does for it",
            hint="fly it, and learn from its log: the rungs refit, offline and residual",
        )
    from sim2sky.training.on_vehicle import learn_on_vehicle

    note = learn_on_vehicle(start, run, settings.aircraft_seed, folder, on_progress=on_progress)
    return Finetuned("vehicle", folder, True, note)


def publish(run: Path, output: Path, record: Mapping[str, bytes] | None = None) -> None:
    """Copy an agent's files beside `output`, each by an atomic rename, the zip last.

    Args:
        run: folder of the run.
        output: the zip to write.
        record: further files by name, written before the zip.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (record or {}).items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
        for name in AGENT_FILES:
            if (run / name).is_file():
                with replacing(output if name == "model.zip" else folder / name) as temporary:
                    shutil.copyfile(run / name, temporary)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}", hint="name another folder") from error
