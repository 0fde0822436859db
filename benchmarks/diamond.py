"""One turn of the diamond on hidden virtual aircraft: fly, compare, identify, retrain, redeploy, fly again.

    python benchmarks/diamond.py [--aircraft 20] [--seed 1000] [--agent hawk] [--patch identified] [--fresh 400]
                                 [--timesteps 100000] [--workers 1] [--output build/diamond]

Per aircraft: ten virtual flights of the champion by the flight agent in a process of its own, gap analysis against
the simulation, two excited flights and identification from all of them, retraining on the patch, promotion, export,
ten flights of what is deployed now. Then, on fresh flights nobody has seen: success and tracking error (by gap
analysis, from logs) against the simulation before and after, and, where a challenger was promoted, champion and
challenger on paired seeds of the hidden truth. An aircraft counts as within 20 % where success is at most 20 points
below the simulation's and the tracking error at most 20 % above it. `--patch truth` puts the hidden parameters, 3 %
wide, in the place of identification: how much of the result is retraining's own.

Finished aircraft are lines of JSON in the output folder; the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.contract import canonical_json
from sim2sky.analysis.sim_to_real_gap import SimToRealGapAnalyzer
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.environments.airframes import airframe
from sim2sky.environments.hidden_aircraft import hidden_aircraft, nominal_aircraft
from sim2sky.hil.virtual_aircraft import fly_virtual_aircraft, installed_agent
from sim2sky.training.starting_point import open_starting_point
from sim2sky.validation.campaign import campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob, environment_for, safety_of
from sim2sky.validation.promotion import PromotionRules, compare_flights
from sim2sky.validation.retraining import RetrainPlan, retrain
from sim2sky.validation.simulate import simulate
from sim2sky.validation.statistics import clopper_pearson

AGENTS = Path(__file__).resolve().parent.parent / "agents"
FLIGHTS = 10
LOGGED = 60  # flights per log of the final comparison
FRESH_STREAM = 41
WITHIN = 0.20
WIDTH = 0.03
WEIGHED, BALANCED_M = 0.01, 0.003  # standard deviations of scales and of balancing


def exported(zip_path: Path, folder: Path) -> Bundle:
    """An agent as it is deployed."""
    limits = resolve_safety(SafetySettings(extends="default")).values
    safety = functools.partial(safety_of, limits)
    return export_bundle(zip_path, folder, agent_name="diamond", safety=safety, replace=True).bundle


def truth_patch(hidden: EnvironmentSettings, before: EnvironmentSettings) -> RandomizationPatch:
    """The hidden parameters in ranges as identification would give them: 3 % wide to each side."""

    def wide(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: wide(v) for k, v in value.items()}
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) for v in value):
            half = WIDTH * max(abs(v) for v in value)
            return [value[0] - half, value[1] + half]
        return value

    told = hidden.model_dump(mode="json")
    after = before.model_dump(mode="json")
    after["randomization"] |= {k: wide(v) for k, v in told["randomization"].items() if k != "coefficient_scale"}
    for name in ("action_delay_s", "observation_delay_s", "wind_mps"):
        after["disturbances"][name] = [max(v, 0.0) for v in wide(told["disturbances"][name])]
    after["disturbances"]["sensors"]["noise_scale"] = wide(told["disturbances"]["sensors"]["noise_scale"])
    return RandomizationPatch.between(before, EnvironmentSettings.model_validate(after), written_by="truth")


def identified(
    bundle: Bundle, base: EnvironmentSettings, seed: int, folder: Path, environments: list[EnvironmentSettings]
) -> tuple[list[RandomizationPatch] | None, str]:
    """Patches of the environments from the flights so far and two excited ones, mass and centre of gravity weighed and
    balanced as `benchmarks/identification.py` has it; None where they cannot tell a single parameter."""
    from sim2sky.analysis.excitation_plan import plan_excitation
    from sim2sky.analysis.flights import load_flights
    from sim2sky.analysis.identification import identify

    plan, log = folder / "plan.json", folder / "excited.h5"
    plan.write_bytes(canonical_json(plan_excitation(base.aircraft, 60.0).excitation.to_json()))
    with installed_agent(str(bundle.path)) as agent:
        fly_virtual_aircraft(agent, base, seed, 2, log, excitation=plan)
    hidden, rng = hidden_aircraft(seed, base).randomization, np.random.default_rng(seed)
    mass, cg = WEIGHED * airframe(base.aircraft).mass_kg, BALANCED_M
    known = {
        "mass_offset_kg": (hidden.mass_offset_kg[0] + mass * rng.standard_normal(), mass),
        "cg_offset_m": (hidden.cg_offset_m[0] + cg * rng.standard_normal(), cg),
    }
    found = identify(load_flights(folder / "real.h5", log), known=known)
    told = sum(p.identifiable for p in found.parameters)
    note = f"{told} of {len(found.parameters)} parameters identified"
    return ([found.patch(e) for e in environments] if told else None), note


def gap(job_sim: FlightJob, job_real: FlightJob, seeds: list[int], folder: Path, name: str) -> dict[str, Any]:
    """Gap analysis of simulated and virtual flights of the same weather and tasks."""
    logs = folder / f"{name}-sim.h5", folder / f"{name}-virtual.h5"
    simulate(job_sim, seeds, logs[0])
    simulate(job_real, seeds, logs[1], source="virtual")
    return compared(*logs)


def compared(sim: Path, real: Path) -> dict[str, Any]:
    """What gap analysis says of two logs."""
    analyzer = SimToRealGapAnalyzer()
    analyzer.load_sim_data(sim)
    analyzer.load_real_data(real)
    analysis, points = analyzer.analyse(), analyzer.compute_gap_metrics()
    assert analyzer.sim_metrics is not None and analyzer.real_metrics is not None
    return {
        "verdict": analysis.verdict,
        "decision": analysis.decision,
        "sim_success": analyzer.sim_metrics.success_rate,
        "real_success": analyzer.real_metrics.success_rate,
        "sim_error": analyzer.sim_metrics.mean_tracking_error,
        "real_error": analyzer.real_metrics.mean_tracking_error,
        "success_diff": points["success_rate_diff"],
        "error_ratio": points["tracking_error_ratio"],
    }


def within(g: dict[str, Any]) -> bool:
    """Success and tracking error within 20 % of the simulation (better counts as within)."""
    return g["success_diff"] >= -WITHIN and g["error_ratio"] <= 1.0 + WITHIN


def turn(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One aircraft, one turn."""
    started = time.monotonic()
    champion_zip = AGENTS / options.agent / "model.zip"
    champion = exported(champion_zip, folder / "champion")
    start = open_starting_point(champion_zip)
    validation = load_settings(default_path("validation"), ValidationSettings, section="validation")
    believed = environment_for(champion.contract, validation.environment)
    base = nominal_aircraft(believed)
    hidden = hidden_aircraft(seed, base)
    result: dict[str, Any] = {"aircraft": seed, "patch": options.patch}

    with installed_agent(str(champion.path)) as agent:
        fly_virtual_aircraft(agent, base, seed, FLIGHTS, folder / "real.h5")
    simulate(
        FlightJob.of(champion, believed), campaign_seeds(seed, 4 * FLIGHTS, stream=FRESH_STREAM), folder / "sim.h5"
    )
    result["first"] = compared(folder / "sim.h5", folder / "real.h5")

    deployed, refitted, result["rungs"] = champion, believed, []
    result["outcome"] = "no gap, nothing retrained"
    if result["first"]["decision"] != "DEPLOYED":
        environments = [start.settings.environment, believed]
        if options.patch == "truth":
            patches: list[RandomizationPatch] | None = [truth_patch(hidden, e) for e in environments]
            result["identified"] = "truth"
        else:
            patches, result["identified"] = identified(champion, base, seed, folder, environments)
        result["outcome"] = "not identifiable"
        if patches is not None:
            refitted = patches[1].apply(believed)
            plan = RetrainPlan(
                champion_zip,
                patches[0],
                folder / "retrained",
                rungs=("refit", "residual"),
                timesteps=options.timesteps,
                seed=seed,
                rules=PromotionRules(max_pairs=options.pairs, group=min(40, options.pairs)),
                workers=options.workers,
            )
            done = retrain(plan)
            result["outcome"] = done.verdict
            result["rungs"] = [[a.rung, a.promotion.verdict if a.promotion else a.note] for a in done.attempts]
            result["reason"] = done.attempts[-1].promotion.reason if done.attempts[-1].promotion else ""
            if done.model is not None:
                deployed = exported(done.model, folder / "challenger")
    with installed_agent(str(deployed.path)) as agent:
        fly_virtual_aircraft(agent, base, seed, FLIGHTS, folder / "again.h5")
    simulate(
        FlightJob.of(deployed, refitted), campaign_seeds(seed, 4 * FLIGHTS, stream=FRESH_STREAM), folder / "sim2.h5"
    )
    result["again"] = compared(folder / "sim2.h5", folder / "again.h5")

    seeds = campaign_seeds(seed, min(LOGGED, options.fresh), stream=FRESH_STREAM + 1)
    job = functools.partial(FlightJob.of, champion)
    result["before"] = gap(job(believed), job(hidden), seeds, folder, "before")
    after = functools.partial(FlightJob.of, deployed)
    result["after"] = gap(after(refitted), after(hidden), seeds, folder, "after")
    # Against what the champion was believed to do when it was first deployed: the harder comparison.
    result["after"]["error_ratio_to_first"] = result["after"]["real_error"] / result["before"]["sim_error"]
    result["after"]["success_diff_to_first"] = result["after"]["real_success"] - result["before"]["sim_success"]
    if deployed is not champion:
        fresh = campaign_seeds(seed, options.fresh, stream=FRESH_STREAM + 2)
        flown = [fly_campaign(FlightJob.of(b, hidden), fresh, workers=options.workers) for b in (champion, deployed)]
        c = compare_flights(*flown, hidden, alpha=0.05)
        result["truth"] = {
            "pairs": c.pairs, "champion": c.champion_successes, "challenger": c.challenger_successes,
            "success_low": c.success_low, "success_high": c.success_high, "error_ratio": 1.0 / c.tracking_gain,
            "ratio_low": 1.0 / c.tracking_high, "ratio_high": 1.0 / c.tracking_low,
        }  # fmt: skip
    result["seconds"] = time.monotonic() - started
    return result


