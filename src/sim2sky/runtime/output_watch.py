"""Notices an autopilot that says it obeys while its outputs stay where they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sim2sky.runtime.state import Command

__all__ = ["OutputWatch"]

WINDOW_NS = 3_000_000_000
MOVED = 0.2  # of full travel: a command that changed by so much must be seen at an output
FOLLOW_NS = 300_000_000  # by then an output has followed a command, and was heard of
STILL_US = 5  # an output that changed by no more did not move


class OutputWatch:
    """Compares how far commands and outputs moved over the last three seconds."""

    def __init__(self) -> None:
        self._commands: deque[tuple[int, Command]] = deque()
        self._outputs: deque[tuple[int, tuple[int, ...]]] = deque()

    def reset(self) -> None:
        """Begin anew: control has just changed hands."""
        self._commands.clear()
        self._outputs.clear()

    def commanded(self, command: Command, now_ns: int) -> None:
        """Take note of a command that was sent."""
        self._commands.append((now_ns, command))
        while now_ns - self._commands[0][0] > WINDOW_NS:
            self._commands.popleft()

    def put_out(self, widths_us: tuple[int, ...], now_ns: int) -> bool:
        """Take note of the outputs' pulse widths; True where they do not follow the commands."""
        if self._outputs and len(widths_us) != len(self._outputs[0][1]):
            self._outputs.clear()
        self._outputs.append((now_ns, widths_us))
        while now_ns - self._outputs[0][0] > WINDOW_NS:
            self._outputs.popleft()
        long_enough = len(self._commands) > 1 and now_ns - min(self._commands[0][0], self._outputs[0][0]) > (
            WINDOW_NS * 9 // 10
        )
        if not long_enough or now_ns - self._outputs[0][0] < WINDOW_NS * 9 // 10:
            return False
        still = _travel([w for _, w in self._outputs]) <= STILL_US
        # What was commanded before the first of these outputs, or just now, they need not show.
        first, last = self._outputs[0][0], now_ns - FOLLOW_NS
        return still and _travel([c for sent_ns, c in self._commands if first < sent_ns <= last]) >= MOVED


def _travel(rows: Sequence[Sequence[float]]) -> float:
    """Largest change of any column."""
    return max((max(column) - min(column) for column in zip(*rows, strict=True)), default=0.0)
