"""One episode of a pilot in a simulated aircraft, and what is to be said of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.state import Command, Sample, Setpoint

__all__ = ["EpisodeOutcome", "EpisodeRecord", "Pilot", "channel_names", "fly_episode"]

Pilot = Callable[[Sample, Setpoint, int], Command]
"""Measured sample, setpoint and time in ns to a command; autopilots and flight agents alike."""

_CHANNEL_NAMES = {
    "hsa": ("altitude_rmse_m", "airspeed_rmse_mps", "heading_rmse_rad"),
    "attitude": ("roll_rmse_rad", "pitch_rmse_rad", "airspeed_rmse_mps"),
    "rate": ("p_rmse_radps", "q_rmse_radps", "r_rmse_radps"),
}


def channel_names(task: str) -> tuple[str, str, str]:
    """Keys of `EpisodeOutcome.tracking_rmse`, in the order of `tasks.tracking_errors`."""
    return _CHANNEL_NAMES[task]


@dataclass(frozen=True)
class EpisodeOutcome:
    """Result of one episode.

    Attributes:
        tracking_rmse: root mean square of the true tracking error by channel, over the second half of the episode.
        action_rate: mean sum of absolute command changes per second, all four channels.
        interventions: ticks in which the safety monitor replaced or limited the command.
    """

    seed: int
    success: bool
    termination: str
    duration_s: float
    tracking_rmse: dict[str, float]
    action_rate: float
    interventions: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping; a channel without data is null."""
        data = asdict(self)
        data["tracking_rmse"] = {k: v if math.isfinite(v) else None for k, v in self.tracking_rmse.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_json`."""
        rmse = {k: math.nan if v is None else float(v) for k, v in data["tracking_rmse"].items()}
        values: dict[str, Any] = {**data, "tracking_rmse": rmse}
        return cls(**values)


class EpisodeRecord:
    """Accumulates what an outcome needs while an episode is flown by whatever drives the vehicle.

    Args:
        vehicle: just reset.
    """

    def __init__(self, vehicle: SimVehicle) -> None:
        self._vehicle = vehicle
        self._second_half = vehicle.settings.ticks // 2
        self._errors: list[tuple[float, float, float]] = []
        self._activity = 0.0
        self._last = vehicle.airframe.trim

    def after_step(self, command: Command) -> None:
        """Call after each `vehicle.step(command)`."""
        self._activity += sum(abs(c - last) for c, last in zip(command, self._last, strict=True))
        self._last = command
        if self._vehicle.tick > self._second_half:
            self._errors.append(self._vehicle.tracking_errors())

    def outcome(self, seed: int, interventions: int = 0) -> EpisodeOutcome:
        """Call when `vehicle.done`."""
        vehicle = self._vehicle
        names = _CHANNEL_NAMES[vehicle.settings.task.name]
        rmse = np.sqrt(np.mean(np.square(self._errors), axis=0)).tolist() if self._errors else [math.nan] * len(names)
        duration = vehicle.time_s
        return EpisodeOutcome(
            seed=seed,
            success=vehicle.success,
            termination=vehicle.termination,
            duration_s=duration,
            tracking_rmse=dict(zip(names, rmse, strict=True)),
            action_rate=self._activity / max(duration, 1e-9),
            interventions=interventions,
        )


def fly_episode(
    vehicle: SimVehicle,
    pilot: Pilot,
    seed: int,
    *,
    on_tick: Callable[[Sample, Command], None] | None = None,
) -> EpisodeOutcome:
    """Fly one episode from its seed to its end.

    Args:
        vehicle: the aircraft; it is reset.
        pilot: already reset.
        seed: of the scenario.
        on_tick: called after each step with the sample the pilot saw and its command.
    """
    sample = vehicle.reset(seed)
    record = EpisodeRecord(vehicle)
    while not vehicle.done:
        command = pilot(sample, vehicle.setpoint, sample.time_ns)
        seen = sample
        sample = vehicle.step(command)
        record.after_step(command)
        if on_tick is not None:
            on_tick(seen, command)
    return record.outcome(seed)
