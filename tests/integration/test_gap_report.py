"""`sim2sky gap --report`: from two logs to a page that shows what was found, in a real browser."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.browser_support import browser, needs_chromium
from tests.flight_support import make_bundle
from tests.gap_support import RATE_HZ, Synthetic, spread, write_log
from tests.report_support import text_of

from sim2sky import cli
from sim2sky.analysis.attribution import attribute
from sim2sky.analysis.events import FlightEvent
from sim2sky.analysis.flights import load_flights
from sim2sky.analysis.shift import BandRatio, ShiftReport, SignalShift, TimingShift
from sim2sky.analysis.sim_to_real_gap import SimToRealGapAnalyzer
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.hidden_aircraft import nominal_aircraft, single_cause
from sim2sky.errors import ConfigError
from sim2sky.report.gap_report import gap_page, write_gap_report
from sim2sky.report.html import number
from sim2sky.report.page import Grid, Page, Table, to_html
from sim2sky.report.refused import Refused, or_refused
from sim2sky.report.replay_section import replays
from sim2sky.telemetry.log_schema import COLUMNS
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.simulate import simulate

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("matplotlib")
ARTIFACTS = Path(__file__).resolve().parents[2] / "build" / "artifacts"
DRAWN = "[...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelector('.trace path')).length"
CONFIG = {"vehicle": "ultrastick25e", "task": {"name": "hsa", "duration_s": 20.0, "hold_s": 5.0}}


def flown(seed: int, error: float, *, duration_s: float = 20.0):
    """A flight with motion in it: oscillating around its setpoint, guarded for a while, across north."""
    rng = np.random.default_rng(seed)
    f = Synthetic(error=error * math.exp(0.1 * rng.standard_normal()), seed=seed, duration_s=duration_s)
    arrays = dict(f.arrays())
    columns, t = COLUMNS["states"], arrays["time_s"]
    states = arrays["states"]
    for name, size in (("altitude", 0.6), ("airspeed", 0.1), ("roll", 0.2), ("pitch", 0.05), ("p", 0.3), ("q", 0.2)):
        states[:, columns.index(name)] += size * np.sin(2 * np.pi * 0.4 * t + seed) + 0.1 * rng.normal(size=t.size)
    yaw = columns.index("yaw")
    states[:, yaw] = np.mod(states[:, yaw] + 0.03 * np.sin(t) + np.pi, 2 * np.pi) - np.pi
    arrays["controls"] += 0.05 * rng.normal(size=arrays["controls"].shape)
    guard = np.zeros((t.size, 2), int)
    guard[100:140, 0] = 1
    arrays["guard"] = guard
    return arrays


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("logs")
    sim = write_log(folder / "sim.h5", [flown(i, 0.2) for i in range(8)], config=CONFIG)
    real = write_log(folder / "real.h5", [flown(50 + i, 0.8) for i in range(6)], source="virtual", config=CONFIG)
    return sim, real


def analyse(sim: Path, real: Path, *, strict: bool = True):
    analyzer = SimToRealGapAnalyzer(strict=strict)
    analyzer.load_sim_data(sim)
    analyzer.load_real_data(real)
    return analyzer.analyse()


@pytest.fixture(scope="module")
def analysis(logs):
    return analyse(*logs)


SHIFT = ShiftReport(
    (
        SignalShift("pitch error", "rad", 1.2, 0.001, (BandRatio(0.1, 1.0, 1.5), BandRatio(1.0, 5.0, 4.0)), math.nan,
                    math.nan, 0.0, 0.01),
        SignalShift("throttle", "1", 0.1, 0.6, (BandRatio(0.1, 1.0, 1.0), BandRatio(1.0, 5.0, math.nan)), 0.1, 0.3, 0.0,
                    0.0),
    ),
    TimingShift(20.0, math.nan, math.nan, math.nan),
    TimingShift(19.9, 0.004, 0.012, 0.03),
)  # fmt: skip


def section(page: Page, name: str):
    return next(s for s in page.sections if s.id == name)


# What it says -------------------------------------------------------------------------------------------------------


def test_the_verdict_and_the_decision_are_those_of_the_analysis(analysis):
    page = gap_page(analysis)
    assert analysis.verdict == "gap"
    assert (page.verdict.word, page.verdict.tone, page.verdict.decision) == ("gap", "bad", "RETRAIN")
    assert "tracking error +" in page.verdict.sentence and page.verdict.rule == analysis.rule
    assert "RETRAIN" in section(page, "decision").title and analysis.rule in section(page, "decision").lead
    assert "sim2sky identify" in text_of(section(page, "decision"))


@pytest.mark.parametrize(
    ("sim", "real", "word", "tone", "decision"),
    [
        (spread(60, seed=1, scatter=0.1), spread(60, seed=2, scatter=0.1), "no gap", "good", "DEPLOYED"),
        (spread(3, seed=1), spread(2, seed=2), "not enough flights", "unsure", "FLY MORE"),
        ([Synthetic()], [Synthetic(error=0.0, effort=0.0)], "not enough flights", "unsure", "FLY MORE"),
        (spread(4, seed=1, failures=4), spread(4, seed=3, failures=4), "not enough flights", "unsure", "FLY MORE"),
    ],
    ids=["no gap", "few", "zeros", "no success at all"],
)
def test_every_answer_has_its_page(tmp_path, sim, real, word, tone, decision):
    a = analyse(write_log(tmp_path / "a.h5", sim), write_log(tmp_path / "b.h5", real, source="real"))
    page = gap_page(a)
    assert (page.verdict.word, page.verdict.tone, page.verdict.decision) == (word, tone, decision)
    assert page.verdict.sentence
    assert not page.banners, "a real flight is not labelled otherwise"
    assert "<h1>" in to_html(page)


def test_without_statistics_it_says_so(logs):
    page = gap_page(analyse(*logs, strict=False))
    assert "how sure that is, it does not say" in page.verdict.sentence
    assert "point rule" in page.verdict.rule


def test_the_numbers_of_the_tables_are_those_of_the_analysis(analysis):
    table = next(b for b in section(gap_page(analysis), "intervals").blocks if isinstance(b, Table))
    c = analysis.metric("tracking_error")
    row = next(r for r in table.rows if r[0].startswith("tracking error"))
    assert row[1] == f"{number(c.sim)} (n = 8)" and row[2] == f"{number(c.real)} (n = 6)"
    assert row[3] == f"+{100 * (c.estimate - 1):.0f} %" and row[-1] == "gap"
    assert table.tones[table.rows.index(row)] == "bad"


def test_what_the_analysis_recommends_and_warns_of_is_there(analysis):
    said = text_of(section(gap_page(analysis), "intervals"))
    for text in (*analysis.recommendations, *analysis.warnings):
        assert text.splitlines()[0] in said
    assert "Retune controller gains" in said


def test_virtual_flights_are_labelled_everywhere(analysis):
    page = gap_page(analysis)
    assert "VIRTUAL AIRCRAFT" in page.banners[0] and "real.h5" in page.banners[0]
    assert "virtual" in page.subtitle
    assert "virtual" in text_of(section(page, "inputs")) and "virtual" in text_of(section(page, "intervals"))


@pytest.mark.parametrize(("source", "says"), [("hil", "HARDWARE IN THE LOOP"), ("sim", "SIMULATION")])
def test_other_flights_that_are_not_real_are_labelled_too(tmp_path, source, says):
    sim, other = (
        write_log(tmp_path / "a.h5", spread(5, seed=1)),
        write_log(tmp_path / "b.h5", spread(5, seed=2), source=source),
    )
    assert says in gap_page(analyse(sim, other)).banners[0]


def test_median_and_worst_flight_of_both_logs_are_drawn(analysis):
    page = gap_page(analysis)
    grid = next(b for b in section(page, "flights").blocks if isinstance(b, Grid))
    titles = [title for title, _ in grid.figures]
    worst = max(analysis.real.flights, key=lambda f: f.values["tracking_error"]).name
    assert len(titles) == 4 and f"Flight: worst flight ({worst})" in titles
    assert sum("median flight" in t for t in titles) == 2
    _, figure = grid.figures[0]
    assert {name for name, _, _ in figure.legend} == {
        "measured", "setpoint", "aileron", "elevator", "rudder", "throttle",
    }  # fmt: skip
    guarded = [s for s in figure.layout["shapes"] if s["type"] == "rect"]
    assert [(s["x0"], s["x1"]) for s in guarded] == [(100 / RATE_HZ, 140 / RATE_HZ)], "the guard's time is shaded"


def test_a_heading_across_north_is_drawn_without_a_jump(analysis):
    import base64

    page = gap_page(analysis)
    figure = next(b for b in section(page, "flights").blocks if isinstance(b, Grid)).figures[0][1]
    panel = [a["text"] for a in figure.layout["annotations"]].index("heading [°]")
    lines = [d for d in figure.data if d["yaxis"] == f"y{panel + 1}"]
    heading, setpoint = (np.frombuffer(base64.b64decode(d["y"]["bdata"]), "<f4") for d in lines)
    assert np.abs(np.diff(heading)).max() < 30.0
    assert np.abs(heading - setpoint).max() < 90.0, "and its setpoint lies on the same turn"


def test_events_are_listed_numbered_and_drawn(analysis):
    name = min(analysis.real.flights, key=lambda f: f.values["tracking_error"]).name
    event = FlightEvent(name, 7.25, "change", "pitch", 3.2, "from 7.2 s on the pitch angle behaves otherwise")
    a = replace(analysis, events=(event,), verdict_with_events="gap", verdict="no gap", event_note="and a note")
    page = gap_page(a)
    said = text_of(section(page, "events"))
    assert event.description in said and "7.250 s" in said and "another: gap" in said and "and a note" in said
    grid = next(b for b in section(page, "flights").blocks if isinstance(b, Grid))
    title, figure = next((t, f) for t, f in grid.figures if f"({name})" in t)
    assert "with an event" in title
    assert [s["x0"] for s in figure.layout["shapes"] if s["type"] == "line"] == [7.25]
    assert any(note["text"] == "event 1" for note in figure.layout["annotations"])
    assert "event 1 at 7.25 s" in figure.alt


def test_without_events_it_says_none(analysis):
    assert "None found." in text_of(section(gap_page(replace(analysis, events=(), event_note="")), "events"))


def test_shifts_are_ranked_with_their_evidence(analysis):
    page = gap_page(replace(analysis, shift=SHIFT))
    part = section(page, "shift")
    figure = next(f for f in page.figures if f.name == "shift")
    assert figure.data[0]["y"] == ["pitch error", "throttle"]
    assert figure.data[0]["marker"]["color"] == ["--real", "--muted"], "what chance explains is grey"
    said = text_of(part)
    assert "× 4.0" in said and "10 → 30 %" in said and "12.0 ms" in said
    assert not any(s.id == "shift" for s in gap_page(replace(analysis, shift=None)).sections)


def test_inputs_are_named_with_their_hashes(analysis, logs):
    said = text_of(section(gap_page(analysis, command="sim2sky gap a b"), "inputs"))
    for log in logs:
        assert str(log) in said and hashlib.sha256(log.read_bytes()).hexdigest() in said
    assert "sim2sky gap a b" in said and "numpy" in said and "ultrastick25e" in said


def test_the_same_logs_give_the_same_bytes(analysis, tmp_path):
    for name in ("a.html", "b.html"):
        write_gap_report(tmp_path / name, analysis, command="c")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# Replay -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Flights of the simulated aircraft, and of one with a hidden delay: really flown."""
    folder = tmp_path_factory.mktemp("flown")
    base = EnvironmentSettings.model_validate({"task": {"duration_s": 8.0, "hold_s": 2.0}})
    job = FlightJob.of(make_bundle(folder / "bundle", base), nominal_aircraft(base))
    late = replace(job, environment=single_cause("delay", 1, nominal_aircraft(base)))
    simulate(job, range(10), folder / "sim.h5")
    simulate(late, range(10, 14), folder / "virtual.h5", source="virtual")
    return analyse(folder / "sim.h5", folder / "virtual.h5")


