"""The evidence algebra against the dense Gaussian integrals it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.analysis.evidence import linear_evidence, two_sample_p, without_nuisances

seeds = st.integers(0, 10_000)


def problem(seed, n=5, data=12):
    """Jacobian, residuals with unit noise, and their score and information."""
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(data, n)) * rng.uniform(0.2, 4.0, n)
    y = rng.normal(size=data) + jacobian @ rng.normal(size=n)
    return jacobian, y, jacobian.T @ y, jacobian.T @ jacobian


def log_density(y, covariance):
    sign, logdet = np.linalg.slogdet(covariance)
    assert sign > 0
    return -0.5 * (y @ np.linalg.solve(covariance, y) + logdet + len(y) * np.log(2 * np.pi))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, p=st.integers(1, 5))
def test_it_is_the_dense_marginal_likelihood(seed, p):
    jacobian, y, score, information = problem(seed)
    rng = np.random.default_rng(seed + 1)
    columns, width = rng.permutation(5)[:p].tolist(), rng.uniform(0.1, 3.0, p)
    j = jacobian[:, columns] * width
    dense = log_density(y, np.eye(len(y)) + j @ j.T) - log_density(y, np.eye(len(y)))
    assert linear_evidence(score, information, columns, width).log_bayes == pytest.approx(dense, rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, scale=st.floats(1e-4, 1e4))
def test_units_do_not_matter(seed, scale):
    _, _, score, information = problem(seed)
    d = np.ones(5)
    d[1] = scale
    width = np.array([0.5, 1.5])
    here = linear_evidence(score, information, [0, 1], width)
    there = linear_evidence(score * d, information * np.outer(d, d), [0, 1], width / d[:2])
    assert there.log_bayes == pytest.approx(here.log_bayes, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(there.estimate * d[:2], here.estimate, rtol=1e-6)
    np.testing.assert_allclose(there.std * d[:2], here.std, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_the_estimate_is_the_posterior_mean(seed):
    jacobian, y, score, information = problem(seed)
    width = np.full(5, 0.7)
    covariance = np.linalg.inv(jacobian.T @ jacobian + np.diag(width**-2.0))
    found = linear_evidence(score, information, range(5), width)
    np.testing.assert_allclose(found.estimate, covariance @ jacobian.T @ y, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.std, np.sqrt(np.diag(covariance)), rtol=1e-8)
    rest = y - jacobian @ found.estimate
    assert found.gain == pytest.approx(0.5 * (y @ y - rest @ rest), rel=1e-8, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_nuisances_are_integrated_out(seed):
    jacobian, y, score, information = problem(seed)
    nuisances, precision = [3, 4], np.array([2.0, 0.5])
    s, h = without_nuisances(score, information, nuisances, precision)
    n = jacobian[:, nuisances]
    noise = np.eye(len(y)) + n @ np.diag(1.0 / precision) @ n.T
    inverse = np.linalg.inv(noise)
    np.testing.assert_allclose(s, jacobian.T @ inverse @ y, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(h, jacobian.T @ inverse @ jacobian, rtol=1e-7, atol=1e-8)


def test_a_parameter_that_does_nothing_is_worth_nothing():
    found = linear_evidence(np.array([3.0, 0.0]), np.diag([4.0, 0.0]), [1], np.array([0.3]))
    assert found.log_bayes == pytest.approx(0.0)
    assert found.std[0] == pytest.approx(0.3)


def test_many_parameters_pay_for_what_one_explains_as_well():
    """Occam: the same direction in the data, once by one parameter, once by one of eight that are free."""
    rng = np.random.default_rng(3)
    jacobian = rng.normal(size=(200, 8))
    y = jacobian[:, 0] + rng.normal(size=200)
    score, information = jacobian.T @ y, jacobian.T @ jacobian
    one = linear_evidence(score, information, [0], np.array([1.0])).log_bayes
    eight = linear_evidence(score, information, range(8), np.ones(8)).log_bayes
    assert one > eight + 5.0


# Whether anything differs ---------------------------------------------------------------------------------------------


def test_its_level_is_what_it_says_where_nothing_differs():
    """Heavy tails, correlated features, 10 against 6 flights: 5 % of 400, plus four standard deviations."""
    false = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(12, 12))
        x = rng.standard_t(3, size=(16, 12)) @ mix
        false += two_sample_p(x[:10], x[10:], permutations=199, seed=seed) <= 0.05
    assert 4 <= false <= 20 + 4 * (400 * 0.05 * 0.95) ** 0.5


def test_one_shifted_feature_among_many_is_seen():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(15, 60)), rng.normal(size=(10, 60))
    assert two_sample_p(a, b) > 0.05
    b[:, 41] += 3.0
    assert two_sample_p(a, b) < 0.01


@settings(max_examples=20, deadline=None)
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_the_test_does_not_care_about_units_either(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=(6, 5))
    factor = np.array([1.0, scale, 1.0, 1.0, 1.0])
    same = two_sample_p(a * factor + 7.0, b * factor + 7.0, permutations=99)
    assert two_sample_p(a, b, permutations=99) == pytest.approx(same, abs=0.021)


def test_a_feature_that_never_changes_decides_nothing():
    a, b = np.ones((8, 1)), np.ones((8, 1))
    assert two_sample_p(a, b) == 1.0
