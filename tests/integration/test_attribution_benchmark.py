"""Short form of the attribution benchmark: the shipped agent, three clear causes, and its counting."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import attribution as benchmark

from sim2sky.analysis.attribution import CANNOT_TELL, NOTHING, Attribution, Cause
from sim2sky.environments.hidden_aircraft import CAUSES


@pytest.mark.slow
def test_the_shipped_agents_flights_give_the_cause_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay and trim, through bundle, guard, recorder and log; seeds of neither the benchmark nor its calibration."""
    monkeypatch.setattr(benchmark, "WINDOWS", 30)
    monkeypatch.setattr(benchmark, "SIMULATED", 16)
    flights = benchmark.Flights(benchmark.export(tmp_path), tmp_path)
    start = 13 * 500
    done = list(benchmark.gaps(flights, 1, start + CAUSES.index("delay"), 6))
    done += benchmark.gaps(flights, 1, start + CAUSES.index("trim"), 6)
    assert [gap.cause for gap in done] == ["delay", "trim"]
    assert [gap.found.verdict for gap in done] == ["delay", "trim"]
    assert all(gap.rank == 1 and gap.seconds > 0.0 for gap in done)


def found(verdict: str, *names: str) -> Attribution:
    return Attribution(tuple(Cause(n, 0.9, 0.8, 1.0, 9.0, n) for n in names), verdict, 0.01)


def test_the_summary_counts_refusals_as_neither_right_nor_wrong() -> None:
    done = [
        benchmark.Gap("delay", 0, found("delay", "delay", "actuator"), 1.0),
        benchmark.Gap("cg", 1, found(CANNOT_TELL, "aerodynamics", "mass", "cg"), 1.0),
        benchmark.Gap("mass", 2, found("thrust", "thrust", "mass"), 1.0),
        benchmark.Gap("wind", 3, found(NOTHING), 1.0),
    ]
    shares = benchmark.summary(done)
    assert shares["first"] == 0.25
    assert shares["cannot tell"] == 0.25
    assert shares["named right or refused"] == 0.5
    assert shares["in the first two or refused"] == 0.75
    assert shares["nothing to explain"] == 0.25
    assert [gap.rank for gap in done] == [1, 3, 2, 0]
