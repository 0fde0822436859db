"""How well a control loop keeps its time: deadline misses, jitter, bias, and the time of a tick, in bounded memory.

Standard library only, and cheap enough for every tick.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sim2sky.errors import ContractError

__all__ = ["Histogram", "TimingMonitor", "TimingSummary"]

_S = 1_000_000_000
_BITS = 7  # a value is known to one part in 2**_BITS
_LARGEST = 2**62


class Histogram:
    """Durations counted in buckets that grow with the value: under 0.8 % wide, a fixed 57 kB whatever comes.

    (The buckets of HdrHistogram: linear up to 2^8, from there 2^7 to every doubling.)
    """

    def __init__(self) -> None:
        self._counts = [0] * (_index(_LARGEST) + 1)
        self.count = 0
        self.total = 0
        self.largest = 0

    def add(self, value: int) -> None:
        """Count one value; a negative one as 0."""
        value = min(max(value, 0), _LARGEST)
        self._counts[_index(value)] += 1
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def merge(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        for i, count in enumerate(other._counts):
            if count:
                self._counts[i] += count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    def quantile(self, share: float) -> int:
        """The smallest bucket end that at least `share` of the values do not exceed; 0 where there are none."""
        wanted = share * self.count
        seen = 0
        for i, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_end(i), self.largest)
        return self.largest


def _index(value: int) -> int:
    shift = max(value.bit_length() - _BITS - 1, 0)
    return (shift << _BITS) + (value >> shift)


def _end(index: int) -> int:
    shift = max((index >> _BITS) - 1, 0)
    return (((index - (shift << _BITS)) + 1) << shift) - 1


@dataclass(frozen=True, slots=True)
class TimingSummary:
    """What was measured. Times in microseconds; a tick lasts from its start to its command being sent.

    Attributes:
        ticks: how many.
        misses: ticks that ended more than one period after they were scheduled.
        rate_hz: asked for.
        native_rate_hz: what the loop could do without waiting, 1 / mean duration; 0 where nothing was measured.
        actual_rate_hz: what it did, 1 / mean interval; 0 where there is no interval.
        bias: mean interval / period - 1.
        jitter_p50_us, jitter_p99_us, jitter_max_us: of |interval - period|.
        late_p99_us, late_max_us: start after the scheduled time.
        tick_p50_us, tick_p99_us, tick_p999_us, tick_max_us: duration.
    """

    ticks: int
    misses: int
    rate_hz: float
    native_rate_hz: float
    actual_rate_hz: float
    bias: float
    jitter_p50_us: float
    jitter_p99_us: float
    jitter_max_us: float
    late_p99_us: float
    late_max_us: float
    tick_p50_us: float
    tick_p99_us: float
    tick_p999_us: float
    tick_max_us: float

    def attributes(self) -> dict[str, float | int]:
        """For the attributes of a log: every value under `timing_...`."""
        return {f"timing_{name}": value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"{self.ticks} ticks at {self.actual_rate_hz:.2f} Hz ({self.rate_hz:g} asked, bias {self.bias:+.4%}, "
            f"{self.native_rate_hz:.0f} possible), {self.misses} deadline misses; "
            f"tick p50 {self.tick_p50_us:.0f} us, p99 {self.tick_p99_us:.0f} us, p99.9 {self.tick_p999_us:.0f} us, "
            f"max {self.tick_max_us:.0f} us; "
            f"jitter p50 {self.jitter_p50_us:.0f} us, p99 {self.jitter_p99_us:.0f} us, max {self.jitter_max_us:.0f} us"
        )


class TimingMonitor:
    """Takes three times per tick.

    Args:
        rate_hz: the control rate.

    Raises:
        ContractError: the rate is not above 0.
    """

    def __init__(self, rate_hz: float) -> None:
        if not rate_hz > 0:
            raise ContractError(f"the control rate must be above 0 Hz, got {rate_hz}")
        self.rate_hz = rate_hz
        self.misses = 0
        self._period_ns = round(_S / rate_hz)
        self._previous: int | None = None
        self._duration, self._interval, self._jitter, self._late = (Histogram() for _ in range(4))

    def tick(self, scheduled_ns: int, started_ns: int, ended_ns: int) -> None:
        """One tick: when it was due, when it began, when its command had been sent; one monotonic clock."""
        self._duration.add(ended_ns - started_ns)
        self._late.add(started_ns - scheduled_ns)
        if ended_ns - scheduled_ns > self._period_ns:
            self.misses += 1
        if self._previous is not None:
            interval = started_ns - self._previous
            self._interval.add(interval)
            self._jitter.add(abs(interval - self._period_ns))
        self._previous = started_ns

    def pause(self) -> None:
        """The loop stops for a while: the time until the next tick is no interval."""
        self._previous = None

    def merge(self, other: TimingMonitor) -> None:
        """Count everything that `other`, at the same rate, has measured."""
        self.misses += other.misses
        self._duration.merge(other._duration)
        self._interval.merge(other._interval)
        self._jitter.merge(other._jitter)
        self._late.merge(other._late)

    def summary(self) -> TimingSummary:
        """Everything since the monitor was made."""
        d, i, j, late = self._duration, self._interval, self._jitter, self._late
        us = 1e-3
        mean_interval = i.total / i.count if i.count else 0.0
        return TimingSummary(
            ticks=d.count,
            misses=self.misses,
            rate_hz=self.rate_hz,
            native_rate_hz=d.count * _S / d.total if d.total else 0.0,
            actual_rate_hz=_S / mean_interval if mean_interval else 0.0,
            bias=mean_interval * self.rate_hz / _S - 1.0 if mean_interval else 0.0,
            jitter_p50_us=j.quantile(0.5) * us,
            jitter_p99_us=j.quantile(0.99) * us,
            jitter_max_us=j.largest * us,
            late_p99_us=late.quantile(0.99) * us,
            late_max_us=late.largest * us,
            tick_p50_us=d.quantile(0.5) * us,
            tick_p99_us=d.quantile(0.99) * us,
            tick_p999_us=d.quantile(0.999) * us,
            tick_max_us=d.largest * us,
        )
