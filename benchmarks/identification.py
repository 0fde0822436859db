"""Identification of hidden aircraft from excited flights: errors, coverage of 95 % intervals, refusal of quiet ones.

    python benchmarks/identification.py [--flights 40] [--seed 0] [--duration 60] [--turbulence 4]

Each flight is of another virtual aircraft (`environments/hidden_aircraft.py`), in its wind and moderate turbulence,
with its sensors' noise and biases; the classical autopilot flies a task while the plan of `sim2sky excite` moves the
controls. Mass and centre of gravity are known as well as scales know them. The quiet flights are level, without a plan.
Ctrl-C prints what there is.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine

from sim2sky.analysis.excitation_plan import plan_excitation
from sim2sky.analysis.identification import identify
from sim2sky.analysis.parameters import parameters_of
from sim2sky.analysis.rehearsal import level_start, rehearse
from sim2sky.analysis.replay import Replayer
from sim2sky.config.environment import COEFFICIENTS, EnvironmentSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.validation.statistics import clopper_pearson

AIRCRAFT = "ultrastick25e"
MASS_STD, CG_STD_M = 0.01, 0.003


@dataclass
class Tally:
    """Relative errors and hits by parameter; seconds by flight; quiet flights that were refused."""

    errors: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    inside: dict[str, list[bool]] = field(default_factory=dict[str, list[bool]])
    seconds: list[float] = field(default_factory=list[float])
    refused: int = 0
    quiet: int = 0


def truth_of(env: EnvironmentSettings) -> dict[str, float]:
    """The hidden values under identification's names."""
    r, d, steps = env.randomization, env.disturbances, env.physics_hz
    delays = (d.action_delay_s[0], d.observation_delay_s[0])
    offset = {name: bounds[0] for name, bounds in r.command_offset.items()}
    return {
        "action_delay_s": sum(round(delay * steps) / steps for delay in delays),
        "actuator_bandwidth_scale": r.actuator_bandwidth_scale[0],
        "actuator_rate_scale": r.actuator_rate_scale[0],
        "thrust_scale": r.thrust_scale[0],
        "mass_offset_kg": r.mass_offset_kg[0],
        "cg_offset_m": r.cg_offset_m[0],
        "aileron_offset": offset.get("aileron", 0.0),
        "elevator_offset": offset.get("elevator", 0.0) + r.elevator_offset[0],
        "rudder_offset": offset.get("rudder", 0.0),
        **{name: r.coefficient_scales.get(name, r.coefficient_scale)[0] for name in COEFFICIENTS},
    }


def run(flights: int, seed: int, duration_s: float, turbulence_w20_mps: float) -> Tally:
    """Fly, identify, count."""
    tally, replayer = Tally(), Replayer(AIRCRAFT)
    plan = plan_excitation(AIRCRAFT, duration_s).excitation
    base = EnvironmentSettings.model_validate({
        "aircraft": AIRCRAFT,
        "task": {"duration_s": duration_s + 2.0, "heading_step_deg": 20.0, "altitude_step_m": 5.0},
        "disturbances": {"turbulence_w20_mps": (turbulence_w20_mps, turbulence_w20_mps)},
    })  # fmt: skip
    references = {p.name: p.reference for p in parameters_of(airframe(AIRCRAFT), base.rate_hz)}
    try:
        for i in range(seed, seed + flights):
            env = hidden_aircraft(i, base)
            true, rng = truth_of(env), np.random.default_rng(i)
            mass_std = MASS_STD * airframe(AIRCRAFT).mass_kg
            known = {
                "mass_offset_kg": (true["mass_offset_kg"] + mass_std * rng.standard_normal(), mass_std),
                "cg_offset_m": (true["cg_offset_m"] + CG_STD_M * rng.standard_normal(), CG_STD_M),
            }
            flight = rehearse(env, 1000 + i, excite=plan.add)
            began = time.process_time()
            found = identify([flight], known=known, replayer=replayer)
            tally.seconds.append(time.process_time() - began)
            for p in found.identified:
                scale = abs(true[p.name]) if p.unit in {"1", "s"} else references[p.name]
                tally.errors.setdefault(p.name, []).append(abs(p.estimate - true[p.name]) / scale)
                tally.inside.setdefault(p.name, []).append(p.low <= true[p.name] <= p.high)
            quiet = rehearse(env, level_start(env, 2000 + i), name="quiet").part(0, round(30 * base.rate_hz))
            tally.quiet += 1
            tally.refused += identify([quiet], known=known, replayer=replayer).verdict == "not identifiable"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return tally


def report(tally: Tally) -> str:
    """The table."""
    lines = [f"{'parameter':26} {'told in':>8} {'median error':>13} {'inside 95 %':>12}"]
    for name, errors in sorted(tally.errors.items(), key=lambda item: float(np.median(item[1]))):
        hits = tally.inside[name]
        lines.append(f"{name:26} {len(errors):8} {np.median(errors):12.1%} {sum(hits):6} of {len(hits)}")
    every = [hit for hits in tally.inside.values() for hit in hits]
    good = sum(float(np.median(e)) <= 0.03 for e in tally.errors.values())
    if every:
        interval = clopper_pearson(sum(every), len(every))
        lines.append(f"median error <= 3 % for {good} parameters")
        lines.append(
            f"coverage {np.mean(every):.3f} ({sum(every)} of {len(every)}; {interval.low:.3f} to {interval.high:.3f} "
            "if they were independent)"
        )
    lines.append(f"quiet flights refused: {tally.refused} of {tally.quiet}")
    if tally.seconds:
        lines.append(f"CPU time per identification: median {np.median(tally.seconds):.1f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--duration", type=float, default=60.0, help="of the excitation, s")
    parser.add_argument("--turbulence", type=float, default=4.0, help="wind at 20 ft, m/s")
    given = parser.parse_args()
    print(describe_machine("numpy", "scipy", "jsbsim"))
    print(report(run(given.flights, given.seed, given.duration, given.turbulence)))


if __name__ == "__main__":
    main()
