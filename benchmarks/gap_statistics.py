"""How often gap analysis is wrong: false `gap` without a gap, coverage of its intervals, power, and events in flight.

    python benchmarks/gap_statistics.py [--analyses 2000] [--pool 600] [--events 400] [--seed 1] [--json]

Populations: flights of the shipped agents in the conditions they are validated in, really simulated once and kept under
build/, from which both logs are drawn without replacement; and made-up ones with low success rates and wide scatter. A
false `gap` is a verdict `gap` where both logs come from one population. Coverage is of the two-sided 95 % interval of
each metric; a metric that is the same in nearly all flights (success of 99 %) is covered nearly always, whatever the
method. Events are counted in flights without a failure: of the same aircraft, and of hidden aircraft; and in flights
with one, together with how far off its time they are found. Ctrl-C prints what there is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.agent.bundle import open_bundle
from sim2sky.analysis.comparison import compare_metric, judge
from sim2sky.analysis.events import find_events
from sim2sky.analysis.flight_metrics import METRICS, FlightData, FlightMetrics, flights_of, metrics_of
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.hil.fault_schedule import Fault
from sim2sky.hil.faults import FaultyVehicle
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.validation import simulate as simulate_module
from sim2sky.validation.campaign import campaign_hash, campaign_seeds
from sim2sky.validation.flight import FlightJob, Flyer, safety_of
from sim2sky.validation.statistics import clopper_pearson

ROOT = Path(__file__).resolve().parent.parent
STREAM = 61  # episodes nobody else flies
FLIGHTS = (5, 10, 20, 50)
SIM_FLIGHTS = 100
PRIMARY = tuple(m for m in METRICS if m.primary)
PLANNED_S = 20.0
Population = Callable[[np.random.Generator, int], tuple[Sequence[FlightMetrics], Sequence[FlightMetrics]]]

MADE_UP = {
    # success rate, scatter of tracking error and effort (of the logarithm), share of flights that end early
    "made up: success 0.50": (0.50, 0.5, 0.2, 0.10),
    "made up: success 0.70": (0.70, 0.4, 0.1, 0.20),
    "made up: success 0.85": (0.85, 0.3, 0.3, 0.05),
    "made up: success 0.98": (0.98, 0.8, 0.1, 0.02),
}
EFFECTS = {
    "none": {},
    "tracking error x1.2": {"tracking_error": 1.2},
    "tracking error x1.35": {"tracking_error": 1.35},
    "tracking error x1.5": {"tracking_error": 1.5},
    "tracking error x2": {"tracking_error": 2.0},
    "control effort x1.3": {"control_effort": 1.3},
    "success 0.85 to 0.70": {"success": 0.70 / 0.85},
    "success 0.85 to 0.50": {"success": 0.50 / 0.85},
}
FAULTS: dict[str, dict[str, Any]] = {
    "thrust lost": {"kind": "thrust_loss", "factor": 0.0},
    "elevator stuck": {"kind": "stuck", "channels": ("elevator",)},
    "elevator jams": {"kind": "stuck", "channels": ("elevator",), "position": 0.25},
    "aileron reversed": {"kind": "reversed", "channels": ("aileron",)},
    "airspeed frozen": {"kind": "freeze", "signals": ("airspeed_mps",)},
    "pitch frozen": {"kind": "freeze", "signals": ("pitch_rad",)},
    "airspeed jumps 4 m/s": {"kind": "bias", "signals": ("airspeed_mps",), "offset": 4.0},
    "pitch jumps 0.15 rad": {"kind": "bias", "signals": ("pitch_rad",), "offset": 0.15},
    "airspeed missing 2 s": {"kind": "nan", "signals": ("airspeed_mps",), "duration_s": 2.0},
}


# Populations ---------------------------------------------------------------------------------------------------------


def job_of(agent: str, build: Path) -> FlightJob:
    """A shipped agent in the conditions it is validated in."""
    validation = load_settings(default_path("validation"), ValidationSettings, section="validation")
    limits = resolve_safety(SafetySettings(extends="default")).values
    folder = build / f"{agent}-bundle"
    if not folder.exists():
        model = ROOT / "agents" / agent / "model.zip"
        export_bundle(model, folder, agent_name=agent, safety=lambda v: safety_of(limits, v))
    return FlightJob.of(open_bundle(folder), validation.environment)


def flown(job: FlightJob, build: Path, name: str, seeds: Sequence[int]) -> list[FlightData]:
    """Flights of a job; kept under its hash."""
    path = build / f"{name}-{campaign_hash(job)[:12]}-{len(seeds)}-{seeds[0]}.h5"
    if not path.exists():
        simulate_module.simulate(job, seeds, path)
    with read_flight_log(path) as log:
        return flights_of(log)


def pool(agent: str, build: Path, size: int, seed: int) -> list[FlightMetrics]:
    """Metrics of so many flights of a shipped agent."""
    job = job_of(agent, build)
    flights = flown(job, build, agent, campaign_seeds(seed, size, stream=STREAM))
    return [metrics_of(f, job.environment.task, job.environment.task.duration_s) for f in flights]


def from_pool(flights: Sequence[FlightMetrics], sim_flights: int) -> Population:
    """Both logs without replacement, so that no flight is in both."""

    def draw(rng: np.random.Generator, n: int) -> tuple[list[FlightMetrics], list[FlightMetrics]]:
        picks = rng.permutation(len(flights))[: sim_flights + n]
        chosen = [flights[i] for i in picks]
        return chosen[:sim_flights], chosen[sim_flights:]

    return draw


def made_up(
    shape: tuple[float, float, float, float], sim_flights: int, effect: dict[str, float] | None = None
) -> Population:
    """Independent flights of a known law; the second log's with an effect (factors on rates and values)."""
    rate, tracking, effort, early = shape
    factors = effect or {}

    def flights(rng: np.random.Generator, n: int, factor: dict[str, float]) -> list[FlightMetrics]:
        success = rng.random(n) < rate * factor.get("success", 1.0)
        error = 0.3 * factor.get("tracking_error", 1.0) * np.exp(tracking * rng.standard_normal(n))
        command = 0.25 * factor.get("control_effort", 1.0) * np.exp(effort * rng.standard_normal(n))
        length = np.where(rng.random(n) < early, PLANNED_S * rng.random(n), PLANNED_S)
        names = ("success", "tracking_error", "control_effort", "episode_length")
        rows = zip(success.astype(float).tolist(), error.tolist(), command.tolist(), length.tolist(), strict=True)
        return [FlightMetrics("", 0, "", PLANNED_S, dict(zip(names, row, strict=True))) for row in rows]

    return lambda rng, n: (flights(rng, sim_flights, {}), flights(rng, n, factors))


