"""Adversarial approaches to the fence, the floor and the ceiling, in JSBSim with wind and 0.3 s of latency.

    python benchmarks/fence_approaches.py [--flights 20000] [--seed 20261125] [--workers 2] [--without-prediction]

A policy that wants out flies behind the guard: straight at the fence, banked towards it, climbing, diving, or
switching every surface at random. Half of the flights are in the Ultra Stick, half in the Aerosonde; half of the fences
are circles, half polygons. Wind, turbulence, sensor noise and the airframe's parameters are drawn as in validation.
Position and ground velocity are 0.2 s old, commands reach the surfaces 0.1 s late (the fallback law oscillates with
0.3 s of pure command delay, so that is not a delay it can be asked to fly with). A flight starts level, where the guard
would let a policy begin. A crossing is any physics step outside circle, polygon, floor or ceiling.

`--without-prediction` is the negative control: the guard acts when the buffer is entered, as a plain geofence does.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import random
import signal
import sys
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import SensorModel, draw_scenario
from sim2sky.environments.jsbsim_plant import InitialState, JsbsimPlant
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.escape import Escape
from sim2sky.runtime.geofence import Fence
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode, SafetyMonitor
from sim2sky.runtime.state import Command, Sample, Setpoint
from sim2sky.validation.flying_export import safety_of
from sim2sky.validation.statistics import clopper_pearson

KINDS = ("straight", "bank", "climb", "dive", "random")
AIRCRAFT = ("ultrastick25e", "aerosonde")
RATE_HZ, SUBSTEPS = 20, 6
POSITION_AGE_TICKS, COMMAND_DELAY_TICKS = 4, 2  # 0.2 s and 0.1 s
FLIGHT_TICKS = 16 * RATE_HZ
TICK_NS = 50_000_000
DT = 1.0 / RATE_HZ


class Plain(Escape):
    """No prediction: where the aircraft is, not where it would get to."""

    def range_margin(self, _s: Sample, north: float, east: float, *_: Any) -> tuple[float, float]:
        return self.fence.margin(north, east), 0.0

    def altitude_bounds(self, s: Sample) -> tuple[float, float]:
        return s.altitude_m, s.altitude_m


@dataclass(frozen=True)
class Approach:
    """How one flight went: smallest distance to the fence, the floor and the ceiling, m; negative is a crossing."""

    aircraft: str
    kind: str
    fence_m: float
    floor_m: float
    ceiling_m: float
    tripped: bool
    alive: bool

    @property
    def crossed(self) -> bool:
        return min(self.fence_m, self.floor_m, self.ceiling_m) < 0.0


def polygon(rng: random.Random) -> tuple[tuple[float, float], ...]:
    """A star-shaped polygon around home, 4 to 8 corners."""
    corners = rng.randint(4, 8)
    turn = rng.uniform(0.0, math.tau)
    points = []
    for k in range(corners):
        angle, away = turn + math.tau * (k + rng.uniform(-0.2, 0.2)) / corners, rng.uniform(380.0, 700.0)
        points.append((away * math.cos(angle), away * math.sin(angle)))
    return tuple(points)


class Adversary:
    """Wants out. Knows the truth; flies with the autopilot's inner loops, or none, within a policy's command range."""

    def __init__(self, kind: str, aircraft: str, rng: random.Random) -> None:
        a = airframe(aircraft)
        self._kind, self._rng = kind, rng
        self._law = Autopilot(a.gains, DT)
        self._bank = math.radians(rng.uniform(40.0, 75.0))
        self._pitch = math.radians(rng.uniform(10.0, 50.0))
        self._throttle = rng.choice((1.0, rng.uniform(0.3, 1.0)))
        self._side = rng.choice((-1.0, 1.0))
        self._until, self._held = 0, Command(0.0, 0.0, 0.0, 0.5)
        signals = make_contract(environment(aircraft)).output.signals
        self._reach = [(s.command_low, s.command_high) for s in signals]

    def __call__(self, s: Sample, tick: int) -> Command:
        """A command that a policy with the airframe's contract can give."""
        wanted = self._wanted(s, tick)
        return Command(*(min(max(w, low), high) for w, (low, high) in zip(wanted, self._reach, strict=True)))

    def _wanted(self, s: Sample, tick: int) -> Command:
        rng = self._rng
        if self._kind == "random":
            if tick >= self._until:
                self._until = tick + rng.randint(1, 25)
                self._held = Command(*(rng.choice((-1.0, 0.0, 1.0)) for _ in range(3)), rng.choice((0.0, 1.0)))
            return self._held
        outward = math.atan2(s.east_m, s.north_m)
        error = (outward - s.yaw_rad + math.pi) % math.tau - math.pi
        bank, pitch = max(-0.9, min(0.9, 2.0 * error)), self._law.gains.trim_pitch_rad
        if self._kind == "bank":
            bank = self._bank * (self._side if abs(error) < 0.6 else math.copysign(1.0, error))
        elif self._kind == "climb":
            pitch = self._pitch
        elif self._kind == "dive":
            pitch = -self._pitch
        return self._law.attitude(s, bank, pitch, self._throttle)


