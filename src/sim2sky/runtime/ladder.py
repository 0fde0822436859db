"""The ladder of run-time assurance: what may be wrong, and the one action that answers each combination of it.

A table of rules and a pure function of flags, so that all combinations can be enumerated (`scripts/safety_table.py`
does) and the same rules are compiled into the firmware (`scripts/guard_table.py`). Standard library only.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = ["BRIDGEABLE", "RULES", "SHAPING", "SWITCHING", "Action", "Mode", "Rule", "Situation", "Trip", "decide"]


class Mode(IntEnum):
    """Who commands."""

    POLICY = 0
    HOLD = 1
    RETURN = 2
    LOITER = 3
    DESCEND = 4
    TERMINATE = 5
    KILLED = 6


class Trip(IntFlag):
    """What is wrong at this tick: `SWITCHING` takes control from the policy, `SHAPING` only changes its command."""

    NONFINITE_STATE = 1 << 0  # no usable state estimate at this tick
    NONFINITE_ACTION = 1 << 1
    STALE_DATA = 1 << 2  # the newest usable estimate is old
    BLIND = 1 << 3  # it is too old for any control law
    ATTITUDE = 1 << 4  # bank or pitch
    ALTITUDE_LOW = 1 << 5  # below the floor, or about to be
    ALTITUDE_HIGH = 1 << 6
    RANGE = 1 << 7  # outside the fence, or about to be
    KILL = 1 << 8  # kill switch latched, or disarmed
    POLICY_LATE = 1 << 12  # no answer to this tick's observation
    POLICY_DEAD = 1 << 13  # the process that answers is gone
    OUT_OF_CONTRACT = 1 << 14  # a measured value outside the limits the policy was made for
    NO_POSITION = 1 << 15  # attitude and altitude, but no position: the fence cannot be watched
    AIRSPEED_LOW = 1 << 16  # margin to the stall used up
    AIRSPEED_HIGH = 1 << 17
    SINK = 1 << 18
    BATTERY = 1 << 19
    LOST = 1 << 20  # blind for so long that flying on is worse than coming down

    SURFACE_LIMIT = 1 << 9
    THROTTLE_LIMIT = 1 << 10
    SLEW_LIMIT = 1 << 11
    BRIDGED = 1 << 21  # the last command is repeated
    BLENDED = 1 << 22  # the command is led over from the one before a change of hands


SHAPING = Trip.SURFACE_LIMIT | Trip.THROTTLE_LIMIT | Trip.SLEW_LIMIT | Trip.BRIDGED | Trip.BLENDED
"""Trips that only change a command, whoever gives it."""

SWITCHING = Trip(sum(Trip)) & ~SHAPING
"""Trips that take control from the policy."""

BRIDGEABLE = Trip.POLICY_LATE | Trip.NONFINITE_ACTION | Trip.NONFINITE_STATE | Trip.OUT_OF_CONTRACT
"""Trips during which the policy's last command may be repeated for a moment: a hiccup need not change hands."""


class Situation(IntFlag):
    """What else decides."""

    BRIDGE = 1  # the policy's last command is young enough to be repeated
    SETTLING = 2  # the fallback law flew, and the limits have not been kept for long enough since
    PERSISTENT = 4  # the fallback law has flown for so long that waiting for the policy is over
    HOME = 8  # within the loiter circle


class Action(IntEnum):
    """What is done; `mode` is what is reported."""

    POLICY = 0
    REPEAT = 1
    HOLD = 2
    TRIM = 3
    RETURN = 4
    LOITER = 5
    CIRCLE = 6
    DESCEND = 7
    TERMINATE = 8
    STOP = 9

    @property
    def mode(self) -> Mode:
        """Who commands."""
        return _MODES[self]


_MODES = (
    Mode.POLICY, Mode.HOLD, Mode.HOLD, Mode.HOLD, Mode.RETURN, Mode.LOITER, Mode.LOITER, Mode.DESCEND, Mode.TERMINATE,
    Mode.KILLED,
)  # fmt: skip


class Rule(NamedTuple):
    """One rung. Plain integers: operations on IntFlag cost more than the rest of a decision.

    Attributes:
        any_of: trips of which one must be set; 0 asks for none.
        none_of: trips of which none may be set.
        situation: bits of `Situation` that must all hold.
        action: what is done then.
    """

    any_of: int
    none_of: int
    situation: int
    action: Action


RULES = tuple(
    Rule(int(any_of), int(none_of), int(situation), action)
    for any_of, none_of, situation, action in (
        (0, SWITCHING, Situation.SETTLING, Action.HOLD),
        (0, SWITCHING, 0, Action.POLICY),
        (Trip.KILL, 0, 0, Action.STOP),
        (Trip.LOST, 0, 0, Action.TERMINATE),
        (Trip.BLIND, 0, 0, Action.TRIM),
        (Trip.NO_POSITION, 0, 0, Action.CIRCLE),
        (Trip.BATTERY, 0, Situation.HOME, Action.DESCEND),
        (Trip.BATTERY | Trip.RANGE, 0, 0, Action.RETURN),
        (0, SWITCHING & ~BRIDGEABLE, Situation.BRIDGE, Action.REPEAT),
        (0, 0, Situation.PERSISTENT | Situation.HOME, Action.LOITER),
        (0, 0, Situation.PERSISTENT, Action.RETURN),
        (0, 0, 0, Action.HOLD),
    )
)
"""The ladder; the first rule that applies decides, and the last one always applies."""


def decide(trips: int, situation: int) -> Action:
    """The action for a combination of flags.

    Args:
        trips: bits of `Trip`; shaping ones are ignored.
        situation: bits of `Situation`.
    """
    for any_of, none_of, held, action in RULES:
        if (not any_of or trips & any_of) and not trips & none_of and situation & held == held:
            return action
    raise AssertionError("the last rule always applies")