# What is counted -----------------------------------------------------------------------------------------------------


def repeat(
    population: Population, n: int, analyses: int, seed: int, truth: dict[str, float] | None = None
) -> dict[str, Any]:
    """So many analyses of `n` flights: verdicts, and per metric how often the interval held the truth."""
    rng = np.random.default_rng([seed, n])
    verdicts: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    told: Counter[str] = Counter()
    truth = truth or {}
    for _ in range(analyses):
        sim, real = population(rng, n)
        verdict, metrics = judge([compare_metric(m, sim, real, PLANNED_S) for m in PRIMARY])
        verdicts[verdict] += 1
        for c in metrics:
            if math.isfinite(c.low):
                told[c.metric.name] += 1
                expected = truth.get(c.metric.name, 0.0 if c.is_difference else 1.0)
                covered[c.metric.name] += c.low <= expected <= c.high
    return {
        "analyses": analyses,
        "gap": verdicts["gap"] / analyses,
        "no gap": verdicts["no gap"] / analyses,
        "gap_upper": clopper_pearson(verdicts["gap"], analyses, side="upper").high,
        "coverage": {m.name: covered[m.name] / told[m.name] if told[m.name] else None for m in PRIMARY},
    }


class FaultyFlyer(Flyer):
    """Flies its script's fault in every flight."""

    script: ClassVar[dict[int, Fault]] = {}

    def __init__(self, job: FlightJob) -> None:
        super().__init__(job)
        self._vehicle = FaultyVehicle(job.environment)

    def fly(self, seed: int, on_tick: Any = None) -> Any:
        self._vehicle.inject([self.script[seed]], Counter())
        return super().fly(seed, on_tick)


