"""The flight log: what is written is what is read, an older layout is read, and SIGKILL costs one episode at most."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.flight_support import agent_environment, settings

from sim2sky.environments.tasks import make_contract
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.flight_log import (
    COLUMNS,
    EpisodeData,
    FlightLogWriter,
    LogMetadata,
    gather,
    read_flight_log,
)

CONTRACT = make_contract(settings())
METADATA = LogMetadata("sim", "hawk", "ab" * 32, CONTRACT.hash, 20.0, "2026-01-01T00:00:00Z", {"a": [1, 2]})
WIDTHS = {"states": 16, "controls": 4, "setpoints": 8, "timing": 3, "guard": 2}


def episode(n: int = 50, seed: int = 0, **extra: float) -> EpisodeData:
    rng = np.random.default_rng(seed)
    widths = {**WIDTHS, "observations": len(CONTRACT.observation_names), "actions": 4}
    arrays = {name: rng.normal(0, 100, (n, width)) for name, width in widths.items()}
    arrays |= {"time_s": np.arange(n) / 20.0, "rewards": rng.normal(size=n)}
    return EpisodeData(arrays, seed % 2 == 0, "completed", seed, 12.5, extra=extra)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "flight.h5"
    with FlightLogWriter(path, METADATA, CONTRACT) as writer:
        for seed in range(3):
            writer.write(episode(seed=seed, interventions=seed))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flight.h5"]
    with read_flight_log(path) as log:
        assert log.metadata == METADATA and len(log) == 3 and log.schema == 1
        for seed, got in enumerate(log.episodes):
            wrote = episode(seed=seed)
            assert (got.success, got.termination, got.seed) == (seed % 2 == 0, "completed", seed)
            assert got.attrs["total_reward"] == 12.5 and got.attrs["interventions"] == seed and len(got) == 50
            for name, array in wrote.arrays.items():
                integer = name in {"timing", "guard"}
                expected = array.astype(np.int64) if integer else array
                expected = expected.astype(np.float32) if name in {"observations", "actions"} else expected
                assert np.array_equal(got[name], expected), name
                assert len(got.columns(name)) == len(got.units(name)) == (array.shape[1] if array.ndim > 1 else 1)
            assert got.columns("observations") == CONTRACT.observation_names
            assert np.array_equal(got.column("states", "roll"), wrote.arrays["states"][:, 7])
            assert got.column("time_s", "time")[1] == 0.05


def test_the_layout_is_plain_hdf5_with_columns_and_units_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "flight.h5"
    with FlightLogWriter(path, METADATA, CONTRACT) as writer:
        writer.write(episode())
    with h5py.File(path) as file:
        assert set(file) == {"metadata", "episode_0000"} and file["metadata"].attrs["schema"] == 1
        assert json.loads(file["metadata"].attrs["config"]) == {"a": [1, 2]}
        assert set(file["episode_0000"]) == set(COLUMNS)
        for dataset in file["episode_0000"].values():
            assert "columns" in dataset.attrs and "units" in dataset.attrs
        assert list(file["episode_0000/states"].attrs["columns"]) == list(COLUMNS["states"])


def test_every_finished_episode_is_readable_before_the_log_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "flight.h5"
    writer = FlightLogWriter(path, METADATA, CONTRACT)
    with read_flight_log(path) as log:
        assert len(log) == 0
    for count in range(1, 4):
        writer.write(episode(seed=count))
        with read_flight_log(path) as log:
            assert [e.seed for e in log.episodes] == list(range(1, count + 1))
            assert np.array_equal(log.episodes[-1]["states"], episode(seed=count).arrays["states"])


KILLED = """
import sys
from pathlib import Path
from tests.integration.test_flight_log import CONTRACT, METADATA, FlightLogWriter, episode
writer = FlightLogWriter(Path(sys.argv[1]), METADATA, CONTRACT)
seed = 0
while True:
    writer.write(episode(200, seed))
    print(seed, flush=True)
    seed += 1
    if seed == int(sys.argv[2]):
        writer.close()
        print("closed", flush=True)
        break
