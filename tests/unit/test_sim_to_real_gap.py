"""The verdict, the decision and the specification's point rule, from logs whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gap_support import Synthetic, spread, write_log

from sim2sky.analysis.comparison import flights_needed
from sim2sky.analysis.sim_to_real_gap import GapAnalysis, NotLoadedError, PerformanceMetrics, SimToRealGapAnalyzer
from sim2sky.cli_gap import render, run_gap
from sim2sky.errors import ConfigError, FlightLogError, Sim2SkyError

ACCEPTABLE = "✓ Sim-to-real gap is acceptable (<20% on all metrics)"


def analyser(tmp_path: Path, sim, real, *, strict: bool = True, **options) -> SimToRealGapAnalyzer:
    a = SimToRealGapAnalyzer(strict=strict)
    a.load_sim_data(str(write_log(tmp_path / "sim.h5", sim)))
    a.load_real_data(write_log(tmp_path / "real.h5", real, source="real", **options))
    return a


def analysis(tmp_path: Path, sim, real, **options) -> GapAnalysis:
    return analyser(tmp_path, sim, real, **options).analyse()


# The specification ---------------------------------------------------------------------------------------------------


def given_numbers() -> SimToRealGapAnalyzer:
    """The numbers in the specification's own example."""
    a = SimToRealGapAnalyzer(strict=False)
    a.sim_metrics = PerformanceMetrics(0.87, 2.5, 0.35, 120.0)
    a.real_metrics = PerformanceMetrics(0.72, 4.1, 0.52, 95.0)
    return a


def test_the_specifications_example() -> None:
    a = given_numbers()
    gap = a.compute_gap_metrics()
    assert list(gap) == ["success_rate_diff", "tracking_error_ratio", "control_effort_ratio", "episode_length_ratio"]
    assert gap["tracking_error_ratio"] == pytest.approx(1.64)
    texts = a.diagnose_gap()
    assert len(texts) == 3  # 0.72 - 0.87 lies a rounding error below -0.15; 0.79 is not below 0.7
    assert texts[1] == (
        "Warning: Tracking error much higher on real hardware. Consider:\n"
        "  - Improve state estimation (tune EKF)\n"
        "  - Add latency compensation\n"
        "  - Retune controller gains"
    )
    assert texts[2].startswith("Warning: Higher control effort on real hardware.")


@pytest.mark.parametrize(
    ("real", "first"),
    [
        (PerformanceMetrics(0.70, 2.5, 0.35, 120.0), "Warning: Large success rate gap detected. Consider:"),
        (PerformanceMetrics(0.87, 3.8, 0.35, 120.0), "Warning: Tracking error much higher on real hardware. Consider:"),
        (PerformanceMetrics(0.87, 2.5, 0.46, 120.0), "Warning: Higher control effort on real hardware. Consider:"),
        (PerformanceMetrics(0.87, 2.5, 0.35, 83.0), "Warning: Episodes terminating early on real hardware. Consider:"),
        (PerformanceMetrics(0.73, 3.7, 0.45, 85.0), ACCEPTABLE),  # just inside of every threshold
    ],
)
def test_each_threshold_of_the_specification(real: PerformanceMetrics, first: str) -> None:
    a = given_numbers()
    a.real_metrics = real
    (text,) = a.diagnose_gap()
    assert text.splitlines()[0] == first