def events(build: Path, flights: int, seed: int, *, agent: str = "hawk") -> dict[str, Any]:
    """False events per flight without a failure, and what is found of failures, each among 19 flights without one."""
    job = job_of(agent, build)
    sim = flown(job, build, f"{agent}-events", campaign_seeds(seed, 150, stream=STREAM + 1))
    result: dict[str, Any] = {}
    groups = max(flights // 20, 1)
    nominal = flown(job, build, f"{agent}-nominal", campaign_seeds(seed, 20 * groups, stream=STREAM + 2))
    found = sum(len(find_events(sim, nominal[20 * i : 20 * i + 20]).events) for i in range(groups))
    result["false_nominal"] = (found, 20 * groups)
    found, noted, hidden = 0, 0, nominal
    for i in range(groups):
        other = replace(job, environment=hidden_aircraft(100 + i, job.environment))
        these = flown(other, build, f"hidden{i}", campaign_seeds(seed + i, 20, stream=STREAM + 3))
        search = find_events(sim, these)
        found, noted = found + len(search.events), noted + bool(search.note)
        hidden = these if i == 0 else hidden
    result["false_hidden"] = (found, 20 * groups)
    result["hidden_noted"] = noted
    each = max(flights // 40, 2)
    for number, (name, fault) in enumerate(FAULTS.items()):
        rng = np.random.default_rng([seed, number])
        seeds = campaign_seeds(seed + number, each, stream=STREAM + 4)
        times = [round(float(rng.uniform(5.0, 15.0)) * 20.0) / 20.0 for _ in seeds]
        script = {s: Fault.model_validate({**fault, "start_s": t}) for s, t in zip(seeds, times, strict=True)}
        path = build / f"fault-{number}-{campaign_hash(job)[:12]}-{each}-{seed}.h5"
        if not path.exists():
            FaultyFlyer.script = script
            with mock.patch.object(simulate_module, "Flyer", FaultyFlyer):
                simulate_module.simulate(job, seeds, path, source="virtual")
        with read_flight_log(path) as log:
            broken = flights_of(log)
        errors: list[float] = []
        for f, t in zip(broken, times, strict=True):
            search = find_events(sim, [*nominal[:19], replace(f, name="broken")])
            errors += [e.time_s - t for e in search.events if e.flight == "broken"]
        result[name] = {"flights": each, "found": len(errors), "errors_s": sorted(errors)}
    return result


# Printing ------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--analyses", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=600)
    parser.add_argument("--events", type=int, default=400, help="flights without a failure; 0 for no events")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "gap_statistics")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.build.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": describe_machine("scipy", "numpy", "jsbsim"), "null": {}, "power": {}}
    say = (lambda *_: None) if options.json else (lambda text: print(text, flush=True))
    say(report["machine"])
    try:
        fill(report, options, say)
    except KeyboardInterrupt:
        say("interrupted: this is what there is")
    if options.json:
        print(json.dumps(report, indent=1))
    worst = max((cell["gap"] for rows in report["null"].values() for cell in rows.values()), default=1.0)
    say(f"\nlargest rate of a false gap: {worst:.2%}")
    return 0 if worst <= 0.05 else 1


def fill(report: dict[str, Any], options: argparse.Namespace, say: Callable[[str], object]) -> None:
    populations: dict[str, Population] = {}
    for agent in ("hawk", "kite"):
        flights = pool(agent, options.build, options.pool, options.seed)
        rate = float(np.nanmean([f.values["success"] for f in flights]))
        populations[f"{agent}: {len(flights)} flights, success {rate:.3f}"] = from_pool(flights, SIM_FLIGHTS)
    populations |= {name: made_up(shape, SIM_FLIGHTS) for name, shape in MADE_UP.items()}
    say(f"\nno difference; {SIM_FLIGHTS} simulated flights; {options.analyses} analyses each")
    say(f"{'population':34} {'flights':>7} {'gap':>6} {'no gap':>7}   coverage: success, tracking, effort, length")
    for name, population in populations.items():
        rows = report["null"][name] = {}
        for n in FLIGHTS:
            cell = rows[n] = repeat(population, n, options.analyses, options.seed)
            shares = " ".join("  -  " if v is None else f"{v:.3f}" for v in cell["coverage"].values())
            say(f"{name:34} {n:7} {cell['gap']:6.2%} {cell['no gap']:7.1%}   {shares}")
    shape = MADE_UP["made up: success 0.85"]
    say(f"\npower: share of `gap` (and of `no gap`), success 0.85, scatter of tracking error {shape[1]:.0%}")
    say(f"{'effect':24} " + " ".join(f"{n:>16}" for n in FLIGHTS) + "   worst coverage")
    for name, effect in EFFECTS.items():
        truth = {k: v if k != "success" else shape[0] * (v - 1.0) for k, v in effect.items()}
        cells = {
            n: repeat(made_up(shape, SIM_FLIGHTS, effect), n, options.analyses, options.seed + 1, truth)
            for n in FLIGHTS
        }
        report["power"][name] = cells
        worst = min(v for cell in cells.values() for v in cell["coverage"].values() if v is not None)
        say(
            f"{name:24} "
            + " ".join(f"{c['gap']:7.1%} ({c['no gap']:6.1%})" for c in cells.values())
            + f"   {worst:.3f}"
        )
    if options.events:
        found = report["events"] = events(options.build, options.events, options.seed)
        say("\nevents in flight")
        for key, text in (("false_nominal", "of the same aircraft"), ("false_hidden", "of hidden aircraft")):
            k, n = found[key]
            upper = clopper_pearson(k, n, side="upper").high
            say(f"  without a failure, {text}: {k} in {n} flights (at 95 % below {upper:.2%})")
        for name in FAULTS:
            row = found[name]
            off = [abs(e) for e in row["errors_s"]]
            where = f", off by {np.median(off):.2f} s (median), {max(off):.2f} s (worst)" if off else ""
            say(f"  {name}: found in {row['found']} of {row['flights']}{where}")


if __name__ == "__main__":
    sys.exit(main())
