"""Reports in a real browser without a network: drawn, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from tests.browser_support import browser, needs_chromium

from sim2sky.outputs import write_whole
from sim2sky.report.figures import Interval, Line, Marks, Moment, Panel, Stretch, interval_plot, panels, ranking
from sim2sky.report.page import Fact, Grid, Page, Plot, Section, Table, Text, Verdict, to_html

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytestmark = needs_chromium
DRAWN = "[...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelector('.trace path')).length"
OWNED = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"


def flight(name: str, color: str):
    t = np.arange(12_000) / 20.0
    rng = np.random.default_rng(5)
    items = [
        Panel(title, [Line("measured", t, np.sin(t / 9.0) + rng.normal(0, 0.1, t.size), color),
                      Line("setpoint", t, np.sign(np.sin(t / 9.0)), "--setpoint", "dash")])
        for title in ("altitude [m]", "airspeed [m/s]", "heading [deg]")
    ]  # fmt: skip
    marks = Marks([Moment(200.0, "1")], [Stretch(300.0, 330.0)])
    return panels(name, items, x_title="time [s]", alt="a flight", marks=marks)


def page(agent: str = "hawk") -> Page:
    forest = interval_plot(
        "forest", [Interval(f"{agent} rate", -10.0, -24.0, 5.0, "--bad", (-15.0,))], x_title="change [%]",
        alt=f"intervals of {agent}", band=(-20.0, 20.0),
    )  # fmt: skip
    table = Table(
        "files", ["file", "sha256", "verdict"], [[f"{agent}/a-long-file-name.h5", "0123456789abcdef" * 4, "gap"]], (),
        (1,), ("bad",),
    )  # fmt: skip
    return Page(
        f"Sim-to-real gap: {agent}",
        "ultrastick25e",
        Verdict("gap", "bad", "Tracking error in flight is 42 % above simulation.", "RETRAIN", "because"),
        [Fact("flights", "50", "virtual"), Fact("success", "0.87 → 0.72")],
        [
            Section("intervals", "Intervals", "lead", [Plot(forest), table, Text("Warning\n  - this", "bad")]),
            Section(
                "time", "Flights", "lead", [Grid([("sim", flight("a", "--sim")), ("real", flight("b", "--real"))])]
            ),
            Section("rank", "Ranking", "lead", [Plot(ranking("rank", ["a"], [0.5], x_title="x", alt="ranks"))]),
        ],
        ["VIRTUAL AIRCRAFT"],
        ["made by a test"],
    )


def colours(png: bytes) -> np.ndarray:
    image = pytest.importorskip("matplotlib.image")
    return image.imread(io.BytesIO(png), format="png")[..., :3]


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "gap.html"
    write_whole(path, to_html(page()))
    return path


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)], ids=["desktop", "phone"])
def test_everything_is_drawn_and_nothing_sticks_out(tab, written, tmp_path, width, phone):
    tab.open(written, width=width, height=844, phone=phone)
    assert tab.ask("document.getElementById('verdict').innerText").split("\n")[2].lower() == "gap"
    assert tab.ask(DRAWN) == len(page().figures) == 4
    assert tab.ask("document.documentElement.scrollWidth") <= width
    top = tab.ask("document.getElementById('verdict-word').getBoundingClientRect().bottom")
    assert top < 400, "the verdict comes first"
    picture = colours(tab.photograph(tmp_path / "window.png"))
    assert picture.std() > 0.05
    assert not tab.complaints


def test_no_request_leaves_the_page(tab, written):
    tab.open(written, width=1280, height=900)
    assert tab.requested[0].startswith("file:")
    assert all(address.startswith(("data:", "blob:")) for address in tab.requested[1:]), tab.requested


def test_a_page_that_would_load_something_is_caught(tab, tmp_path):
    """Negative control: the browser's policy refuses it and the test's eyes see it, also without the policy."""
    leaking = to_html(page()).replace("</main>", '<img src="http://127.0.0.1:9/pixel.png"></main>')
    write_whole(tmp_path / "refused.html", leaking)
    tab.open(tmp_path / "refused.html", width=800, height=600)
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    write_whole(tmp_path / "open.html", leaking.replace("Content-Security-Policy", "Nothing"))
    tab.open(tmp_path / "open.html", width=800, height=600)
    assert any(address.startswith("http://127.0.0.1:9/pixel") for address in tab.requested)


def test_a_hostile_agent_name_does_not_run(tab, tmp_path):
    write_whole(tmp_path / "hostile.html", to_html(page(OWNED)))
    tab.open(tmp_path / "hostile.html", width=800, height=600)
    assert tab.ask("document.title").startswith("Sim-to-real gap: <script>")
    assert tab.ask("document.querySelector('h1').textContent") == f"Sim-to-real gap: {OWNED}"
    assert tab.ask("document.querySelectorAll('img').length") == 0
    assert not tab.complaints


def test_a_script_that_slipped_in_would_not_run_either(tab, tmp_path):
    """Negative control for the policy: escaping is not the only thing that stands in the way."""
    broken = to_html(page()).replace("made by a test", "<script>document.title = 'owned'</script>")
    write_whole(tmp_path / "broken.html", broken)
    tab.open(tmp_path / "broken.html", width=800, height=600)
    assert tab.ask("document.title") != "owned"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_in_the_dark_the_page_and_its_plots_are_dark(tab, written, tmp_path):
    seen = {}
    for dark in (False, True):
        tab.open(written, width=1280, height=900, dark=dark)
        seen[dark] = (
            colours(tab.photograph(tmp_path / f"{dark}.png")).mean(),
            tab.ask("getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"),
        )
    assert seen[False][0] > 0.8 and seen[True][0] < 0.3
    assert seen[False][1] != seen[True][1], "the plots' text changes with the page"


def test_on_paper_it_is_light_and_complete(tab, written):
    tab.open(written, width=1280, height=900, dark=True)
    pdf = tab.print()
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    assert tab.ask("document.documentElement.hasAttribute('data-print')") is False, "and the screen is as it was"


def test_no_table_is_cut_off_on_paper(tab, written):
    tab.open(written, width=760, height=900)
    tab.media("print")
    cut = "[...document.querySelectorAll('.wide')].filter(d => d.scrollWidth > d.clientWidth + 1).length"
    assert tab.ask(cut) == 0
    tab.media("screen")


def test_a_finger_scrolls_the_page_over_a_plot(tab, written):
    tab.open(written, width=390, height=844, phone=True)
    layout = "document.querySelector('.js-plotly-plot').layout"
    assert tab.ask(f"{layout}.dragmode") is False and tab.ask(f"{layout}.xaxis.fixedrange") is True
