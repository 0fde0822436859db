"""Timing of a loop, on times made by hand: every figure is known beforehand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ContractError
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.timing import Histogram, TimingMonitor

MS = 1_000_000


def fly(monitor: TimingMonitor, n: int, *, late_ms: float = 0.0, took_ms: float = 2.0, start_ms: float = 0.0) -> None:
    """Ticks of a 50 Hz loop."""
    for k in range(n):
        due = int((start_ms + 20 * k) * MS)
        started = due + int(late_ms * MS)
        monitor.tick(due, started, started + int(took_ms * MS))


def test_a_loop_that_keeps_its_time() -> None:
    monitor = TimingMonitor(50.0)
    fly(monitor, 1000)
    s = monitor.summary()
    assert (s.ticks, s.misses, s.jitter_max_us, s.late_max_us) == (1000, 0, 0.0, 0.0)
    assert s.bias == pytest.approx(0.0, abs=1e-12) and s.actual_rate_hz == pytest.approx(50.0)
    assert s.native_rate_hz == pytest.approx(500.0)
    assert s.tick_p50_us == s.tick_p99_us == s.tick_p999_us == s.tick_max_us == 2000.0


def test_a_loop_that_runs_slow_shows_a_bias() -> None:
    monitor = TimingMonitor(50.0)
    for k in range(101):
        monitor.tick(20 * k * MS, 21 * k * MS, 21 * k * MS + MS)
    s = monitor.summary()
    assert s.bias == pytest.approx(0.05) and s.actual_rate_hz == pytest.approx(1000 / 21)
    assert s.jitter_p50_us == pytest.approx(1000.0, rel=0.01)
    # Tick k begins k ms late and takes 1 ms: from k = 20 on it ends after its period.
    assert s.misses == 81 and s.late_max_us == 100_000.0


@pytest.mark.parametrize(("late_ms", "took_ms", "misses"), [(0, 20.0, 0), (0, 20.001, 10), (18.5, 2, 10), (17, 2, 0)])
def test_a_miss_is_a_command_later_than_one_period_after_it_was_due(
    late_ms: float, took_ms: float, misses: int
) -> None:
    monitor = TimingMonitor(50.0)
    fly(monitor, 10, late_ms=late_ms, took_ms=took_ms)
    assert monitor.summary().misses == misses


def test_one_slow_tick_in_a_thousand_is_the_p999_but_not_the_p99() -> None:
    monitor = TimingMonitor(50.0)
    for k in range(3000):
        monitor.tick(20 * k * MS, 20 * k * MS, 20 * k * MS + (15 * MS if k % 500 == 0 else MS))
    s = monitor.summary()
    assert s.tick_p99_us == pytest.approx(1000.0, rel=0.01) and s.tick_p999_us == pytest.approx(15_000.0, rel=0.01)


def test_a_pause_is_no_interval_and_without_it_would_be_one() -> None:
    with_pause, without = TimingMonitor(50.0), TimingMonitor(50.0)
    for monitor in (with_pause, without):
        fly(monitor, 10)
        if monitor is with_pause:
            monitor.pause()
        fly(monitor, 10, start_ms=60_000)
    assert with_pause.summary().jitter_max_us == 0.0 and with_pause.summary().bias == pytest.approx(0.0, abs=1e-12)
    assert without.summary().jitter_max_us > 5e7


def test_merging_is_measuring_both() -> None:
    a, b, both = (TimingMonitor(50.0) for _ in range(3))
    for monitor, late in ((a, 3.0), (b, 19.0)):
        fly(monitor, 50, late_ms=late)
        both.pause()
        fly(both, 50, late_ms=late)
        both.pause()
    a.merge(b)
    assert a.summary() == both.summary() and a.summary().misses == 50


def test_nothing_measured_is_all_zeros_and_the_words_hold() -> None:
    s = TimingMonitor(20.0).summary()
    assert s.ticks == s.misses == 0 and s.tick_max_us == s.actual_rate_hz == s.native_rate_hz == s.bias == 0.0
    assert "0 deadline misses" in str(s)
    assert s.attributes()["timing_rate_hz"] == 20.0 and all(n.startswith("timing_") for n in s.attributes())


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ContractError, match="above 0 Hz"):
        TimingMonitor(rate)


def test_a_loop_on_a_clock_held_in_the_hand() -> None:
    """A loop that sleeps until its next tick, as flight loops do: overruns show as misses, not as drift."""
    clock, monitor = ManualClock(5 * MS), TimingMonitor(100.0)
    due = clock.now_ns()
    for k in range(200):
        clock.sleep_until(due)
        started = clock.now_ns()
        clock.time_ns += 25 * MS if k == 100 else 1 * MS
        monitor.tick(due, started, clock.now_ns())
        due += 10 * MS
    s = monitor.summary()
    assert s.misses == 2  # the overrun itself, and the one it delayed by 15 ms; the third begins 6 ms late: in time
    assert abs(s.bias) < 1e-3 and s.jitter_max_us == pytest.approx(15_000.0, rel=0.01)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 0.999, 1.0]))
def test_quantiles_are_the_exact_ones_within_a_bucket(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = int(np.sort(np.array(values, object))[max(int(np.ceil(share * len(values))) - 1, 0)])
    assert exact <= histogram.quantile(share) <= exact + exact // 127 + 1
    assert histogram.largest == max(values) and histogram.total == sum(values)


@given(st.integers(-(2**70), 2**70))
def test_any_integer_can_be_counted_and_memory_stays_the_same(value: int) -> None:
    histogram = Histogram()
    before = sys.getsizeof(histogram._counts)
    histogram.add(value)
    assert histogram.count == 1 and histogram.quantile(0.5) == min(max(value, 0), 2**62)
    assert sys.getsizeof(histogram._counts) == before < 100_000