"""


def test_sigkill_at_any_moment_costs_at_most_the_episode_in_progress(tmp_path: Path) -> None:
    """Real kills at scattered moments, some of them while the log is being closed."""
    root = Path(__file__).resolve().parents[2]
    environment = agent_environment()
    environment["PYTHONPATH"] += f":{root}"
    rng = np.random.default_rng(0)
    for attempt in range(6):
        path = tmp_path / f"flight{attempt}.h5"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), "40"], stdout=subprocess.PIPE, env=environment, cwd=root
        )
        assert process.stdout is not None
        wanted = int(rng.integers(1, 40))
        said: list[bytes] = []
        while len(said) < wanted and (line := process.stdout.readline()):
            said.append(line)
        time.sleep(float(rng.uniform(0, 0.02)))
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        finished = sum(line.strip() != b"closed" for line in said)
        with read_flight_log(path) as log:
            assert finished <= len(log) <= finished + 1
            assert [e.seed for e in log.episodes] == list(range(len(log)))
            assert np.array_equal(log.episodes[-1]["states"], episode(200, len(log) - 1).arrays["states"])
            count = len(log)
        gather(path)  # and the log can be made whole afterwards
        assert not path.with_name(path.name + ".parts").exists()
        with read_flight_log(path) as log:
            assert len(log) == count and log.episodes[0]["states"].shape == (200, 16)
    assert {p.name for p in tmp_path.iterdir()} == {f"flight{i}.h5" for i in range(6)}


def test_the_older_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    states = np.random.default_rng(1).normal(size=(30, 16))
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0000")
        group["states"] = states
        group["observations"] = np.zeros((30, 5))
        group["actions"] = np.zeros((30, 4))
        group["controls"] = np.ones((30, 4))
        group["rewards"] = np.ones(30)
        group.attrs["success"] = True
    with read_flight_log(path) as log:
        got = log.episodes[0]
        assert log.schema == 0 and got.success and got.seed == -1 and got.termination == ""
        assert np.array_equal(got.column("states", "airspeed"), states[:, 13])
        assert got.columns("states")[-1] == "padding" and got.units("states")[7] == "rad"
        assert got.columns("observations") == tuple(f"observations_{i}" for i in range(5))
        assert "setpoints" not in got and got.column("controls", "throttle")[0] == 1.0
        with pytest.raises(FlightLogError, match="no dataset 'setpoints'"):
            got["setpoints"]
        with pytest.raises(FlightLogError, match="no column 'bank'"):
            got.column("states", "bank")


def test_fifteen_state_columns_are_padded(tmp_path: Path) -> None:
    data = episode()
    arrays = {**data.arrays, "states": np.asarray(data.arrays["states"])[:, :15]}
    with FlightLogWriter(tmp_path / "f.h5", METADATA, CONTRACT) as writer:
        writer.write(EpisodeData(arrays, True, "completed", 2**100))
    with read_flight_log(tmp_path / "f.h5") as log:
        assert log.episodes[0]["states"].shape == (50, 16) and log.episodes[0].seed == 2**100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": np.zeros((49, 16))}, "'states' has shape"),
        ({"controls": np.zeros((50, 3))}, "'controls' has 3 columns"),
        ({"actions": np.zeros(50)}, "'actions' has shape"),
        ({"extra": np.zeros((50, 1))}, "no dataset of the flight log"),
        ({"states": None}, "needs the dataset 'states'"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_the_log_stays_whole(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    data = episode()
    arrays = {k: v for k, v in {**data.arrays, **change}.items() if v is not None}
    with FlightLogWriter(tmp_path / "f.h5", METADATA, CONTRACT) as writer:
        writer.write(data)
        with pytest.raises(FlightLogError, match=message):
            writer.write(EpisodeData(arrays, True, "completed", 1))
        writer.write(data)
    with read_flight_log(tmp_path / "f.h5") as log:
        assert len(log) == 2
    with pytest.raises(FlightLogError, match="is closed"):
        writer.write(data)


def test_an_existing_log_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FlightLogWriter(path, METADATA, CONTRACT) as writer:
        writer.write(episode())
    with pytest.raises(FlightLogError, match="already exists"):
        FlightLogWriter(path, METADATA, CONTRACT)
    FlightLogWriter(path, METADATA, CONTRACT, overwrite=True).close()
    with read_flight_log(path) as log:
        assert len(log) == 0


def test_bad_places_and_bad_files_are_plain_errors(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match="there is no folder"):
        FlightLogWriter(tmp_path / "missing" / "f.h5", METADATA, CONTRACT)
    with pytest.raises(FlightLogError, match="no flight log"):
        read_flight_log(tmp_path / "f.h5")
    (tmp_path / "text.h5").write_text("not hdf5")
    with pytest.raises(FlightLogError, match="not a readable flight log"):
        read_flight_log(tmp_path / "text.h5")
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.create_group("metadata").attrs["schema"] = 99
    with pytest.raises(FlightLogError, match="schema 99"):
        read_flight_log(tmp_path / "newer.h5")
    with pytest.raises(FlightLogError, match="source 'dream'"):
        FlightLogWriter(tmp_path / "f.h5", LogMetadata("dream"), CONTRACT)  # type: ignore[arg-type]


def test_a_lost_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    writer = FlightLogWriter(path, METADATA, CONTRACT)
    writer.write(episode())
    writer.write(episode())
    (writer.parts / "episode_0001.h5").unlink()
    with pytest.raises(FlightLogError, match="episode_0001"):
        read_flight_log(path)


def test_a_full_disk_costs_the_episode_not_the_log(tmp_path: Path) -> None:
    """A real limit on the size of files stands for the full disk: a child may write 64 KiB and no more."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from tests.integration.test_flight_log import *
from sim2sky.errors import FlightLogError
writer = FlightLogWriter(Path({str(tmp_path / "f.h5")!r}), METADATA, CONTRACT)
writer.write(episode(20))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
try:
    writer.write(episode(5000))
except FlightLogError as error:
    print(error)
"""
    root = Path(__file__).resolve().parents[2]
    environment = agent_environment()
    environment["PYTHONPATH"] += f":{root}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    assert "cannot write the flight log" in result.stdout, result.stderr
    with read_flight_log(tmp_path / "f.h5") as log:
        assert len(log) == 1 and log.episodes[0]["states"].shape == (20, 16)
