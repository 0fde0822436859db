"""The ladder: one action per combination, the order of its rungs, and no way down it by getting worse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.runtime.ladder import BRIDGEABLE, SHAPING, SWITCHING, Action, Mode, Situation, Trip, decide

BRIDGE, SETTLING, PERSISTENT, HOME = Situation
ANY_TRIPS = st.integers(0, int(SWITCHING | SHAPING))
ANY_SITUATION = st.integers(0, 15)


@pytest.mark.parametrize(
    ("trips", "situation", "action"),
    [
        (Trip(0), Situation(0), Action.POLICY),
        (SHAPING, Situation(0), Action.POLICY),
        (Trip(0), SETTLING, Action.HOLD),
        (Trip.POLICY_LATE, BRIDGE, Action.REPEAT),
        (Trip.POLICY_LATE, Situation(0), Action.HOLD),
        (Trip.POLICY_DEAD | Trip.POLICY_LATE, BRIDGE, Action.HOLD),
        (Trip.NONFINITE_STATE | Trip.STALE_DATA, BRIDGE, Action.HOLD),
        (Trip.ATTITUDE, BRIDGE, Action.HOLD),
        (Trip.POLICY_LATE, PERSISTENT, Action.RETURN),
        (Trip.POLICY_LATE, PERSISTENT | HOME, Action.LOITER),
        (Trip.RANGE, BRIDGE, Action.RETURN),
        (Trip.BATTERY, Situation(0), Action.RETURN),
        (Trip.BATTERY, HOME, Action.DESCEND),
        (Trip.NO_POSITION | Trip.RANGE, Situation(0), Action.CIRCLE),
        (Trip.BLIND | Trip.RANGE, Situation(0), Action.TRIM),
        (Trip.LOST | Trip.BLIND, HOME, Action.TERMINATE),
        (SWITCHING, HOME, Action.STOP),
    ],
)
def test_each_rung(trips: Trip, situation: Situation, action: Action) -> None:
    assert decide(int(trips), int(situation)) is action


def test_every_action_has_a_mode_and_every_mode_an_action() -> None:
    assert {a.mode for a in Action} == set(Mode)
    assert Action.REPEAT.mode is Mode.HOLD and Action.CIRCLE.mode is Mode.LOITER


def test_every_trip_either_switches_or_shapes() -> None:
    assert not SWITCHING & SHAPING and set(Trip) == {t for t in Trip if t in SWITCHING | SHAPING}
    assert BRIDGEABLE & SWITCHING == BRIDGEABLE


@settings(max_examples=500)
@given(ANY_TRIPS, ANY_TRIPS, ANY_SITUATION)
def test_a_worse_set_of_trips_never_gives_control_back(trips: int, more: int, situation: int) -> None:
    if decide(trips, situation) is not Action.POLICY:
        assert decide(trips | more, situation) is not Action.POLICY


@settings(max_examples=500)
@given(ANY_TRIPS, ANY_TRIPS, ANY_SITUATION)
def test_shaping_trips_decide_nothing(trips: int, more: int, situation: int) -> None:
    assert decide(trips | more & int(SHAPING), situation) is decide(trips, situation)
