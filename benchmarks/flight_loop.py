"""The flight loop in real time: deadline misses, time of a tick, and from the packet in to the command out.

    PYTHONPATH=src python benchmarks/flight_loop.py BUNDLE [--minutes 10] [--rate 50] [--json]

Three processes, as on an aircraft: the plant, the flight process with its guard, and the policy process; UDP between
the first two. The bundle is flown at `--rate`, whatever its contract says (a copy is made): how well it flies does not
matter here, the guard acts where it must. Every figure comes from the time stamps of all ticks in the flight agent's
log; its own running summary is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, open_bundle, write_bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.hil.hil_test import AGENT_OUTPUT, HilResult, run_hil
from sim2sky.runtime.safety import Mode
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.validation.flight import environment_for

SRC = Path(__file__).resolve().parent.parent / "src"
EPISODE_S = 20.0


@dataclass(frozen=True)
class Figures:
    """Times in microseconds.

    Attributes:
        ticks: flown.
        misses: commands sent later than one period after their state came.
        tick_us: p50, p99, p99.9, max of receive to sent, in the flight process.
        exchange_us: median, p99, max, state packed to command decoded, on the plant's side.
        jitter_us: p50, p99, max of |interval - period|.
        bias: mean interval / period - 1.
        missed_by_plant: periods in which the plant had no new command.
        fallback_ticks: not commanded by the policy.
        said: the flight agent's own last words.
    """

    ticks: int
    misses: int
    tick_us: tuple[float, float, float, float]
    exchange_us: tuple[float, float, float]
    jitter_us: tuple[float, float, float]
    bias: float
    missed_by_plant: int
    fallback_ticks: int
    said: str


def at_rate(bundle: Bundle, rate_hz: float, out: Path) -> Bundle:
    """The same policy under a contract with another control rate."""
    files = {name: bundle.read(name) for name in bundle.files if name != "contract.json"}
    return write_bundle(
        out,
        agent=bundle.agent,
        contract=replace(bundle.contract, rate_hz=rate_hz),
        formats=bundle.formats,
        active=bundle.active,
        files=files,
        profile=bundle.profile,
        provenance=bundle.provenance,
    )


def fly(bundle: Bundle, folder: Path, seconds: float) -> Figures:
    """Fly for `seconds`, in episodes of at most `EPISODE_S`."""
    episodes = max(round(seconds / EPISODE_S), 1)
    duration_s = seconds / episodes
    base = EnvironmentSettings.model_validate({"task": {"duration_s": duration_s, "hold_s": duration_s / 2}})
    command = [sys.executable, "-m", "sim2sky.runtime.main", "--bundle", str(bundle.path)]
    variables = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    result = run_hil(
        command,
        environment_for(bundle.contract, base),
        list(range(episodes)),
        log_dir=folder,
        realtime=True,
        environment=variables,
    )
    return figures(result, bundle.contract.rate_hz, (folder / AGENT_OUTPUT).read_text().strip().splitlines())


def figures(result: HilResult, rate_hz: float, said: Sequence[str]) -> Figures:
    assert result.agent_log is not None, "there is no flight log to read the times from"
    took: list[NDArray[np.float64]] = []
    intervals: list[NDArray[np.float64]] = []
    fallback = 0
    with read_flight_log(result.agent_log) as log:
        for episode in log.episodes:
            received, sent = (episode.column("timing", name).astype(np.float64) for name in ("receive", "send"))
            took.append((sent - received) * 1e-3)
            intervals.append(np.diff(received) * 1e-3)
            fallback += int((episode.column("guard", "mode") != Mode.POLICY).sum())
    tick, interval, period = np.concatenate(took), np.concatenate(intervals), 1e6 / rate_hz
    jitter = np.abs(interval - period)
    p50, p99, p999 = (float(v) for v in np.percentile(tick, (50, 99, 99.9)))
    x = result.exchange_us
    return Figures(
        len(tick),
        int((tick > period).sum()),
        (p50, p99, p999, float(tick.max())),
        (x["median"], x["p99"], x["max"]),
        (float(np.median(jitter)), float(np.percentile(jitter, 99)), float(jitter.max())),
        float(interval.mean() / period - 1.0),
        result.missed,
        fallback,
        "\n".join(said),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=50.0, help="Hz")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = at_rate(open_bundle(options.bundle), options.rate, folder / "bundle")
        found = fly(bundle, folder, options.minutes * 60.0)
    machine = describe_machine("onnxruntime", "pymavlink")
    if options.json:
        print(json.dumps({"machine": machine, "rate_hz": options.rate, **found.__dict__}, indent=1))
        return 0
    print(machine)
    print(
        f"{found.ticks} ticks at {options.rate:g} Hz: {found.misses} deadline misses, "
        f"{found.missed_by_plant} periods without a new command at the plant, "
        f"{found.fallback_ticks} ticks not commanded by the policy"
    )
    print("packet in to command out, us: p50 {:.0f}, p99 {:.0f}, p99.9 {:.0f}, max {:.0f}".format(*found.tick_us))
    print("the same from the plant's side, us: median {:.0f}, p99 {:.0f}, max {:.0f}".format(*found.exchange_us))
    print("jitter, us: p50 {:.0f}, p99 {:.0f}, max {:.0f};".format(*found.jitter_us), f"bias {found.bias:+.4%}")
    print(f"the flight agent says:\n{found.said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
