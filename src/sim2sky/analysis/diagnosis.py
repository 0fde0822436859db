"""What a comparison says in words: the specification's texts where they apply, and what is missing for a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim2sky.analysis.comparison import GapVerdict, MetricComparison

__all__ = ["ACCEPTABLE", "by_evidence", "by_points"]

ACCEPTABLE = "✓ Sim-to-real gap is acceptable (<20% on all metrics)"

_TEXTS: dict[str, tuple[str, float, str]] = {
    # of the specification: metric, key of compute_gap_metrics, threshold, text
    "success": (
        "success_rate_diff",
        -0.15,
        (
            "Warning: Large success rate gap detected. Consider:\n"
            "  - Increase domain randomization in simulation\n"
            "  - Add actuator delay modeling\n"
            "  - Increase sensor noise in training"
        ),
    ),
    "tracking_error": (
        "tracking_error_ratio",
        1.5,
        (
            "Warning: Tracking error much higher on real hardware. Consider:\n"
            "  - Improve state estimation (tune EKF)\n"
            "  - Add latency compensation\n"
            "  - Retune controller gains"
        ),
    ),
    "control_effort": (
        "control_effort_ratio",
        1.3,
        (
            "Warning: Higher control effort on real hardware. Consider:\n"
            "  - Increase control smoothing\n"
            "  - Add rate limits on control changes\n"
            "  - Check for measurement noise issues"
        ),
    ),
    "episode_length": (
        "episode_length_ratio",
        0.7,
        (
            "Warning: Episodes terminating early on real hardware. Consider:\n"
            "  - Review safety limits (may be too strict)\n"
            "  - Check for sensor failures\n"
            "  - Validate hardware calibration"
        ),
    ),
}


def _crossed(name: str, points: Mapping[str, float]) -> bool:
    key, threshold, _ = _TEXTS[name]
    return points[key] > threshold if threshold > 1.0 else points[key] < threshold


def by_points(points: Mapping[str, float]) -> list[str]:
    """The specification's rule, to the letter."""
    return [text for name, (_, _, text) in _TEXTS.items() if _crossed(name, points)] or [ACCEPTABLE]


def by_evidence(
    verdict: GapVerdict,
    metrics: Sequence[MetricComparison],
    points: Mapping[str, float],
    more: int | None,
    more_sim: int | None,
) -> list[str]:
    primary = [c for c in metrics if c.metric.primary]
    texts = [_TEXTS[c.metric.name][2] for c in primary if c.evident and _crossed(c.metric.name, points)]
    for c in primary:
        if c.finding == "gap" and not _crossed(c.metric.name, points):
            how = f"{c.estimate:+.2f}" if c.is_difference else f"{c.estimate:.2f} times the simulated"
            texts.append(
                f"Warning: {c.metric.label} evidently worse ({how}, interval {c.low:.2f} to {c.high:.2f}), though not "
                f"beyond the specification's {_TEXTS[c.metric.name][1]:g}."
            )
    if verdict == "no gap":
        texts.append(ACCEPTABLE)
    elif verdict == "not enough flights":
        texts += [f"Cannot tell: {c.reason}." for c in primary if c.finding == "missing"]
        undecided = [c.metric.label for c in primary if c.finding == "undecided"]
        if undecided:
            texts.append(f"Not enough flights to tell: {', '.join(undecided)}. {_more(more, more_sim)}")
    return texts


def _more(more: int | None, more_sim: int | None) -> str:
    if more is None or more_sim is None:
        return "No number of further flights would decide at these rates and this scatter."
    parts = [f"{more} more flight{'s' if more != 1 else ''}"] if more else []
    parts += [f"{more_sim} more simulated one{'s' if more_sim != 1 else ''}"] if more_sim else []
    return f"{' and '.join(parts)} would decide, if rates, means and scatter stay as they are."
