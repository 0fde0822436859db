"""Change points and shifted signals on made-up flights whose truth is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from sim2sky.analysis.events import _likelihood_ratio, find_events
from sim2sky.analysis.flight_metrics import FlightData
from sim2sky.analysis.residuals import FAST, SLOW, Predictor
from sim2sky.analysis.shift import _band_powers, shift_report

RATE_HZ = 20.0


def flight(
    seed: int, *, seconds: float = 20.0, rate_hz: float = RATE_HZ, lag: float = 0.8, noise: float = 1.0
) -> FlightData:
    """A first-order aircraft: rates follow surfaces, angles integrate rates, speed follows throttle; noisy sensors."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate_hz)
    time_s = np.arange(n) / rate_hz
    controls = np.clip(np.cumsum(rng.normal(0.0, 0.05, (n, 4)), axis=0) * 0.3, -1.0, 1.0)
    rates = np.zeros((n, 3))
    angles = np.zeros((n, 3))
    speed = np.full(n, 18.0)
    altitude = np.full(n, 150.0)
    for i in range(1, n):
        rates[i] = lag * rates[i - 1] + (1.0 - lag) * controls[i - 1, :3]
        angles[i] = 0.98 * angles[i - 1] + rates[i] / rate_hz
        speed[i] = speed[i - 1] + (2.0 * controls[i - 1, 3] - 0.3 * (speed[i - 1] - 18.0)) / rate_hz
        altitude[i] = altitude[i - 1] + 5.0 * angles[i, 1] / rate_hz
    clean = {
        "roll": angles[:, 0], "pitch": angles[:, 1], "yaw": angles[:, 2], "p": rates[:, 0], "q": rates[:, 1],
        "r": rates[:, 2], "airspeed": speed, "altitude": altitude,
    }  # fmt: skip
    sigma = {"airspeed": 0.2, "altitude": 0.3}
    states = {k: v + noise * sigma.get(k, 0.01) * rng.standard_normal(n) for k, v in clean.items()}
    setpoints = {"altitude": np.full(n, 150.0), "airspeed": np.full(n, 18.0), "heading": np.zeros(n)}
    return FlightData(f"flight_{seed:04d}", "completed", seed, rate_hz, time_s, states, controls, setpoints)


SIM = [flight(i) for i in range(40)]
REAL = [flight(1000 + i) for i in range(12)]


def changed(f: FlightData, **columns: np.ndarray) -> FlightData:
    from dataclasses import replace

    return replace(f, states={**f.states, **columns})


def test_the_same_aircraft_has_no_events() -> None:
    assert find_events(SIM, REAL).events == ()


def test_an_aircraft_that_differs_all_along_has_no_events() -> None:
    other = [flight(2000 + i, lag=0.5, noise=1.5) for i in range(20)]
    biased = [changed(f, airspeed=f.states["airspeed"] + 1.5, q=f.states["q"] + 0.03) for f in REAL]
    assert len(find_events(SIM, other).events) <= 1
    assert find_events(SIM, biased).events == ()


@pytest.mark.parametrize(("name", "step"), [("airspeed", 3.0), ("pitch", 0.2), ("q", 0.15)])
@pytest.mark.parametrize("at_s", [3.0, 10.0, 17.0])
def test_a_sensor_that_jumps(name: str, step: float, at_s: float) -> None:
    f = REAL[4]
    values = f.states[name] + step * (f.time_s >= at_s - 1e-9)
    (event,) = find_events(SIM, [*REAL[:4], changed(f, **{name: values}), *REAL[5:]]).events
    assert event.flight == f.name
    assert event.time_s == pytest.approx(at_s, abs=0.7)


def test_noise_that_grows() -> None:
    f = REAL[0]
    rng = np.random.default_rng(0)
    values = f.states["r"] + 0.08 * rng.standard_normal(len(f)) * (f.time_s >= 12.0)
    (event,) = find_events(SIM, [changed(f, r=values), *REAL[1:]]).events
    assert (event.kind, event.signal) == ("change", "r")
    assert event.time_s == pytest.approx(12.0, abs=0.5)


