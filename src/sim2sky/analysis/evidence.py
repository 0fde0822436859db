"""How much better a cause explains flights than no cause: the Gaussian algebra of it. numpy only.

Everything rests on two numbers per parameter set: the score (gradient of the log likelihood where nothing has changed)
and the information (minus its second derivative). A cause with parameters x ~ N(0, width^2) then has

    log Bayes factor = 1/2 s' (H + W)^-1 s - 1/2 log det(I + W^-1 H),    W = diag(1 / width^2)

which pays for every parameter it uses (Occam's factor), so that many small ones win only where a single one does not
do. MacKay, *Information Theory, Inference, and Learning Algorithms*, chapter 28.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evidence", "linear_evidence", "two_sample_p", "without_nuisances"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of one hypothesis.

    Attributes:
        log_bayes: natural logarithm of the Bayes factor against "nothing has changed".
        estimate, std: (p,) posterior mean and standard deviation of its parameters.
        gain: log likelihood at the estimate above that of no change.
    """

    log_bayes: float
    estimate: Array
    std: Array
    gain: float


def linear_evidence(score: Array, information: Array, columns: Sequence[int], width: Array) -> Evidence:
    """Evidence for the hypothesis that only these parameters differ.

    Args:
        score: (n,) of all parameters.
        information: (n, n).
        columns: which parameters the hypothesis frees.
        width: (p,) prior standard deviations, positive.
    """
    s, h = score[list(columns)], information[np.ix_(columns, columns)]
    # In units of the prior: I + D H D with D = diag(width) is well conditioned whatever the units are.
    a, b = np.eye(len(s)) + h * np.outer(width, width), s * width
    x = np.linalg.solve(a, b)
    std = np.sqrt(np.diag(np.linalg.inv(a))) * width
    estimate = x * width
    return Evidence(
        log_bayes=float(0.5 * b @ x - 0.5 * np.linalg.slogdet(a)[1]),
        estimate=estimate,
        std=std,
        gain=float(s @ estimate - 0.5 * estimate @ h @ estimate),
    )


def without_nuisances(
    score: Array, information: Array, nuisances: Sequence[int], precision: Array
) -> tuple[Array, Array]:
    """Score and information after integrating out parameters that differ from flight to flight anyway.

    Args:
        score: (n,). information: (n, n).
        nuisances: columns that are also free, in addition to any hypothesis, by a draw of their own.
        precision: (m,) 1 / variance of that draw.

    Returns:
        (n,) and (n, n); all columns stay, so that a hypothesis may still shift the mean of a nuisance.
    """
    block = information[np.ix_(nuisances, nuisances)] + np.diag(precision)
    gain = np.linalg.solve(block, information[nuisances])
    return score - gain.T @ score[nuisances], information - information[:, nuisances] @ gain


def two_sample_p(a: Array, b: Array, *, permutations: int = 999, seed: int = 0) -> float:
    """Level at which two groups of flights differ in any of their features: a permutation test of the largest |t|.

    Exact whatever the features' distribution, as long as flights are exchangeable where there is no difference.

    Args:
        a: (flights, features) of one group. b: of the other; at least two flights together in each.
        permutations: how many regroupings are drawn.
        seed: of the draw.

    Returns:
        p value, at least 1 / (permutations + 1).
    """
    rng = np.random.default_rng(seed)
    pooled, n = np.concatenate([a, b]), len(a)
    total, m = len(pooled), len(pooled) - n
    spread = pooled.std(axis=0)
    x = (pooled - pooled.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    member = np.zeros((permutations + 1, total))
    member[0, :n] = 1.0
    for row in member[1:]:
        row[rng.permutation(total)[:n]] = 1.0
    first = member @ x / n
    second = (x.sum(axis=0) - n * first) / m
    # Within-group variance from the total sum of squares: cheaper than forming every group.
    within = np.maximum((x**2).sum(axis=0) - n * first**2 - m * second**2, 1e-12) / max(total - 2, 1)
    t = np.abs(first - second) / np.sqrt(within * (1.0 / n + 1.0 / m))
    largest = t.max(axis=1)
    return float((largest >= largest[0] - 1e-12).mean())
