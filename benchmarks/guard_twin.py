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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.guard_table import GuardConfig, guard_config
from sim2sky.environments.airframes import AIRFRAMES, airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ConfigError
from sim2sky.hil.native_guard import ANSWER, ARM, CALL, DISARM, KILL, RESET, STEP, NativeGuard
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import Command, Health, PolicyState, Sample, Setpoint

FLIGHT = 500  # steps
RECORD = np.dtype([
    ("time_ns", "i8"), ("state", "f8", 13), ("setpoint", "f8", 8), ("proposed", "f8", 4), ("now_ns", "i8"),
    ("battery_v", "f8"), ("policy", "i4"), ("what", "i4"),
])  # fmt: skip
VERDICT = np.dtype([("command", "f8", 4), ("mode", "i4"), ("trips", "u4")])
assert (RECORD.itemsize, VERDICT.itemsize) == (CALL.size, ANSWER.size)

NASTY = np.array([
    math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -5e-324, 1e-310, 0.0, -0.0, 1e6, -1e6, 9.9e5, 1e16,
    math.nextafter(1e6, 0.0), math.nextafter(-1e6, 0.0), math.pi, -math.pi, math.pi / 2, 1e-12, 1.0, -1.0,
])  # fmt: skip
INSTANTS = np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2**62, 10**18], np.int64)
THEMES = (
    "calm", "calm", "calm", "wild", "wild", "jumps", "garbage", "holes", "old", "blind", "clock", "late", "dead",
    "battery", "no position", "switch", "home",
)  # fmt: skip
Rng = np.random.Generator
Setup = tuple[SafetyLimits, AutopilotGains, Contract]


def random_limits(rng: Rng) -> SafetyLimits:
    """Limits that a configuration may hold; some of zero, some far out."""
    while True:
        u: Callable[[float, float], float] = lambda a, b: float(rng.uniform(a, b))  # noqa: E731
        maybe: Callable[[float], float] = lambda v: v if rng.random() < 0.6 else 0.0  # noqa: E731
        low = u(-20.0, 120.0)
        values: dict[str, Any] = {
            "aileron_max": u(2, 60), "elevator_max": u(2, 60), "rudder_max": u(2, 60),
            "throttle_min": maybe(u(0, 0.4)), "throttle_max": u(0.5, 1.0),
            "surface_slew_per_s": u(0.2, 30), "throttle_slew_per_s": u(0.2, 30),
            "roll_max": u(20, 180), "pitch_max": u(10, 90), "pitch_min": -u(10, 90),
            "airspeed_min_mps": maybe(u(5, 15)), "airspeed_max_mps": maybe(u(22, 60)), "sink_max_mps": maybe(u(3, 20)),
            "altitude_min": low, "max_altitude_m": low + u(60, 600), "altitude_buffer_m": maybe(u(0, 20)),
            "max_range_m": u(100, 5000), "geofence_polygons": random_polygons(rng),
            "geofence_enabled": bool(rng.random() < 0.85), "fence_buffer_m": maybe(u(0, 60)),
            "battery_min_voltage": maybe(10.5), "kill_switch_enabled": bool(rng.random() < 0.8),
            "hold_last_ms": maybe(u(0, 300)), "stale_data_ms": u(1, 300), "blind_data_ms": u(300, 800),
            "terminate_after_s": maybe(u(0, 2)), "attitude_hysteresis_deg": maybe(u(0, 9)),
            "altitude_hysteresis_m": maybe(u(0, 8)), "range_hysteresis_m": maybe(u(0, 30)),
            "airspeed_hysteresis_mps": maybe(u(0, 2)), "recovery_s": maybe(u(0, 1)), "return_after_s": maybe(u(0, 3)),
            "fallback_airspeed_mps": maybe(u(16, 22)), "fallback_bank_deg": u(5, 75),
            "fallback_roll_s": maybe(u(0.1, 3)), "fallback_pull_mps2": u(0.5, 8),
            "position_latency_ms": maybe(u(0, 400)), "command_latency_ms": maybe(u(0, 300)),
            "wind_max_mps": maybe(u(0, 20)),
        }  # fmt: skip
        try:
            return SafetyLimits(**values)
        except ConfigError:
            continue  # they contradict each other


