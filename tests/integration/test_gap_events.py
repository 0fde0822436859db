"""Failures in really simulated flights: found, at their time, as events, and not as a gap of the simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flight_support import make_bundle, settings
from tests.gap_support import fly_log

from sim2sky.analysis.sim_to_real_gap import GapAnalysis, SimToRealGapAnalyzer
from sim2sky.cli_gap import render, run_gap
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.hil.fault_schedule import Fault
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.flight import FlightJob

FAULTS = {
    3: ({"kind": "thrust_loss", "factor": 0.0, "start_s": 8.0}, 3.0),
    7: ({"kind": "stuck", "channels": ("elevator",), "position": 0.3, "start_s": 10.0}, 2.0),
    12: ({"kind": "freeze", "signals": ("airspeed_mps",), "start_s": 12.0}, 0.2),
    15: ({"kind": "nan", "signals": ("pitch_rad",), "start_s": 6.0, "duration_s": 2.0}, 0.2),
    18: ({"kind": "bias", "signals": ("pitch_rad",), "offset": 0.25, "start_s": 9.0}, 0.3),
}
"""By number of the flight: the fault, and how far off its time may be found, s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gap")
    base = settings()
    job = FlightJob.of(make_bundle(folder / "bundle", base), base)
    fly_log(folder / "sim.h5", job, campaign_seeds(1, 60), source="sim")
    fly_log(folder / "nominal.h5", job, campaign_seeds(2, 24))
    hidden = replace(job, environment=hidden_aircraft(5, base))
    fly_log(folder / "hidden.h5", hidden, campaign_seeds(3, 24))
    faults = {number: Fault.model_validate(fault) for number, (fault, _) in FAULTS.items()}
    fly_log(folder / "faulty.h5", job, campaign_seeds(2, 24), faults)
    every = {number: Fault.model_validate(FAULTS[3][0]) for number in range(12)}
    fly_log(folder / "broken.h5", job, campaign_seeds(2, 12), every)
    fly_log(folder / "one.h5", job, campaign_seeds(2, 1), {0: Fault.model_validate(FAULTS[12][0])})
    return folder


def analyse(folder: Path, name: str) -> GapAnalysis:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(folder / "sim.h5")
    a.load_real_data(folder / f"{name}.h5")
    return a.analyse()


@pytest.mark.parametrize("name", ["nominal", "hidden"])
def test_flights_without_a_failure_have_no_events(folder: Path, name: str) -> None:
    assert len(analyse(folder, name).events) <= 1  # of 24; the benchmark has the rate


@pytest.fixture(scope="module")
def faulty(folder: Path) -> GapAnalysis:
    return analyse(folder, "faulty")


@pytest.mark.parametrize("number", FAULTS)
def test_a_failure_is_found_at_its_time(faulty: GapAnalysis, number: int) -> None:
    fault, tolerance_s = FAULTS[number]
    (event,) = [e for e in faulty.events if e.flight == f"episode_{number:04d}"]
    assert event.time_s == pytest.approx(fault["start_s"], abs=tolerance_s)
    assert event.score >= 1.0


def test_each_event_says_what_it_is(faulty: GapAnalysis) -> None:
    events = {int(e.flight[-4:]): e for e in faulty.events}
    assert (events[12].kind, events[12].signal) == ("frozen", "airspeed")
    assert (events[15].kind, events[15].signal) == ("drop-out", "pitch")
    assert events[3].kind == events[7].kind == events[18].kind == "change"
    assert set(events) - set(FAULTS) == set() or len(set(events) - set(FAULTS)) <= 1


def test_what_follows_an_event_is_reported_both_ways(faulty: GapAnalysis) -> None:
    without = {c.metric.name: c for c in faulty.metrics}
    whole = {c.metric.name: c for c in faulty.metrics_with_events}
    assert len(whole["success"].real_values) == 24
    assert len(without["success"].real_values) == 24 - len(faulty.events)
    assert whole["tracking_error"].real > without["tracking_error"].real
    assert without["success"].estimate >= whole["success"].estimate
    text = render(faulty)
    assert "events in flight (what follows them is not counted above):" in text
    assert "airspeed stands still" in text


def test_failures_in_every_flight_are_no_failures(folder: Path) -> None:
    broken = analyse(folder, "broken")
    assert broken.events == ()
    if broken.event_note:
        assert "too many to be failures" in broken.event_note
    assert broken.metric("tracking_error").estimate > 1.2


def test_a_single_flight_with_a_frozen_sensor(folder: Path) -> None:
    (event,) = analyse(folder, "one").events
    assert event.kind == "frozen"
    assert event.time_s == pytest.approx(12.0, abs=0.2)


def test_json_has_the_events_and_the_shift(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_gap(folder / "sim.h5", folder / "faulty.h5", strict=True, as_json=True)
    data = json.loads(capsys.readouterr().out, parse_constant=lambda _: pytest.fail("not JSON"))
    assert {e["flight"] for e in data["events"]} >= {f"episode_{n:04d}" for n in FAULTS}
    assert data["shift"]["signals"][0]["signal"]


def test_the_point_rule_counts_everything(folder: Path) -> None:
    loose, strict = SimToRealGapAnalyzer(strict=False), SimToRealGapAnalyzer()
    for a in (loose, strict):
        a.load_sim_data(folder / "sim.h5")
        a.load_real_data(folder / "faulty.h5")
    assert loose.real_metrics is not None and strict.real_metrics is not None
    assert loose.real_metrics.mean_tracking_error > strict.real_metrics.mean_tracking_error


def test_the_same_aircraft_differs_in_no_signal_and_a_noisier_one_does(folder: Path) -> None:
    same, other = analyse(folder, "nominal").shift, analyse(folder, "hidden").shift
    assert same is not None and other is not None
    assert min(s.p_value for s in same.signals) > 0.001  # of thirteen
    assert other.signals[0].p_value <= 0.005
    assert other.signals[0].evidence > 5.0
    assert [s.evidence for s in other.signals] == sorted((s.evidence for s in other.signals), reverse=True)
