"""The laws below the guard take any state: nothing raises, and what is absurd leaves no trace."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.escape import Escape, heading_for, turn_side
from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.guidance import Guidance, loiter_radius
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.runtime.wind import WindEstimate, wind_of

ANY = st.one_of(
    st.floats(-10.0, 10.0),
    st.floats(-1e3, 1e3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 1e308, -1e308, math.nan, math.inf, -math.inf]),
)
SAMPLES = st.builds(Sample, st.just(0), *[ANY] * 13)
WINDS = st.one_of(st.none(), st.tuples(ANY, ANY))
SQUARE = ((-300.0, -300.0), (-300.0, 300.0), (300.0, 300.0), (300.0, -300.0))
LEVEL = Sample(0, 0.0, 0.05, 0.3, 0.0, 0.0, 0.0, 18.0, 80.0, 0.0, 50.0, -20.0, 18.0, 3.0)


@given(st.lists(SAMPLES, min_size=1, max_size=4), st.builds(Setpoint, *[ANY] * 8))
@pytest.mark.parametrize("task", ["hsa", "attitude", "rate"])
def test_the_autopilot_flies_or_says_that_it_cannot(task, samples, setpoint):
    autopilot = Autopilot(AutopilotGains(), 0.02, task)
    for sample in samples:
        command = autopilot.command(sample, setpoint)
        for value, low in zip(command, (-1.0, -1.0, -1.0, 0.0), strict=True):
            assert math.isnan(value) or low <= value <= 1.0
    autopilot.reset()
    fresh = Autopilot(AutopilotGains(), 0.02, task).command(LEVEL, Setpoint(80.0, 18.0, 0.3))
    assert autopilot.command(LEVEL, Setpoint(80.0, 18.0, 0.3)) == fresh  # nothing stays behind


@given(SAMPLES, ANY, ANY, st.floats(0.0, 1.0), WINDS, ANY)
def test_the_way_home_is_predicted_from_anywhere(sample, north, east, age, wind, enough):
    escape = Escape(SafetyLimits(), Fence(500.0, (SQUARE,)))
    margin, side = escape.range_margin(sample, north, east, age, wind, enough)
    assert side in (-1.0, 0.0, 1.0)
    assert margin <= 500.0 or math.isnan(margin)
    escape.altitude_bounds(sample)
    heading_for(north, east, wind)
    assert turn_side(north, east) in (-1.0, 1.0)


@given(SAMPLES, ANY, ANY, WINDS, ANY)
def test_headings_are_wrapped_or_no_numbers(sample, north, east, wind, airspeed):
    guidance = Guidance(SafetyLimits())
    headings = (guidance.home(sample, north, east, wind), guidance.circle(sample),
                guidance.loiter(sample, north, east, wind, airspeed))  # fmt: skip
    assert all(math.isnan(h) or -math.pi <= h <= math.pi for h in headings)
    assert not loiter_radius(SafetyLimits(), airspeed) < 60.0


def test_the_side_of_a_turn_without_an_error_is_the_same_on_every_machine():
    """The sign of a NaN is not."""
    assert turn_side(math.nan, 0.0) == turn_side(math.copysign(math.nan, -1.0), 0.0) == 1.0


@given(SAMPLES)
def test_an_absurd_ground_velocity_leaves_no_trace_in_the_wind(sample):
    usable = replace(LEVEL, north_mps=sample.north_mps, east_mps=sample.east_mps)
    estimate = WindEstimate(0.02, 0.1)
    estimate.update(usable)
    estimate.update(LEVEL)
    assert estimate.wind is not None
    assert all(map(math.isfinite, estimate.wind))
    if not (abs(sample.north_mps) < 1e6 and abs(sample.east_mps) < 1e6):
        assert estimate.wind == wind_of(LEVEL, 0.1)


@pytest.mark.parametrize("washout", [0.0, -1.0, math.nan])
def test_a_washout_without_a_time_constant_is_refused(washout):
    """It is the one denominator that a configuration could make zero."""
    with pytest.raises(ConfigError, match="yaw_washout_s must be above 0 s"):
        Autopilot(AutopilotGains(yaw_washout_s=washout), 0.02)
