"""A shipped agent with its guard and without it, on the same seeds: is anything lost, and how often does the guard act?

    python benchmarks/guarded_flight.py [--agent hawk] [--episodes 400] [--seed 20261125] [--workers 2] [--json]

Conditions are those the agent is validated in. "Acting" is any tick at which the command that was sent is not the one
the policy gave: a change of hands, a repeated, led-over, slewed or clamped command. An intervention is a change of
hands away from the policy. Ticks of one episode depend on each other, so the exact (Clopper-Pearson) bounds are per
episode; the share of ticks is given beside them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.agent.bundle import open_bundle
from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.deployment.choice import mcnemar_p
from sim2sky.environments.episode import fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.inference import load_backend
from sim2sky.runtime.safety import Guarded, Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import NOMINAL, Command, Health, Sample, Setpoint
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.flight import FlightJob, safety_of
from sim2sky.validation.statistics import clopper_pearson

AGENTS = Path(__file__).resolve().parent.parent / "agents"
STREAM = 21  # episodes nobody else flies


class Unguarded(SafetyMonitor):
    """Sends what the policy says."""

    def guard(
        self, _sample: Sample, _setpoint: Setpoint, proposed: Command, _now_ns: int, _health: Health = NOMINAL
    ) -> Guarded:
        return Guarded(proposed, Mode.POLICY, Trip(0))


@dataclass(frozen=True)
class Flight:
    """One seed: success with and without the guard, and what the guard did.

    Attributes:
        acting: ticks at which another command was sent than the policy's.
        relieved: ticks at which somebody else commanded.
        changes: times the policy was relieved.
    """

    guarded: bool
    unguarded: bool
    ticks: int
    acting: int
    relieved: int
    changes: int
    reasons: dict[str, int]


class Pair:
    """An agent twice in one process."""

    def __init__(self, job: FlightJob) -> None:
        bundle = open_bundle(Path(job.bundle), digest=job.digest)
        self._monitor = make_monitor(job.safety, bundle.contract)
        bare = make_monitor(job.safety, bundle.contract)
        bare.__class__ = Unguarded
        self._agents = [FlightAgent(bundle.contract, load_backend(bundle), m) for m in (self._monitor, bare)]
        self._vehicle = SimVehicle(job.environment)

    def fly(self, seed: int) -> Flight:
        outcomes: list[bool] = []
        counts: Counter[str] = Counter()
        for agent in self._agents:
            agent.reset()
            seen = Counter[str]()

            def pilot(s: Sample, t: Setpoint, now: int, agent: FlightAgent = agent, seen: Any = seen) -> Command:
                tick = agent.tick(s, t, now)
                seen["ticks"] += 1
                seen["acting"] += bool(tick.trips) or tick.guard != Mode.POLICY
                seen["relieved"] += tick.guard != Mode.POLICY
                return tick.command

            outcomes.append(fly_episode(self._vehicle, pilot, seed).success)
            counts = counts or seen
        events = self._monitor.events
        changes = sum(e.mode != Mode.POLICY and bool(e.raised) for e in events)
        return Flight(
            *outcomes, counts["ticks"], counts["acting"], counts["relieved"], changes, self._monitor.events.ticks
        )


_PAIR: dict[str, Pair] = {}


def _fly(arguments: tuple[FlightJob, int]) -> Flight:
    job, seed = arguments
    if job.digest not in _PAIR:
        _PAIR[job.digest] = Pair(job)
    return _PAIR[job.digest].fly(seed)


def campaign(agent: str, episodes: int, seed: int, *, workers: int = 2) -> list[Flight]:
    """Export the shipped agent and fly it."""
    validation = load_settings(default_path("validation"), ValidationSettings, section="validation")
    limits = resolve_safety(SafetySettings(extends="default")).values
    with tempfile.TemporaryDirectory(prefix="sim2sky-guarded-") as folder:
        bundle = export_bundle(
            AGENTS / agent / "model.zip", Path(folder) / "b", agent_name=agent, safety=lambda v: safety_of(limits, v)
        ).bundle
        job = FlightJob.of(bundle, validation.environment)
        jobs = [(job, s) for s in campaign_seeds(seed, episodes, stream=STREAM)]
        if workers <= 1:
            return [_fly(j) for j in jobs]
        flights: list[Flight] = []
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for flight in pool.imap(_fly, jobs, chunksize=10):
                flights.append(flight)
                if len(flights) % 50 == 0:
                    print(f"{len(flights)} of {episodes} episodes", file=sys.stderr, flush=True)
        return flights


def summary(flights: list[Flight], rate_hz: float = 20.0) -> dict[str, Any]:
    """The figures."""
    n, ticks = len(flights), sum(f.ticks for f in flights)
    guarded, unguarded = [f.guarded for f in flights], [f.unguarded for f in flights]
    reasons: Counter[str] = Counter()
    for f in flights:
        reasons.update(f.reasons)
    acted = sum(f.acting > 0 for f in flights)
    relieved = sum(f.changes > 0 for f in flights)
    return {
        "episodes": n,
        "hours": ticks / rate_hz / 3600.0,
        "success_guarded": sum(guarded),
        "success_unguarded": sum(unguarded),
        "p_guarded_lower": mcnemar_p(unguarded, guarded),
        "ticks": ticks,
        "ticks_acting": sum(f.acting for f in flights),
        "ticks_relieved": sum(f.relieved for f in flights),
        "share_acting_upper": clopper_pearson(sum(f.acting for f in flights), ticks, side="upper").high,
        "share_relieved_upper": clopper_pearson(sum(f.relieved for f in flights), ticks, side="upper").high,
        "episodes_acting": acted,
        "episodes_acting_upper": clopper_pearson(acted, n, side="upper").high,
        "episodes_relieved": relieved,
        "episodes_relieved_upper": clopper_pearson(relieved, n, side="upper").high,
        "interventions_per_hour": sum(f.changes for f in flights) / (ticks / rate_hz / 3600.0),
        "ticks_by_reason": dict(reasons.most_common()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="hawk")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    s = summary(campaign(options.agent, options.episodes, options.seed, workers=options.workers))
    if options.json:
        print(json.dumps(s, indent=1))
        return 0
    n = s["episodes"]
    print(describe_machine("jsbsim", "onnxruntime", "numpy"))
    print(f"{options.agent}: {n} episodes on paired seeds, {s['hours']:.2f} h of flight with the guard")
    print(
        f"success with guard {s['success_guarded']}/{n}, without {s['success_unguarded']}/{n} "
        f"(exact one-sided McNemar p that the guard costs any: {s['p_guarded_lower']:.3f})"
    )
    print(f"{s['interventions_per_hour']:.2f} interventions per hour")
    for name, text in (("acting", "sent another command"), ("relieved", "took the aircraft")):
        k, upper = s[f"episodes_{name}"], s[f"episodes_{name}_upper"]
        ticks, share = s[f"ticks_{name}"], s[f"share_{name}_upper"]
        print(
            f"the guard {text} in {ticks} of {s['ticks']} ticks ({ticks / s['ticks']:.2e}; were ticks independent, at "
            f"95 % below {share:.2e}) and in {k} of {n} episodes (at 95 % below {upper:.4f})"
        )
    print("ticks by reason: " + (", ".join(f"{k} {v}" for k, v in s["ticks_by_reason"].items()) or "none"))
    return 0 if s["success_guarded"] >= s["success_unguarded"] else 1


if __name__ == "__main__":
    sys.exit(main())