def random_polygons(rng: Rng) -> tuple[tuple[tuple[float, float], ...], ...]:
    """None to two star-shaped polygons around home, either way round."""
    polygons: list[tuple[tuple[float, float], ...]] = []
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        n = int(rng.integers(3, 8))
        angles = rng.uniform(0, math.tau) + math.tau * (np.arange(n) + rng.uniform(-0.2, 0.2, n)) / n
        away = rng.uniform(150.0, 900.0, n)
        points = [(float(a * math.cos(t)), float(a * math.sin(t))) for a, t in zip(away, angles, strict=True)]
        polygons.append(tuple(points if rng.random() < 0.5 else points[::-1]))
    return tuple(polygons)


def random_gains(rng: Rng) -> AutopilotGains:
    """An airframe's gains, each scaled; some zero; rarely so large that the law overflows."""
    gains = airframe(str(rng.choice(list(AIRFRAMES)))).gains.to_json()
    scaled = {name: value * float(rng.lognormal(0.0, 0.4)) for name, value in gains.items()}
    for name in rng.choice(list(gains), 2):
        if name != "yaw_washout_s":
            scaled[name] = float(rng.choice([0.0, scaled[name], -scaled[name]]))
    if rng.random() < 0.08:
        scaled[str(rng.choice(["roll_p", "pitch_d", "energy_p", "climb_gain", "turn_pitch"]))] = 1.7e308
    return AutopilotGains(**scaled)


def random_contract(rng: Rng) -> Contract:
    """One of our contracts with another rate, other bounds and other travel."""
    task = {"name": str(rng.choice(["hsa", "attitude", "rate"]))}
    contract = make_contract(EnvironmentSettings.model_validate({"task": task}))
    box = contract.inputs[0]
    bounds = [
        replace(s, low=s.low * f, high=s.high * f) if rng.random() < 0.3 else s
        for s, f in zip(box.signals, rng.uniform(0.2, 1.5, len(box.signals)), strict=True)
    ]
    if rng.random() < 0.3:  # a velocity over ground that is not measured is outside of every bound
        bounds[0] = replace(bounds[0], name="north_mps", low=-math.inf, high=30.0)
    channels = tuple(
        replace(s, deflection_limit_rad=float(rng.uniform(0.1, 1.0)), command_neutral=float(rng.uniform(-0.2, 0.6)))
        for s in contract.output.signals
    )
    rate_hz = float(rng.choice([5.0, 10.0, 20.0, 50.0, 100.0]))
    output = replace(contract.output, signals=channels)
    return replace(contract, rate_hz=rate_hz, inputs=(replace(box, signals=tuple(bounds)),), output=output)


def smooth(rng: Rng, n: int, width: int) -> NDArray[np.float64]:
    """Random motion: `width` sums of three sines, mostly within -1 to 1, shape (n, width)."""
    t = np.arange(n)[:, None, None]
    periods, phases = rng.uniform(8.0, 250.0, (1, width, 3)), rng.uniform(0.0, math.tau, (1, width, 3))
    motion: NDArray[np.float64] = np.sin(math.tau * t / periods + phases).sum(axis=2) / 2.0
    return motion