def test_replay_tells_the_aircraft_from_its_simulation(pair):
    simulated, flown_ = replays(pair)
    assert [e.horizon_s for e in simulated.errors] == [0.1, 0.5, 1.0, 5.0]
    assert flown_.rms(1.0, "roll_rad") > 1.5 * simulated.rms(1.0, "roll_rad") > 0.0
    assert math.isnan(flown_.rms(7.0, "roll_rad"))
    page = gap_page(pair, replay=(simulated, flown_))
    table = next(b for b in section(page, "replay").blocks if isinstance(b, Table))
    degrees = [np.degrees(r.rms(1.0, "roll_rad")) for r in (simulated, flown_)]
    assert next(r for r in table.rows if r[0] == "roll [°]")[3] == " → ".join(map(number, degrees))
    assert sum(f.name.startswith("replay") for f in page.figures) == 2


def test_long_logs_are_sampled_evenly_and_short_ones_taken_whole(pair):
    from sim2sky.report.replay_section import SAMPLE_S, _sample

    flights = load_flights(pair.sim.path)
    assert _sample(flights) == flights
    many = [replace(flights[0], name=str(i)) for i in range(100)]
    chosen = _sample(many)
    assert chosen[0].name == "0" and chosen[-1].name == "99"
    assert sum(len(f) for f in chosen) <= SAMPLE_S * flights[0].rate_hz
    longest = replace(flights[0], **{
        k: np.tile(v, (40,) + (1,) * (v.ndim - 1)) for k, v in vars(flights[0]).items() if isinstance(v, np.ndarray)
    })  # fmt: skip
    assert len(_sample([longest])[0]) == SAMPLE_S * flights[0].rate_hz


