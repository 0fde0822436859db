"""The predicted way home, its guidance and the wind it reckons with."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.flight_support import NAN, sample

from sim2sky.runtime.escape import GRAVITY_MPS2, Escape, heading_for, turn_side
from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.guidance import Guidance, loiter_radius
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample
from sim2sky.runtime.wind import WindEstimate, wind_of

LIMITS = SafetyLimits(fallback_bank_deg=40.0, fallback_roll_s=0.5, airspeed_min_mps=11.0)
CALM = (0.0, 0.0)
RADIUS = 18.0**2 / (GRAVITY_MPS2 * math.tan(math.radians(40.0)))


def escape(radius_m: float = 500.0, **changes: float) -> Escape:
    limits = replace(LIMITS, **changes)
    return Escape(limits, Fence(radius_m, limits.geofence_polygons))


def margin(e: Escape, s: Sample, wind: tuple[float, float] | None = CALM) -> float:
    return e.range_margin(s, s.north_m, s.east_m, 0.0, wind)[0]


def test_straight_out_the_turn_takes_latency_roll_in_and_a_radius() -> None:
    out = margin(escape(), sample(north_m=300.0))
    used = 200.0 - out
    straight = 18.0 * (0.3 + 0.5)
    assert RADIUS + 0.5 * straight < used < RADIUS + 1.3 * straight
    # Inbound nothing is used: the nearest point is where the aircraft is now.
    assert margin(escape(), sample(north_m=300.0, yaw_rad=math.pi)) == pytest.approx(200.0)


@pytest.mark.parametrize(
    "worse",
    [
        {"airspeed_mps": 25.0},
        {"roll_rad": 0.9, "yaw_rad": -0.4, "p_radps": 1.0},
        {"north_m": 320.0},
    ],
)
def test_what_makes_the_turn_wider_brings_the_border_nearer(worse: dict[str, float]) -> None:
    usual = sample(north_m=300.0, yaw_rad=worse.get("yaw_rad", 0.0))
    assert margin(escape(), sample(**{"north_m": 300.0, **worse})) < margin(escape(), usual)


def test_latency_wind_and_a_lazy_fallback_law_bring_the_border_nearer() -> None:
    s = sample(north_m=300.0)
    usual = margin(escape(), s)
    assert margin(escape(position_latency_ms=700.0), s) < usual - 0.9 * 18.0 * 0.5
    assert margin(escape(fallback_roll_s=1.5), s) < usual - 10.0
    assert margin(escape(fallback_bank_deg=20.0), s) < usual - RADIUS
    assert margin(escape(), s, (8.0, 0.0)) < usual - 20.0 and margin(escape(), s, (-8.0, 0.0)) > usual
    # Where nobody knows the wind, the strongest away from home is reckoned with.
    assert margin(escape(), s, None) == pytest.approx(margin(escape(), s, (10.0, 0.0)))


def test_the_other_way_round_is_taken_where_the_shorter_leaves_too_little() -> None:
    wall = ((600.0, -600.0), (600.0, 40.0), (-600.0, 40.0), (-600.0, -600.0))  # a wall to the east
    e = Escape(LIMITS, Fence(900.0, (wall,)))
    s = sample(north_m=300.0, yaw_rad=-0.1)  # flying north along it; home lies behind, a little to the left
    s = replace(s, east_m=0.0, yaw_rad=0.15)
    shorter = e.range_margin(s, 300.0, 0.0, 0.0, CALM, enough=-1e9)
    best = e.range_margin(s, 300.0, 0.0, 0.0, CALM)
    assert best[0] >= shorter[0] and best[1] == -1.0


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-0.9, 0.9), st.floats(-math.pi, math.pi), st.floats(-3.0, 3.0), st.floats(10.0, 35.0),
    st.floats(-400.0, 400.0), st.floats(-400.0, 400.0), st.floats(-7.0, 7.0), st.floats(-7.0, 7.0),
)  # fmt: skip
def test_the_short_cut_far_from_the_border_promises_no_more_than_the_path(
    roll: float, yaw: float, p: float, speed: float, north: float, east: float, wind_n: float, wind_e: float
) -> None:
    e = escape()
    s = sample(roll_rad=roll, yaw_rad=yaw, p_radps=p, airspeed_mps=speed)
    assume(math.hypot(wind_n, wind_e) < 0.7 * speed and math.hypot(north, east) < 480.0)
    path = e.range_margin(s, north, east, 0.0, (wind_n, wind_e))[0]
    short = e.range_margin(s, north, east, 0.0, (wind_n, wind_e), enough=-1e9)[0]
    assert short <= path + 1e-6


@settings(max_examples=200, deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(-math.pi, math.pi), st.floats(0.0, 350.0), st.floats(-5.0, 5.0))
def test_a_little_change_of_state_changes_the_answer_a_little(roll: float, yaw: float, north: float, p: float) -> None:
    """Or else a guard that asks at every tick would be surprised."""
    e = escape()
    s = sample(roll_rad=roll, yaw_rad=yaw, p_radps=p, north_m=north)
    near = replace(s, roll_rad=roll + 1e-4, yaw_rad=yaw + 1e-4)
    assert abs(margin(e, s) - margin(e, near)) < 3.0


def test_a_nose_that_swings_out_brings_the_border_nearer() -> None:
    """A snap roll turned the heading by 15 degrees in a tick: the way home looked short until it was too late."""
    along = sample(north_m=380.0, yaw_rad=1.5)  # flying east, along the fence
    out = replace(along, r_radps=-2.5)
    assert margin(escape(), out) < margin(escape(), along) - 5.0
    # Euler rates, not body rates: wings vertical, pitching is what turns the heading.
    upright = replace(along, roll_rad=math.pi / 2, q_radps=-2.5)
    assert margin(escape(), upright) < margin(escape(), replace(along, roll_rad=math.pi / 2)) - 5.0


def test_a_steep_bank_promises_no_tighter_turn() -> None:
    s = sample(north_m=300.0, yaw_rad=0.6)
    at_the_limit = margin(escape(), replace(s, roll_rad=math.radians(40.0)))
    assert margin(escape(), replace(s, roll_rad=math.radians(65.0))) == pytest.approx(at_the_limit)


def test_a_slow_aircraft_is_reckoned_with_at_the_laws_airspeed() -> None:
    e = escape(fallback_airspeed_mps=18.0)
    slow, usual = (margin(e, sample(north_m=300.0, airspeed_mps=v)) for v in (12.0, 18.0))
    assert slow == pytest.approx(usual) and slow < margin(escape(), sample(north_m=300.0, airspeed_mps=18.0))


def test_altitude_is_lost_and_won_until_the_flight_is_level() -> None:
    e = escape()
    assert e.altitude_bounds(sample()) == (150.0, 150.0)
    low, high = e.altitude_bounds(sample(climb_rate_mps=-12.0))
    assert high == 150.0 and low == pytest.approx(150.0 - 12.0 * 0.1 - 144.0 / 6.0)
    banked, _ = e.altitude_bounds(sample(climb_rate_mps=-12.0, roll_rad=1.3))
    assert banked == pytest.approx(low - 12.0 * 0.5)
    assert e.altitude_bounds(sample(climb_rate_mps=12.0))[1] == pytest.approx(150.0 + 1.2 + 24.0)
    slow, _ = e.altitude_bounds(sample(airspeed_mps=9.0))  # height that buys back the margin to the stall
    assert slow == pytest.approx(150.0 - (14.3**2 - 81.0) / (2 * GRAVITY_MPS2))


def test_the_side_of_a_turn() -> None:
    assert turn_side(0.5, -1.0) == 1.0 and turn_side(-0.5, 1.0, 1.0) == -1.0
    assert turn_side(3.0, -0.5) == -1.0 and turn_side(3.0, 0.05) == 1.0
    assert turn_side(3.0, -0.5, 1.0) == 1.0


def test_a_turn_begun_is_kept_to_its_side_through_gusts() -> None:
    guidance = Guidance(LIMITS)
    errors = [3.0, -3.1, 3.1, -3.0, -2.8, 2.5]  # of a heading that wavers around straight away from home
    for error in errors:
        heading = guidance.home(sample(yaw_rad=-error), -100.0, 0.0, None)
        assert math.sin(heading + error) >= -1e-9 or abs(heading + error) > math.pi / 2
        assert math.remainder(heading + error, math.tau) > 0.0, error
    assert guidance.home(sample(yaw_rad=-0.5), -100.0, 0.0, None) == pytest.approx(0.0)
    # The turn done, the next one starts afresh.
    assert math.remainder(guidance.home(sample(yaw_rad=3.0), -100.0, 0.0, None) - 3.0, math.tau) < 0.0


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_no_full_circle_is_flown_for_a_few_degrees(side: float) -> None:
    """Upset in a steep bank while it flew straight home, it once circled the long way, through the fence."""
    guidance = Guidance(LIMITS)
    guidance.reset(side)
    for error in (0.02, 0.4, 0.9):
        heading = guidance.home(sample(yaw_rad=side * error, roll_rad=side), -100.0, 0.0, None)
        assert heading == pytest.approx(0.0), error


def test_headings_make_good_the_course_in_the_wind() -> None:
    for course in (0.0, 1.0, -2.5):
        heading = heading_for(course, 18.0, (5.0, -3.0))
        north, east = 18.0 * math.cos(heading) + 5.0, 18.0 * math.sin(heading) - 3.0
        assert math.atan2(east, north) == pytest.approx(course)
    assert heading_for(1.0, 18.0, None) == 1.0
    assert heading_for(0.0, 5.0, (0.0, 20.0)) == 0.0  # a wind that wins: nothing to be made good


@pytest.mark.parametrize("start", [(0.0, 0.0), (300.0, 0.0), (-40.0, 20.0)])
@pytest.mark.parametrize("wind", [(0.0, 0.0), (6.0, -2.0)])
def test_loitering_ends_on_the_circle(start: tuple[float, float], wind: tuple[float, float]) -> None:
    """A point that turns at the fallback law's rate."""
    guidance = Guidance(LIMITS)
    radius = loiter_radius(LIMITS, 18.0)
    north, east = start
    heading = 0.3
    away: list[float] = []
    for _ in range(2400):
        wanted = guidance.loiter(sample(yaw_rad=heading), north, east, wind, 18.0)
        rate = max(-0.45, min(0.45, 1.2 * math.remainder(wanted - heading, math.tau)))
        heading += rate * 0.05
        north += (18.0 * math.cos(heading) + wind[0]) * 0.05
        east += (18.0 * math.sin(heading) + wind[1]) * 0.05
        away.append(math.hypot(north, east))
    assert all(0.6 * radius < a < 1.6 * radius for a in away[-800:])


