"""A champion to retrain: the shipped agent in shorter episodes, and logs of its flights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim2sky.agent.contract import Contract
from sim2sky.agent.layers import evaluate
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.environments.tasks import make_contract
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.observation import ObservationBuilder
from sim2sky.runtime.recorder import state_row
from sim2sky.runtime.state import Command
from sim2sky.telemetry.flight_log import EpisodeData, FlightLogWriter, LogMetadata
from sim2sky.training.starting_point import StartingPoint

AGENTS = Path(__file__).resolve().parent.parent / "agents"
PATCH = RandomizationPatch(
    aircraft="ultrastick25e",
    randomization={"thrust_scale": [0.8, 0.8], "elevator_offset": [0.06, 0.06], "mass_offset_kg": [0.3, 0.35]},
    disturbances={"action_delay_s": [0.1, 0.15]},
)


def champion(folder: Path, agent: str = "hawk", **changes: str) -> Path:
    """A copy of a shipped agent whose episodes last 5 s; `changes` replace further lines of its config.yaml."""
    copy = folder / agent
    shutil.copytree(AGENTS / agent, copy)
    config = copy / "config.yaml"
    text = config.read_text()
    for key, value in {"duration_s": "5.0", "hold_s": "1.0", **changes}.items():
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        text = text.replace(line, f"{line.split(':')[0]}: {value}")
    config.write_text(text)
    return copy / "model.zip"


def write_log(
    path: Path,
    start: StartingPoint,
    settings: EnvironmentSettings,
    *,
    flights: int = 3,
    excitation: float = 0.1,
    source: str = "virtual",
    contract: Contract | None = None,
    act: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Path:
    """Flights of the champion as a flight agent logs them: measured states, commands with excitation."""
    rng = np.random.default_rng(3)
    contract = contract or make_contract(settings)
    metadata = LogMetadata(source, "hawk", "d" * 64, contract.hash, settings.rate_hz)  # type: ignore[arg-type]
    vehicle, builder = SimVehicle(settings), ObservationBuilder(make_contract(settings))
    signals = make_contract(settings).output.signals
    with FlightLogWriter(path, metadata, contract) as log:
        for seed in range(flights):
            sample = vehicle.reset(seed)
            builder.reset()
            rows: dict[str, list[object]] = {k: [] for k in ("time_s", "states", "observations", "actions")}
            rows |= {"controls": [], "setpoints": [], "guard": []}
            while not vehicle.done:
                observation = builder.build(sample, vehicle.setpoint)
                own = np.asarray(evaluate(start.network, {"observation": observation[None]})[0])[0]
                noise = excitation * rng.standard_normal(4)
                action = np.clip(own + noise if act is None else act(own, noise), -1.0, 1.0)
                command = Command(*(s.command(float(a)) for s, a in zip(signals, action, strict=True)))
                builder.record(action.tolist())
                t, s = vehicle.time_s, vehicle.setpoint
                rows["time_s"].append(t)
                rows["states"].append(state_row(sample, t))
                rows["observations"].append(observation)
                rows["actions"].append(own)
                rows["controls"].append(command)
                target = (s.altitude_m, s.airspeed_mps, s.heading_rad, s.roll_rad, s.pitch_rad)
                rows["setpoints"].append((*target, s.p_radps, s.q_radps, s.r_radps))
                rows["guard"].append((0, 0))
                sample = vehicle.step(command)
            arrays = {k: np.array(v) for k, v in rows.items()}
            log.write(EpisodeData(arrays, vehicle.success, vehicle.termination, seed))
    return path
