"""Why the guard stepped in: one event per trip that rose and per change of hands, with the state at that tick.

Bounded: a guard that chatters for hours costs no more memory than one that never tripped. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sim2sky.runtime.ladder import SHAPING, SWITCHING, Mode, Trip
from sim2sky.runtime.state import Sample

__all__ = ["STATE_COLUMNS", "TRIP_COLUMNS", "TripEvent", "TripLog"]

_SWITCHING = int(SWITCHING)  # operations on IntFlag cost more than the rest of a note

TRIP_COLUMNS = ("time_ns", "tick", "raised", "trips", "mode")
"""Integer columns of an event."""

STATE_COLUMNS = (
    "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m",
    "climb_rate_mps", "north_m", "east_m", "north_mps", "east_mps", "battery_v",
)  # fmt: skip
"""Float columns of an event: the state estimate as it came, NaN included."""


@dataclass(frozen=True, slots=True)
class TripEvent:
    """One moment at which something went wrong or somebody else took over.

    Attributes:
        time_ns: of the tick, on the clock of the state estimate.
        tick: number of the guard's call in this episode, from 0.
        raised: bits of `Trip` that were not set at the tick before; 0 where only the mode changed.
        trips: all bits set.
        mode: who commands from this tick on.
        state: values of `STATE_COLUMNS`.
    """

    time_ns: int
    tick: int
    raised: int
    trips: int
    mode: int
    state: tuple[float, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of the trips that rose."""
        return tuple(str(t.name).lower() for t in Trip if t & self.raised)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Values of `TRIP_COLUMNS`."""
        return (self.time_ns, self.tick, self.raised, self.trips, self.mode)

    def __str__(self) -> str:
        what = ", ".join(self.reasons) or "all clear"
        return f"tick {self.tick}: {what} -> {Mode(self.mode).name}"


class TripLog:
    """Events of one episode: the first `capacity` in full, of the rest only how many.

    Args:
        capacity: events kept.

    Attributes:
        dropped: events that came after the log was full.
    """

    def __init__(self, capacity: int = 256) -> None:
        self.capacity = capacity
        self.clear()

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[TripEvent]:
        return iter(self._events)

    def __getitem__(self, index: int) -> TripEvent:
        return self._events[index]

    def clear(self) -> None:
        """New episode."""
        self._events: list[TripEvent] = []
        self._ticks = [0] * int(SWITCHING | SHAPING).bit_length()
        self.dropped = 0
        self._tick = 0
        self._last: tuple[int, int] = (0, int(Mode.POLICY))

    def note(self, s: Sample, now_ns: int, battery_v: float, trips: int, mode: int) -> None:
        """Take in what the guard found and did at one tick; an event where something new went wrong, or the hands
        changed.

        Args:
            s: state estimate as it came.
            now_ns: time of the tick, on the clock of `s.time_ns`.
            battery_v: NaN where it is not measured.
            trips: bits of `Trip`.
            mode: `Mode` as an integer.
        """
        last_trips, last_mode = self._last
        raised = trips & ~last_trips & _SWITCHING
        if raised or mode != last_mode:
            state = (
                s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps, s.altitude_m,
                s.climb_rate_mps, s.north_m, s.east_m, s.north_mps, s.east_mps, battery_v,
            )  # fmt: skip
            self.add(TripEvent(now_ns, self._tick, raised, trips, int(mode), state))
        if trips:
            self.count(trips)
        self._last = (trips, int(mode))
        self._tick += 1

    def add(self, event: TripEvent) -> None:
        """Keep an event, or count it where the log is full."""
        if len(self._events) < self.capacity:
            self._events.append(event)
        else:
            self.dropped += 1

    def count(self, trips: int) -> None:
        """Note that these trips were set for one more tick."""
        bit = 0
        while trips:
            if trips & 1:
                self._ticks[bit] += 1
            trips >>= 1
            bit += 1

    @property
    def ticks(self) -> dict[str, int]:
        """Ticks during which each trip was set, by name; exact however full the log is."""
        return {str(t.name).lower(): n for t in Trip if (n := self._ticks[int(t).bit_length() - 1])}
