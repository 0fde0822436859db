"""SIGKILL at random moments of real HIL runs: how many finished episodes can be read afterwards.

    python benchmarks/recorder_kills.py BUNDLE [--kills 100] [--json]

Plant and flight agent fly short episodes over a real link; at a random moment the recorder process, the flight process
or both are killed. An episode counts as finished when the agent has acknowledged its end. Beside it, a process that
writes the same episodes with plain h5py and is killed likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.errors import FlightLogError, LinkError
from sim2sky.hil.hil_test import AGENT_LOG, run_hil
from sim2sky.telemetry.flight_log import read_flight_log, recover

VICTIMS = ("recorder", "flight", "both")
EPISODES = 40
SETTLE_S = 30.0

PLAIN = """
import sys, time, h5py, numpy as np
with h5py.File(sys.argv[1], "w") as file:
    for number in range(100000):
        group = file.create_group(f"episode_{number:04d}")
        for name, width in (("states", 16), ("observations", 25), ("actions", 4)):
            group[name] = np.zeros((60, width))
        print(number, flush=True)
        time.sleep(0.005)
"""


@dataclass
class Tally:
    """Over all kills of one kind.

    Attributes:
        kills: carried out.
        finished: episodes that were over before the flight process ended.
        readable: of these, complete in the log.
        mended: logs of which `recover` made one file.
    """

    kills: int = 0
    finished: int = 0
    readable: int = 0
    mended: int = 0
    lost: list[str] = field(default_factory=list[str])


def children(pid: int) -> dict[int, str]:
    """Process ids and command lines of a process's children."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def processes() -> tuple[int, int] | None:
    """The flight process that this one started, and its recorder process."""
    for agent, line in children(os.getpid()).items():
        if "sim2sky.runtime.main" in line:
            for recorder, what in children(agent).items():
                if "recorder_process" in what:
                    return agent, recorder
    return None


def one_kill(
    bundle: Bundle, victim: str, rng: random.Random, folder: Path, tally: Tally, environment: Mapping[str, str] | None
) -> None:
    """One run, one kill, one count."""
    settings = EnvironmentSettings.model_validate(
        {
            "aircraft": bundle.contract.vehicle,
            "rate_hz": bundle.contract.rate_hz,
            "task": {"name": bundle.contract.task, "duration_s": 3.0, "hold_s": 0.5},
        }
    )
    struck, finished = threading.Event(), 0

    def strike(pids: tuple[int, int]) -> None:
        flight, recorder = pids
        struck.set()
        for pid in {"recorder": (recorder,), "flight": (flight,), "both": (recorder, flight)}[victim]:
            os.kill(pid, signal.SIGKILL)

    timer: threading.Timer | None = None

    def flown(episode: int, _: object) -> None:
        nonlocal finished, timer
        finished = episode + 1
        if episode == 2 and (pids := processes()) is not None:
            timer = threading.Timer(rng.uniform(0.0, 0.6), strike, (pids,))
            timer.start()

    command = [sys.executable, "-m", "sim2sky.runtime.main", "--bundle", str(bundle.path), "--connect-timeout", "30"]
    try:
        run_hil(
            command, settings, list(range(EPISODES)), log_dir=folder, progress=flown, environment=environment,
            timeout_s=2.0,
        )  # fmt: skip
    except LinkError:
        assert victim != "recorder", "a flight does not end with its recorder"
    assert timer is not None
    timer.join()
    assert struck.is_set()
    log = folder / AGENT_LOG
    parts = log.with_name(log.name + ".parts")
    deadline = time.monotonic() + SETTLE_S
    while victim != "both" and parts.exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # the recorder process outlives the flight and finishes the log
    if parts.exists():
        recover(log)
        tally.mended += 1
    with read_flight_log(log) as read:
        whole = {e.seed for e in read.episodes if len(e) == settings.ticks and e.termination == "completed"}
    missing = set(range(finished)) - whole
    tally.kills += 1
    tally.finished += finished
    tally.readable += finished - len(missing)
    tally.lost += [f"{victim}: {sorted(missing)} of {finished}"] if missing else []


def measure(bundle: Bundle, kills: int, environment: Mapping[str, str] | None = None) -> dict[str, Tally]:
    """`kills` kills, a third of each kind."""
    rng = random.Random(0)
    tallies = {victim: Tally() for victim in VICTIMS}
    for number in range(kills):
        victim = VICTIMS[number % len(VICTIMS)]
        with tempfile.TemporaryDirectory(prefix="sim2sky-kills-") as folder:
            one_kill(bundle, victim, rng, Path(folder), tallies[victim], environment)
    return tallies


def plain_h5py(kills: int) -> tuple[int, int]:
    """The negative control: episodes written, and readable, with h5py alone."""
    rng = random.Random(1)
    written = readable = 0
    for _ in range(kills):
        with tempfile.TemporaryDirectory(prefix="sim2sky-plain-") as folder:
            path = Path(folder) / "f.h5"
            command = [sys.executable, "-c", PLAIN, str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                wanted = rng.randrange(5, 40)
                while int(process.stdout.readline()) < wanted:
                    pass
                process.kill()
                written += wanted + 1
            try:
                with read_flight_log(path) as log:
                    readable += len(log)
            except FlightLogError:
                continue
    return written, readable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tallies = measure(open_bundle(options.bundle), options.kills)
    written, readable = plain_h5py(min(options.kills, 12))
    rows = {victim: vars(tally) for victim, tally in tallies.items()}
    finished, whole = (sum(getattr(t, name) for t in tallies.values()) for name in ("finished", "readable"))
    if options.json:
        print(json.dumps({"kills": rows, "plain_h5py": {"written": written, "readable": readable}}, indent=1))
        return 0 if whole >= 0.99 * finished else 1
    print(describe_machine("h5py", "numpy"))
    for victim, t in tallies.items():
        print(
            f"{t.kills} kills of {victim}: {t.readable} of {t.finished} finished episodes readable; {t.mended} mended"
        )
        for line in t.lost:
            print(f"    lost: {line}")
    print(f"all: {whole} of {finished} = {whole / max(finished, 1):.2%}")
    print(f"plain h5py: {readable} of {written}")
    return 0 if whole >= 0.99 * finished else 1


if __name__ == "__main__":
    sys.exit(main())
