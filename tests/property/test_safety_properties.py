"""Whatever comes in, what leaves the guard is finite and within limits; a killed aircraft never gets thrust."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sim2sky.environments.airframes import airframe
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import SWITCHING, Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import Command, Sample, Setpoint

DT = 0.05
TRAVEL = (math.radians(25.0),) * 3

anything = st.floats(allow_nan=True, allow_infinity=True)
plausible = st.floats(-3.2, 3.2)
number = st.one_of(anything, plausible, st.floats(-600, 600))
samples = st.builds(Sample, st.integers(0, 10**10), *[number] * 11)
setpoints = st.builds(Setpoint, *[number] * 8)
commands = st.builds(Command, *[st.one_of(anything, st.floats(-1.5, 1.5))] * 4)
limits = st.builds(
    SafetyLimits,
    aileron_max=st.floats(0.5, 90.0),
    throttle_min=st.floats(0.0, 0.4),
    throttle_max=st.floats(0.5, 1.0),
    surface_slew_per_s=st.floats(0.01, 50.0),
    throttle_slew_per_s=st.floats(0.01, 50.0),
    recovery_s=st.floats(0.0, 0.3),
)


TRIM = Command(0.0, -0.1, 0.0, 0.6)


def make(limit: SafetyLimits) -> SafetyMonitor:
    law = Autopilot(airframe("ultrastick25e").gains, DT)
    return SafetyMonitor(limit, law, DT, surface_limit_rad=TRAVEL, trim=TRIM)


@settings(max_examples=300, deadline=None)
@given(limits, st.lists(st.tuples(samples, setpoints, commands, st.integers(0, 10**10)), min_size=1, max_size=12))
def test_every_command_is_finite_within_limits_and_slew(
    limit: SafetyLimits, ticks: list[tuple[Sample, Setpoint, Command, int]]
) -> None:
    guard = make(limit)
    previous: Command | None = None
    for sample, setpoint, proposed, now in ticks:
        command, mode, trips = guard.guard(sample, setpoint, proposed, now)
        for i in range(4):
            assert math.isfinite(command[i]) and guard.low[i] <= command[i] <= guard.high[i]
            assert previous is None or abs(command[i] - previous[i]) <= guard.slew[i] * (1 + 1e-9) + 1e-12
        assert bool(trips & SWITCHING) <= (mode is not Mode.POLICY)
        previous = command


inside = st.builds(
    Sample,
    st.just(0),
    st.floats(-0.7, 0.7),
    st.floats(-0.28, 0.28),
    plausible,
    *[st.floats(-0.8, 0.8)] * 3,
    st.floats(0, 22),
    st.floats(80, 450),
    st.floats(-5, 5),
    st.floats(-60, 60),
    st.floats(-60, 60),
)
small = st.floats(-0.25, 0.25)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(inside, setpoints, small, small, small, st.floats(0.5, 0.9)), max_size=8))
def test_nothing_is_changed_when_nothing_is_wrong(
    ticks: list[tuple[Sample, Setpoint, float, float, float, float]],
) -> None:
    guard = make(SafetyLimits())
    for sample, setpoint, *values in ticks:
        proposed = Command(*values)
        guarded = guard.guard(sample, setpoint, proposed, 0)
        assert guarded.command == proposed and guarded.mode is Mode.POLICY and guarded.trips == Trip(0)


class KillSwitch(RuleBasedStateMachine):
    """Any order of kill, disarm, arm, reset and ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.guard = make(SafetyLimits(throttle_min=0.2))
        self.latched = False
        self.armed = True
        self.last: Command | None = None

    @rule()
    def kill(self) -> None:
        self.guard.kill()
        self.latched = True

    @rule()
    def disarm(self) -> None:
        self.guard.disarm()
        self.latched = self.armed = False

    @rule()
    def arm(self) -> None:
        assert self.guard.arm() is not self.latched
        self.armed = self.armed or not self.latched

    @rule()
    def new_episode(self) -> None:
        self.guard.reset()

    @rule(sample=samples, setpoint=setpoints, proposed=commands, now=st.integers(0, 10**10))
    def tick(self, sample: Sample, setpoint: Setpoint, proposed: Command, now: int) -> None:
        command, mode, _ = self.guard.guard(sample, setpoint, proposed, now)
        if self.latched or not self.armed:
            assert command == (0.0, 0.0, 0.0, 0.0) and mode is Mode.KILLED
        else:
            assert mode is not Mode.KILLED and command.throttle >= 0.2

    @invariant()
    def agree(self) -> None:
        assert self.guard.killed is (self.latched or not self.armed)


KillSwitch.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestKillSwitch = KillSwitch.TestCase