def test_both_logs_must_be_loaded(tmp_path: Path) -> None:
    a = SimToRealGapAnalyzer()
    for call in (a.compute_gap_metrics, a.diagnose_gap, a.analyse, a.plot_comparison):
        with pytest.raises(ValueError, match="Must load both sim and real data first"):
            call()
    a.load_sim_data(str(write_log(tmp_path / "sim.h5", [Synthetic()])))
    with pytest.raises(NotLoadedError) as caught:
        a.compute_gap_metrics()
    assert isinstance(caught.value, Sim2SkyError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("sim", "real", "ratio"),
    [(0.0, 0.0, 1.0), (0.0, 0.1, math.inf), (math.nan, 1.0, math.nan), (2.0, math.nan, math.nan)],
)
def test_division_by_nothing(sim: float, real: float, ratio: float) -> None:
    a = SimToRealGapAnalyzer(strict=False)
    a.sim_metrics, a.real_metrics = PerformanceMetrics(1.0, sim, 0.3, 20.0), PerformanceMetrics(1.0, real, 0.3, 20.0)
    assert a.compute_gap_metrics()["tracking_error_ratio"] == pytest.approx(ratio, nan_ok=True)
    assert (len(a.diagnose_gap()) == 1 and a.diagnose_gap()[0] != ACCEPTABLE) == (ratio == math.inf)


def test_metrics_of_a_log(tmp_path: Path) -> None:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(str(write_log(tmp_path / "a.h5", [Synthetic(error=0.2), Synthetic(error=1.2, effort=0.5)])))
    assert a.sim_metrics == PerformanceMetrics(0.5, pytest.approx(0.7), pytest.approx(0.4), pytest.approx(20.0))
    assert a.real_metrics is None


# Three values --------------------------------------------------------------------------------------------------------


def test_the_same_aircraft_is_no_gap(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(60, seed=1), spread(40, seed=2))
    assert (a.verdict, a.decision) == ("no gap", "DEPLOYED")
    assert a.recommendations == (ACCEPTABLE,)
    assert (a.more_flights, a.more_sim_flights) == (0, 0)
    for c in a.metrics[:4]:
        assert c.finding == "no gap"
        assert c.low < c.estimate < c.high or c.metric.kind != "ratio"


def test_worse_tracking_is_a_gap(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(60, seed=1), spread(10, seed=2, error=0.2))
    assert (a.verdict, a.decision) == ("gap", "RETRAIN")
    assert [c.metric.name for c in a.metrics if c.metric.primary and c.finding == "gap"] == ["tracking_error"]
    assert a.metric("tracking_error").estimate == pytest.approx(2.0, rel=0.2)
    assert [t.splitlines()[0] for t in a.recommendations] == [
        "Warning: Tracking error much higher on real hardware. Consider:"
    ]


def test_a_gap_below_the_specifications_threshold_is_said_in_other_words(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(60, seed=1, scatter=0.05), spread(40, seed=2, error=0.135, scatter=0.05))
    assert a.verdict == "gap"
    (text,) = a.recommendations
    assert text.startswith("Warning: tracking error evidently worse (1.3")
    assert ACCEPTABLE not in text


def test_evident_but_irrelevant(tmp_path: Path) -> None:
    """Seven percent worse beyond doubt: no gap, and it says both."""
    a = analysis(tmp_path, spread(80, seed=1, scatter=0.03), spread(60, seed=2, error=0.107, scatter=0.03))
    c = a.metric("tracking_error")
    assert c.evident and not c.relevant
    assert (c.finding, a.verdict) == ("no gap", "no gap")
    assert "worse, p" in render(a)


def test_better_than_simulated_is_no_gap(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(60, seed=1, failures=12), spread(40, seed=2, error=0.05, effort=0.2))
    assert a.verdict == "no gap"
    assert a.metric("tracking_error").estimate < 0.7
    assert a.metric("success").estimate == pytest.approx(0.2)


def test_lost_successes(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(60, seed=1, failures=3), spread(20, seed=2, failures=10))
    assert a.verdict == "gap"
    assert a.metric("success").finding == "gap"
    assert a.recommendations[0].startswith("Warning: Large success rate gap detected.")


def test_flights_that_end_early(tmp_path: Path) -> None:
    real = [*spread(5, seed=2), *(Synthetic(duration_s=4.0, termination="envelope", seed=i) for i in range(15))]
    a = analysis(tmp_path, spread(60, seed=1), real)
    assert a.metric("episode_length").finding == "gap"
    assert a.metric("episode_length").estimate == pytest.approx(0.4, abs=0.01)
    assert any(t.startswith("Warning: Episodes terminating early") for t in a.recommendations)


