"""One clock out of many: no delay, no alias, no bridge over a gap; damaged time stamps cost themselves only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.log_support import quaternion, wrap

from sim2sky.telemetry.importers.channels import Channel, Method, Recording, euler_angles
from sim2sky.telemetry.importers.episodes import clock_rate, flight_intervals
from sim2sky.telemetry.importers.resample import GAP_PERIODS, resample
from sim2sky.telemetry.importers.topics import Topic, ordered_times, running_median


def channel(t: np.ndarray, v: np.ndarray, method: Method = Method.LINEAR, name: str = "airspeed") -> Channel:
    return Channel(name, "x", np.asarray(t, float), np.asarray(v, float), method)


@given(st.floats(0.3, 400.0), st.floats(1.0, 100.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_a_straight_line_stays_where_it_is(source_hz, rate_hz, phase):
    """Neither averaging nor interpolation delays: a ramp comes out as itself."""
    t = (np.arange(max(int(20 * source_hz), 8)) + phase) / source_hz
    ticks = np.arange(0.0, t[-1], 1.0 / rate_hz)
    out = resample(channel(t, 3.0 * t - 1.0), ticks)
    inside = np.isfinite(out)
    assert inside.sum() >= len(ticks) - 2 - int(rate_hz / source_hz) - 1
    assert out[inside] == pytest.approx((3.0 * ticks - 1.0)[inside], abs=3.0 * 0.55 / source_hz + 1e-9)


def test_what_is_above_the_new_rate_is_damped():
    t = np.arange(0, 20, 1 / 400)
    ticks = np.arange(1, 19, 1 / 25)
    for hz, most in ((1.0, 1.0), (25.0, 0.02), (26.0, 0.1), (60.0, 0.25)):
        out = resample(channel(t, np.sin(2 * np.pi * hz * t)), ticks)
        assert np.abs(out).max() <= most
    picked = np.sin(2 * np.pi * 26.0 * ticks)  # negative control: without the mean it would be a wave of 1 Hz
    assert np.abs(picked).max() > 0.9
    slow = resample(channel(t, np.sin(2 * np.pi * t)), ticks)
    assert np.abs(slow - np.sin(2 * np.pi * ticks)).max() < 0.01


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_gap_is_never_bridged(seed):
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.8, 1.2, 400)) * 0.05
    begin = rng.uniform(t[50], t[200])
    width = rng.uniform(0.5, 5.0)
    keep = (t < begin) | (t > begin + width)
    t, ticks = t[keep], np.arange(0.0, t[-1] + 1.0, 0.02)
    last, first = t[t < begin][-1], t[t > begin + width][0]
    for method in (Method.LINEAR, Method.ANGLE, Method.HOLD):
        out = resample(channel(t, np.sin(t), method), ticks)
        held = GAP_PERIODS * 0.06 if method is Method.HOLD else 1e-6
        assert np.isnan(out[(ticks > last + held) & (ticks < first - 0.02)]).all()
        before = (ticks > t[0] + 0.1) & (ticks < last)
        assert np.isfinite(out[before]).all()
    state = resample(channel(t, np.sign(np.sin(t)), Method.STATE), ticks)
    assert np.isfinite(state[ticks >= t[0]]).all()


def test_nothing_before_the_first_and_after_the_last_sample():
    t = np.arange(10.0, 20.0, 0.1)
    out = resample(channel(t, t), np.arange(5.0, 25.0, 0.1))
    ticks = np.arange(5.0, 25.0, 0.1)
    assert np.isnan(out[ticks < 9.95]).all()
    assert np.isnan(out[ticks > 19.95]).all()


def test_commands_are_the_last_one_given():
    out = resample(
        channel([0.0, 1.0, 2.0], [0.0, 1.0, -1.0], Method.HOLD, "aileron"), np.array([0, 0.5, 1, 1.99, 2, 3])
    )
    assert out.tolist() == [0, 0, 1, 1, -1, -1]


@given(st.floats(-20.0, 20.0), st.floats(-2.0, 2.0))
@settings(max_examples=40, deadline=None)
def test_angles_turn_the_short_way(start, rate):
    t = np.arange(0, 10, 0.1)
    angle = start + rate * t
    ticks = np.arange(0.05, 9.8, 0.033)
    out = resample(channel(t, wrap(angle), Method.ANGLE, "yaw"), ticks)
    assert np.abs(wrap(out - (start + rate * ticks))).max() < 1e-6
    assert np.abs(out).max() <= np.pi + 1e-12


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_quaternions_give_back_their_angles(roll, pitch, yaw):
    q = quaternion(np.array([roll]), np.array([pitch]), np.array([yaw]))
    again = np.array(euler_angles(*q.T)).ravel()
    assert wrap(again - [roll, pitch, yaw]) == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(np.array(euler_angles(*(0.0 * q).T))).all()


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_time_stamp_costs_itself_only(seed):
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.001, 0.05, 300))
    hit = rng.choice(300, rng.integers(1, 6), replace=False)
    damaged = t.copy()
    damaged[hit] = rng.choice([np.nan, np.inf, -5.0, 1e9, 0.5 * t[-1], 0.0, 1e30], len(hit))
    keep = ordered_times(damaged)
    assert (np.diff(damaged[keep]) > 0.0).all()
    untouched = np.setdiff1d(np.arange(300), hit)
    assert keep[untouched].sum() >= len(untouched) - len(hit)
    assert np.isin(np.flatnonzero(~keep), np.append(hit, untouched)).all()


@given(st.lists(st.floats(0.0, 1e6), max_size=60, unique=True))
def test_ordered_times_that_are_in_order_are_all_believed(values):
    """Also those of rare events, days apart: nothing but a regular topic has an end that can stand out."""
    assert ordered_times(np.array(sorted(values))[:19]).all()


def test_a_last_stamp_far_off_is_not_the_end_of_a_regular_topic():
    t = np.append(np.arange(0, 10, 0.1), 5000.0)
    assert np.flatnonzero(~ordered_times(t)).tolist() == [100]
    t = np.insert(np.arange(5000, 5010, 0.1), 0, 1.0)
    assert np.flatnonzero(~ordered_times(t)).tolist() == [0]


def test_median_of_neighbours():
    x = np.array([1.0, 9.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert running_median(x, 3).tolist() == [2, 2, 3, 3, 4, 5, 6, 7, 7]
    assert running_median(x[:2], 3).tolist() == [5, 5]
    assert len(running_median(x[:0], 3)) == 0


def recording(**switches: list[tuple[float, float]]) -> Recording:
    """An attitude at 10 Hz for 60 s, and switches given as (time, value)."""
    out, t = Recording(), np.arange(0, 60, 0.1)
    for name in ("roll", "pitch", "yaw"):
        out.add(name, Topic("att", 0, t, {}), 0.0 * t)
    for name, changes in switches.items():
        times, values = (np.array(x, float) for x in zip(*changes, strict=True))
        out.add(name, Topic(name, 0, times, {}), values)
    return out


def test_intervals_are_where_all_switches_are_on():
    found, reason = flight_intervals(
        recording(armed=[(0, 0), (5, 1), (50, 0)], airborne=[(0, 0), (10, 1), (20, 0), (30, 1), (55, 0)])
    )
    assert reason == ""
    assert [(i.begin_s, i.end_s, i.ended) for i in found] == [(10, 20, "landed"), (30, 50, "disarmed")]


def test_a_flicker_is_bridged_and_a_log_s_end_is_an_end():
    found, _ = flight_intervals(recording(armed=[(0, 1)], airborne=[(0, 0), (10, 1), (30, 0), (30.5, 1)]))
    assert [(i.begin_s, i.ended) for i in found] == [(10, "end of the log")]
    assert found[0].end_s == pytest.approx(59.9)


def test_clock_is_whole_hertz_up_to_a_hundred():
    assert clock_rate(recording()) == 10.0
    fast, t = Recording(), np.arange(0, 5, 1 / 404.0)
    fast.add("roll", Topic("att", 0, t, {}), 0 * t)
    assert clock_rate(fast) == 100.0
    assert clock_rate(Recording()) == 0.0


def test_the_first_source_of_a_channel_is_taken_and_an_empty_one_gives_way():
    out, t = Recording(), np.arange(0, 5, 0.1)
    assert not out.add("airspeed", Topic("bad", 0, t, {}), 0 * t - 3.0)
    assert out.refused["airspeed"] == ("bad", {"negative": 50})
    assert out.add("airspeed", Topic("good", 0, t, {}), 0 * t + 15.0, origin="v")
    assert not out.add("airspeed", Topic("late", 0, t, {}), 0 * t + 16.0)
    assert out["airspeed"].origin == "good.v"
    assert out.refused == {}
