"""Comparisons of two groups against published numbers, their own definition, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim2sky.errors import ConfigError
from sim2sky.validation.two_sample import LogSample, fisher_lower, holm, newcombe, share_ratio, welch_log_ratio

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # Newcombe 1998, table II, method 10: (a) 56/70 - 48/80, (b) 9/10 - 3/10, (c) 6/7 - 2/7
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((2, 7), (6, 7), 0.0582, 0.8062),
    ],
)
def test_published_intervals(first, second, low: float, high: float) -> None:
    effect = newcombe(*first, *second)
    assert (effect.low, effect.high) == pytest.approx((low, high), abs=6e-5)


def test_all_successes_on_both_sides_leave_room_for_a_loss() -> None:
    effect = newcombe(100, 100, 10, 10)
    assert effect.estimate == 0.0
    assert effect.low == pytest.approx(-(1 - 0.025 ** (1 / 10)), abs=1e-6)  # exact limit of 10 of 10
    assert newcombe(100, 100, 16, 16).low < -0.20 < newcombe(100, 100, 17, 17).low


@given(counts, counts)
def test_interval_holds_the_estimate_and_mirrors(a: tuple[int, int], b: tuple[int, int]) -> None:
    effect, mirrored = newcombe(*a, *b), newcombe(*b, *a)
    assert -1.0 <= effect.low <= effect.estimate <= effect.high <= 1.0
    assert effect.low == pytest.approx(-mirrored.high, abs=1e-12)
    assert effect.p_lower == pytest.approx(mirrored.p_higher, rel=1e-6)


@given(counts, counts)
def test_evidence_is_fishers(a: tuple[int, int], b: tuple[int, int]) -> None:
    table = [[b[0], b[1] - b[0]], [a[0], a[1] - a[0]]]
    assert fisher_lower(*a, *b) == pytest.approx(stats.fisher_exact(table, alternative="less").pvalue, abs=1e-9)
    effect = newcombe(*a, *b)
    assert effect.p_higher == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, abs=1e-9)


@pytest.mark.parametrize(("n1", "n2"), [(200, 5), (100, 10), (20, 20)])
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_no_rate_makes_evidence_too_frequent(n1: int, n2: int, level: float) -> None:
    """Exactly, over all outcomes; the score test fails this by a factor of six at (200, 5)."""
    p = np.array([[fisher_lower(a, n1, b, n2) for b in range(n2 + 1)] for a in range(n1 + 1)])
    for rate in (0.3, 0.7, 0.9, 0.96, 0.98, 0.995):
        chance = np.outer(stats.binom.pmf(np.arange(n1 + 1), n1, rate), stats.binom.pmf(np.arange(n2 + 1), n2, rate))
        assert chance[p <= level].sum() <= level


@given(counts, counts)
def test_share_ratio_is_the_ratio_of_proportions(a: tuple[int, int], b: tuple[int, int]) -> None:
    effect = share_ratio(*a, *b, full=(a[0], b[0]))
    if a[0] > 0:
        assert effect.estimate == pytest.approx(b[0] / b[1] / (a[0] / a[1]))
        assert 0.0 <= effect.low <= effect.estimate <= effect.high
    assert 0.0 <= effect.p_lower <= 1.0


def test_shares_of_all_full_flights_leave_room_for_a_shorter_one() -> None:
    effect = share_ratio(200, 200, 5, 5, full=(200, 5))
    assert effect.estimate == 1.0
    assert effect.low == pytest.approx(0.025 ** (1 / 5), abs=1e-6)
    assert 1.0 < effect.high < 1.05


def test_share_ratio_to_nothing() -> None:
    assert share_ratio(0, 10, 0, 10, full=(0, 0)).estimate == 1.0
    assert share_ratio(0, 10, 5, 10, full=(0, 5)).estimate == math.inf
    assert share_ratio(10, 10, 0, 10, full=(10, 0)).low == 0.0
    assert share_ratio(10, 10, 0, 10, full=(10, 0)).p_lower < 1e-5


def test_welch_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = np.exp(rng.normal(0.0, 0.3, 19)), np.exp(rng.normal(0.2, 0.6, 7))  # too few to moderate
    effect = welch_log_ratio(LogSample.of(a.tolist()), LogSample.of(b.tolist()))
    test = stats.ttest_ind(np.log(b), np.log(a), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (effect.low, effect.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-9)
    greater = stats.ttest_ind(np.log(b), np.log(a), equal_var=False, alternative="greater").pvalue
    assert effect.p_higher == pytest.approx(greater, rel=1e-9)
    assert effect.p_lower + effect.p_higher == pytest.approx(1.0)


def test_a_large_group_moderates_a_small_ones_scatter() -> None:
    """Three flights that happen to be alike: their variance is taken for 2 x 0 + 2 x 0.09 over 4."""
    rng = np.random.default_rng(4)
    logs = rng.standard_normal(400)
    a = np.exp(0.3 * (logs - logs.mean()) / logs.std(ddof=1))
    effect = welch_log_ratio(LogSample.of(a.tolist()), LogSample.of([1.1, 1.1, 1.1]))
    error = math.sqrt(0.09 / 400 + 0.045 / 3)
    freedom = error**4 / ((0.09 / 400) ** 2 / 399 + (0.045 / 3) ** 2 / 4)
    assert effect.low == pytest.approx(1.1 * math.exp(-stats.t.ppf(0.975, freedom) * error), rel=1e-6)
    plain = welch_log_ratio(LogSample.of(a[:19].tolist()), LogSample.of([1.1, 1.1, 1.1]))
    assert plain.high / plain.low < effect.high / effect.low


@pytest.mark.parametrize("n", [5, 20])
def test_ratio_covers_although_the_values_are_skewed(n: int) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(800):
        sim, real = (np.exp(0.1 * rng.gamma(1.5, size=k)) for k in (100, n))
        effect = welch_log_ratio(LogSample.of(sim.tolist()), LogSample.of(real.tolist()))
        held += effect.low <= 1.0 <= effect.high
    assert 0.925 <= held / 800 <= 0.985


@given(st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_ratio_does_not_depend_on_the_unit(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = np.exp(rng.normal(size=5)), np.exp(rng.normal(size=4))
    one = welch_log_ratio(LogSample.of(a.tolist()), LogSample.of(b.tolist()))
    two = welch_log_ratio(LogSample.of((a * factor).tolist()), LogSample.of((b * factor).tolist()))
    assert (one.estimate, one.low, one.high) == pytest.approx((two.estimate, two.low, two.high), rel=1e-6)


def test_one_flight_says_nothing_about_scatter() -> None:
    effect = welch_log_ratio(LogSample.of([1.0, 1.1, 0.9]), LogSample.of([5.0]))
    assert (effect.low, effect.high, effect.p_higher) == (0.0, math.inf, 1.0)
    assert effect.estimate == pytest.approx(5.0, rel=0.01)


def test_flights_without_any_scatter() -> None:
    same = welch_log_ratio(LogSample.of([2.0, 2.0]), LogSample.of([2.0, 2.0]))
    assert (same.estimate, same.low, same.high) == (1.0, 1.0, 1.0)
    assert same.p_higher == same.p_lower == 1.0
    worse = welch_log_ratio(LogSample.of([2.0, 2.0]), LogSample.of([3.0, 3.0]))
    assert worse.low == worse.high == pytest.approx(1.5)
    assert worse.p_higher == 0.0 and worse.p_lower == 1.0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_logarithm_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError):
        LogSample.of([1.0, bad])


@pytest.mark.parametrize("bad", [(3, 2, 1, 2), (-1, 2, 1, 2), (0, 0, 1, 2)])
def test_impossible_counts_are_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError):
        newcombe(*bad)
    with pytest.raises(ConfigError):
        share_ratio(*bad, full=(0, 0))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0.0, 1.0), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@pytest.mark.parametrize(("p1", "p2"), [(0.5, 0.5), (0.85, 0.85), (0.9, 0.6)])
def test_newcombe_covers(p1: float, p2: float) -> None:
    rng = np.random.default_rng(5)
    pairs = [newcombe(int(rng.binomial(100, p1)), 100, int(rng.binomial(20, p2)), 20) for _ in range(1500)]
    assert 0.93 <= np.mean([e.low <= p2 - p1 <= e.high for e in pairs]) <= 0.985
