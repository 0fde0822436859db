"""Short forms of the recorder's benchmarks: the safety property they measure, on fewer events."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import recorder_cost, recorder_kills
from tests.flight_support import agent_environment, make_bundle, settings


def test_kills_in_real_runs_leave_the_finished_episodes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    tallies = recorder_kills.measure(bundle, 3, agent_environment())
    assert [t.kills for t in tallies.values()] == [1, 1, 1]
    assert tallies["recorder"].finished == recorder_kills.EPISODES
    for victim, tally in tallies.items():
        assert tally.finished >= 3
        # The one whose end was on its way when both processes died may be missing, and when the recorder alone died.
        assert tally.finished - tally.readable <= (victim != "flight"), tally.lost


def test_plain_h5py_leaves_none() -> None:
    """Negative control: the same count sees what a kill does to a file that was never closed."""
    written, readable = recorder_kills.plain_h5py(2)
    assert written > 10 and readable == 0


@pytest.mark.parametrize("situation", ["recorded", "stopped", "killed"])
def test_recording_costs_a_small_part_of_a_tick(situation: str, costs: dict[str, dict[str, float]]) -> None:
    """Medians, as the machine may be loaded; 1 ms is a twentieth of a tick at 50 Hz."""
    assert costs[situation]["median"] < 1000.0
    assert costs["h5py in the loop"]["median"] > costs[situation]["median"]


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, float]]:
    return recorder_cost.measure(400)