@given(st.floats(1.5, 18.0), st.floats(0.7, 6.0), st.sampled_from(["roll", "airspeed", "altitude", "yaw"]))
@settings(max_examples=6, deadline=None)
def test_stillness_and_gaps_begin_where_they_begin(at_s: float, length_s: float, name: str) -> None:
    f = REAL[3]
    inside = (f.time_s >= at_s) & (f.time_s < at_s + length_s)
    start = int(np.flatnonzero(inside)[0])
    if inside.sum() < 13:
        return
    frozen, missing = f.states[name].copy(), f.states[name].copy()
    frozen[inside] = frozen[start]
    missing[inside] = math.nan
    for values, kind in ((frozen, "frozen"), (missing, "drop-out")):
        events = [e for e in find_events(SIM, [changed(f, **{name: values}), *REAL[4:8]]).events if e.flight == f.name]
        assert [e.kind for e in events] == [kind]
        assert events[0].time_s == pytest.approx(f.time_s[start], abs=1.5 / RATE_HZ)
        assert events[0].signal == name


def test_a_slow_sensor_does_not_stand_still() -> None:
    """GPS at 2 Hz in a log of 20 Hz: every flight holds its values, so none of them has failed."""
    slow = [changed(f, altitude=np.repeat(f.states["altitude"][::20], 20)) for f in REAL]
    assert not [e for e in find_events(SIM, slow).events if e.kind == "frozen"]


def test_too_many_events_are_no_failures() -> None:
    broken = [changed(f, airspeed=np.where(f.time_s > 10.0, 18.0, f.states["airspeed"])) for f in REAL]
    search = find_events(SIM, [*broken[:5], *REAL[5:]])
    assert search.events == ()
    assert "5 of 12 flights" in search.note


def test_little_or_other_data_is_searched_as_far_as_it_goes() -> None:
    assert find_events([], REAL).events == ()
    assert find_events(SIM, []).events == ()
    assert find_events([SIM[0].until(2.0)], REAL).events == ()
    assert find_events(SIM, [f.until(1.0) for f in REAL]).events == ()
    faster = [flight(i, rate_hz=50.0) for i in range(6)]
    assert find_events(SIM, faster).events == ()  # another rate: only stillness and gaps can be found
    without = [changed(f, altitude=np.full(len(f), math.nan)) for f in REAL]
    assert find_events(SIM, without).events == ()


def test_predictor_needs_no_model_and_no_altitude() -> None:
    predictor = Predictor.fit(SIM)
    assert predictor is not None
    fast, slow = predictor.residuals(REAL[0])
    assert fast.values.shape[1] == len(FAST) and slow.values.shape[1] == len(SLOW)
    assert np.std(fast.values[:, FAST.index("q")]) < 2.5 * 0.01  # about the sensor's noise
    higher = changed(REAL[0], altitude=REAL[0].states["altitude"] + 500.0)
    assert predictor.residuals(higher)[0].values == pytest.approx(fast.values, abs=1e-9)
    assert predictor.residuals(higher)[1].values[:, :4] == pytest.approx(slow.values[:, :4], abs=1e-9)


def test_a_faster_log_is_averaged_down() -> None:
    flights = [flight(i, rate_hz=100.0) for i in range(6)]
    predictor = Predictor.fit(flights)
    assert predictor is not None
    fast, _ = predictor.residuals(flights[0])
    assert np.median(np.diff(fast.time_s)) == pytest.approx(0.05)