def worse(r: dict[str, Any]) -> bool:
    """A promoted challenger that fresh flights of the truth show to be worse than the champion: in success or tracking,
    by a bound that does not reach equality."""
    t = r["truth"]
    return t["success_high"] < 0.0 or t["ratio_low"] > 1.0


def summary(results: list[dict[str, Any]]) -> list[str]:
    """The table and the figures, with exact bounds."""
    lines = [
        "aircraft          sim      virtual  ratio |          sim      virtual  ratio to first | paired truth | outcome"
    ]

    def cell(success: float, error: float) -> str:
        return f"{success:.2f} {error:.3f}"

    for r in results:
        b, a = r["before"], r["after"]
        t = r.get("truth")
        paired = f"{t['champion']} -> {t['challenger']} of {t['pairs']}, x{t['error_ratio']:.2f}" if t else ""
        rung = f" ({r['rungs'][-1][0]})" if r["outcome"] == "promoted" else ""
        lines.append(
            f"{r['aircraft']:>8} {cell(b['sim_success'], b['sim_error']):>12} "
            f"{cell(b['real_success'], b['real_error']):>12} {b['error_ratio']:>6.2f} | "
            f"{cell(a['sim_success'], a['sim_error']):>12} {cell(a['real_success'], a['real_error']):>12} "
            f"{a['error_ratio']:>6.2f} {a['error_ratio_to_first']:>8.2f} | {paired} | {r['outcome']}{rung}, "
            f"{r['seconds']:.0f} s"
        )
    n = len(results)

    def share(name: str, count: int, of: int, side: str = "two") -> str:
        interval = clopper_pearson(count, of, side=side) if of else None  # type: ignore[arg-type]
        bounds = f" (exact 95 % interval {interval.low:.2f} to {interval.high:.2f})" if interval else ""
        return f"{name}: {count} of {of}{bounds}"

    before, after = ([r[k] for r in results] for k in ("before", "after"))
    first = [{"success_diff": a["success_diff_to_first"], "error_ratio": a["error_ratio_to_first"]} for a in after]
    promoted = [r for r in results if "truth" in r]
    lines += [
        share("within 20 % of the simulation before the turn", sum(map(within, before)), n),
        share("within 20 % of the refitted simulation after it", sum(map(within, after)), n),
        share("within 20 % of the first simulation after it", sum(map(within, first)), n),
        share("promoted challengers shown to be worse on the truth", sum(map(worse, promoted)), len(promoted), "upper"),
    ]
    medians = [_median(rows, k) for rows, k in ((before, "error_ratio"), (after, "error_ratio"))]
    medians.append(_median(after, "error_ratio_to_first"))
    lines.append(
        "median tracking error, virtual over simulated: before {:.2f}, after {:.2f} (refitted), {:.2f} (first)".format(
            *medians
        )
    )
    return lines


