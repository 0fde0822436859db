"""Records a flight agent's ticks in memory and writes each finished episode to the flight log.

The loop pays for a few array assignments per tick. A recorder that cannot write (no h5py, disk full) says so once in
`problem` and lets the aircraft fly on.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.errors import FlightLogError, MissingExtraError
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.telemetry.flight_log import COLUMNS, EpisodeData, FlightLogWriter, LogMetadata

__all__ = ["Recorder", "state_row"]

_WIDTHS = {"states": 16, "controls": 4, "setpoints": 8, "timing": 3, "guard": 2}


def state_row(sample: Sample, time_s: float) -> tuple[float, ...]:
    """A measured state in the log's columns; body velocities are taken along the flight path, as the aircraft has no
    better."""
    s = sample
    return (
        time_s, s.north_m, s.east_m, -s.altitude_m, s.airspeed_mps, 0.0, 0.0, s.roll_rad, s.pitch_rad, s.yaw_rad,
        s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps, s.altitude_m, 0.0,
    )  # fmt: skip


class Recorder:
    """Buffers one episode, grows by doubling, writes at its end.

    Args:
        path: the log; None records nothing.
        metadata: of the log.
        contract: names of observations and actions.
        capacity: ticks the buffers hold at first.
        overwrite: replace an existing log.

    Raises:
        FlightLogError: the log cannot be created at all (folder missing or read-only, file exists).
    """

    def __init__(
        self,
        path: Path | None,
        metadata: LogMetadata,
        contract: Contract,
        *,
        capacity: int = 2048,
        overwrite: bool = False,
    ) -> None:
        self.problem = ""
        self._writer: FlightLogWriter | None = None
        if path is not None:
            try:
                self._writer = FlightLogWriter(path, metadata, contract, overwrite=overwrite)
            except MissingExtraError as error:
                self.problem = f"flying without a log: {error.message}"
        n_observations = len(contract.observation_names)
        widths = {**_WIDTHS, "observations": n_observations, "actions": len(contract.output.signals)}
        self._buffers: dict[str, NDArray[Any]] = {
            name: np.zeros((capacity, width), _dtype(name)) for name, width in widths.items()
        }
        self._rewards = np.zeros(capacity)
        self._count = 0
        self._seed = -1
        self._recording = False

    @property
    def recording(self) -> bool:
        """Whether an episode is open."""
        return self._recording

    @property
    def ticks(self) -> int:
        """Ticks of the open episode."""
        return self._count

    def begin(self, seed: int) -> None:
        """Open an episode; one that is still open is dropped."""
        self._count, self._seed, self._recording = 0, seed, True

    def record(
        self,
        state: tuple[float, ...],
        setpoint: Setpoint,
        tick: Tick,
        timing_ns: tuple[int, int, int] = (0, 0, 0),
        reward: float | None = None,
    ) -> None:
        """Add a tick of the open episode.

        Args:
            state: 15 or 16 values in the log's column order.
            setpoint: followed at this tick.
            tick: what the agent decided.
            timing_ns: when the state was received, the command decided and sent.
            reward: of this tick, where there is one.
        """
        if not self._recording or self._writer is None:
            return
        i = self._count
        if i == len(self._rewards):
            self._grow()
        b, s = self._buffers, setpoint
        b["states"][i, : len(state)] = state
        b["observations"][i] = tick.observation
        b["actions"][i] = tick.action
        b["controls"][i] = tick.command
        b["setpoints"][i] = (
            s.altitude_m, s.airspeed_mps, s.heading_rad, s.roll_rad, s.pitch_rad, s.p_radps, s.q_radps, s.r_radps,
        )  # fmt: skip
        b["timing"][i] = timing_ns
        b["guard"][i] = (tick.guard, tick.trips)
        self._rewards[i] = math.nan if reward is None else reward
        self._count = i + 1

    def end(self, *, success: bool, termination: str, **extra: str | float | int | bool) -> None:
        """Close the episode and write it. A failure to write is kept in `problem`, not raised."""
        if not self._recording:
            return
        self._recording = False
        if self._writer is None or self._count == 0:
            return
        n = self._count
        arrays = {name: buffer[:n] for name, buffer in self._buffers.items()}
        arrays["time_s"] = arrays["states"][:, COLUMNS["states"].index("time")]
        total = float(self._rewards[:n].sum())
        if not math.isnan(total):
            arrays["rewards"] = self._rewards[:n]
        try:
            self._writer.write(EpisodeData(arrays, success, termination, self._seed, total, extra=extra))
        except FlightLogError as error:
            self.problem = error.message

    def close(self) -> None:
        """Finish the log. A failure is kept in `problem`, not raised."""
        if self._writer is not None:
            try:
                self._writer.close()
            except FlightLogError as error:
                self.problem = error.message

    def _grow(self) -> None:
        self._buffers = {name: np.concatenate([old, np.zeros_like(old)]) for name, old in self._buffers.items()}
        self._rewards = np.concatenate([self._rewards, np.zeros_like(self._rewards)])


def _dtype(name: str) -> Any:
    if name in {"timing", "guard"}:
        return np.int64
    return np.float32 if name in {"observations", "actions"} else np.float64
