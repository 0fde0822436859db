"""The guard: each trip, the fallback law's target, hysteresis, the kill latch, and that nominal commands pass."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.flight_support import NAN, sample, settings

from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ConfigError, ContractError
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Guarded, Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import Command, Health, PolicyState, Sample, Setpoint

DT = 0.05
MS = 1_000_000
LIMIT_RAD = (math.radians(25.0),) * 3
TRIM = Command(0.0, -0.16, 0.0, 0.6)
LAW = Command(0.2, 0.1, 0.0, 0.5)
FINE = Command(0.1, -0.2, 0.05, 0.7)
SETPOINT = Setpoint(altitude_m=160.0, airspeed_mps=18.0, heading_rad=0.3)


class Law:
    """A fallback law that remembers what it was asked."""

    def __init__(self, answer: Command = LAW) -> None:
        self.answer = answer
        self.asked: list[tuple[Sample, Setpoint]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def command(self, sample: Sample, setpoint: Setpoint) -> Command:
        self.asked.append((sample, setpoint))
        return self.answer


def monitor(law: Law | None = None, **limits: object) -> SafetyMonitor:
    values = {"recovery_s": 0.1, **limits}
    return SafetyMonitor(SafetyLimits.from_json(values), law or Law(), DT, surface_limit_rad=LIMIT_RAD, trim=TRIM)


def step(guard: SafetyMonitor, command: Command = FINE, now_ns: int = 0, **state: float) -> Guarded:
    return guard.guard(sample(**{"time_ns": now_ns, **state}), SETPOINT, command, now_ns)


def test_a_nominal_command_passes_bit_for_bit() -> None:
    guard = monitor()
    odd = Command(0.1 + 0.2, -1.0 / 3.0, 1e-300, 0.1 * 7)
    assert step(guard, odd) == (odd, Mode.POLICY, Trip(0))
    assert all(a == b and type(a) is type(b) for a, b in zip(step(guard, odd).command, odd, strict=True))


@pytest.mark.parametrize(
    ("state", "trip"),
    [
        ({"roll_rad": 1.1}, Trip.ATTITUDE),
        ({"roll_rad": -1.1}, Trip.ATTITUDE),
        ({"pitch_rad": 0.7}, Trip.ATTITUDE),
        ({"pitch_rad": -0.7}, Trip.ATTITUDE),
        ({"altitude_m": 20.0}, Trip.ALTITUDE_LOW),
        ({"altitude_m": 501.0}, Trip.ALTITUDE_HIGH),
        ({"airspeed_mps": 11.9}, Trip.AIRSPEED_LOW),
        ({"airspeed_mps": 30.1}, Trip.AIRSPEED_HIGH),
        ({"climb_rate_mps": -10.1}, Trip.SINK),
        ({"north_m": 400.0, "east_m": -400.0}, Trip.RANGE),
    ],
)
def test_a_broken_limit_hands_over_to_the_fallback_law(state: dict[str, float], trip: Trip) -> None:
    law = Law()
    guard = monitor(law, airspeed_min_mps=12.0, airspeed_max_mps=30.0, sink_max_mps=10.0)
    step(guard)
    answer = step(guard, **state)
    assert answer.mode is (Mode.RETURN if trip is Trip.RANGE else Mode.HOLD)
    assert answer.trips == trip and answer.command == law.answer  # at once: nothing of the last command is kept
    # Negative control: just inside nothing happens.
    assert step(monitor(), roll_rad=1.04, pitch_rad=-0.6, altitude_m=41.0, north_m=-430.0).mode is Mode.POLICY


@pytest.mark.parametrize(
    ("state", "trip"),
    [
        ({"altitude_m": 75.0, "climb_rate_mps": -15.0}, Trip.ALTITUDE_LOW),
        ({"altitude_m": 455.0, "climb_rate_mps": 15.0}, Trip.ALTITUDE_HIGH),
        ({"north_m": 400.0}, Trip.RANGE),  # flying north at 18 m/s
    ],
)
def test_a_limit_that_would_be_broken_trips_before_it_is(state: dict[str, float], trip: Trip) -> None:
    assert step(monitor(), **state).trips == trip
    # Negative control: at the same place, moving the other way.
    away = {k: -v if k == "climb_rate_mps" else v for k, v in state.items()}
    assert step(monitor(), yaw_rad=math.pi, **away).trips == Trip(0)


@pytest.mark.parametrize("state", [{"q_radps": NAN}, {"airspeed_mps": math.inf}, {"yaw_rad": 1e9}])
def test_an_unusable_state_repeats_the_last_command_for_two_ticks_and_then_hands_over(state: dict[str, float]) -> None:
    law = Law()
    guard = monitor(law, recovery_s=0.5)
    step(guard)
    for _ in range(2):
        repeated = step(guard, Command(0.9, 0.9, 0.9, 0.9), **state)
        assert repeated == (FINE, Mode.HOLD, Trip.NONFINITE_STATE | Trip.BRIDGED) and not law.asked
    assert step(guard, **state).mode is Mode.HOLD and len(law.asked) == 1
    assert law.asked[0][0] == sample()  # the last usable one


def test_a_hiccup_does_not_change_hands() -> None:
    guard = monitor(recovery_s=0.5)
    step(guard)
    late = guard.guard(sample(), SETPOINT, FINE, 0, Health(PolicyState.LATE))
    assert late.command == FINE and late.trips == Trip.POLICY_LATE | Trip.BRIDGED
    assert step(guard) == (FINE, Mode.POLICY, Trip(0))


def test_a_policy_that_answers_every_other_tick_is_relieved_all_the_same() -> None:
    """The right to repeat comes back only over `recovery_s`."""
    guard = monitor(recovery_s=1.0)
    step(guard)
    modes: list[Mode] = []
    for _ in range(6):
        modes.append(guard.guard(sample(), SETPOINT, FINE, 0, Health(PolicyState.LATE)).mode)
        modes.append(step(guard).mode)
    assert modes[-1] is Mode.HOLD and Mode.POLICY in modes[:4]


@pytest.mark.parametrize("rate_hz", [10.0, 20.0, 50.0, 100.0])
def test_the_fallback_law_commands_within_three_ticks_at_any_rate(rate_hz: float) -> None:
    law = Law()
    guard = SafetyMonitor(SafetyLimits(), law, 1.0 / rate_hz, surface_limit_rad=LIMIT_RAD, trim=TRIM)
    step(guard)
    for _ in range(3):
        guard.guard(sample(), SETPOINT, FINE, 0, Health(PolicyState.LATE))
    assert law.asked


def test_a_dead_policy_is_relieved_at_once() -> None:
    law = Law()
    guard = monitor(law)
    step(guard)
    answer = guard.guard(sample(), SETPOINT, FINE, 0, Health(PolicyState.DEAD))
    assert law.asked and Trip.BRIDGED not in answer.trips and answer.mode is Mode.HOLD


def test_a_measured_value_outside_the_contract_is_no_business_of_the_policy() -> None:
    law = Law()
    bounds = (("climb_rate_mps", -8.0, 8.0),)
    guard = SafetyMonitor(SafetyLimits(), law, DT, surface_limit_rad=LIMIT_RAD, trim=TRIM, bounds=bounds)
    step(guard, climb_rate_mps=8.0)
    for _ in range(3):
        answer = step(guard, climb_rate_mps=8.5)
    assert answer.trips == Trip.OUT_OF_CONTRACT and answer.command == LAW
    assert law.asked[-1][0].climb_rate_mps == 8.5  # the law flies on it


def test_without_position_the_aircraft_circles_where_it_is() -> None:
    law = Law()
    guard = monitor(law)
    step(guard)
    for age_ms in (50, 200):  # the last one will do for a while
        assert step(guard, now_ns=age_ms * MS, east_m=NAN).mode is Mode.POLICY
    answer = step(guard, now_ns=250 * MS, east_m=math.inf)
    assert answer.mode is Mode.LOITER and Trip.NO_POSITION in answer.trips
    assert law.asked[-1][1].heading_rad == pytest.approx(0.35)
    # Negative control: where no fence is watched, position is nobody's business.
    free = monitor(geofence_enabled=False)
    assert step(free, east_m=NAN).mode is Mode.POLICY


def test_waiting_for_the_policy_ends_with_the_way_home_and_a_circle_there() -> None:
    law = Law()
    guard = monitor(law, return_after_s=0.5)
    dead = Health(PolicyState.DEAD)
    modes = [guard.guard(sample(north_m=300.0), SETPOINT, FINE, 0, dead).mode for _ in range(12)]
    assert modes == [Mode.HOLD] * 10 + [Mode.RETURN] * 2
    assert abs(law.asked[-1][1].heading_rad) == pytest.approx(math.pi)  # flying north, home lies behind
    assert guard.guard(sample(north_m=30.0), SETPOINT, FINE, 0, dead).mode is Mode.LOITER
    # The policy comes back: it gets the aircraft after the wait.
    assert [step(guard).mode for _ in range(2)] == [Mode.HOLD, Mode.POLICY]


def test_a_low_battery_goes_home_and_descends_there_and_stays_low() -> None:
    law = Law()
    guard = monitor(law, battery_min_voltage=10.5)

    def fly(volts: float, north: float) -> Guarded:
        return guard.guard(sample(north_m=north), SETPOINT, FINE, 0, Health(battery_v=volts))

    assert all(fly(10.0, 200.0).mode is Mode.POLICY for _ in range(39))  # a sag of less than two seconds
    assert fly(10.6, 200.0).mode is Mode.POLICY
    assert [fly(10.0, 200.0).mode for _ in range(40)][-2:] == [Mode.POLICY, Mode.RETURN]
    assert fly(12.0, 200.0).mode is Mode.RETURN  # the load gone, the voltage recovers; the charge does not
    assert fly(12.0, 20.0).mode is Mode.DESCEND and law.asked[-1][1].altitude_m == 50.0
    unmeasured = monitor(battery_min_voltage=10.5)
    assert all(step(unmeasured).mode is Mode.POLICY for _ in range(60))


def test_blind_for_too_long_the_throttle_closes_and_a_state_brings_the_law_back() -> None:
    guard = monitor(terminate_after_s=1.0, surface_slew_per_s=100.0, throttle_slew_per_s=100.0)
    modes = [guard.guard(sample(), SETPOINT, FINE, 600 * MS).mode for _ in range(21)]
    assert modes == [Mode.HOLD] * 19 + [Mode.TERMINATE] * 2
    lost = guard.guard(sample(), SETPOINT, FINE, 600 * MS)
    assert lost.command == TRIM._replace(throttle=0.0) and Trip.LOST in lost.trips
    assert step(guard).mode is Mode.HOLD


def test_hands_change_without_a_bump_both_ways() -> None:
    guard = monitor(Law(Command(-0.3, 0.4, 0.0, 0.2)), recovery_s=0.05)
    step(guard, FINE)
    dead = Health(PolicyState.DEAD)
    commands = [FINE, *(guard.guard(sample(), SETPOINT, FINE, 0, dead).command for _ in range(40))]
    assert commands[1] == pytest.approx(FINE) and commands[-1] == (-0.3, 0.4, 0.0, 0.2)
    back = [step(guard, FINE) for _ in range(40)]
    assert back[0].mode is Mode.POLICY and back[0].trips == Trip.BLENDED
    commands += [b.command for b in back]
    assert commands[41] == pytest.approx(commands[40]) and back[-1] == (FINE, Mode.POLICY, Trip(0))
    steps = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in pairwise(commands)]
    assert max(steps) < 0.13  # against 0.6 in one tick


def test_where_a_limit_is_broken_the_law_acts_at_once() -> None:
    guard = monitor(Law(Command(-0.3, 0.4, 0.0, 0.2)))
    step(guard, FINE)
    assert step(guard, FINE, roll_rad=1.1).command == pytest.approx((-0.3, 0.4, 0.0, 0.2))


def test_the_fence_can_be_switched_off() -> None:
    assert step(monitor(geofence_enabled=False), north_m=5000.0).mode is Mode.POLICY


@pytest.mark.parametrize("channel", range(4))
@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_command_that_is_not_finite_never_leaves(channel: int, value: float) -> None:
    bad = list(FINE)
    bad[channel] = value
    answer = step(monitor(), Command(*bad))
    assert answer.mode is Mode.HOLD and Trip.NONFINITE_ACTION in answer.trips
    assert all(map(math.isfinite, answer.command))


def test_the_floor_sends_the_fallback_law_to_a_safe_altitude() -> None:
    law = Law()
    step(monitor(law), altitude_m=20.0, yaw_rad=1.2)
    target = law.asked[-1][1]
    assert target.altitude_m == 50.0 and target.heading_rad == 1.2 and target.airspeed_mps == 18.0
    law = Law()
    step(monitor(law), altitude_m=600.0)
    assert law.asked[-1][1].altitude_m == 480.0


def test_the_fence_turns_the_aircraft_home_from_every_side() -> None:
    for bearing in (0.0, 1.0, 2.5, -2.0):
        law = Law()
        step(monitor(law), north_m=600 * math.cos(bearing), east_m=600 * math.sin(bearing))
        error = math.remainder(law.asked[-1][1].heading_rad, math.tau)  # flying north
        home = math.remainder(bearing + math.pi, math.tau)
        assert math.cos(error - home) == pytest.approx(1.0) or abs(error) == pytest.approx(2.0)


def test_the_fallback_airspeed_is_the_configured_one_or_the_setpoints_or_the_flown() -> None:
    for limit, wanted, expected in ((21.0, 18.0, 21.0), (0.0, 17.0, 17.0), (0.0, 0.0, 19.5), (0.0, NAN, 19.5)):
        law = Law()
        guard = monitor(law, fallback_airspeed_mps=limit)
        guard.guard(sample(roll_rad=2.0, airspeed_mps=19.5), Setpoint(airspeed_mps=wanted), FINE, 0)
        assert law.asked[-1][1].airspeed_mps == expected


def test_control_returns_only_after_all_limits_were_kept_for_a_while_and_with_hysteresis() -> None:
    guard = monitor()  # recovery 0.1 s = 2 ticks, hysteresis 5 degrees
    assert step(guard, roll_rad=math.radians(61)).mode is Mode.HOLD
    for _ in range(10):  # inside the limit, but not by the hysteresis
        assert Trip.ATTITUDE in step(guard, roll_rad=math.radians(57)).trips
    assert step(guard, roll_rad=math.radians(50)).mode is Mode.HOLD
    assert step(guard, roll_rad=math.radians(50)).mode is Mode.POLICY
    assert step(guard, roll_rad=math.radians(57)).mode is Mode.POLICY


def test_a_new_trip_starts_the_wait_again() -> None:
    guard = monitor()
    step(guard, roll_rad=2.0)
    assert step(guard).mode is Mode.HOLD
    step(guard, altitude_m=10.0)
    assert step(guard, altitude_m=44.0).mode is Mode.HOLD  # 30 m floor, 10 m buffer, 5 m hysteresis
    assert step(guard).mode is Mode.HOLD
    assert step(guard).mode is Mode.POLICY


def test_the_fallback_law_starts_fresh_at_each_hand_over() -> None:
    law = Law()
    guard = monitor(law)
    before = law.resets
    step(guard, roll_rad=2.0)
    step(guard, roll_rad=2.0)
    assert law.resets == before + 1
    for _ in range(3):
        step(guard)
    step(guard, roll_rad=2.0)
    assert law.resets == before + 2


def test_stale_data_brings_the_fallback_law_and_blind_flight_holds_trim() -> None:
    law = Law()
    guard = monitor(law, surface_slew_per_s=100.0, throttle_slew_per_s=100.0)
    old = sample(time_ns=0)
    assert guard.guard(old, SETPOINT, FINE, 200 * MS).mode is Mode.POLICY
    stale = guard.guard(old, SETPOINT, FINE, 201 * MS)
    assert stale.mode is Mode.HOLD and stale.trips == Trip.STALE_DATA | Trip.BLENDED and len(law.asked) == 1
    blind = guard.guard(old, SETPOINT, FINE, 501 * MS)
    assert Trip.BLIND in blind.trips and blind.command == TRIM
    # Fresh data: the law flies on feedback again before the policy gets its turn.
    assert guard.guard(sample(time_ns=520 * MS), SETPOINT, FINE, 521 * MS).command == law.answer
    assert Trip.NO_POSITION not in blind.trips


def test_a_clock_that_runs_backwards_is_stale_data() -> None:
    assert Trip.STALE_DATA in monitor().guard(sample(time_ns=10_000 * MS), SETPOINT, FINE, 0).trips


def test_without_any_finite_state_trim_is_held() -> None:
    law = Law()
    answer = step(monitor(law), roll_rad=NAN)
    assert answer.command == TRIM and not law.asked and Trip.BLIND in answer.trips


def test_a_fallback_law_that_fails_is_replaced_by_trim_and_reset() -> None:
    law = Law(Command(NAN, 0.0, 0.0, 0.0))
    answer = step(monitor(law), roll_rad=2.0)
    assert answer.command == TRIM and law.resets == 3  # construction, hand-over, failure

    class Overflowing(Law):
        def command(self, sample: Sample, setpoint: Setpoint) -> Command:
            raise OverflowError("math range error")

    assert step(monitor(Overflowing()), roll_rad=2.0).command == TRIM


def test_deflection_limits_are_degrees_of_the_airframes_own_travel() -> None:
    guard = monitor(aileron_max=10.0, elevator_max=30.0, rudder_max=5.0, throttle_min=0.2, throttle_max=0.8)
    answer = step(guard, Command(0.9, 0.9, -0.9, 0.1))
    assert answer.command == pytest.approx((0.4, 0.9, -0.2, 0.2))
    assert answer.mode is Mode.POLICY and answer.trips == Trip.SURFACE_LIMIT | Trip.THROTTLE_LIMIT


def test_slew_is_limited_per_tick_after_everything_else() -> None:
    guard = monitor(surface_slew_per_s=2.0, throttle_slew_per_s=1.0)
    step(guard, Command(0.0, 0.0, 0.0, 0.5))
    answer = step(guard, Command(1.0, -1.0, 0.05, 0.0))
    assert answer.command == pytest.approx((0.1, -0.1, 0.05, 0.45)) and answer.trips == Trip.SLEW_LIMIT
    assert answer.command.rudder == 0.05


def test_kill_stops_within_the_tick_and_latches() -> None:
    guard = monitor()
    step(guard)
    assert guard.kill()
    stopped = (Command(0.0, 0.0, 0.0, 0.0), Mode.KILLED, Trip.KILL)
    assert step(guard) == stopped
    guard.reset()  # a new episode is no way out
    assert step(guard) == stopped
    assert not guard.arm() and step(guard) == stopped
    guard.disarm()
    assert step(guard) == stopped
    assert guard.arm()
    first = step(guard)
    assert first.mode is Mode.HOLD and first.command.throttle <= 10.0 * DT
    step(guard)
    assert step(guard).mode is Mode.POLICY


def test_a_kill_wins_over_a_minimum_throttle_and_over_bad_data() -> None:
    guard = monitor(throttle_min=0.3)
    guard.kill()
    answer = step(guard, Command(NAN, NAN, NAN, NAN), roll_rad=NAN)
    assert answer.command == (0.0, 0.0, 0.0, 0.0) and Trip.NONFINITE_STATE in answer.trips


def test_a_disabled_kill_switch_says_so() -> None:
    guard = monitor(kill_switch_enabled=False)
    assert not guard.kill() and step(guard).mode is Mode.POLICY


def test_the_shipped_fallback_law_levels_a_banked_aircraft() -> None:
    law = Autopilot(airframe("ultrastick25e").gains, DT)
    guard = SafetyMonitor(SafetyLimits(), law, DT, surface_limit_rad=LIMIT_RAD, trim=TRIM)
    right = guard.guard(sample(roll_rad=1.3), SETPOINT, FINE, 0)
    assert right.mode is Mode.HOLD and right.command.aileron < 0


def test_for_contract_takes_travel_rate_and_trim_from_the_contract() -> None:
    contract = make_contract(settings())
    guard = SafetyMonitor.for_contract(SafetyLimits(aileron_max=12.5), Law(), contract)
    assert guard.high.aileron == pytest.approx(0.5) and guard.slew.aileron == pytest.approx(12.0 / 20.0)
    with pytest.raises(ContractError, match="aileron, elevator, rudder, throttle"):
        output = replace(contract.output, signals=contract.output.signals[::-1])
        SafetyMonitor.for_contract(SafetyLimits(), Law(), replace(contract, output=output))
    with pytest.raises(ContractError, match="rate"):
        SafetyMonitor.for_contract(SafetyLimits(), Law(), replace(contract, rate_hz=0.0))
    bare = tuple(replace(s, deflection_limit_rad=0.0) for s in contract.output.signals)
    with pytest.raises(ContractError, match="deflection"):
        output = replace(contract.output, signals=bare)
        SafetyMonitor.for_contract(SafetyLimits(), Law(), replace(contract, output=output))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"aileron_max": 0}, "'aileron_max' must be above 0"),
        ({"aileron_max": NAN}, "finite"),
        ({"roll_max": "60"}, "'roll_max' must be a finite number"),
        ({"geofence_enabled": 1}, "'geofence_enabled' must be true or false"),
        ({"pitch_max": True}, "'pitch_max' must be a finite number"),
        ({"throttle_min": 0.8, "throttle_max": 0.5}, "throttle_min"),
        ({"altitude_min": 490.0}, "max_altitude_m must lie above"),
        ({"pitch_min": 5.0}, "pitch_min"),
        ({"blind_data_ms": 100.0}, "blind_data_ms"),
        ({"roll_max": 4.0}, "attitude_hysteresis_deg"),
        ({"max_range_m": 10.0}, "range_hysteresis_m"),
        ({"recovery_s": -1.0}, "'recovery_s' must not be negative"),
        ({"fence_buffer_m": 480.0}, "fence_buffer_m"),
        ({"airspeed_min_mps": 20.0, "airspeed_max_mps": 22.0}, "airspeed_max_mps must lie above"),
        ({"airspeed_min_mps": 20.0, "fallback_airspeed_mps": 18.0}, "fallback_airspeed_mps must lie between"),
        ({"sink_max_mps": 0.5}, "sink_max_mps"),
        ({"fallback_bank_deg": 80.0}, "fallback_bank_deg"),
        ({"roll_max": 200.0}, "180"),
    ],
)
def test_contradictory_limits_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SafetyLimits.from_json(values)


def test_an_unknown_limit_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'aileron_max'"):
        SafetyLimits.from_json({"ailerons_max": 20})
    assert SafetyLimits.from_json({"aileron_max": 20, "fallback": {"roll_p": 1}}).aileron_max == 20.0


def test_limits_survive_json() -> None:
    limits = SafetyLimits(roll_max=45.0, geofence_enabled=False)
    assert SafetyLimits.from_json(limits.to_json()) == limits


def test_each_trip_is_logged_once_with_its_reason_and_the_state_at_that_tick() -> None:
    guard = monitor()
    step(guard)
    for _ in range(5):
        step(guard, roll_rad=2.0, now_ns=7)
    for _ in range(4):
        step(guard)
    assert [(e.tick, e.reasons, Mode(e.mode)) for e in guard.events] == [
        (1, ("attitude",), Mode.HOLD), (7, (), Mode.POLICY),
    ]  # fmt: skip
    tripped = guard.events[0]
    assert tripped.time_ns == 7 and tripped.state[0] == 2.0 and math.isnan(tripped.state[-1])
    assert guard.events.ticks["attitude"] == 5
    guard.reset()
    assert len(guard.events) == 0


def test_a_rotation_that_leads_out_of_the_envelope_trips_before_it_does() -> None:
    assert step(monitor(), roll_rad=0.9, p_radps=2.0).trips == Trip.ATTITUDE  # 60 degrees before it can be stopped
    assert step(monitor(), pitch_rad=0.5, q_radps=1.3).trips == Trip.ATTITUDE
    assert step(monitor(), roll_rad=0.9, p_radps=-2.0).mode is Mode.POLICY


def test_a_slow_aircraft_gets_speed_before_height() -> None:
    law = Law()
    guard = monitor(law, airspeed_min_mps=12.0)
    step(guard, airspeed_mps=11.0, altitude_m=45.0)
    assert law.asked[-1][1].altitude_m == 25.0  # nose down, even near the floor
    step(guard, airspeed_mps=18.0, altitude_m=45.0)
    assert law.asked[-1][1].altitude_m == 50.0
    # A climb uses up the speed before the nose is down.
    assert step(monitor(airspeed_min_mps=12.0), airspeed_mps=13.0, climb_rate_mps=4.0).trips == Trip.AIRSPEED_LOW


def test_turning_home_is_not_broken_off_for_a_moment() -> None:
    guard = monitor(recovery_s=0.5)
    step(guard, north_m=400.0)
    modes = [step(guard).mode for _ in range(30)]  # as if back over home at once
    assert modes[:10] == [Mode.RETURN] * 10 and modes[-1] is Mode.POLICY and Mode.HOLD in modes


def test_while_another_limit_is_broken_the_turn_home_begins_early() -> None:
    near = {"north_m": 0.0, "east_m": 370.0}  # flying along the fence
    assert step(monitor(), **near).mode is Mode.POLICY
    for east in range(300, 420, 10):
        alone = Trip.RANGE in step(monitor(), north_m=0.0, east_m=float(east)).trips
        upset = Trip.RANGE in step(monitor(), north_m=0.0, east_m=float(east), pitch_rad=0.7).trips
        assert upset >= alone
    assert any(
        Trip.RANGE in step(monitor(), north_m=0.0, east_m=float(east), pitch_rad=0.7).trips
        and Trip.RANGE not in step(monitor(), north_m=0.0, east_m=float(east)).trips
        for east in range(300, 470, 5)
    )
