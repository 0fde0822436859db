"""When something was measured, on our clock: the sender's time since boot, mapped by what arrives.

No message can arrive before it was sent, so the smallest difference seen between our receipt and the sender's stamp
bounds the offset of the two clocks from above; a TIMESYNC exchange says how much of that is the way itself.
Standard library only.
"""

from __future__ import annotations

__all__ = ["SenderClock"]

_S = 1_000_000_000
WINDOW_NS = 10 * _S  # over which the smallest difference is taken: two quartz clocks drift apart by 1 ms in that time
SLACK_NS = _S // 2  # a stamp so much older than the newest one is a late message; older still, the sender restarted
ROUND_TRIP_LIMIT_NS = _S


class SenderClock:
    """Maps the time stamps of one sender, ns since it was started, to our monotonic clock.

    Attributes:
        restarts: how often the sender's time went back.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self._forget()

    def _forget(self) -> None:
        self._newest: int | None = None
        self._least: int | None = None  # smallest difference of the window that runs, and of the one before
        self._least_before: int | None = None
        self._window_ns = 0
        self._exchanged: int | None = None  # difference of the clocks by the quickest exchange
        self._round_trip_ns = 0

    def receipt(self, stamp_ns: int, now_ns: int) -> bool:
        """Take note of a stamped message; False where it is older than the newest by less than half a second.

        A stamp that is older by more means that the sender was started again: everything known of its clock is
        forgotten and `restarts` grows.
        """
        if self._newest is not None and stamp_ns < self._newest:
            if self._newest - stamp_ns <= SLACK_NS:
                return False
            self.restarts += 1
            self._forget()
        self._newest = stamp_ns
        difference = now_ns - stamp_ns
        if self._least is None or now_ns - self._window_ns > WINDOW_NS:
            self._least_before, self._least, self._window_ns = self._least, difference, now_ns
        elif difference < self._least:
            self._least = difference
        return True

    def timesync(self, sent_ns: int, stamp_ns: int, now_ns: int) -> None:
        """Take note of an answered TIMESYNC: asked at `sent_ns`, answered at `stamp_ns` of the sender's clock.

        The quickest exchange says most; it ages by a tenth with each slower one, so that a changed route is followed.
        """
        round_trip = now_ns - sent_ns
        if not 0 <= round_trip <= ROUND_TRIP_LIMIT_NS or not self.receipt(stamp_ns, now_ns):
            return
        if self._exchanged is None or round_trip <= self._round_trip_ns:
            self._round_trip_ns = round_trip
            self._exchanged = (sent_ns + now_ns) // 2 - stamp_ns
        else:
            self._round_trip_ns += self._round_trip_ns // 10 + 1000

    def to_ours(self, stamp_ns: int, now_ns: int) -> int:
        """Our time of something stamped `stamp_ns`; never after `now_ns`."""
        differences = (self._least, self._least_before, self._exchanged)
        offset = min((d for d in differences if d is not None), default=now_ns - stamp_ns)
        return min(stamp_ns + offset, now_ns)
