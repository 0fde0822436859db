"""Short form of `benchmarks/gap_statistics.py`: its populations, what it counts, and that what it counts holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.flight_support import make_bundle, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gap_statistics

from sim2sky.analysis.flight_metrics import FlightMetrics, metrics_of
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.flight import FlightJob

ANALYSES = 300


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> list[FlightMetrics]:
    """Real simulated flights of a hand-made agent."""
    folder = tmp_path_factory.mktemp("pool")
    base = settings()
    job = FlightJob.of(make_bundle(folder / "bundle", base), base)
    flights = gap_statistics.flown(job, folder, "hand", campaign_seeds(11, 70))
    assert len(gap_statistics.flown(job, folder, "hand", campaign_seeds(11, 70))) == 70  # read again, not flown
    return [metrics_of(f, base.task, base.task.duration_s) for f in flights]


@pytest.mark.parametrize("n", [5, 20])
def test_no_false_gap_and_covering_intervals_on_flown_flights(flown: list[FlightMetrics], n: int) -> None:
    cell = gap_statistics.repeat(gap_statistics.from_pool(flown, 40), n, ANALYSES, 1)
    assert cell["gap"] <= 0.05
    assert cell["gap_upper"] > cell["gap"]
    for name in ("tracking_error", "control_effort"):
        assert 0.90 <= cell["coverage"][name] <= 0.995


@pytest.mark.parametrize("name", gap_statistics.MADE_UP)
def test_no_false_gap_at_low_success_rates(name: str) -> None:
    population = gap_statistics.made_up(gap_statistics.MADE_UP[name], 60)
    cell = gap_statistics.repeat(population, 10, ANALYSES, 2)
    assert cell["gap"] <= 0.055
    assert min(v for v in cell["coverage"].values() if v is not None) >= 0.91


def test_power_grows_with_the_effect_and_with_the_flights() -> None:
    shape = gap_statistics.MADE_UP["made up: success 0.85"]

    def power(factor: float, n: int) -> float:
        population = gap_statistics.made_up(shape, 60, {"tracking_error": factor})
        return gap_statistics.repeat(population, n, 150, 3, {"tracking_error": factor})["gap"]

    assert power(1.0, 20) < 0.08 < power(1.35, 5) < power(1.35, 20)
    assert power(2.0, 20) > 0.95


def test_intervals_cover_an_effect() -> None:
    shape = gap_statistics.MADE_UP["made up: success 0.85"]
    effect = {"tracking_error": 1.35, "success": 0.8}
    truth = {"tracking_error": 1.35, "success": 0.85 * -0.2}
    cell = gap_statistics.repeat(gap_statistics.made_up(shape, 60, effect), 20, ANALYSES, 4, truth)
    assert cell["coverage"]["tracking_error"] >= 0.91
    assert cell["coverage"]["success"] >= 0.91
    wrong = gap_statistics.repeat(gap_statistics.made_up(shape, 60, effect), 20, ANALYSES, 4)
    assert wrong["coverage"]["tracking_error"] < 0.7  # the benchmark can fail


def test_no_flight_is_in_both_logs(flown: list[FlightMetrics]) -> None:
    sim, real = gap_statistics.from_pool(flown, 40)(np.random.default_rng(0), 20)
    assert len(sim) == 40 and len(real) == 20
    assert not {f.seed for f in sim} & {f.seed for f in real}