def random_calls(rng: Rng, limits: SafetyLimits, rate_hz: float, n: int = FLIGHT) -> NDArray[Any]:
    """The calls of one flight, shape (n,) of `RECORD`."""
    r = np.zeros(n, RECORD)
    low, high = limits.altitude_min, limits.max_altitude_m
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    centre = np.array([0, 0.03, rng.uniform(-4, 4), 0, 0, 0, 19, middle, 0, 0, 0, 0, 0])
    span = np.array([
        math.radians(limits.roll_max), math.radians(limits.pitch_max), 4, 2, 1, 1, 15, half, 12, limits.max_range_m,
        limits.max_range_m, 30, 30,
    ])  # fmt: skip
    motion = smooth(rng, n, 13)
    share = np.full((n, 1), 0.15)
    r["setpoint"] = [middle, 19, 0, 0, 0, 0, 0, 0] + smooth(rng, n, 8) * [50, 6, 3, 1, 0.3, 1, 1, 1]
    r["proposed"] = [0, 0, 0, 0.5] + smooth(rng, n, 4) * rng.uniform(0.1, 1.5)
    r["battery_v"] = math.nan if rng.random() < 0.7 else 12.0
    period = round(1e9 / rate_hz)
    begin = int(rng.choice([0, 10**12, -(2**63), 2**63 - 1 - 2 * n * period]))
    now = begin + np.arange(n, dtype=np.int64) * period
    delay = np.full(n, int(rng.integers(0, 2)) * 10**6, np.int64)
    borders = np.cumsum(rng.integers(10, 90, n // 10))
    stretches = list(pairwise([0, *borders[borders < n - 10].tolist(), n]))
    for a, b in stretches:
        part, k = slice(a, b), b - a
        theme = str(rng.choice(THEMES))
        if theme == "wild":
            share[part] = rng.uniform(0.5, 1.4)
        elif theme == "jumps":
            share[part] = 1.3
            motion[part] = rng.uniform(-1, 1, (k, 13))
        elif theme == "old":
            borders_ns = [int(ms * 1e6) + d for ms in (limits.stale_data_ms, limits.blind_data_ms) for d in (-1, 0, 1)]
            delay[part] = rng.choice([rng.integers(-(10**9), 10**9, k), rng.choice(borders_ns, k)])
        elif theme == "blind":
            delay[part] = 900_000_000
        elif theme == "home":
            centre_n, centre_e = rng.uniform(-60, 60, 2)
            motion[part, 9], motion[part, 10] = centre_n / span[9] / 0.15, centre_e / span[10] / 0.15
    r["state"] = centre + motion * span * share
    r["now_ns"], r["time_ns"] = now, now - np.where(now >= -(2**63) + 10**9, delay, 0)
    for a, b in stretches:
        _spoil(rng, r[a:b])
    if rng.random() < 0.5:  # ground velocity that nobody measures
        r["state"][int(rng.integers(n)) :, 11:] = math.nan
    if rng.random() < 0.1:  # nor position
        r["state"][:, 9] = math.nan
    return r


def _spoil(rng: Rng, part: NDArray[Any]) -> None:
    """Adversarial values in one stretch."""
    k, theme = len(part), str(rng.choice(THEMES))
    if theme in {"garbage", "holes"}:
        rows = np.arange(k) if theme == "garbage" else np.flatnonzero(rng.random(k) < 0.3)
        for name, width in (("state", 13), ("setpoint", 8), ("proposed", 4)):
            part[name][rows, rng.integers(0, width, len(rows))] = rng.choice(NASTY, len(rows))
            if name == "state" and theme == "holes":
                rows = rows[::3]
        part["battery_v"][rows] = rng.choice(NASTY, len(rows))
    elif theme == "clock":
        for name in ("now_ns", "time_ns"):
            rows = np.flatnonzero(rng.random(k) < 0.2)
            part[name][rows] = rng.choice(INSTANTS, len(rows))
    elif theme == "late":
        part["policy"] = rng.random(k) < 0.5
    elif theme == "dead":
        part["policy"] = int(PolicyState.DEAD)
    elif theme == "battery":
        part["battery_v"] = 9.0 + 2.0 * (rng.random() < 0.3)
        part["state"][:, 9:11] *= rng.choice([0.1, 1.0])
    elif theme == "no position":
        part["state"][:, 9 + int(rng.integers(2))] = rng.choice(NASTY[[0, 1, 3, 10]])
    elif theme == "switch":
        rows = rng.integers(0, k, 6)
        part["what"][rows] = rng.choice([RESET, KILL, DISARM, ARM], 6)
        part["what"][-2:] = [DISARM, ARM]


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