def _median(rows: list[dict[str, Any]], key: str) -> float:
    values = sorted(r[key] for r in rows if math.isfinite(r[key]))
    return values[len(values) // 2] if values else math.nan


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every aircraft that has no line yet; all lines."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{options.agent}-{options.patch}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = {r["aircraft"]: r for r in map(json.loads, lines)}
    wanted = range(options.seed, options.seed + options.aircraft)
    for seed in wanted:
        if seed in results:
            continue
        with tempfile.TemporaryDirectory(prefix="sim2sky-diamond-") as scratch:
            results[seed] = turn(seed, options, Path(scratch))
            if options.keep:
                shutil.copytree(scratch, options.output / str(seed), dirs_exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[seed]) + "\n")
        print(summary([results[seed]])[1], file=sys.stderr, flush=True)
    return [results[seed] for seed in wanted if seed in results]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aircraft", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000, help="of the first aircraft")
    parser.add_argument("--agent", default="hawk")
    parser.add_argument("--patch", choices=("identified", "truth"), default="identified")
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=400, help="most pairs of a promotion, per condition")
    parser.add_argument("--fresh", type=int, default=400, help="paired flights of the truth afterwards")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("build/diamond"))
    parser.add_argument("--keep", action="store_true", help="keep logs, agents and records of every aircraft")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    print(describe_machine("jsbsim", "torch", "stable-baselines3", "numpy"))
    try:
        results = run(options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print("\n".join(summary(results)))
    return 0 if not any(worse(r) for r in results if "truth" in r) else 1


if __name__ == "__main__":
    sys.exit(main())