def test_a_hidden_delay_is_named_in_the_report(pair):
    found = attribute(load_flights(pair.sim.path), load_flights(pair.real.path))
    part = section(gap_page(pair, attribution=found), "causes")
    assert part.blocks[0].text.startswith(("Most likely: delay.", "Cannot tell", "Nothing to explain"))
    if found.causes:
        assert next(b for b in part.blocks if isinstance(b, Table)).rows[0][0] == found.causes[0].name


def test_what_cannot_be_replayed_says_so_and_the_rest_stands(tmp_path):
    unknown = {"task": CONFIG["task"]}
    a = analyse(
        write_log(tmp_path / "a.h5", spread(4, seed=1), config=unknown),
        write_log(tmp_path / "b.h5", spread(4, seed=2), source="real", config=unknown),
    )
    found = or_refused(lambda: replays(a))
    assert isinstance(found, Refused) and "do not say which aircraft" in found.reason
    page = gap_page(a, replay=found)
    assert "do not say which aircraft" in text_of(section(page, "replay"))
    assert section(page, "intervals").blocks and page.verdict.word


# The command --------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_report_and_keeps_its_answer(tmp_path_factory, tmp_path, capsys):
    path, folder = tmp_path / "gap.html", tmp_path_factory.mktemp("few")  # too few for an attribution
    logs = [
        write_log(folder / "sim.h5", [flown(i, 0.2) for i in range(4)], config=CONFIG),
        write_log(folder / "real.h5", [flown(i, 0.8) for i in range(50, 54)], source="virtual", config=CONFIG),
    ]
    assert cli.run(["gap", *map(str, logs), "--report", str(path), "--json"]) == 1
    out = capsys.readouterr()
    assert json.loads(out.out)["decision"] == "RETRAIN" and str(path) in out.err
    page = path.read_text()
    assert (
        f"sim2sky gap {logs[0]} {logs[1]} --report {path}" in page and 'id="replay"' in page and 'id="causes"' in page
    )
    assert [p.name for p in tmp_path.iterdir()] == ["gap.html"]


