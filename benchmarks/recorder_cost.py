"""What recording costs the flight loop per tick, with a healthy recorder process, a stopped one and a killed one.

    python benchmarks/recorder_cost.py [--ticks 20000] [--json]

The rival writes the same tick into HDF5 in the loop itself: append to four datasets and flush, as a loop must that
wants to lose no more than one tick.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.state import Command, Setpoint
from sim2sky.telemetry.flight_log import LogMetadata

PACE_S = 0.0005  # between ticks: ten to a hundred times faster than any control loop here
ROW = tuple(float(i) for i in range(16))
SETPOINT = Setpoint(150.0, 18.0)


def timed(ticks: int, record: Callable[[int], None]) -> dict[str, float]:
    """Median, p99 and max of a call, us, at a steady pace."""
    took = np.empty(ticks)
    for k in range(ticks):
        begun = time.perf_counter_ns()
        record(k)
        took[k] = time.perf_counter_ns() - begun
        time.sleep(PACE_S)
    us = took / 1e3
    return {"median": float(np.median(us)), "p99": float(np.percentile(us, 99)), "max": float(us.max())}


def measure(ticks: int) -> dict[str, dict[str, float]]:
    """By situation: microseconds per tick, and ticks `dropped`."""
    contract = make_contract(EnvironmentSettings())
    observation = np.zeros(len(contract.observation_names), np.float32)
    tick = Tick(Command(0.0, 0.1, 0.0, 0.5), np.zeros(4, np.float32), observation, 0, 0)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="sim2sky-cost-") as folder:

        def with_recorder(name: str, harm: Callable[[Recorder], Any], heal: Callable[[Recorder], Any]) -> None:
            recorder = Recorder(Path(folder) / f"{name}.h5", LogMetadata("sim"), contract)
            recorder.begin(0)
            harm(recorder)
            results[name] = timed(ticks, lambda k: recorder.record(ROW, SETPOINT, tick, (k, k, k)))
            heal(recorder)
            recorder.end(success=True, termination="completed")
            recorder.close()
            results[name]["dropped"] = float(recorder.dropped)

        off = Recorder(None, LogMetadata("sim"), contract)
        off.begin(0)
        results["no log"] = timed(ticks, lambda k: off.record(ROW, SETPOINT, tick, (k, k, k)))
        with_recorder("recorded", lambda _: None, lambda _: None)

        def send(number: signal.Signals) -> Callable[[Recorder], None]:
            return lambda recorder: os.kill(recorder.process or 0, number)

        with_recorder("stopped", send(signal.SIGSTOP), send(signal.SIGCONT))
        with_recorder("killed", send(signal.SIGKILL), lambda _: None)

        with h5py.File(Path(folder) / "rival.h5", "w") as file:
            widths = {"states": 16, "observations": len(observation), "actions": 4, "timing": 3}
            tables = {
                n: file.create_dataset(n, (0, width), dtype="f8", maxshape=(None, width), chunks=(256, width))
                for n, width in widths.items()
            }
            rows = {name: np.zeros(width) for name, width in widths.items()}

            def in_the_loop(k: int) -> None:
                for name, table in tables.items():
                    table.resize(k + 1, 0)
                    table[k] = rows[name]
                file.flush()

            results["h5py in the loop"] = timed(min(ticks, 2000), in_the_loop)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=20000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.ticks)
    if options.json:
        print(json.dumps(results, indent=1))
        return 0
    print(describe_machine("h5py", "numpy"))
    for name, r in results.items():
        dropped = f", {r['dropped']:.0f} of {options.ticks} ticks dropped" if r.get("dropped") else ""
        print(f"{name:17} median {r['median']:8.1f} us, p99 {r['p99']:8.1f}, max {r['max']:8.1f}{dropped}")
    ratio = results["h5py in the loop"]["median"] / results["recorded"]["median"]
    print(f"h5py in the loop costs {ratio:.0f} times as much per tick")
    return 0


if __name__ == "__main__":
    sys.exit(main())
