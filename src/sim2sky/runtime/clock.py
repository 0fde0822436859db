"""Time as integer nanoseconds. Loops are given a clock, so that they run in real time, in lockstep or in a test."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "RealClock"]


class Clock(Protocol):
    """Monotonic time."""

    def now_ns(self) -> int:
        """Monotonic time, nanoseconds; the origin is arbitrary."""
        ...

    def sleep_until(self, time_ns: int) -> None:
        """Return at `time_ns`, or at once if it has passed."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()

    def sleep_until(self, time_ns: int) -> None:
        """See `Clock`."""
        remaining = time_ns - time.monotonic_ns()
        if remaining > 0:
            time.sleep(remaining * 1e-9)


class ManualClock:
    """Time that passes only when told to: lockstep and tests."""

    def __init__(self, time_ns: int = 0) -> None:
        self.time_ns = time_ns

    def now_ns(self) -> int:
        """See `Clock`."""
        return self.time_ns

    def sleep_until(self, time_ns: int) -> None:
        """See `Clock`."""
        self.time_ns = max(self.time_ns, time_ns)
