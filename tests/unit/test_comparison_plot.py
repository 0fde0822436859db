"""The specification's bar plot: heights, whiskers, and metrics that cannot be divided."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.analysis.comparison_plot import Bar, comparison_figure, comparison_png, plot_bars
from sim2sky.errors import FlightLogError

pytest.importorskip("matplotlib")
NAN = math.nan
BARS = [
    Bar("Success Rate", 0.8, 0.6, 0.4, 0.75),
    Bar("Tracking Error", 2.0, 3.0, 2.5, 3.6),
    Bar("Control Effort", 0.35, 0.35),
    Bar("Episode Length", 120.0, 60.0),
]


def axes(bars):
    return comparison_figure(bars).axes[0]


def heights(ax, label):
    container = next(c for c in ax.containers if c.get_label() == label)
    return [patch.get_height() for patch in container.patches]


def decode(data: bytes):
    from matplotlib.image import imread

    return imread(io.BytesIO(data), format="png")


def test_simulation_is_one_and_real_is_the_ratio():
    ax = axes(BARS)
    assert heights(ax, "Simulation") == [1.0] * 4
    assert heights(ax, "Real Hardware") == pytest.approx([0.75, 1.5, 1.0, 0.5])


def test_titles_labels_and_colours_are_the_specifications():
    from matplotlib.colors import to_hex

    ax = axes(BARS)
    assert ax.get_title() == "Simulation vs Real Hardware Performance"
    assert ax.get_ylabel() == "Normalized Performance"
    assert [t.get_text() for t in ax.get_xticklabels()] == [b.name for b in BARS]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Simulation", "Real Hardware"]
    assert [to_hex(c.patches[0].get_facecolor()) for c in ax.containers[:2]] == [to_hex("skyblue"), to_hex("coral")]


def test_whiskers_are_the_interval_in_units_of_simulation():
    whiskers = [line.get_ydata() for line in axes(BARS).lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(w, [0.5, 0.9375]) for w in whiskers)
    assert any(np.allclose(w, [1.25, 1.8]) for w in whiskers)
    assert sum(not np.allclose(w, 1.0) for w in whiskers) == 2, "only metrics with an interval have one"


@pytest.mark.parametrize(
    ("bar", "says"),
    [
        (Bar("Success Rate", 0.0, 0.3), "simulation is 0"),
        (Bar("Success Rate", NAN, 0.3), "no simulated value"),
        (Bar("Success Rate", math.inf, 0.3), "no simulated value"),
        (Bar("Success Rate", 0.5, NAN), "no real value"),
    ],
)
def test_a_metric_without_a_ratio_says_so_with_its_values(bar, says):
    ax = axes([bar, BARS[1]])
    notes = [t.get_text() for t in ax.texts]
    assert len(notes) == 1 and says in notes[0] and f"{bar.real:.3g}" in notes[0]
    assert heights(ax, "Real Hardware")[-1] == pytest.approx(1.5), "the others are drawn"


def test_nothing_can_be_divided_still_draws():
    assert decode(comparison_png([Bar(b.name, 0.0, b.real) for b in BARS])).shape == (900, 1500, 4)


number = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(number, number, number, number), max_size=5))
def test_any_numbers_draw_a_figure(rows):
    figure = comparison_figure([Bar(f"m{i}", *row) for i, row in enumerate(rows)])
    assert figure.axes[0].get_title()


def test_the_png_shows_both_colours():
    picture = decode(comparison_png(BARS))[..., :3]
    for colour in ((0.529, 0.808, 0.922), (1.0, 0.498, 0.314)):
        assert (np.abs(picture - colour).max(axis=2) < 0.02).mean() > 0.02


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "bars.png"
    plot_bars(BARS, path)
    assert decode(path.read_bytes()).std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["bars.png"]


def test_other_formats_by_suffix(tmp_path):
    plot_bars(BARS, tmp_path / "bars.svg")
    assert b"<svg" in (tmp_path / "bars.svg").read_bytes()


def test_an_unknown_format_is_misuse(tmp_path):
    with pytest.raises(FlightLogError, match="no picture format 'docx'") as caught:
        plot_bars(BARS, tmp_path / "bars.docx")
    assert caught.value.exit_code == 2 and "png" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FlightLogError, match="cannot write the plot") as caught:
        plot_bars(BARS, tmp_path / "no" / "bars.png")
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FlightLogError, match="cannot write the plot"):
            plot_bars(BARS, tmp_path / "bars.png")
    finally:
        tmp_path.chmod(0o700)


def test_without_a_path_a_window_is_asked_for(monkeypatch):
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf().axes[0].get_title()))
    plot_bars(BARS, None)
    assert shown == ["Simulation vs Real Hardware Performance"]
    assert not plt.get_fignums(), "closed again"


@pytest.mark.parametrize(("source", "said"), [("virtual", "Virtual Aircraft"), ("hil", "Hardware in the Loop")])
def test_what_is_not_real_hardware_is_not_called_so(source, said):
    (ax,) = comparison_figure([Bar("Success Rate", 0.8, 0.6)], source).axes
    words = [ax.get_title(), *(t.get_text() for t in ax.get_legend().get_texts())]
    assert words == [f"Simulation vs {said} Performance", "Simulation", said]
