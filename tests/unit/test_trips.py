"""The trip log: what it keeps, what it counts, and that it stays small."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sim2sky.runtime.ladder import SHAPING, SWITCHING, Mode, Trip
from sim2sky.telemetry.trips import STATE_COLUMNS, TRIP_COLUMNS, TripEvent, TripLog

STATE = tuple(0.5 * i for i in range(len(STATE_COLUMNS)))


def event(tick: int = 0, raised: Trip = Trip.RANGE) -> TripEvent:
    return TripEvent(tick * 50_000_000, tick, int(raised), int(raised), int(Mode.RETURN), STATE)


def test_an_event_names_its_reasons_and_its_columns() -> None:
    e = event(7, Trip.RANGE | Trip.POLICY_LATE)
    assert e.reasons == ("range", "policy_late")
    assert dict(zip(TRIP_COLUMNS, e.numbers, strict=True)) == {
        "time_ns": 350_000_000, "tick": 7, "raised": 4224, "trips": 4224, "mode": 2,
    }  # fmt: skip
    assert str(e) == "tick 7: range, policy_late -> RETURN"
    assert str(TripEvent(0, 9, 0, 0, 0, STATE)) == "tick 9: all clear -> POLICY"


def test_a_full_log_keeps_the_first_events_and_counts_the_others() -> None:
    log = TripLog(capacity=3)
    for k in range(10):
        log.add(event(k))
        log.count(int(Trip.RANGE | Trip.SLEW_LIMIT))
    assert [e.tick for e in log] == [0, 1, 2] and len(log) == 3 and log.dropped == 7 and log[1].tick == 1
    assert log.ticks == {"range": 10, "slew_limit": 10}
    log.clear()
    assert len(log) == 0 and log.dropped == 0 and log.ticks == {}


@given(st.lists(st.integers(0, int(SWITCHING | SHAPING))))
def test_ticks_per_trip_are_exact(masks: list[int]) -> None:
    log = TripLog()
    for mask in masks:
        log.count(mask)
    for trip in Trip:
        expected = sum(bool(mask & trip) for mask in masks)
        assert log.ticks.get(str(trip.name).lower(), 0) == expected


def test_a_state_with_nan_is_kept_as_it_came() -> None:
    log = TripLog()
    log.add(TripEvent(0, 0, 1, 1, 1, (math.nan, *STATE[1:])))
    assert math.isnan(log[0].state[0])
