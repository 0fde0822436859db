"""A bundle as a pilot of the simulated aircraft: the very `FlightAgent` and guard of the target, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.agent.contract import Contract
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.deployment.native_build import backend_here
from sim2sky.environments.airframe_limits import safety_of
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.environments.episode import EpisodeOutcome, fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import BundleError, NotSupportedError
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.flight_agent import FlightAgent, Tick
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import CHANNELS, Command, Sample, Setpoint

__all__ = [
    "FlightJob",
    "Flyer",
    "OnTick",
    "collect_observations",
    "environment_for",
    "is_flyable",
    "safety_of",
    "why_not_flyable",
]


def why_not_flyable(contract: Contract) -> str:
    """Why an agent cannot fly one of the simulated aircraft; empty where it can."""
    if not contract.vehicle:
        return "its contract names no vehicle"
    if contract.vehicle not in AIRFRAMES:
        return f"no simulated aircraft '{contract.vehicle}' (there are {', '.join(AIRFRAMES)})"
    if contract.output.kind != "continuous" or tuple(s.name for s in contract.output.signals) != CHANNELS:
        return f"its actions are not {', '.join(CHANNELS)}"
    if not contract.task or not contract.rate_hz > 0:
        return "its contract names no task or no control rate"
    return ""


def is_flyable(contract: Contract) -> bool:
    """Whether `environment_for` has an answer."""
    return not why_not_flyable(contract)


def environment_for(contract: Contract, base: EnvironmentSettings) -> EnvironmentSettings:
    """The conditions of `base` for the contract's vehicle, task and control rate.

    Raises:
        NotSupportedError: the agent flies none of the simulated aircraft.
    """
    if reason := why_not_flyable(contract):
        raise NotSupportedError(
            f"flying this agent in simulation: {reason}",
            hint="put a contract.json with vehicle, task and rate beside the model and export again",
        )
    substeps = max(round(base.physics_hz / contract.rate_hz), 1)
    while substeps * contract.rate_hz < 60.0:
        substeps += 1
    data = base.model_dump()
    data.update(aircraft=contract.vehicle, rate_hz=contract.rate_hz, physics_hz=substeps * contract.rate_hz)
    data["task"]["name"] = contract.task
    return EnvironmentSettings.model_validate(data)


@dataclass(frozen=True)
class FlightJob:
    """What a worker needs to fly episodes; plain data, so that it travels to other processes and machines.

    Attributes:
        bundle: the bundle's folder.
        digest: its digest, compared again where it is opened.
        environment: conditions, already for this agent's vehicle, task and rate.
        safety: limits and fallback gains, as in `safety.json`.
        fmt: format that flies; empty for the active one.
    """

    bundle: str
    digest: str
    environment: EnvironmentSettings
    safety: Mapping[str, Any]
    fmt: str = ""

    def to_json(self) -> dict[str, Any]:
        """What decides the outcome of an episode besides its seed; not where the bundle lies."""
        return {
            "digest": self.digest,
            "environment": self.environment.model_dump(mode="json"),
            "safety": dict(self.safety),
            "format": self.fmt,
        }

    @classmethod
    def of(
        cls, bundle: Bundle, base: EnvironmentSettings, limits: Mapping[str, Any] | None = None, *, fmt: str = ""
    ) -> FlightJob:
        """A bundle's own limits fly; `limits` only where it has none.

        Raises:
            NotSupportedError: the agent flies none of the simulated aircraft.
            BundleError: neither the bundle nor the caller has safety limits.
        """
        environment = environment_for(bundle.contract, base)
        safety = bundle.safety() or (safety_of(limits, bundle.contract.vehicle) if limits else None)
        if safety is None:
            raise BundleError(
                f"bundle {bundle.path} has no safety limits",
                hint="export it again with sim2sky export, or sim2sky deploy",
            )
        return cls(str(bundle.path), bundle.digest, environment, safety, fmt)


OnTick = Callable[[Sample, Setpoint, Tick], None]


class Flyer:
    """A loaded job: flies episode after episode.

    Attributes:
        bundle: what flies.
        monitor: its guard.

    Raises:
        BundleError: the bundle changed since the job was made, or its policy cannot be loaded.
        ContractError: the runtime cannot fly the contract.
    """

    def __init__(self, job: FlightJob) -> None:
        self.bundle = bundle = open_bundle(Path(job.bundle), digest=job.digest)
        self.monitor = make_monitor(job.safety, bundle.contract)
        self._agent = FlightAgent(bundle.contract, backend_here(bundle, job.fmt or None), self.monitor)
        self._vehicle = SimVehicle(job.environment)
        self._interventions = 0
        self._on_tick: OnTick | None = None

    def _pilot(self, sample: Sample, setpoint: Setpoint, now_ns: int) -> Command:
        tick = self._agent.tick(sample, setpoint, now_ns)
        if tick.trips or tick.guard != Mode.POLICY:
            self._interventions += 1
        if self._on_tick is not None:
            self._on_tick(sample, setpoint, tick)
        return tick.command

    def fly(self, seed: int, on_tick: OnTick | None = None) -> EpisodeOutcome:
        """One episode from its seed; `on_tick` gets what was measured, to be followed and decided at every tick."""
        self._on_tick = on_tick
        self._agent.reset()
        self._interventions = 0
        outcome = fly_episode(self._vehicle, self._pilot, seed)
        return replace(outcome, interventions=self._interventions)


def collect_observations(job: FlightJob, seeds: Sequence[int], *, every: int = 1) -> dict[str, NDArray[np.float32]]:
    """Observations that occur in flight, for golden vectors, calibration and distillation.

    Args:
        job: what flies.
        seeds: of the episodes.
        every: keep every so many-th tick; recurrent policies need all.

    Returns:
        `observation` (n, size) and `episode_start` (n,), in order; rows that are not finite are left out.
    """
    flyer = Flyer(job)
    rows: list[NDArray[np.float32]] = []
    starts: list[bool] = []
    for seed in seeds:
        seen: list[NDArray[np.float32]] = []
        flyer.fly(seed, lambda _, __, tick, seen=seen: seen.append(tick.observation))
        kept = [row for row in seen[::every] if np.isfinite(row).all()]
        rows += kept
        starts += [i == 0 for i in range(len(kept))]
    key = flyer.bundle.contract.inputs[0].key
    return {key: np.stack(rows), "episode_start": np.array(starts, np.float32)}