def test_parameters_are_identified_where_asked_for_and_a_refusal_stops_nothing(tmp_path):
    unknown = {"task": CONFIG["task"]}  # nobody says which aircraft
    logs = [write_log(tmp_path / f"{s}.h5", spread(4, seed=1), source=s, config=unknown) for s in ("sim", "real")]
    assert cli.run(["gap", *map(str, logs), "--report", str(tmp_path / "gap.html"), "--identify"]) == 3
    page = (tmp_path / "gap.html").read_text()
    assert page.count("do not say which aircraft") == 3, "causes, parameters and replay each say it"
    assert "gap.html --identify" in page, "the command is there as it was given"


def test_a_report_that_cannot_be_written_is_misuse(logs, tmp_path, capsys):
    assert cli.run(["gap", *map(str, logs), "--report", str(tmp_path / "no" / "gap.html")]) == 2
    assert "cannot write the report" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        write_gap_report(tmp_path, analyse(*logs))


# In a browser -------------------------------------------------------------------------------------------------------


@needs_chromium
def test_it_looks_finished_on_a_desk_and_on_a_phone(analysis, tmp_path):
    """Screenshots are kept in build/artifacts."""
    import io

    from matplotlib.image import imread

    event = FlightEvent(analysis.real.flights[0].name, 7.25, "change", "pitch", 3.2, "pitch behaves otherwise")
    page = gap_page(replace(analysis, shift=SHIFT, events=(event,)), command="sim2sky gap sim.h5 real.h5")
    path = tmp_path / "gap.html"
    path.write_text(to_html(page), encoding="utf-8")
    views = (("desktop", 1280, False, False), ("phone", 390, True, False), ("dark", 1280, False, True))
    with browser() as tab:
        for name, width, phone, dark in views:
            tab.open(path, width=width, height=844, phone=phone, dark=dark)
            assert "gap" in tab.ask("document.getElementById('verdict-word').innerText").lower()
            assert "RETRAIN" in tab.ask("document.getElementById('verdict').innerText")
            assert tab.ask(DRAWN) == len(page.figures) >= 8
            assert tab.ask("document.documentElement.scrollWidth") <= width
            assert all(a.startswith(("data:", "blob:")) for a in tab.requested[1:])
            assert not tab.complaints
            picture = imread(io.BytesIO(tab.photograph(ARTIFACTS / f"gap-report-{name}.png", whole=not dark)))[..., :3]
            assert picture.std() > 0.05 and (dark or picture.shape[0] > 2_000)
