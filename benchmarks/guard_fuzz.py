"""Fuzzed states and commands through the guard: is every command finite, within its limits and within its slew?

    python benchmarks/guard_fuzz.py [--pairs 10000000] [--seed 20261126] [--workers 2] [--json]

States, setpoints and commands are plausible, extreme, subnormal, infinite or NaN; clocks jump; the policy is late or
dead; the battery sinks; the kill switch is thrown and cleared. Each stretch of ticks has one theme, so that what takes
seconds to come about (blind for too long, battery low over home) comes about. After every call the command is checked,
and the ticks of each mode are counted: a fuzz that never gets down the ladder has not been there.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fence_approaches import limits_for, polygon
from machine import describe_machine

from sim2sky.environments.airframes import airframe
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Guarded, Mode, SafetyMonitor
from sim2sky.runtime.state import Command, Health, PolicyState, Sample, Setpoint

DT_S = 0.05
TICK_NS = 50_000_000
STRETCH = 160  # ticks of one theme
NASTY = (
    math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -5e-324, 1e-310, 0.0, -0.0, 1e6, -1e6, 9.9e5, 1e16,
    math.pi, -math.pi, math.pi / 2, -math.pi / 2, 1e-12, 1.0, -1.0,
)  # fmt: skip
SPANS = (
    1.5, 1.0, math.pi, 6.0, 4.0, 4.0, 45.0, 600.0, 30.0, 700.0, 700.0, 40.0, 40.0,
)  # fmt: skip
"""Half-widths of the plausible values of a sample: angles, rates, airspeed, altitude, climb, position, velocity."""
NON_NEGATIVE = (6, 7)
THEMES = (
    "plausible", "calm", "calm", "holes", "garbage", "blind", "late", "dead", "clock", "battery", "lost position",
    "kill",
)  # fmt: skip


@dataclass
class Report:
    """What came out.

    Attributes:
        violations: descriptions of the first few commands that broke a rule.
        modes: ticks by mode.
    """

    pairs: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list[str])
    modes: Counter[str] = field(default_factory=Counter[str])
    trips: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Report) -> None:
        """Sum up."""
        self.pairs += other.pairs
        self.seconds = max(self.seconds, other.seconds)
        self.violations += other.violations
        self.modes += other.modes
        self.trips += other.trips


def monitors(rng: random.Random) -> list[SafetyMonitor]:
    """Guards with shipped limits, a polygon, tight slew, a minimum throttle."""
    made: list[SafetyMonitor] = []
    extras: tuple[dict[str, Any], ...] = (
        {},
        {"geofence_polygons": [polygon(rng)], "max_range_m": 900.0},
        {"surface_slew_per_s": 0.7, "throttle_slew_per_s": 0.3, "aileron_max": 11.0},
        {"throttle_min": 0.2, "recovery_s": 0.0, "terminate_after_s": 1.0, "battery_min_voltage": 10.0},
    )
    for name in ("ultrastick25e", "aerosonde"):
        a = airframe(name)
        for extra in extras:
            limits: SafetyLimits = limits_for(name, **{"battery_min_voltage": 10.5, "return_after_s": 2.0, **extra})
            made.append(
                SafetyMonitor(
                    limits, Autopilot(a.gains, DT_S), DT_S, surface_limit_rad=(a.surface_limit_rad,) * 3, trim=a.trim,
                    bounds=(("climb_rate_mps", -20.0, 20.0), ("p_radps", -10.0, 10.0)),
                )
            )  # fmt: skip
    return made


class Source:
    """Makes up ticks. Plausible numbers are drawn once, which is quicker than a generator call each."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pool = [
            [rng.uniform(0.0 if i in NON_NEGATIVE else -span, span) for _ in range(1021)]
            for i, span in enumerate(SPANS)
        ]
        self._commands = [Command(*(rng.uniform(-1.3, 1.3) for _ in range(4))) for _ in range(1013)]
        self._setpoints = [
            Setpoint(rng.uniform(0, 500), rng.choice((rng.uniform(10, 30), *NASTY)), rng.choice((0.5, *NASTY)))
            for _ in range(97)
        ]
        self._k = 0
        self.now_ns = 10**12

    def tick(self, theme: str) -> tuple[Sample, Setpoint, Command, int, Health]:
        """One call's arguments."""
        rng = self._rng.random
        self._k += 1
        k = self._k
        self.now_ns += TICK_NS
        now = stamp = self.now_ns
        draw = rng()
        if theme in {"calm", "battery", "kill", "late", "dead", "lost position"}:
            north = 40.0 * draw if theme == "battery" else 150.0 * draw
            values = [0.1, 0.05, draw, 0.0, 0.0, 0.0, 20.0, 150.0, 0.0, north, 30.0 * draw, math.nan, 2.0]
        else:
            values = [pool[(k * 31 + i * 7) % 1021] for i, pool in enumerate(self._pool)]
        if theme == "garbage" or (theme == "holes" and draw < 0.3):
            for _ in range(1 if theme == "holes" else 4):
                values[int(rng() * 13)] = NASTY[int(rng() * len(NASTY))]
        elif theme == "lost position":
            values[9] = NASTY[k % 8]
        elif theme == "blind":
            stamp -= 700_000_000
        elif theme == "clock" and draw < 0.2:
            self.now_ns += int((rng() - 0.5) * 10 ** (int(rng() * 12)))
            now = self.now_ns
        command = self._commands[k % 1013]
        if draw < 0.05 or theme == "garbage":
            bad = list(command)
            bad[k % 4] = NASTY[k % len(NASTY)]
            command = Command(*bad)
        policy, battery = PolicyState.ANSWERED, math.nan
        if theme == "late" and draw < 0.7:
            policy = PolicyState.LATE
        elif theme == "dead":
            policy = PolicyState.DEAD
        elif theme == "battery":
            battery = 9.0 + draw
        elif draw > 0.97:
            battery = NASTY[k % len(NASTY)]
        return Sample(stamp, *values), self._setpoints[k % 97], command, now, Health(policy, battery)


