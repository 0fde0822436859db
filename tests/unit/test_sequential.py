"""Bounds that hold at every look: false alarms under peeking, power, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ConfigError
from sim2sky.validation.sequential import lower_bound, upper_bound

VALUES = st.lists(st.floats(-1.0, 1.0), max_size=60)


@given(VALUES, st.floats(0.001, 0.5))
def test_bounds_lie_within_the_limits_and_around_the_mean(values, alpha):
    low, high = lower_bound(values, -1.0, 1.0, alpha=alpha), upper_bound(values, -1.0, 1.0, alpha=alpha)
    assert -1.0 <= low <= high <= 1.0
    if values:
        mean = math.fsum(values) / len(values)
        assert low <= mean + 1e-6 or low <= max(
            math.fsum(values[:k]) / k for k in range(1, len(values) + 1)
        )  # no bound above every mean that was ever seen


@given(VALUES, st.lists(st.floats(-1.0, 1.0), max_size=20))
def test_more_values_never_lower_a_bound(values, more):
    before = lower_bound(values, -1.0, 1.0, alpha=0.05)
    assert lower_bound([*values, *more], -1.0, 1.0, alpha=0.05) >= before - 1e-9


@given(VALUES, st.floats(-5.0, 5.0), st.floats(0.1, 10.0))
def test_bounds_move_with_the_unit(values, shift, scale):
    plain = lower_bound(values, -1.0, 1.0, alpha=0.05)
    moved = lower_bound(
        [min(max(shift + scale * v, shift - scale), shift + scale) for v in values],
        shift - scale,
        shift + scale,
        alpha=0.05,
    )
    assert moved == pytest.approx(shift + scale * plain, abs=1e-3 * scale)


@pytest.mark.parametrize("spread", ["coins", "rare losses", "skewed"])
def test_peeking_after_every_pair_does_not_raise_the_error_rate(spread):
    """True mean zero, looked at 30 times: a bound above zero in no more than alpha of the runs (here .1, 400 runs)."""
    rng = np.random.default_rng(7)
    draw = {
        "coins": lambda n: rng.choice([-1.0, 1.0], n),
        "rare losses": lambda n: rng.choice([-0.95, 0.05], n, p=[0.05, 0.95]),
        "skewed": lambda n: np.where(rng.random(n) < 0.2, 0.8, -0.2),
    }[spread]
    wrong = 0
    for _ in range(400):
        # The bound never falls, so its last value is the highest of all looks.
        wrong += lower_bound(draw(300), -1.0, 1.0, alpha=0.1) > 0.0
    assert wrong <= 58  # 99.9 % quantile of Binomial(400, .1)


def test_a_fixed_sample_interval_would_fail_that_test():
    """Negative control: the usual one-sided t bound, looked at as often, errs far more."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        values = rng.choice([-1.0, 1.0], 300)
        looks = range(10, 301, 10)
        wrong += any(values[:k].mean() - 1.2816 * values[:k].std(ddof=1) / math.sqrt(k) > 0.0 for k in looks)
    assert wrong > 100


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    found = sum(lower_bound(rng.normal(0.1, 0.25, 200).clip(-1, 1), -1.0, 1.0, alpha=0.05) > 0.0 for _ in range(50))
    assert found >= 45


def test_nothing_flown_shows_nothing():
    assert lower_bound([], -1.0, 1.0, alpha=0.05) == -1.0
    assert upper_bound([], -1.0, 1.0, alpha=0.05) == 1.0


@pytest.mark.parametrize(
    ("values", "low", "high", "alpha"),
    [([2.0], -1, 1, 0.05), ([math.nan], -1, 1, 0.05), ([0.0], 1, -1, 0.05), ([0.0], -1, 1, 0.0), ([0.0], -1, 1, 1.0)],
)
def test_values_outside_the_limits_are_refused(values, low, high, alpha):
    with pytest.raises(ConfigError):
        lower_bound(values, low, high, alpha=alpha)