@given(st.integers(30, 170), st.floats(1.5, 6.0), st.integers(0, 1000))
@settings(deadline=None)
def test_likelihood_ratio_finds_the_step(at: int, step: float, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(200)
    x[at:] += step
    ratio, found = _likelihood_ratio(x, 20, 10)
    assert ratio > 10.0
    assert abs(found - at) <= (12 if step < 3.0 else 5)


def test_likelihood_ratio_does_not_want_improvements() -> None:
    x = np.random.default_rng(0).standard_normal(200)
    x[:60] *= 5.0  # a rough start is no failure of what follows
    assert _likelihood_ratio(x, 20, 10)[0] < 40.0
    assert _likelihood_ratio(x[::-1].copy(), 20, 10)[0] > 200.0
    assert _likelihood_ratio(x[:10], 20, 10) == (0.0, 0)


# Shift ---------------------------------------------------------------------------------------------------------------


def test_alike_flights_are_seldom_told_apart() -> None:
    p = [s.p_value for seed in range(10) for s in shift_report(SIM[seed : seed + 20], REAL, "hsa", seed=seed).signals]
    assert np.mean(np.array(p) <= 0.05) < 0.15


def test_a_scaled_signal_comes_first() -> None:
    other = [changed(f, r=6.0 * f.states["r"]) for f in REAL]
    report = shift_report(SIM, other, "hsa")
    first = report.signals[0]
    assert (first.signal, first.p_value) == ("r", pytest.approx(0.001))
    assert all(b.ratio == pytest.approx(36.0, rel=0.6) for b in first.bands[1:])
    assert {s.signal for s in report.signals} >= {"throttle", "heading error", "airspeed"}
    assert all(s.unit for s in report.signals)


def test_distance_is_in_standard_deviations() -> None:
    spread = float(np.concatenate([f.states["airspeed"] for f in REAL]).std())
    other = [changed(f, airspeed=f.states["airspeed"] + 2.0 * spread) for f in REAL]
    found = {s.signal: s for s in shift_report(REAL, other, "hsa").signals}
    assert found["airspeed"].distance == pytest.approx(2.0, rel=1e-3)
    assert found["airspeed error"].distance == pytest.approx(2.0, rel=0.02)
    assert found["roll"].distance == 0.0


def test_time_steps_are_not_the_unit() -> None:
    """Flights with biases of their own: 8,000 samples, but only two against two flights; nothing can be evident."""
    report = shift_report(REAL[:2], [changed(f, airspeed=f.states["airspeed"] + 5.0) for f in REAL[2:4]], "hsa")
    assert min(s.p_value for s in report.signals) > 0.1
    assert shift_report(REAL[:1], REAL[1:2], "hsa").signals[0].p_value == 1.0


def test_spectrum_is_welchs() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    edges = [0.5, 2.0, 5.0]
    ours = _band_powers([x], RATE_HZ, edges)[0]
    frequency, power = scipy_signal.welch(x, RATE_HZ, window=np.hanning(80), nperseg=80, detrend="linear")
    theirs = [power[(frequency >= a) & (frequency < b)].sum() * frequency[1] for a, b in ((0.5, 2.0), (2.0, 5.0))]
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_saturation_and_quantisation() -> None:
    rng = np.random.default_rng(1)
    limited = [np.clip(rng.normal(0.0, 1.0, (400, 4)), -0.6, 0.6) for _ in REAL]
    from dataclasses import replace

    other = [replace(f, controls=c) for f, c in zip(REAL, limited, strict=True)]
    other = [changed(f, airspeed=np.round(f.states["airspeed"] / 0.25) * 0.25) for f in other]
    found = {s.signal: s for s in shift_report(SIM, other, "hsa").signals}
    assert found["aileron"].saturation_real == pytest.approx(0.55, abs=0.05)
    assert found["aileron"].saturation_sim < 0.05
    assert math.isnan(found["roll"].saturation_real)
    assert found["airspeed"].step_real == pytest.approx(0.25)
    assert found["airspeed"].step_sim == 0.0


def test_timing() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(2)
    jittered = [replace(f, time_s=f.time_s + rng.uniform(0.0, 0.004, len(f))) for f in REAL]
    stamps = np.zeros((400, 3), np.int64)
    stamps[:, 0] = np.arange(400) * 50_000_000 + 1
    stamps[:, 2] = stamps[:, 0] + 7_000_000
    report = shift_report(SIM, [replace(f, timing=stamps) for f in jittered], "hsa")
    assert report.sim_timing.rate_hz == pytest.approx(20.0)
    assert math.isnan(report.sim_timing.delay_median_s)
    assert 0.001 < report.real_timing.jitter_p99_s < 0.005
    assert report.real_timing.delay_median_s == pytest.approx(0.007)
    assert report.to_json()["sim_timing"]["delay_median_s"] is None


def test_gaps_and_missing_signals() -> None:
    holes = [changed(f, q=np.where(f.time_s > 15.0, math.nan, f.states["q"])) for f in REAL]
    without = [changed(f, airspeed=np.full(len(f), math.nan)) for f in holes]
    found = {s.signal: s for s in shift_report(SIM, without, "hsa").signals}
    assert "airspeed" not in found
    assert found["q"].bands == ()  # a quarter is missing
    assert math.isfinite(found["q"].distance)
