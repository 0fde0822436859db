"""How far virtual aircraft are from the simulation, for the shipped agent: success and tracking error of each one.

Every hidden aircraft flies its own first flights, in process, judged by the truth; the simulation is the shipped
validation's. The tracking error is the measured one, as gap analysis sees it: the channels' root mean squares over the
second half of a flight, each divided by its tolerance, root mean square of the three; ratios are of geometric means.

    python benchmarks/virtual_aircraft.py [AIRCRAFT [FLIGHTS [SEED]]]     default 20 10 0; Ctrl-C prints what there is
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe_machine

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.cli import run as sim2sky
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.validation import ValidationSettings
from sim2sky.environments.hidden_aircraft import hidden_aircraft, nominal_aircraft
from sim2sky.environments.tasks import tolerances, tracking_errors
from sim2sky.hil.virtual_aircraft import flight_seeds
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.flight import FlightJob, Flyer

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = 40  # at least; they are quick
LARGE = 1.2


@dataclass(frozen=True)
class Flown:
    """What one aircraft's flights came to: share of successes, geometric mean of the tracking error, early endings."""

    success: float
    tracking: float
    ended_early: int


def fly(job: FlightJob, environment: EnvironmentSettings, seeds: list[int]) -> Flown:
    flyer = Flyer(replace(job, environment=environment))
    limits, half = np.array(tolerances(environment.task)), environment.ticks // 2
    successes, early, errors = 0, 0, []
    for seed in seeds:
        rows: list[tuple[float, ...]] = []

        def measured(sample: Sample, setpoint: Setpoint, _: Tick, rows: list[tuple[float, ...]] = rows) -> None:
            rows.append(tracking_errors(environment.task.name, sample, setpoint))

        outcome = flyer.fly(seed, measured)
        successes += outcome.success
        early += outcome.termination != "completed"
        if len(rows) > half:
            scaled = np.sqrt(np.mean(np.square(rows[half:]), axis=0)) / limits
            errors.append(float(np.log(np.sqrt(np.mean(scaled**2)))))
    return Flown(successes / len(seeds), math.exp(statistics.fmean(errors)) if errors else math.nan, early)


def spread(bundle: Bundle, aircraft: int, flights: int, seed: int) -> Iterator[tuple[int, Flown]]:
    """First the simulation (numbered -1), then each aircraft as it has flown."""
    validation = load_settings(default_path("validation"), ValidationSettings, section="validation")
    job = FlightJob.of(bundle, validation.environment)
    yield -1, fly(job, job.environment, campaign_seeds(validation.seed, max(SIMULATED, flights)))
    base = nominal_aircraft(job.environment)
    for number in range(seed, seed + aircraft):
        yield number, fly(job, hidden_aircraft(number, base), flight_seeds(number, flights))


def summary(simulated: Flown, flown: list[Flown]) -> str:
    ratios = sorted(f.tracking / simulated.tracking for f in flown if math.isfinite(f.tracking))
    low, median, high = np.percentile(ratios, [25, 50, 75]) if ratios else (math.nan,) * 3
    larger = sum(r > LARGE for r in ratios)
    return (
        f"{len(flown)} aircraft: tracking error / simulated: median {median:.2f}, quartiles {low:.2f} and {high:.2f}, "
        f"largest {max(ratios, default=math.nan):.2f}; above {LARGE}: {larger}\n"
        f"success: simulated {simulated.success:.2f}, virtual {statistics.fmean(f.success for f in flown):.2f} on "
        f"average; below 0.8: {sum(f.success < 0.8 for f in flown)}; "
        f"flights that ended early: {sum(f.ended_early for f in flown)}"
    )


def main() -> None:
    given = [int(a) for a in sys.argv[1:4]]
    aircraft, flights, seed = given + [20, 10, 0][len(given) :]
    print(describe_machine("jsbsim", "onnxruntime", "numpy"))
    simulated, flown = Flown(math.nan, math.nan, 0), []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "hawk"
        if sim2sky(["export", str(ROOT / "agents" / "hawk" / "model.zip"), "-o", str(bundle)]) != 0:
            raise SystemExit(1)
        try:
            for number, result in spread(open_bundle(bundle), aircraft, flights, seed):
                if number < 0:
                    simulated = result
                    continue
                flown.append(result)
                ratio = result.tracking / simulated.tracking
                print(f"aircraft {number:3}: success {result.success:4.2f}, tracking error x {ratio:4.2f}", flush=True)
        except KeyboardInterrupt:
            pass
    if flown:
        print(summary(simulated, flown))


if __name__ == "__main__":
    main()
