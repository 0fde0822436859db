"""Mapping an autopilot's time since boot to ours: delay, jitter, drift, late messages, restarts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.runtime.sender_clock import SenderClock

MS = 1_000_000
S = 1000 * MS


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**15), 10**15), st.integers(0, 50), st.integers(0, 2**32))
def test_a_stamp_is_mapped_within_the_smallest_delay_and_never_into_the_future(
    offset: int, delay_ms: int, seed: int
) -> None:
    """Truth: sent at t on our clock, stamped t - offset, received after a delay of at least `delay_ms`."""
    rng, clock = random.Random(seed), SenderClock()
    for k in range(200):
        sent = k * 20 * MS
        now = sent + delay_ms * MS + int(rng.expovariate(1.0) * 5 * MS)
        if not clock.receipt(sent - offset, now):
            continue
        mapped = clock.to_ours(sent - offset, now)
        assert sent <= mapped <= now
    assert mapped - sent <= (delay_ms + 2) * MS


def test_a_timesync_exchange_takes_the_way_itself_out() -> None:
    clock, offset, one_way = SenderClock(), 123 * S, 30 * MS
    for k in range(50):
        sent = k * 50 * MS
        assert clock.receipt(sent - offset, sent + one_way)
        clock.timesync(sent, sent + one_way - offset, sent + 2 * one_way)
    assert abs(clock.to_ours(sent - offset, sent + one_way) - sent) <= 1


def test_a_slow_exchange_does_not_replace_a_quick_one_but_ages_it() -> None:
    clock = SenderClock()
    clock.receipt(0, 10 * MS)
    clock.timesync(0, 5 * MS, 10 * MS)
    quick = clock.to_ours(0, 10 * MS)
    clock.timesync(S, S + 190 * MS, S + 200 * MS)  # nearly all of the delay on the way there: off by 90 ms
    assert clock.to_ours(0, 10 * MS) == quick
    for k in range(2, 60):
        clock.timesync(k * S, k * S + 100 * MS + 3 * MS, k * S + 200 * MS)
    assert clock.to_ours(0, 10 * MS) == -3 * MS


def test_absurd_exchanges_are_ignored() -> None:
    clock = SenderClock()
    clock.receipt(0, 10 * MS)
    before = clock.to_ours(0, 10 * MS)
    clock.timesync(5 * S, 0, 4 * S)
    clock.timesync(0, 10**18, 3 * S)
    assert clock.to_ours(0, 10 * MS) == before


def test_drift_is_followed_within_two_windows() -> None:
    """The sender's clock is fast by 200 ppm; after a minute a frozen offset would be 12 ms wrong."""
    clock = SenderClock()
    for k in range(3000):
        sent = k * 20 * MS
        stamp = sent + sent // 5000
        clock.receipt(stamp, sent + 2 * MS)
    assert -6 * MS <= clock.to_ours(stamp, sent + 2 * MS) - sent <= 2 * MS


def test_a_late_message_is_refused_and_a_restart_is_noticed() -> None:
    clock = SenderClock()
    assert clock.receipt(100 * S, 0) and not clock.receipt(100 * S - 400 * MS, MS) and clock.restarts == 0
    assert clock.receipt(2 * S, 50 * MS) and clock.restarts == 1
    assert clock.to_ours(2 * S, 50 * MS) == 50 * MS  # nothing of the old offset is left
