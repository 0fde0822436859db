"""The guard in C against the guard in Python: the same trips, mode and command bits, step for step?

    python benchmarks/guard_twin.py [--steps 1000000] [--seed 20261127] [--workers 2] [--json]

Every flight has limits, gains, fence and contract of its own (polygons, no fence, limits of zero, gains that overflow,
control rates from 5 to 100 Hz). States wander through and beyond the limits, then come adversarial stretches: NaN,
infinities, negative zero, subnormals, numbers beside 1e6, estimates that are late, from the future or 600 years off, a
policy that is late or dead, a sinking battery, and kill, disarm, arm and reset in between. A difference is printed with
its seed, flight, step, input and both answers: the flight can be flown again alone (`flown`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from guard_conditions import FLIGHT, RECORD, random_calls, random_contract, random_gains, random_limits
from machine import describe_machine
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.deployment.guard_table import GuardConfig, guard_config
from sim2sky.hil.native_guard import ANSWER, ARM, CALL, DISARM, KILL, RESET, STEP, NativeGuard
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import Command, Health, PolicyState, Sample, Setpoint

Setup = tuple[SafetyLimits, AutopilotGains, Contract]
VERDICT = np.dtype([("command", "f8", 4), ("mode", "i4"), ("trips", "u4")])
assert (RECORD.itemsize, VERDICT.itemsize) == (CALL.size, ANSWER.size)


@dataclass
class Flown:
    """One flight: what the guard was asked, and what the Python guard answered.

    Attributes:
        calls: (n,) of `RECORD`.
        answers: (n,) of `VERDICT`; of a call that is no step, the mode says whether the guard is killed afterwards.
    """

    seed: int
    flight: int
    setup: Setup
    config: GuardConfig
    calls: NDArray[Any]
    answers: NDArray[Any]


def flown(seed: int, flight: int, steps: int = FLIGHT, setup: Setup | None = None) -> Flown:
    """Make up a flight, with limits, gains and contract of its own if none are given; fly it with the Python guard."""
    rng = np.random.default_rng([seed, flight])
    limits, gains, contract = setup = setup or (random_limits(rng), random_gains(rng), random_contract(rng))
    monitor = SafetyMonitor.for_contract(limits, Autopilot(gains, 1.0 / contract.rate_hz), contract)
    calls = random_calls(rng, limits, contract.rate_hz, steps)
    return Flown(seed, flight, setup, guard_config(monitor), calls, python_answers(monitor, calls))


def python_answers(monitor: SafetyMonitor, calls: NDArray[Any]) -> NDArray[Any]:
    """What a guard in Python answers, shape (n,) of `VERDICT`."""
    others = {RESET: monitor.reset, KILL: monitor.kill, DISARM: monitor.disarm, ARM: monitor.arm}
    answers: list[tuple[tuple[float, ...], int, int]] = []
    columns: list[list[Any]] = [calls[name].tolist() for name in RECORD.names or ()]
    for time_ns, state, setpoint, proposed, now_ns, battery, policy, what in zip(*columns, strict=True):
        if what == STEP:
            health = Health(PolicyState(policy), battery)
            a = monitor.guard(Sample(time_ns, *state), Setpoint(*setpoint), Command(*proposed), now_ns, health)
            answers.append((a.command, int(a.mode), int(a.trips)))
        else:
            others[what]()
            answers.append(((0.0, 0.0, 0.0, 0.0), int(monitor.killed), 0))
    return np.array(answers, VERDICT)


def c_answers(f: Flown, library: ctypes.CDLL | None = None) -> NDArray[Any]:
    """What the guard in C answers, shape (n,) of `VERDICT`."""
    answers = np.zeros(len(f.calls), VERDICT)
    NativeGuard(f.config, library).answer(f.calls.ctypes.data, answers.ctypes.data, len(answers))
    return answers


def differences(f: Flown, library: ctypes.CDLL | None = None) -> list[str]:
    """Steps with another command bit, mode or trip; the first of the flight described in full."""
    answers = c_answers(f, library)
    bits, expected = (a.view(np.uint64).reshape(len(a), -1) for a in (answers, f.answers))
    unlike = np.flatnonzero((bits != expected).any(axis=1))
    return [describe(f, answers, int(k)) for k in unlike[:1]] + [f"flight {f.flight} step {k}" for k in unlike[1:]]


def describe(f: Flown, answers: NDArray[Any], k: int) -> str:
    """One step that differs, so that it can be flown again."""
    asked = dict(zip(RECORD.names or (), f.calls[k], strict=True))
    lines = [f"seed {f.seed} flight {f.flight} step {k}: {asked}"]
    for who, answer in (("Python", f.answers[k]), ("C", answers[k])):
        command = ", ".join(float(v).hex() for v in answer["command"])
        mode = Mode(int(answer["mode"])).name if f.calls[k]["what"] == STEP else f"killed {answer['mode']}"
        lines.append(f"  {who}: {mode}, {Trip(int(answer['trips']))!r}, command {command}")
    return "\n".join(lines)


@dataclass
class Report:
    """Sums over flights.

    Attributes:
        different: steps that differ, described.
        modes, trips: steps by mode, and with each trip set.
    """

    steps: int = 0
    python_s: float = 0.0
    c_s: float = 0.0
    different: list[str] = field(default_factory=list[str])
    modes: Counter[str] = field(default_factory=Counter[str])
    trips: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Report) -> None:
        """Sum up."""
        self.steps += other.steps
        self.python_s += other.python_s
        self.c_s += other.c_s
        self.different += other.different
        self.modes += other.modes
        self.trips += other.trips


def report_on(f: Flown, library: ctypes.CDLL | None = None) -> Report:
    """Compare one flight."""
    began = time.perf_counter()
    different = differences(f, library)
    steps = f.answers[f.calls["what"] == STEP]
    return Report(
        len(steps), 0.0, time.perf_counter() - began, different,
        Counter({m.name: int((steps["mode"] == m).sum()) for m in Mode}),
        Counter({str(t.name): int((steps["trips"] & int(t) != 0).sum()) for t in Trip}),
    )  # fmt: skip


def _job(arguments: tuple[int, int]) -> Report:
    began = time.perf_counter()
    f = flown(*arguments)
    python_s = time.perf_counter() - began
    report = report_on(f)
    report.python_s = python_s
    return report


def campaign(steps: int, seed: int, *, workers: int = 2) -> Report:
    """At least so many steps."""
    jobs = [(seed, k) for k in range(math.ceil(1.02 * steps / FLIGHT))]  # some calls are no steps
    if workers <= 1:
        return _sum(map(_job, jobs), steps)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return _sum(pool.imap(_job, jobs, chunksize=8), steps)


def _sum(reports: Iterable[Report], steps: int) -> Report:
    total = Report()
    for k, report in enumerate(reports, 1):
        total.add(report)
        if k % 200 == 0:
            print(f"{total.steps:,} of {steps:,} steps, {len(total.different)} differ", file=sys.stderr, flush=True)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = campaign(options.steps, options.seed, workers=options.workers)
    seen = {name for counts in (report.modes, report.trips) for name, n in counts.items() if n}
    missed = [str(x.name) for x in (*Mode, *Trip) if x.name not in seen]
    if options.json:
        print(json.dumps({k: getattr(report, k) for k in ("steps", "different", "modes", "trips")}))
    else:
        print(describe_machine("numpy"))
        print(f"{report.steps:,} steps, {len(report.different)} with another command bit, mode or trip")
        print("steps by mode: " + ", ".join(f"{m.name} {report.modes[m.name]:,}" for m in Mode))
        print("steps by trip: " + ", ".join(f"{t.name} {report.trips[str(t.name)]:,}" for t in Trip))
        python_us, c_us = (1e6 * s / report.steps for s in (report.python_s, report.c_s))
        print(f"mean time a step: Python {python_us:.1f} us (making up the input included), C {c_us:.2f} us")
        print("\n".join(report.different[:5]))
        if missed:
            print(f"never seen: {', '.join(missed)}")
    return 1 if report.different or missed else 0


if __name__ == "__main__":
    sys.exit(main())
