"""Flights of made-up ticks, whose every number tells which tick it is: for the tests of recorder and flight log."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.flight_support import agent_environment, sample, settings

from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.recorder import Recorder, state_row
from sim2sky.runtime.state import Command, Setpoint
from sim2sky.telemetry.flight_log import Episode, FlightLog, LogMetadata, read_flight_log

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = make_contract(settings())
N_OBSERVATIONS = len(CONTRACT.observation_names)
METADATA = LogMetadata("hil", "hawk", "ab" * 32, CONTRACT.hash, 20.0, "2026-01-01T00:00:00Z", {"a": [1, 2]})
COMMAND = Command(0.1, 0.2, 0.3, 0.4)


def tick_of(k: int, seed: int = 0) -> Tick:
    observation = np.full(N_OBSERVATIONS, k, np.float32)
    return Tick(COMMAND, np.full(4, seed, np.float32), observation, k % 7, k % 4096)


def record(recorder: Recorder, k: int, seed: int = 0, reward: float | None = 1.0) -> None:
    row = state_row(sample(roll_rad=float(k), north_m=float(seed)), k / 20)
    recorder.record(row, Setpoint(altitude_m=k), tick_of(k, seed), (k, k + 1, k + 2), reward)


def fly(recorder: Recorder, ticks: int, seed: int = 0, **extra: float) -> None:
    recorder.begin(seed)
    for k in range(ticks):
        record(recorder, k, seed)
    recorder.end(success=True, termination="completed", **extra)


def ticks_of(episode: Episode) -> list[int]:
    """Which ticks an episode holds; every dataset must agree on it."""
    roll = episode.column("states", "roll")
    ticks = [int(v) for v in roll]
    assert np.array_equal(roll, ticks)
    assert np.array_equal(episode["observations"], np.repeat(roll[:, None], N_OBSERVATIONS, 1))
    assert np.array_equal(episode["timing"], np.stack([roll, roll + 1, roll + 2], 1))
    assert np.array_equal(episode["guard"], np.stack([roll % 7, roll % 4096], 1))
    assert np.array_equal(episode["actions"], np.full((len(ticks), 4), max(episode.seed, 0), np.float32))
    return ticks


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def finished(path: Path) -> bool:
    """The recorder process has made one file of the log and is gone."""
    return path.is_file() and not path.with_name(path.name + ".parts").exists()


def read_all(path: Path) -> list[tuple[int, list[int], str]]:
    """Seed, ticks and termination of every episode."""
    log: FlightLog
    with read_flight_log(path) as log:
        return [(e.seed, ticks_of(e), e.termination) for e in log.episodes]


def without_h5py(folder: Path) -> dict[str, str]:
    """Environment of a machine on which h5py cannot be imported, neither here nor in child processes."""
    (folder / "h5py").mkdir(parents=True)
    (folder / "h5py" / "__init__.py").write_text("raise ImportError('no h5py here')")
    environment = agent_environment()
    environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}:{ROOT}"
    return environment


FLYER = """
import json, sys, time
from pathlib import Path
from tests.recorder_support import *
options = json.loads(sys.argv[2])
recorder = Recorder(Path(sys.argv[1]), METADATA, CONTRACT, overwrite=True)
print("ready", recorder.process, flush=True)
seed = 0
while True:
    recorder.begin(seed)
    for k in range(options["ticks"]):
        record(recorder, k, seed)
        if k % 10 == 0:
            print("tick", seed, k, flush=True)
        time.sleep(options["period_s"])
    recorder.end(success=True, termination="completed")
    print("end", seed, recorder.process, flush=True)
    seed += 1
    if seed == options["episodes"]:
        recorder.close()
        print("closed", recorder.problem, flush=True)
        break
"""


def flyer(path: Path, **options: float) -> subprocess.Popen[str]:
    """A flight process of its own that says what it has recorded."""
    environment = agent_environment()
    environment["PYTHONPATH"] += f":{ROOT}"
    given = {"ticks": 40, "period_s": 0.001, "episodes": 1000, **options}
    return subprocess.Popen(
        [sys.executable, "-c", FLYER, str(path), json.dumps(given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=ROOT,
    )
