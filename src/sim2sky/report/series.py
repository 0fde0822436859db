"""Long series made small enough for a page without hiding anything: extremes stay, gaps stay gaps."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BUCKETS", "envelope", "packed", "runs", "spectrum"]

BUCKETS = 500
"""Of a drawn series: each gives its lowest and its highest value, about one pixel wide."""

Floats = NDArray[np.float64]


def envelope(x: Floats, y: Floats, buckets: int = BUCKETS) -> tuple[Floats, Floats]:
    """Lowest and highest value of every bucket, at their own times and in their order.

    Args:
        x: (n,) times, ascending.
        y: (n,) values; NaN where unknown.
        buckets: at most twice as many points come back; a series that is no longer is returned as it is.

    Returns:
        x and y, (m,); a bucket that holds a NaN ends in one, so that a gap is drawn as a gap.
    """
    n = len(x)
    if n <= 2 * buckets:
        return x, y
    edges = np.linspace(0, n, buckets + 1).astype(int)
    known = np.isfinite(y)
    starts, counts = edges[:-1], np.add.reduceat(known, edges[:-1])
    points: list[Floats] = []
    for start, end, count in zip(starts, edges[1:], counts, strict=True):
        picked: list[int] = []
        if count:
            part = y[start:end]
            picked = sorted({start + int(np.nanargmin(part)), start + int(np.nanargmax(part))})
        rows = np.column_stack([x[picked], y[picked]])
        points.append(rows)
        if count < end - start:
            unknown = int(np.flatnonzero(~known[start:end])[-1]) + start
            points.append(np.array([[x[unknown], np.nan]]))
    both = np.concatenate(points)
    both = both[np.argsort(both[:, 0], kind="stable")]
    return both[:, 0], both[:, 1]


def packed(values: ArrayLike) -> dict[str, str]:
    """Numbers as plotly's binary form: float32, little-endian, base64; a third of the same in digits, and knows NaN."""
    array = np.ascontiguousarray(values, dtype="<f4")
    return {"dtype": "f4", "bdata": base64.b64encode(array.tobytes()).decode()}


def runs(flag: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past last index of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flag, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def spectrum(series: Iterable[Floats], rate_hz: float, seconds: float = 6.4) -> tuple[Floats, Floats]:
    """Power spectral density, averaged over all unbroken stretches (Welch 1967; Hann window, half overlapping).

    Args:
        series: one per flight, (n,), NaN where unknown; stretches shorter than the window are left out.
        rate_hz: of the samples.
        seconds: length of the window.

    Returns:
        Frequencies in Hz without 0 and half the rate (where a bin is only half a one), and density in unit^2/Hz; both
        empty where no stretch is long enough.
    """
    from scipy.signal import welch

    window = max(round(seconds * rate_hz), 8)
    total, weight = np.zeros(window // 2 + 1), 0.0
    frequencies = np.linspace(0.0, rate_hz * (window // 2) / window, window // 2 + 1, dtype=np.float64)
    for values in series:
        for start, end in runs(np.isfinite(values)):
            if end - start >= window:
                density = welch(values[start:end], rate_hz, nperseg=window, detrend="constant")[1]
                total += density * (end - start)
                weight += end - start
    if not weight:
        return np.empty(0), np.empty(0)
    return frequencies[1:-1], (total / weight)[1:-1]
