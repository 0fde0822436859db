"""Exact statistics against published and hand-checked numbers, and against their own definition by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ConfigError
from sim2sky.validation.statistics import (
    Sprt,
    clopper_pearson,
    failure_free_trials,
    needed_successes,
    samples_for_quantile,
    verdict,
)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k), straight from the definition."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def test_85_of_100_does_not_show_80_percent() -> None:
    assert clopper_pearson(85, 100, side="lower").low == pytest.approx(0.7785, abs=5e-5)
    assert verdict(85, 100, 0.80).outcome == "inconclusive"
    assert verdict(85, 100, 0.80, strict=False).outcome == "pass"


@pytest.mark.parametrize(
    ("n", "threshold", "k"), [(50, 0.8, 45), (100, 0.8, 87), (200, 0.8, 170), (50, 0.7, 41), (100, 0.7, 78)]
)
def test_fewest_successes_that_show_a_threshold(n: int, threshold: float, k: int) -> None:
    assert needed_successes(n, threshold) == k
    assert verdict(k, n, threshold).outcome == "pass"
    assert verdict(k - 1, n, threshold).outcome != "pass"


def test_too_few_trials_can_never_show_a_threshold() -> None:
    assert needed_successes(10, 0.9) is None
    assert needed_successes(13, 0.8) is None
    assert needed_successes(14, 0.8) == 14


@pytest.mark.parametrize(("p", "n"), [(0.90, 29), (0.95, 59), (0.99, 299), (0.999, 2995)])
def test_failure_free_trials_and_latency_samples(p: float, n: int) -> None:
    assert failure_free_trials(p) == n
    assert samples_for_quantile(p) == n
    assert needed_successes(n, p) == n
    assert needed_successes(n - 1, p) is None


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95, 0.99])
)
def test_bounds_meet_their_definition(counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    low = clopper_pearson(k, n, confidence=confidence, side="lower").low
    high = clopper_pearson(k, n, confidence=confidence, side="upper").high
    two = clopper_pearson(k, n, confidence=confidence)
    assert two.low <= low <= k / n <= high <= two.high
    if k > 0:  # at the lower bound, k or more successes have exactly the error probability
        assert binomial_tail(k, n, low) == pytest.approx(1 - confidence, abs=1e-9)
        assert binomial_tail(k, n, two.low) == pytest.approx((1 - confidence) / 2, abs=1e-9)
    if k < n:
        assert 1 - binomial_tail(k + 1, n, high) == pytest.approx(1 - confidence, abs=1e-9)


def test_ends_of_the_scale() -> None:
    assert clopper_pearson(0, 10).low == 0.0
    assert clopper_pearson(10, 10).high == 1.0
    assert clopper_pearson(10, 10, side="lower").low == pytest.approx(0.05**0.1)


def test_strict_verdict_has_three_answers() -> None:
    assert verdict(97, 100, 0.8).outcome == "pass"
    assert verdict(60, 100, 0.8).outcome == "fail"
    middle = verdict(80, 100, 0.8)
    assert middle.outcome == "inconclusive"
    assert middle.lower < 0.8 < middle.upper


def test_an_inconclusive_verdict_names_a_campaign_that_would_decide() -> None:
    up = verdict(85, 100, 0.8)
    assert up.trials_needed is not None
    assert up.trials_needed > 100
    assert verdict(round(0.85 * up.trials_needed), up.trials_needed, 0.8).outcome == "pass"
    assert str(up.trials_needed) in str(up)
    down = verdict(38, 50, 0.8)
    assert down.trials_needed is not None
    assert verdict(round(0.76 * down.trials_needed), down.trials_needed, 0.8).outcome == "fail"


def test_a_rate_on_the_threshold_is_never_decided() -> None:
    on = verdict(80, 100, 0.8)
    assert on.trials_needed is None
    assert "too close" in str(on)


@pytest.mark.parametrize("counts", [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="no count"):
        verdict(*counts, 0.8)


def test_sprt_boundaries() -> None:
    test = Sprt(0.70, 0.85)
    assert test.slope == pytest.approx(0.7812, abs=5e-5)
    assert test.accept_offset == pytest.approx(3.318, abs=5e-4)
    assert test.reject_offset == pytest.approx(-3.318, abs=5e-4)
    assert test.decide(20, 20) == "pass"
    assert test.decide(10, 20) == "fail"
    assert test.decide(16, 20) == "inconclusive"


@pytest.mark.parametrize(("p0", "p1", "mean_n"), [(0.70, 0.85, 46), (0.80, 0.95, 31)])
def test_sprt_keeps_its_error_rates_and_sample_sizes(p0: float, p1: float, mean_n: int) -> None:
    rng = np.random.default_rng(1)
    test = Sprt(p0, p1)

    def run(p: float) -> tuple[str, int]:
        successes = 0
        for n in range(1, 5000):
            successes += int(rng.random() < p)
            outcome = test.decide(successes, n)
            if outcome != "inconclusive":
                return outcome, n
        raise AssertionError("no decision")

    bad = [run(p0)[0] for _ in range(600)]
    good = [run(p1) for _ in range(600)]
    assert bad.count("pass") / 600 < 0.08
    assert sum(outcome == "fail" for outcome, _ in good) / 600 < 0.08
    assert np.mean([n for _, n in good]) == pytest.approx(mean_n, rel=0.12)


@pytest.mark.parametrize("arguments", [(0.8, 0.7), (0.0, 0.5), (0.5, 0.9, 0.6)])
def test_senseless_sequential_tests_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Sprt(*arguments)


def test_peeking_at_the_running_rate_is_why_campaigns_have_fixed_sizes() -> None:
    """Stopping at the first running rate >= .80 between 20 and 100 episodes passes a true .70 in about a third."""
    rng = np.random.default_rng(2)
    rates = np.cumsum(rng.random((2000, 100)) < 0.70, axis=1) / np.arange(1, 101)
    assert (rates[:, 19:] >= 0.80).any(axis=1).mean() == pytest.approx(0.32, abs=0.04)