@pytest.mark.parametrize(("flights", "more"), [(5, 12), (10, 7), (16, 1)])
def test_few_perfect_flights_are_not_enough(tmp_path: Path, flights: int, more: int) -> None:
    """100 % of ten is not 100 %: seventeen successes are what an exact limit needs to exclude a loss of 20 %."""
    a = analysis(tmp_path, spread(60, seed=1, scatter=0.02), spread(flights, seed=2, scatter=0.02))
    assert (a.verdict, a.decision) == ("not enough flights", "FLY MORE")
    assert (a.more_flights, a.more_sim_flights) == (more, 0)
    assert f"{more} more flight" in a.recommendations[-1]
    assert ACCEPTABLE not in a.recommendations


def test_the_flights_it_asks_for_do_decide(tmp_path: Path) -> None:
    sim, real = spread(60, seed=1, failures=6), spread(12, seed=2, failures=1)
    first = analysis(tmp_path, sim, real)
    assert first.verdict == "not enough flights" and first.more_flights
    n = 12 + first.more_flights
    grown = (real * (n // 12 + 1))[:n]
    second = analyser(_fresh(tmp_path), sim, grown).analyse()
    assert second.verdict != "not enough flights" or (second.more_flights or 0) <= 0.35 * n


def _fresh(tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    return folder


def test_too_few_simulated_flights(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(3, seed=1, failures=1), spread(60, seed=2, failures=20))
    assert a.verdict == "not enough flights"
    assert a.more_sim_flights and a.more_sim_flights > 0
    assert "more simulated" in a.recommendations[-1]


@pytest.mark.parametrize("error", [0.1, 0.9])
def test_one_single_flight(tmp_path: Path, error: float) -> None:
    a = analysis(tmp_path, spread(60, seed=1), [Synthetic(error=error)])
    assert a.verdict == "not enough flights"
    assert a.metric("tracking_error").high == math.inf
    assert a.more_flights and a.more_flights >= 1
    assert "inf" in render(a)


def test_one_failed_flight_is_an_anecdote(tmp_path: Path) -> None:
    """Fisher's test would call 0 of 1 against 60 of 60 evident; whatever befell one flight befell it alone."""
    a = analysis(tmp_path, spread(60, seed=1), [Synthetic(error=3.0)])
    assert a.metric("success").p_worse < 0.08
    assert a.verdict == "not enough flights"
    assert a.more_flights == 1
    two = analysis(tmp_path, spread(60, seed=1), [Synthetic(error=3.0), Synthetic(error=3.2)])
    assert two.verdict == "gap"


def test_another_vehicle_is_a_warning(tmp_path: Path) -> None:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(write_log(tmp_path / "s.h5", [Synthetic()], config={"task": "hsa", "vehicle": "ultrastick25e"}))
    a.load_real_data(write_log(tmp_path / "r.h5", [Synthetic()], source="real", config={"vehicle": "ArduPlane"}))
    assert any("'ultrastick25e' and 'ArduPlane'" in w for w in a.analyse().warnings)


def test_one_flight_each(tmp_path: Path) -> None:
    a = analysis(tmp_path, [Synthetic(seed=1)], [Synthetic(seed=2)])
    assert a.verdict == "not enough flights"
    assert a.more_flights is None
    assert "No number of further flights" in a.recommendations[-1]


def test_a_metric_that_is_missing_prevents_no_gap(tmp_path: Path) -> None:
    real = [f.arrays() for f in spread(40, seed=2)]
    for arrays in real:
        del arrays["setpoints"]
    a = analysis(tmp_path, spread(60, seed=1), real)
    assert a.verdict == "not enough flights"
    assert a.metric("tracking_error").finding == "missing"
    assert a.metric("tracking_error").reason == "both logs lack what tells the tracking error"
    assert any(t.startswith("Cannot tell: ") for t in a.recommendations)
    assert a.more_flights is None


def test_a_missing_metric_does_not_hide_a_gap(tmp_path: Path) -> None:
    real = [f.arrays() for f in spread(40, seed=2, effort=0.6)]
    for arrays in real:
        del arrays["setpoints"]
    assert analysis(tmp_path, spread(60, seed=1), real).verdict == "gap"


def test_commands_of_zero_have_no_ratio(tmp_path: Path) -> None:
    a = analysis(tmp_path, spread(20, seed=1, effort=0.0), spread(20, seed=2, effort=0.0))
    assert a.metric("control_effort").finding == "missing"
    assert "zero" in a.metric("control_effort").reason
    assert a.gap_metrics["control_effort_ratio"] == 1.0


def test_the_point_rule_decides_without_statistics(tmp_path: Path) -> None:
    sim, real = spread(60, seed=1), spread(5, seed=2, failures=1)
    strict = analysis(tmp_path, sim, real)
    loose = analyser(_fresh(tmp_path), sim, real, strict=False).analyse()
    assert (strict.decision, loose.decision) == ("FLY MORE", "RETRAIN")
    assert "no statistics" in loose.rule
    assert loose.verdict == strict.verdict


# Which logs may be compared ------------------------------------------------------------------------------------------


def test_different_agents_are_refused(tmp_path: Path) -> None:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(write_log(tmp_path / "sim.h5", [Synthetic()]))
    with pytest.raises(ConfigError, match="two different agents"):
        a.load_real_data(write_log(tmp_path / "real.h5", [Synthetic()], source="real", digest="b" * 64))
    with pytest.raises(ConfigError, match="different contracts"):
        a.load_real_data(write_log(tmp_path / "other.h5", [Synthetic()], source="real", digest="", contract="d" * 64))


def test_a_digest_cut_short_is_the_same_digest(tmp_path: Path) -> None:
    assert not [w for w in analysis(tmp_path, [Synthetic()], [Synthetic()], digest="a" * 16).warnings if "bundle" in w]


def test_an_unknown_agent_is_a_warning(tmp_path: Path) -> None:
    a = analysis(tmp_path, [Synthetic()], [Synthetic()], digest="", contract="")
    assert any("does not say which bundle" in w for w in a.warnings)


def test_a_log_against_itself_is_refused(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.h5", [Synthetic()])
    a = SimToRealGapAnalyzer()
    a.load_sim_data(path)
    with pytest.raises(ConfigError, match="itself"):
        a.load_real_data(path)


def test_different_tasks_are_refused(tmp_path: Path) -> None:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(write_log(tmp_path / "sim.h5", [Synthetic()]))
    with pytest.raises(ConfigError, match="task"):
        a.load_real_data(write_log(tmp_path / "real.h5", [Synthetic()], source="real", config={"task": "rate"}))


def test_the_simulations_task_judges_both(tmp_path: Path) -> None:
    task = {"name": "hsa", "duration_s": 10.0, "hold_s": 2.0, "altitude_tolerance_m": 100.0}
    a = SimToRealGapAnalyzer()
    a.load_real_data(write_log(tmp_path / "real.h5", [Synthetic(0.5)], source="real", config={"task": "hsa"}))
    assert a.real_metrics is not None and a.real_metrics.episode_length == pytest.approx(20.0)
    a.load_sim_data(write_log(tmp_path / "sim.h5", [Synthetic(0.5, duration_s=10.0)], config={"task": task}))
    assert a.real_metrics.episode_length == pytest.approx(10.0)
    result = a.analyse()
    assert result.planned_duration_s == 10.0
    assert any("the first 10 s of each are compared" in w for w in result.warnings)


def test_a_planned_duration_that_nobody_states_is_the_simulated_flights(tmp_path: Path) -> None:
    sim = write_log(tmp_path / "sim.h5", [Synthetic(duration_s=d) for d in (11.0, 12.0, 30.0)], config={})
    a = SimToRealGapAnalyzer()
    a.load_sim_data(sim)
    a.load_real_data(write_log(tmp_path / "real.h5", [Synthetic()], source="real", config={}))
    assert a.analyse().planned_duration_s == pytest.approx(12.0)


@pytest.mark.parametrize("source", ["virtual", "hil", "sim", "real"])
def test_flights_are_called_what_their_log_says(tmp_path: Path, source: str) -> None:
    a = SimToRealGapAnalyzer()
    a.load_sim_data(write_log(tmp_path / "sim.h5", spread(20, seed=1)))
    a.load_real_data(write_log(tmp_path / "x.h5", spread(20, seed=2), source=source))
    text = render(a.analyse())
    assert f"20 {source} flights against 20 sim flights" in text
    if source != "real":
        # the specification's texts and the rule aside, nothing says that these were real flights
        assert "real flight" not in text
        assert any(source in w for w in a.analyse().warnings)


# What is printed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "decision", "code"),
    [
        (spread(40, seed=2), "DEPLOYED", 0),
        (spread(40, seed=2, error=0.3), "RETRAIN", 1),
        (spread(4, seed=2), "FLY MORE", 3),
    ],
)
def test_decision_and_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], real, decision: str, code: int
) -> None:
    sim = write_log(tmp_path / "sim.h5", spread(60, seed=1))
    other = write_log(tmp_path / "real.h5", real, source="real")
    assert run_gap(sim, other, strict=True, as_json=False) == code
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == decision
    assert lines[0].split(":")[0] in {"gap", "no gap", "not enough flights"}
    assert lines[-2].startswith("rule: ")
    assert run_gap(sim, other, strict=True, as_json=True) == code
    data = json.loads(capsys.readouterr().out, parse_constant=lambda _: pytest.fail("not JSON"))
    assert data["decision"] == decision
    assert len(data["real"]["flights"]) == len(real)
    assert data["metrics"][0]["metric"] == "success"


def test_the_specifications_rule_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sim = write_log(tmp_path / "sim.h5", spread(10, seed=1))
    other = write_log(tmp_path / "real.h5", spread(3, seed=2), source="real")
    assert run_gap(sim, other, strict=False, as_json=False) == 0
    assert ACCEPTABLE in capsys.readouterr().out


def test_a_log_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("no log")
    with pytest.raises(FlightLogError):
        run_gap(tmp_path / "x.h5", tmp_path / "x.h5", strict=True, as_json=False)


def test_plot(tmp_path: Path) -> None:
    a = analyser(tmp_path, spread(20, seed=1), spread(10, seed=2))
    a.plot_comparison(str(tmp_path / "gap.png"))
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")


# Properties ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(0.5, 3.0))
def test_what_is_decided_is_exclusive_and_has_its_reasons(seed: int, n: int, factor: float) -> None:
    from sim2sky.analysis.comparison import compare_metric, judge
    from sim2sky.analysis.flight_metrics import METRICS, FlightMetrics

    rng = np.random.default_rng(seed)

    def flights(count: int, scale: float) -> list[FlightMetrics]:
        return [
            FlightMetrics(
                "f", 0, "", 20.0,
                {
                    "success": float(rng.random() < 0.8),
                    "tracking_error": scale * math.exp(0.3 * rng.standard_normal()),
                    "control_effort": math.exp(0.1 * rng.standard_normal()),
                    "episode_length": 20.0 if rng.random() < 0.9 else 20.0 * rng.random(),
                },
            )
            for _ in range(count)
        ]  # fmt: skip

    sim, real = flights(40, 1.0), flights(n, factor)
    verdict, metrics = judge([compare_metric(m, sim, real, 20.0) for m in METRICS if m.primary])
    if verdict == "gap":
        assert any(c.evident and c.relevant and c.p_worse <= 0.05 for c in metrics)
    if verdict == "no gap":
        assert metrics[0].low > -0.2
        assert max(metrics[1].high, metrics[2].high) < 1.2
        assert metrics[3].low > 0.8
    needed = flights_needed(metrics)
    assert (needed == (0, 0)) == (verdict != "not enough flights")