def violation(guard: SafetyMonitor, answer: Guarded, previous: Command | None) -> str:
    """Which rule a command breaks; empty for none."""
    command, mode, _ = answer
    if mode is Mode.KILLED:
        return "" if command == (0.0, 0.0, 0.0, 0.0) else f"killed, but {command}"
    for i in range(4):
        c = command[i]
        if not math.isfinite(c):
            return f"{command} is not finite"
        if not guard.low[i] <= c <= guard.high[i]:
            # After a kill the command starts from zero and comes up to a minimum throttle at once.
            return f"{command} is outside {guard.low} .. {guard.high}"
        if previous is not None and abs(c - previous[i]) > guard.slew[i] * (1 + 1e-12) + 1e-12:
            return f"{command} after {previous} is faster than {guard.slew}"
    return ""


def fuzz(pairs: int, seed: int) -> Report:
    """Fuzz in this process."""
    rng = random.Random(seed)
    guards, source, report = monitors(rng), Source(rng), Report()
    modes = [0] * len(Mode)
    began = time.perf_counter()
    while report.pairs < pairs:
        guard = guards[int(rng.random() * len(guards))]
        if guard.killed and rng.random() < 0.7:
            guard.disarm()
            guard.arm()
        if rng.random() < 0.3:
            guard.reset()
        previous: Command | None = None
        for theme in rng.sample(THEMES, 3):
            for k in range(STRETCH):
                if theme == "kill" and k == STRETCH // 2:
                    guard.kill()
                answer = guard.guard(*source.tick(theme))
                if wrong := violation(guard, answer, previous):
                    report.violations.append(f"{theme}: {wrong}")
                modes[answer.mode] += 1
                # The way up from a kill is a jump where throttle_min demands one.
                previous = None if answer.mode is Mode.KILLED else answer.command
            report.pairs += STRETCH
        report.trips.update(dict.fromkeys(guard.events.ticks, 1))
    report.seconds = time.perf_counter() - began
    report.modes.update({mode.name: modes[mode] for mode in Mode})
    del report.violations[20:]
    return report


def _job(arguments: tuple[int, int]) -> Report:
    return fuzz(*arguments)


def campaign(pairs: int, seed: int, *, workers: int = 2) -> Report:
    """Fuzz in several processes; the result depends on the number of chunks, not of workers."""
    chunk = 250_000
    jobs = [(min(chunk, pairs - k * chunk), seed + k) for k in range(-(-pairs // chunk))]
    total = Report()
    if workers <= 1:
        for job in jobs:
            total.add(_job(job))
        return total
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for k, report in enumerate(pool.imap(_job, jobs)):
            total.add(report)
            print(f"{total.pairs:,} of {pairs:,} pairs, chunk {k + 1} of {len(jobs)}", file=sys.stderr, flush=True)
    return total


def guard_us(n: int = 20_000, seed: int = 1) -> float:
    """Mean time of a guard call alone, in microseconds, over the themes of the fuzz."""
    rng = random.Random(seed)
    guard, source = monitors(rng)[0], Source(rng)
    calls = [source.tick(THEMES[k // STRETCH % len(THEMES)]) for k in range(n)]
    began = time.perf_counter()
    for call in calls:
        guard.guard(*call)
    return (time.perf_counter() - began) / n * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = campaign(options.pairs, options.seed, workers=options.workers)
    if options.json:
        print(json.dumps({"pairs": report.pairs, "violations": report.violations, "modes": dict(report.modes)}))
    else:
        print(describe_machine("numpy"))
        print(f"{report.pairs:,} pairs, {len(report.violations)} commands outside limits or slew")
        print("ticks by mode: " + ", ".join(f"{m.name} {report.modes[m.name]:,}" for m in Mode))
        print(f"one call of the guard takes {guard_us():.1f} us")
        for text in report.violations:
            print("  " + text)
    missed = [m.name for m in Mode if not report.modes[m.name]]
    return 1 if report.violations or missed else 0


if __name__ == "__main__":
    sys.exit(main())
