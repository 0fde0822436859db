"""The specification's bar plot: what was measured in flight against simulation, in units of the simulated value.

matplotlib is imported when a plot is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim2sky.errors import FlightLogError, MissingExtraError
from sim2sky.telemetry.log_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim2sky.analysis.comparison import MetricComparison
    from sim2sky.analysis.gap_analysis import PerformanceMetrics

__all__ = ["Bar", "bars_of", "comparison_figure", "comparison_png", "plot_bars"]

WIDTH = 0.35
DPI = 150
FLOWN = {
    "real": "Real Hardware",
    "virtual": "Virtual Aircraft",
    "hil": "Hardware in the Loop",
    "sim": "Other Simulation",
}


@dataclass(frozen=True)
class Bar:
    """One metric of the plot.

    Attributes:
        name: label below the pair of bars.
        sim, real: the metric in its own unit; NaN where it could not be computed.
        low, high: interval of `real`, in the same unit; NaN where there is none.
    """

    name: str
    sim: float
    real: float
    low: float = math.nan
    high: float = math.nan

    @property
    def why_no_ratio(self) -> str:
        """Why nothing can be divided by the simulated value; empty where it can."""
        if not math.isfinite(self.sim):
            return "no simulated value"
        if self.sim == 0.0:
            return "simulation is 0"
        return ""


def bars_of(sim: PerformanceMetrics, real: PerformanceMetrics, compared: Iterable[MetricComparison] = ()) -> list[Bar]:
    """The specification's four metrics in its order, with the intervals of those that were compared."""
    found = {c.metric.name: c for c in compared}
    values = {
        "success": ("Success Rate", sim.success_rate, real.success_rate),
        "tracking_error": ("Tracking Error", sim.mean_tracking_error, real.mean_tracking_error),
        "control_effort": ("Control Effort", sim.mean_control_effort, real.mean_control_effort),
        "episode_length": ("Episode Length", sim.episode_length, real.episode_length),
    }
    bars: list[Bar] = []
    for name, (label, a, b) in values.items():
        if (c := found.get(name)) is None:
            bars.append(Bar(label, a, b))
        elif c.is_difference:
            bars.append(Bar(label, a, b, a + c.low, a + c.high))
        else:
            bars.append(Bar(label, a, b, a * c.low, a * c.high))
    return bars


def comparison_figure(bars: Sequence[Bar], source: str = "real") -> Figure:
    """Pairs of bars, simulation = 1, with the interval of the real value as a whisker.

    A metric that cannot be divided by its simulated value has no bars, but says so with its values.

    Args:
        bars: to draw.
        source: of the flights; what is not real hardware is not called so.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "analysis") from error
    figure = Figure(figsize=(10, 6))
    ax = figure.add_subplot()
    _draw(ax, bars, source)
    figure.tight_layout()
    return figure


def comparison_png(bars: Sequence[Bar], source: str = "real") -> bytes:
    """The figure as a PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import io

    buffer = io.BytesIO()
    comparison_figure(bars, source).savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def plot_bars(bars: Sequence[Bar], save_path: Path | None, source: str = "real") -> None:
    """Write the figure to a file of any kind matplotlib knows by its suffix; without a path, show it in a window.

    Raises:
        FlightLogError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if save_path is None:
        _show(bars, source)
        return
    figure = comparison_figure(bars, source)
    kind = save_path.suffix.removeprefix(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise FlightLogError(
            f"cannot write the plot {save_path}: no picture format '{kind}'",
            hint=f"formats: {', '.join(sorted(known))}",
            misuse=True,
        )
    try:
        with replacing(save_path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI)
    except OSError as error:
        raise FlightLogError(
            f"cannot write the plot {save_path}: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable",
            misuse=True,
        ) from error


def _show(bars: Sequence[Bar], source: str) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("matplotlib", "analysis") from error
    figure, ax = plt.subplots(figsize=(10, 6))
    _draw(ax, bars, source)
    figure.tight_layout()
    plt.show()
    plt.close(figure)


def _draw(ax: Axes, bars: Sequence[Bar], source: str) -> None:
    flown = FLOWN.get(source, "Flights")
    drawn = [(x, bar) for x, bar in enumerate(bars) if not bar.why_no_ratio]
    left, right = [x - WIDTH / 2 for x, _ in drawn], [x + WIDTH / 2 for x, _ in drawn]
    ax.bar(left, [1.0] * len(drawn), WIDTH, label="Simulation", color="skyblue")
    ax.bar(
        right,
        [bar.real / bar.sim if math.isfinite(bar.real) else 0.0 for _, bar in drawn],
        WIDTH,
        label=flown,
        color="coral",
    )
    for x, (_, bar) in zip(right, drawn, strict=True):
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            low, high = sorted((bar.low / bar.sim, bar.high / bar.sim))
            ax.plot([x, x], [low, high], color="black", linewidth=1.2, marker="_", markersize=10)
    for x, bar in enumerate(bars):
        if note := bar.why_no_ratio or ("" if math.isfinite(bar.real) else "no real value"):
            text = f"{note}\n(sim {bar.sim:.3g}, real {bar.real:.3g})"
            ax.annotate(text, (x, 0.02), ha="center", va="bottom", fontsize=9, style="italic")
    ax.set_ylabel("Normalized Performance")
    ax.set_title(f"Simulation vs {flown} Performance")
    ax.set_xticks(range(len(bars)))
    ax.set_xticklabels([bar.name for bar in bars])
    ax.set_xlim(-0.6, max(len(bars), 1) - 0.4)
    if drawn:
        ax.legend()
    ax.grid(axis="y", alpha=0.3)
    ax.axhline(1.0, color="black", linestyle="--", alpha=0.5)
