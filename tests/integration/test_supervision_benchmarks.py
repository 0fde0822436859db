"""Short forms of the long benchmarks: the safety property they measure, on fewer events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from benchmarks import flight_loop, policy_deaths, policy_process_latency
from benchmarks.faulty_policy import KINDS
from benchmarks.policy_deaths import LIMIT, NEVER, Death, fallback_commands
from tests.flight_support import make_bundle, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.runtime.safety import Mode, Trip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings())


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not [p for p in psutil.process_iter() if "benchmarks.faulty_policy" in " ".join(command_line(p))]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.ppid() == 1 else []  # an orphan
    except psutil.Error:
        return []


def test_after_every_kind_of_death_the_fallback_law_commands_within_three_ticks(bundle: Bundle, tmp_path: Path) -> None:
    deaths = policy_deaths.run(bundle, tmp_path / "run", len(KINDS))
    assert sorted(d.kind for d in deaths) == sorted(KINDS)
    assert max(d.ticks for d in deaths) <= LIMIT, policy_deaths.table(deaths)


def test_so_it_does_in_real_time(bundle: Bundle, tmp_path: Path) -> None:
    deaths = policy_deaths.run(bundle, tmp_path / "run", 3, kinds=("killed", "stopped", "spins"), realtime=True)
    assert len(deaths) >= 3 and max(d.ticks for d in deaths) <= LIMIT, policy_deaths.table(deaths)


@pytest.mark.parametrize("kind", ["killed", "spins"])
def test_without_a_process_of_its_own_it_does_not(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    """Negative control: the measurement sees a fallback law that never comes."""
    (death,) = policy_deaths.control(bundle, tmp_path, [kind])
    assert death == Death(kind, NEVER)


def test_a_repeated_command_is_not_the_fallback_laws() -> None:
    bridged = int(Trip.POLICY_LATE | Trip.BRIDGED)
    guard = np.array(
        [[Mode.POLICY, 0], [Mode.POLICY, bridged], [Mode.HOLD, bridged], [Mode.HOLD, int(Trip.POLICY_LATE)]]
    )
    assert fallback_commands(guard).tolist() == [False, False, False, True]


def test_the_flight_loop_keeps_fifty_hertz_and_reports_its_own_timing(bundle: Bundle, tmp_path: Path) -> None:
    fast = flight_loop.at_rate(bundle, 50.0, tmp_path / "fast")
    found = flight_loop.fly(fast, tmp_path, 3.0)
    assert 140 <= found.ticks <= 400 and found.misses <= found.ticks // 2  # generous: this machine may be loaded
    assert 0 < found.tick_us[0] <= found.tick_us[1] <= found.tick_us[2] <= found.tick_us[3]
    assert found.tick_us[0] < found.exchange_us[0]
    last = found.said.splitlines()[-1]
    assert last.startswith(f"{found.ticks} ticks at ") and f"{found.misses} deadline misses" in last
    said_p50 = float(last.split("tick p50 ")[1].split(" us")[0])
    assert abs(said_p50 - found.tick_us[0]) <= 0.01 * found.tick_us[0] + 1.0  # what it says is what the log shows


def test_asking_another_process_costs_less_than_a_control_period(bundle: Bundle) -> None:
    found = policy_process_latency.measure(bundle, rounds=3, calls=50, paced=5)
    medians = {name: float(np.median(us)) for name, us in found["busy"].items()}
    assert 0 < medians["in process"] < medians["own process"] < 20_000 and medians["floor"] > 0
    assert all(len(us) == 150 for us in found["busy"].values()) and len(found["paced"]["floor"]) == 5


def test_the_tables_name_what_never_came() -> None:
    text = policy_deaths.table([Death("killed", NEVER), Death("killed", NEVER), Death("spins", 0)])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}
    assert rows["killed"] == ["2", "never", "never", "2"] and rows["all"][3] == "2"
    assert rows["spins"] == ["1", "0", "0", "0"]
