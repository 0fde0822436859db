"""What flows through a flight agent each tick: a state estimate in, a setpoint to follow, a command out.

Standard library only. Attitude is the aircraft's body frame (forward, right, down) against north, east, down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

__all__ = ["CHANNELS", "NOMINAL", "Command", "Health", "PolicyState", "Sample", "Setpoint"]

CHANNELS = ("aileron", "elevator", "rudder", "throttle")


@dataclass(slots=True)
class Sample:
    """State estimate of the aircraft at one instant: only what an aircraft can measure.

    Attributes:
        time_ns: monotonic time of the measurement, nanoseconds.
        roll_rad, pitch_rad, yaw_rad: Euler angles 3-2-1; yaw is the true heading.
        p_radps, q_radps, r_radps: body rates.
        airspeed_mps: calibrated airspeed.
        altitude_m: above home.
        climb_rate_mps: positive up.
        north_m, east_m: position from home.
        north_mps, east_mps: velocity over ground; NaN where nobody measures it.
    """

    time_ns: int
    roll_rad: float
    pitch_rad: float
    yaw_rad: float
    p_radps: float
    q_radps: float
    r_radps: float
    airspeed_mps: float
    altitude_m: float
    climb_rate_mps: float
    north_m: float
    east_m: float
    north_mps: float = math.nan
    east_mps: float = math.nan


@dataclass(frozen=True, slots=True)
class Setpoint:
    """What the agent is asked to follow; a task uses the fields it names and ignores the others."""

    altitude_m: float = 0.0
    airspeed_mps: float = 0.0
    heading_rad: float = 0.0
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    p_radps: float = 0.0
    q_radps: float = 0.0
    r_radps: float = 0.0


class Command(NamedTuple):
    """Normalised actuator command.

    Positive aileron rolls right, positive elevator pitches up, positive rudder yaws right; each -1..1 of the
    deflection limit. Throttle 0..1.
    """

    aileron: float
    elevator: float
    rudder: float
    throttle: float


class PolicyState(IntEnum):
    """What became of the question put to the policy this tick."""

    ANSWERED = 0
    LATE = 1
    DEAD = 2


class Health(NamedTuple):
    """What the guard must know besides the state estimate.

    Attributes:
        policy: whether the command proposed is an answer to this tick's observation.
        battery_v: battery voltage; NaN where nobody measures it.
    """

    policy: PolicyState = PolicyState.ANSWERED
    battery_v: float = math.nan


NOMINAL = Health()
