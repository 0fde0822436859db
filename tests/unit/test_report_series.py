"""Long series made small: extremes and gaps survive, and a spectrum finds its tone."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sim2sky.report.series import envelope, packed, runs, spectrum

values = npst.arrays(
    np.float64, st.integers(0, 400), elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(math.nan))
)


@settings(deadline=None)
@given(values, st.integers(1, 40))
def test_the_envelope_keeps_extremes_order_and_gaps(y, buckets):
    x = np.arange(len(y), dtype=float)
    ex, ey = envelope(x, y, buckets)
    assert len(ex) == len(ey) <= max(2 * buckets, 3 * buckets)
    assert (np.diff(ex) >= 0).all()
    if np.isfinite(y).any():
        assert np.nanmin(ey) == np.nanmin(y) and np.nanmax(ey) == np.nanmax(y)
    assert np.isnan(ey).any() == np.isnan(y).any(), "a gap stays a gap"
    known = np.isfinite(ey)
    np.testing.assert_array_equal(y[ex[known].astype(int)], ey[known], err_msg="every point is one that was measured")


def test_a_short_series_is_not_touched():
    x, y = np.arange(10.0), np.arange(10.0) ** 2
    assert envelope(x, y, 5) == (x, y)


def test_a_single_spike_in_ten_minutes_is_drawn():
    y = np.zeros(12_000)
    y[7_777] = -3.0
    ex, ey = envelope(np.arange(12_000) / 20.0, y)
    assert len(ex) <= 1_000
    assert ey.min() == -3.0 and ex[ey.argmin()] == 7_777 / 20.0


def test_packed_numbers_come_back():
    data = packed([1.5, math.nan, -2.0])
    assert data["dtype"] == "f4"
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(data["bdata"]), "<f4"), [1.5, math.nan, -2.0])


@given(npst.arrays(bool, st.integers(0, 60)))
def test_runs_cover_exactly_what_is_true(flag):
    again = np.zeros_like(flag)
    for start, end in runs(flag):
        assert end > start and not again[start:end].any()
        again[start:end] = True
    np.testing.assert_array_equal(again, flag)


def test_a_tone_is_found_at_its_frequency_with_its_power():
    rate_hz, amplitude = 20.0, 0.4
    t = np.arange(4_000) / rate_hz
    frequency, density = spectrum([amplitude * np.sin(2 * np.pi * 2.5 * t)], rate_hz)
    assert frequency[density.argmax()] == pytest.approx(2.5, abs=0.05)
    power = density.sum() * (frequency[1] - frequency[0])
    assert power == pytest.approx(amplitude**2 / 2, rel=0.05)


def test_gaps_do_not_leak_into_the_spectrum():
    rng = np.random.default_rng(3)
    whole = [rng.normal(size=2_000) for _ in range(4)]
    broken = [y.copy() for y in whole]
    for y in broken:
        y[900:910] = math.nan
    _, a = spectrum(whole, 20.0)
    _, b = spectrum(broken, 20.0)
    assert np.isfinite(b).all() and b.mean() == pytest.approx(a.mean(), rel=0.1)


def test_stretches_that_are_too_short_give_no_spectrum():
    frequency, density = spectrum([np.zeros(50)], 20.0)
    assert len(frequency) == len(density) == 0