def test_the_wind_is_what_ground_and_air_velocity_differ_by() -> None:
    s = sample(yaw_rad=1.0, airspeed_mps=18.0)
    blown = replace(s, north_mps=18.0 * math.cos(1.0) + 4.0, east_mps=18.0 * math.sin(1.0) - 2.0)
    assert wind_of(blown) == pytest.approx((4.0, -2.0))
    assert wind_of(s) is None and wind_of(replace(blown, east_mps=NAN)) is None
    # In a bank the nose does not point where the aircraft flies: the angle of attack lies sideways.
    bank = replace(s, roll_rad=1.0, pitch_rad=0.08 * math.cos(1.0))
    course = 1.0 - 0.08 * math.sin(1.0)
    flown = replace(bank, north_mps=18.0 * math.cos(course), east_mps=18.0 * math.sin(course))
    assert wind_of(flown) == pytest.approx((0.0, 0.0), abs=1e-9)
    # An old ground velocity belongs to the heading of then.
    turned = GRAVITY_MPS2 * math.tan(1.0) / 18.0 * 0.2
    late = replace(bank, yaw_rad=1.0 + turned, north_mps=flown.north_mps, east_mps=flown.east_mps)
    assert wind_of(late, 0.2) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_gusts_are_averaged_away() -> None:
    estimate = WindEstimate(0.05, 0.0)
    for k in range(400):
        gust = 5.0 * (-1) ** k
        estimate.update(replace(sample(), north_mps=18.0 + 3.0 + gust, east_mps=-1.0))
    assert estimate.wind == pytest.approx((3.0, -1.0), abs=0.3)
    before = estimate.wind
    estimate.update(sample())  # nothing measured, nothing learnt
    assert estimate.wind == before