def limits_for(aircraft: str, **changes: Any) -> SafetyLimits:
    """The shipped limits for an airframe."""
    safety = safety_of(resolve_safety(SafetySettings(extends="default")).values, aircraft)
    assert safety is not None
    return SafetyLimits.from_json({**safety, **changes})


@functools.cache
def environment(aircraft: str) -> EnvironmentSettings:
    """The conditions of validation, with the delays left to this script."""
    base = load_settings(default_path("validation"), ValidationSettings, section="validation").environment
    data = base.model_dump()
    data["aircraft"] = aircraft
    data["disturbances"]["action_delay_s"] = data["disturbances"]["observation_delay_s"] = (0.0, 0.0)
    return EnvironmentSettings.model_validate(data)


def fly(seed: int, index: int, *, predict: bool = True, changes: dict[str, Any] | None = None) -> Approach:
    """One approach."""
    rng = random.Random(f"{seed}/{index}")
    aircraft, kind = AIRCRAFT[index % 2], KINDS[index // 2 % len(KINDS)]
    fence: dict[str, Any] = {"geofence_polygons": [polygon(rng)], "max_range_m": 900.0} if index // 10 % 2 else {}
    limits = limits_for(aircraft, **fence, **(changes or {}))
    a = airframe(aircraft)
    env = environment(aircraft)
    scenario = draw_scenario(env, a, np.random.SeedSequence([seed, index]))
    travel = (a.surface_limit_rad,) * 3
    monitor = SafetyMonitor(limits, Autopilot(a.gains, DT), DT, surface_limit_rad=travel, trim=a.trim)
    initial = start(rng, monitor, replace(scenario.initial, roll_rad=0.0, pitch_rad=a.trim_alpha_rad))
    if not predict:
        monitor.watch.escape = Plain(limits, monitor.watch.fence)
    plant = JsbsimPlant(a, RATE_HZ * SUBSTEPS)
    plant.reset(initial, scenario.parameters, scenario.air, a.trim, scenario.turbulence_seed)
    sensors = SensorModel(scenario, FLIGHT_TICKS + 1)
    adversary = Adversary(kind, aircraft, rng)
    setpoint = Setpoint(airspeed_mps=a.cruise_airspeed_mps)
    return approach(plant, monitor, adversary, sensors, setpoint, limits, (aircraft, kind))


def start(rng: random.Random, monitor: SafetyMonitor, initial: InitialState) -> InitialState:
    """Somewhere inside, level, any heading, where the guard lets a policy begin."""
    limits = monitor.limits
    while True:
        away, bearing = 450.0 * math.sqrt(rng.random()), rng.uniform(-math.pi, math.pi)
        tried = replace(
            initial,
            north_m=away * math.cos(bearing),
            east_m=away * math.sin(bearing),
            altitude_m=rng.uniform(limits.altitude_min + 15.0, limits.max_altitude_m - 15.0),
            yaw_rad=rng.uniform(-math.pi, math.pi),
        )
        sample = Sample(
            0, 0.0, 0.05, tried.yaw_rad, 0.0, 0.0, 0.0, tried.airspeed_mps, tried.altitude_m, 0.0, tried.north_m,
            tried.east_m,
        )  # fmt: skip
        problems = monitor.watch.look(sample, 0, math.nan)
        monitor.reset()
        if not problems:
            return tried


def approach(
    plant: JsbsimPlant,
    monitor: SafetyMonitor,
    adversary: Adversary,
    sensors: SensorModel,
    setpoint: Setpoint,
    limits: SafetyLimits,
    names: tuple[str, str],
) -> Approach:
    """Fly it to its end, or to the ground."""
    truth = plant.sample(0)
    old: deque[Sample] = deque([truth] * (POSITION_AGE_TICKS + 1), maxlen=POSITION_AGE_TICKS + 1)
    commands = deque([plant.airframe.trim] * (COMMAND_DELAY_TICKS + 1), maxlen=COMMAND_DELAY_TICKS + 1)
    fence = Fence(limits.max_range_m, limits.geofence_polygons)
    margins = [math.inf] * 3
    tripped = False
    alive = True
    for tick in range(FLIGHT_TICKS):
        aged = old[0]
        seen = replace(
            sensors.measure(truth, tick), north_m=aged.north_m, east_m=aged.east_m, north_mps=aged.north_mps,
            east_mps=aged.east_mps,
        )  # fmt: skip
        guarded = monitor.guard(seen, setpoint, adversary(truth, tick), tick * TICK_NS)
        tripped = tripped or guarded.mode is not Mode.POLICY
        commands.append(guarded.command)
        plant.command(commands[0])
        for _ in range(SUBSTEPS):
            plant.run(1)
            truth = plant.sample((tick + 1) * TICK_NS)
            here = (
                fence.margin(truth.north_m, truth.east_m),
                truth.altitude_m - limits.altitude_min,
                limits.max_altitude_m - truth.altitude_m,
            )
            margins = [min(m, h) for m, h in zip(margins, here, strict=True)]
        old.append(truth)
        if not truth.altitude_m > 0.0:
            alive = False
            break
    return Approach(*names, *margins, tripped, alive)


def _job(arguments: tuple[int, int, bool, dict[str, Any] | None]) -> Approach:
    seed, index, predict, changes = arguments
    return fly(seed, index, predict=predict, changes=changes)


def campaign(
    flights: int, seed: int, *, workers: int = 2, predict: bool = True, changes: dict[str, Any] | None = None
) -> list[Approach]:
    """All flights, in order; the number of workers changes nothing. Ctrl-C ends it early, with those flown so far."""
    jobs = [(seed, index, predict, changes) for index in range(flights)]
    if workers <= 1:
        return [_job(job) for job in jobs]
    results: list[Approach] = []
    with (
        contextlib.suppress(KeyboardInterrupt),
        multiprocessing.get_context("spawn").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
    ):
        for result in pool.imap(_job, jobs, chunksize=25):
            results.append(result)
            if len(results) % 500 == 0:
                crossed = sum(r.crossed for r in results)
                print(f"{len(results)} of {flights} flights, {crossed} crossed", file=sys.stderr, flush=True)
    return results


def table(results: list[Approach]) -> list[str]:
    """One line per aircraft and kind."""
    lines = [f"{'aircraft':<15}{'kind':<10}{'flights':>8}{'crossed':>9}{'fence':>8}{'floor':>8}{'ceiling':>9}"]
    for aircraft in AIRCRAFT:
        for kind in KINDS:
            rows = [r for r in results if (r.aircraft, r.kind) == (aircraft, kind)]
            if rows:
                nearest = (min(getattr(r, f"{name}_m") for r in rows) for name in ("fence", "floor", "ceiling"))
                fence, floor, ceiling = nearest
                crossed = sum(r.crossed for r in rows)
                lines.append(
                    f"{aircraft:<15}{kind:<10}{len(rows):>8}{crossed:>9}{fence:>8.1f}{floor:>8.1f}{ceiling:>9.1f}"
                )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--without-prediction", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = campaign(options.flights, options.seed, workers=options.workers, predict=not options.without_prediction)
    crossed = sum(r.crossed for r in results)
    bound = clopper_pearson(crossed, len(results), side="upper").high
    if options.json:
        kinds = Counter((r.aircraft, r.kind) for r in results if r.crossed)
        print(
            json.dumps({"flights": len(results), "crossed": crossed, "by": {"/".join(k): n for k, n in kinds.items()}})
        )
        return 0
    print(describe_machine("jsbsim", "numpy"))
    print("nearest distance to fence, floor and ceiling in m; negative is a crossing")
    print("\n".join(table(results)))
    print(f"{crossed} of {len(results)} flights crossed (95 % upper bound of the rate {bound:.2e}); ", end="")
    print(f"the guard acted in {sum(r.tripped for r in results)}, {sum(not r.alive for r in results)} hit the ground")
    return 1 if crossed and not options.without_prediction else 0


if __name__ == "__main__":
    sys.exit(main())
