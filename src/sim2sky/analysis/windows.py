"""Short windows of flights, ready to be replayed: measured channels, a start each, and the commands that act in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.wind import estimate_wind, ground_velocity, path_angle
from sim2sky.environments.replay_plant import STATE, density_ratio
from sim2sky.errors import ConfigError, NotSupportedError

__all__ = ["CHANNELS", "UNITS", "Windows", "cut_windows"]

Array = NDArray[np.float64]
CHANNELS = ("roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m")
"""What is replayed and compared."""
UNITS = ("rad", "rad", "rad", "rad/s", "rad/s", "rad/s", "m/s", "m")

WARM_S = 1.0  # the motor's lag of 0.2 s has forgotten what was before
LONGEST_DELAY_S = 0.5
EARLIEST_S = 0.3  # of a flight: before it nobody knows the commands
LARGEST_GAP = 1.5  # of a period
SLOWEST_MPS = 4.0  # on the ground


@dataclass(frozen=True, eq=False)
class Windows:
    """w windows of equal length.

    Attributes:
        flights: they were cut from. flight: (w,) index into them. first: (w,) tick at which a window starts.
        measured: (w, ticks + 1, 8), columns `CHANNELS`; yaw without jumps.
        starts: (w, 10) states as measured, columns `replay_plant.STATE`.
        controls: (w, before + ticks, 4) logged commands, from `before` ticks before the start.
    """

    flights: tuple[Flight, ...]
    flight: NDArray[np.int64]
    first: NDArray[np.int64]
    measured: Array
    starts: Array
    controls: Array
    before: int
    rate_hz: float

    def __len__(self) -> int:
        return len(self.first)

    @property
    def ticks(self) -> int:
        """Length of a window in ticks."""
        return self.measured.shape[1] - 1

    def chosen(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Windows:
        """Some of them."""
        return Windows(
            self.flights, self.flight[which], self.first[which], self.measured[which], self.starts[which],
            self.controls[which], self.before, self.rate_hz,
        )  # fmt: skip

    def effective_commands(self, delay_s: float, physics_hz: float) -> tuple[Array, Array]:
        """What reaches the actuators in each physics step when commands come `delay_s` late, smooth in the delay.

        A step in which the command changes gets the mean of both, weighted by their shares.

        Returns:
            (w, warm steps, 4) before the start, and (w, steps, 4) from it.

        Raises:
            ConfigError: a delay that is negative or too long for what was cut.
        """
        if not 0.0 <= delay_s <= LONGEST_DELAY_S:
            raise ConfigError(f"a delay of {delay_s:g} s cannot be replayed", hint=f"0 to {LONGEST_DELAY_S:g} s")
        warm, steps = round(WARM_S * physics_hz), round(self.ticks / self.rate_hz * physics_hz)
        # Begin and end of each step, in ticks of the log.
        edges = (np.arange(-warm, steps + 1) / physics_hz - delay_s) * self.rate_hz + self.before
        begin = np.floor(edges[:-1] + 1e-9).astype(int)
        end = np.ceil(edges[1:] - 1e-9).astype(int) - 1
        later = np.where(end > begin, (edges[1:] - end) / (edges[1:] - edges[:-1]), 0.0)[:, None]
        commands = self.controls[:, begin] * (1.0 - later) + self.controls[:, np.maximum(end, begin)] * later
        return commands[:, :warm], commands[:, warm:]


def cut_windows(flights: Sequence[Flight], length_s: float, *, every_s: float | None = None) -> Windows:
    """All windows without a gap, in which commands and channels are known.

    Args:
        flights: of one sampling rate.
        length_s: of a window.
        every_s: between two starts; `length_s` by default.

    Raises:
        ConfigError: no flights, or of several rates.
        NotSupportedError: there is not one such window.
    """
    rates = {flight.rate_hz for flight in flights}
    if len(rates) != 1:
        raise ConfigError(f"the flights have {len(rates)} sampling rates; replay takes flights of one")
    rate = rates.pop()
    ticks, stride = max(round(length_s * rate), 1), max(round((every_s or length_s) * rate), 1)
    before = int(np.ceil((WARM_S + LONGEST_DELAY_S) * rate)) + 1
    parts = [_cut(i, flight, ticks, stride, before) for i, flight in enumerate(flights)]
    which, first, measured, starts, controls = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(first):
        raise NotSupportedError(
            f"replaying flights without {length_s:g} s of commands and states in a row",
            hint="it takes attitude, rates, airspeed, altitude and the commands, at one rate",
        )
    return Windows(tuple(flights), which, first, measured, starts, controls, before, rate)


def _cut(index: int, flight: Flight, ticks: int, stride: int, before: int) -> tuple[NDArray[np.generic], ...]:
    n = len(flight)
    measured = np.column_stack([getattr(flight, name) for name in CHANNELS])
    known = np.isfinite(measured).all(axis=1) & np.isfinite(flight.controls).all(axis=1)
    known &= np.nan_to_num(flight.airspeed_mps) > SLOWEST_MPS
    known[1:] &= np.diff(flight.time_s) * flight.rate_hz < LARGEST_GAP
    bad = np.concatenate([[0], np.cumsum(~known)])
    first = np.arange(int(np.ceil(EARLIEST_S * flight.rate_hz)), n - ticks, stride)
    lead = np.minimum(first, int(np.ceil(EARLIEST_S * flight.rate_hz)))
    first = first[bad[first + ticks + 1] == bad[first - lead]]
    if not len(first):
        return tuple(
            np.empty(shape)
            for shape in ((0,), (0,), (0, ticks + 1, len(CHANNELS)), (0, len(STATE)), (0, before + ticks, 4))
        )
    rows = first[:, None] + np.arange(ticks + 1)
    windows = measured[rows]
    windows[:, :, 2] = np.unwrap(windows[:, :, 2], axis=1)
    commands = flight.controls[np.clip(first[:, None] + np.arange(-before, ticks), 0, n - 1)]
    return np.full(len(first), index), first, windows, _starts(flight)[first], np.nan_to_num(commands)


def _starts(flight: Flight) -> Array:
    """States as measured; angle of attack and sideslip, which nobody measures, from the path through the air."""
    roll, pitch, yaw = flight.roll_rad, flight.pitch_rad, flight.yaw_rad
    speed = flight.airspeed_mps / np.sqrt(density_ratio(flight.altitude_m))
    gamma = path_angle(flight)
    drift = np.zeros(len(flight))  # between path and nose, horizontally
    try:
        wind = estimate_wind(flight)
    except NotSupportedError:
        pass
    else:
        north, east = (ground_velocity(flight) - [wind.north_mps, wind.east_mps]).T
        seen = np.arctan2(east, north) - (yaw - wind.heading_bias_rad)
        drift = np.nan_to_num((seen + np.pi) % (2.0 * np.pi) - np.pi)
    # The path's direction in the aircraft's axes: undo yaw, pitch, roll.
    x, y, z = np.cos(gamma) * np.cos(drift), np.cos(gamma) * np.sin(drift), -np.sin(gamma)
    x, z = x * np.cos(pitch) - z * np.sin(pitch), x * np.sin(pitch) + z * np.cos(pitch)
    y, z = y * np.cos(roll) + z * np.sin(roll), z * np.cos(roll) - y * np.sin(roll)
    alpha = np.clip(np.arctan2(z, x), -0.2, 0.3)
    beta = np.clip(np.arcsin(np.clip(y, -1.0, 1.0)), -0.3, 0.3)
    return np.column_stack(
        [speed, alpha, beta, roll, pitch, yaw, flight.p_radps, flight.q_radps, flight.r_radps, flight.altitude_m]
    )
