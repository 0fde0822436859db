"""Channels of many rates onto one clock. Nothing is invented: a gap stays a gap."""

from __future__ import annotations

import numpy as np

from sim2sky.telemetry.importers.channels import ANGLES, Channel, Method
from sim2sky.telemetry.importers.topics import FloatArray

__all__ = ["DESCRIPTION", "GAP_PERIODS", "resample"]

GAP_PERIODS = 5.0
"""A pause longer than so many median periods of a channel is a gap: NaN, never bridged."""

DESCRIPTION = {
    Method.LINEAR.value: "mean over one tick where logged at twice the rate or more, else linear between neighbours",
    Method.ANGLE.value: "the same on the unwrapped angle, wrapped to (-pi, pi]",
    Method.HOLD.value: "the last value at or before the tick",
    Method.STATE.value: "the last value at or before the tick, however long ago",
    "gap": f"NaN where neighbours are further apart than {GAP_PERIODS:g} median periods (at least one tick)",
}
"""What is written into the log's config."""


def resample(channel: Channel, ticks_s: FloatArray) -> FloatArray:
    """Values of a channel at evenly spaced ticks.

    Continuous signals: where the channel has at least two samples per tick, the mean of those within half a tick on
    either side (a moving average, whose first zero is at the new sampling rate: no delay, aliases damped); otherwise
    linear interpolation. Commands and setpoints: the last value at or before the tick. Switches and modes: the same,
    for as long as nothing else is logged.

    Args:
        channel: what to resample.
        ticks_s: (m,) evenly spaced, in the channel's clock.

    Returns:
        (m,); NaN in gaps, before the first sample and after the last.
    """
    t, v = channel.time_s, channel.values
    result = np.full(len(ticks_s), np.nan)
    if len(t) == 0 or len(ticks_s) == 0:
        return result
    tick = float(ticks_s[1] - ticks_s[0]) if len(ticks_s) > 1 else 0.0
    before = np.searchsorted(t, ticks_s + 1e-9, side="right") - 1
    seen = before >= 0
    if channel.method is Method.STATE:
        result[seen] = v[before[seen]]
        return result
    period = float(np.median(np.diff(t))) if len(t) > 1 else 0.0
    longest = max(GAP_PERIODS * period, tick) + 1e-9
    if channel.method is Method.HOLD:
        fresh = seen & (ticks_s - t[np.maximum(before, 0)] <= longest)
        result[fresh] = v[before[fresh]]
        return _wrapped(result) if channel.name in ANGLES else result
    angle = channel.method is Method.ANGLE
    values = np.unwrap(v) if angle else v
    after = np.minimum(before + 1, len(t) - 1)
    inside = seen & ((before < len(t) - 1) | (ticks_s - t[-1] <= 1e-9))
    i, j = np.maximum(before, 0), after
    inside &= (t[j] - t[i]) <= longest
    span = np.where(t[j] > t[i], t[j] - t[i], 1.0)
    linear = values[i] + (values[j] - values[i]) * np.clip((ticks_s - t[i]) / span, 0.0, 1.0)
    result[inside] = linear[inside]
    if period > 0.0 and tick >= 2.0 * period * (1.0 - 1e-6):
        sums = np.concatenate([[0.0], np.cumsum(values - values[0])])
        low = np.searchsorted(t, ticks_s - 0.5 * tick, side="left")
        high = np.searchsorted(t, ticks_s + 0.5 * tick, side="left")
        several = inside & (high - low > 1)
        count = np.maximum(high - low, 1)
        # Samples of one side only would give the mean of another moment.
        centre = _mean(t - t[0], low, high, count) + t[0]
        several &= np.abs(centre - ticks_s) <= 0.55 * period
        result[several] = ((sums[high] - sums[low]) / count + values[0])[several]
    return _wrapped(result) if angle else result


def _mean(x: FloatArray, low: np.ndarray, high: np.ndarray, count: np.ndarray) -> FloatArray:
    sums = np.concatenate([[0.0], np.cumsum(x)])
    return (sums[high] - sums[low]) / count


def _wrapped(angle: FloatArray) -> FloatArray:
    return np.pi - np.mod(np.pi - angle, 2.0 * np.pi)
