"""Small flight logs with known metrics, and real simulated flights with timed faults, for the tests of gap analysis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from numpy.typing import NDArray

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.environments.tasks import make_contract
from sim2sky.hil.fault_schedule import Fault
from sim2sky.hil.faults import FaultyVehicle
from sim2sky.telemetry.flight_log import EpisodeData, LogMetadata
from sim2sky.telemetry.log_files import Header
from sim2sky.telemetry.log_schema import COLUMNS
from sim2sky.telemetry.log_writer import checked, fill_episode, fill_metadata
from sim2sky.validation import simulate as simulate_module
from sim2sky.validation.flight import FlightJob, Flyer

ENVIRONMENT = EnvironmentSettings()
CONTRACT = make_contract(ENVIRONMENT)
RATE_HZ = 20.0
TASK = {"name": "hsa", "duration_s": 20.0, "hold_s": 5.0}


@dataclass
class Synthetic:
    """A flight that holds its setpoint with errors of a given size.

    Attributes:
        error: combined tracking error, in tolerances (all three channels alike, constant and of that size).
        effort: absolute command of every channel, constant.
        duration_s: how long it lasts.
    """

    error: float = 0.1
    effort: float = 0.3
    duration_s: float = 20.0
    termination: str = "completed"
    success: bool = True
    seed: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        n = round(self.duration_s * RATE_HZ)
        time_s = np.arange(n) / RATE_HZ
        setpoints = np.tile([150.0, 18.0, math.pi - 0.01, 0.0, 0.0, 0.0, 0.0, 0.0], (n, 1))
        states = np.zeros((n, 16))
        columns = COLUMNS["states"]
        states[:, 0] = time_s
        states[:, columns.index("altitude")] = 150.0 - 10.0 * self.error
        states[:, columns.index("airspeed")] = 18.0 - 2.0 * self.error
        yaw = math.pi - 0.01 + math.radians(10.0) * self.error  # across the cut
        states[:, columns.index("yaw")] = (yaw + math.pi) % (2 * math.pi) - math.pi
        controls = np.full((n, 4), self.effort)
        controls[:, 1] = -self.effort
        return {
            "time_s": time_s,
            "states": states,
            "setpoints": setpoints,
            "controls": controls,
            "actions": np.zeros((n, 4), np.float32),
            "observations": np.zeros((n, len(CONTRACT.observation_names)), np.float32),
        }


def write_log(
    path: Path,
    flights: Sequence[Synthetic | Mapping[str, NDArray[Any]]],
    *,
    source: str = "sim",
    digest: str = "a" * 64,
    contract: str = "c" * 64,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A log of schema 1."""
    config = {"task": TASK} if config is None else config
    metadata = LogMetadata(source, "hand", digest, contract, RATE_HZ, "", config)  # type: ignore[arg-type]
    header = Header.of(metadata, CONTRACT)
    with h5py.File(path, "w") as file:  # at once: the writer that survives a kill takes 20 ms per episode
        fill_metadata(file, metadata)
        for number, f in enumerate(flights):
            data = (
                EpisodeData(f.arrays(), f.success, f.termination, f.seed, extra=f.extra)
                if isinstance(f, Synthetic)
                else EpisodeData(f, success=False, termination="completed", seed=0)
            )
            fill_episode(file.create_group(f"episode_{number:04d}"), h5py, data, checked(data, header))
    return path


def spread(
    n: int, *, seed: int, error: float = 0.1, effort: float = 0.3, failures: int = 0, scatter: float = 0.2
) -> list[Synthetic]:
    """Flights whose errors and efforts scatter by about 20 and 5 %; the first so many fail at the end."""
    rng = np.random.default_rng(seed)
    return [
        Synthetic(
            error=1.5 if i < failures else error * math.exp(scatter * rng.standard_normal()),
            effort=effort * math.exp(0.05 * rng.standard_normal()),
            seed=i,
        )
        for i in range(n)
    ]


def fly_log(
    path: Path, job: FlightJob, seeds: Sequence[int], faults: Mapping[int, Fault] | None = None, source: str = "virtual"
) -> Path:
    """A log of really simulated flights; by their number in the log some of them have a fault."""
    script = {seeds[number]: fault for number, fault in (faults or {}).items()}

    class FaultyFlyer(Flyer):
        def __init__(self, job: FlightJob) -> None:
            super().__init__(job)
            self._vehicle = FaultyVehicle(job.environment)

        def fly(self, seed: int, on_tick: Any = None) -> EpisodeOutcome:
            self._vehicle.inject([script[seed]] if seed in script else [], Counter())  # type: ignore[attr-defined]
            return super().fly(seed, on_tick)

    with mock.patch.object(simulate_module, "Flyer", FaultyFlyer):
        simulate_module.simulate(job, seeds, path, source=source, overwrite=True)  # type: ignore[arg-type]
    return path
