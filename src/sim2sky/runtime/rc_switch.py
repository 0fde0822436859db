"""A switch on the pilot's transmitter: debounced, with a dead band, and only a change counts. No I/O."""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["Edge", "RcSwitch"]

LOW_US = 1300
HIGH_US = 1700
STEADY_NS = 150_000_000  # RC_CHANNELS comes ten times a second: two of them must agree
PLAUSIBLE_US = (800, 2200)


class Edge(Enum):
    """A change of the switch."""

    ON = auto()
    OFF = auto()


class RcSwitch:
    """One receiver channel as a switch.

    What it was when we began is no change: a switch left on from the last flight does nothing until it has been off.
    Between low and high, and without a plausible pulse, it keeps its position.

    Args:
        channel: from 1.

    Attributes:
        position: on or off; None until it has been steady once.
    """

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.position: bool | None = None
        self._candidate: bool | None = None
        self._since_ns = 0

    def update(self, widths_us: tuple[int, ...], now_ns: int) -> Edge | None:
        """Take note of the receiver's pulse widths, several times a second."""
        width = widths_us[self.channel - 1] if len(widths_us) >= self.channel else 0
        seen = self._position_of(width)
        if seen is None or seen != self._candidate:
            self._candidate, self._since_ns = seen, now_ns
            return None
        if now_ns - self._since_ns < STEADY_NS or seen == self.position:
            return None
        before, self.position = self.position, seen
        if before is None:
            return None
        return Edge.ON if seen else Edge.OFF

    @staticmethod
    def _position_of(width_us: int) -> bool | None:
        low, high = PLAUSIBLE_US
        if not low <= width_us <= high or LOW_US < width_us < HIGH_US:
            return None
        return width_us >= HIGH_US
