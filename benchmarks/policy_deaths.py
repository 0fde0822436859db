"""Injected deaths and hangs of the policy in HIL: after how many ticks does the fallback law command?

    PYTHONPATH=src:. python benchmarks/policy_deaths.py BUNDLE [--deaths 1000] [--realtime 50] [--json]

Each episode flies with a real policy process that fails at a random tick in one of the ways of
`benchmarks/faulty_policy.py`; the flight agent knows nothing of it. Ticks are counted in the flight agent's log: from
the tick during which the fault struck to the first whose command is the fallback law's own. A repeated last command
does not count. The lockstep run shows that nothing is missed whatever the timing; the real-time run that it holds at
the control rate. The negative control, the same faults without a process of its own, must fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from benchmarks.faulty_policy import KINDS
from machine import describe_machine

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.errors import LinkError
from sim2sky.hil.hil_test import AGENT_LOG, run_hil
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.telemetry.flight_log import read_flight_log

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 3
NEVER = 10**6
ATTEMPTS = 5  # on a loaded machine the fallback law may fly already when a fault strikes: that shows nothing
CONTROL = ("killed", "stopped", "spins", "exits", "raises", "memory", "segfault")  # those that need no socket


@dataclass(frozen=True)
class Death:
    """One fault: its kind, and the ticks from it to the fallback law's first command; `NEVER` where there was none."""

    kind: str
    ticks: int


def settings_for(bundle: Bundle, duration_s: float) -> EnvironmentSettings:
    contract = bundle.contract
    return EnvironmentSettings.model_validate(
        {
            "aircraft": contract.vehicle,
            "rate_hz": contract.rate_hz,
            "task": {"name": contract.task, "duration_s": duration_s, "hold_s": duration_s / 2},
        }
    )


def run(
    bundle: Bundle,
    folder: Path,
    deaths: int,
    *,
    kinds: Sequence[str] = KINDS,
    realtime: bool = False,
    supervised: bool = True,
) -> list[Death]:
    """Fly one episode after the other until `deaths` faults have struck a policy that was flying.

    Raises:
        AssertionError: they do not come: nothing would have been shown.
    """
    found: list[Death] = []
    for attempt in range(ATTEMPTS):
        if len(found) < deaths:
            found += fly(
                bundle,
                folder / str(attempt),
                deaths - len(found),
                kinds=[*kinds[len(found) % len(kinds) :], *kinds[: len(found) % len(kinds)]],
                realtime=realtime,
                supervised=supervised,
                seed=1 + 10_000 * attempt,
            )
    assert len(found) >= deaths, f"only {len(found)} faults struck a flying policy, not {deaths}"
    return found


def fly(
    bundle: Bundle, folder: Path, episodes: int, *, kinds: Sequence[str], realtime: bool, supervised: bool, seed: int
) -> list[Death]:
    """A HIL run with a fault in each episode."""
    folder.mkdir(parents=True, exist_ok=True)
    period_s = 1.0 / bundle.contract.rate_hz
    log = folder / "faults.txt"
    plan = {
        "kinds": list(kinds), "seed": seed, "first": 5, "last": int(2.0 / period_s), "log": str(log),
        "spread_s": period_s if realtime else 0.001, "slow_s": 2.0 * period_s if realtime else 1.5,
    }  # fmt: skip
    variables = {**os.environ, "FAULTS": json.dumps(plan), "OMP_NUM_THREADS": "1"}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.faulty_agent", *([] if supervised else ["--unsupervised"])]
    command += ["--bundle", str(bundle.path)]
    seeds = list(range(seed, seed + episodes))
    settings = settings_for(bundle, 3.0)
    try:
        run_hil(command, settings, seeds, log_dir=folder, realtime=realtime, environment=variables, timeout_s=4.0)
    except LinkError:
        if supervised:
            raise
    return count(folder / AGENT_LOG, log)


def count(agent_log: Path, fault_log: Path) -> list[Death]:
    """Ticks from each fault to the fallback law's command, by the times both processes noted."""
    faults = [line.split() for line in fault_log.read_text().splitlines()]
    with read_flight_log(agent_log) as log:
        episodes = [
            (e.column("timing", "receive").astype(np.int64), fallback_commands(e["guard"])) for e in log.episodes
        ]
    begins = np.array([received[0] for received, _ in episodes], np.int64)
    result = []
    for _, kind, time_ns in faults:
        number = int(np.searchsorted(begins, int(time_ns), "right")) - 1
        received, fallback = episodes[number] if number >= 0 else (begins[:0], begins[:0])
        struck = int(np.searchsorted(received, int(time_ns), "right")) - 1
        if struck > 0 and fallback[struck - 1]:
            continue  # the fallback law flew already: that shows nothing
        later = np.flatnonzero(fallback[struck:]) if struck >= 0 else begins[:0]
        result.append(Death(kind, int(later[0]) if len(later) else NEVER))
    return result


def fallback_commands(guard: np.ndarray) -> np.ndarray:
    """Which ticks the fallback law commanded, from the log's `guard` columns: mode and trips."""
    mode, trips = np.asarray(guard).T
    return (mode >= Mode.HOLD) & (trips & int(Trip.BRIDGED) == 0)


def control(bundle: Bundle, folder: Path, kinds: Sequence[str] = CONTROL) -> list[Death]:
    """The same faults in the flight agent's own process, one run each: it dies or hangs with its policy."""
    return [death for kind in kinds for death in run(bundle, folder / kind, 1, kinds=[kind], supervised=False)]


def table(deaths: Sequence[Death]) -> str:
    lines = [f"{'kind':15s} {'faults':>6s} {'ticks: median':>13s} {'max':>5s} {'over ' + str(LIMIT):>7s}"]
    for kind in sorted({d.kind for d in deaths}, key=KINDS.index):
        ticks = np.array([d.ticks for d in deaths if d.kind == kind])
        lines.append(
            f"{kind:15s} {len(ticks):6d} {shown(np.median(ticks)):>13s} {shown(ticks.max()):>5s} {over(ticks):7d}"
        )
    ticks = np.array([d.ticks for d in deaths])
    lines.append(
        f"{'all':15s} {len(ticks):6d} {shown(np.median(ticks)):>13s} {shown(ticks.max()):>5s} {over(ticks):7d}"
    )
    return "\n".join(lines)


def shown(ticks: float) -> str:
    return "never" if ticks >= NEVER else f"{ticks:g}"


def over(ticks: np.ndarray) -> int:
    return int((ticks > LIMIT).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--deaths", type=int, default=1000, help="in lockstep")
    parser.add_argument("--realtime", type=int, default=50, help="deaths in real time; 3 s each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    bundle = open_bundle(options.bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "lockstep": run(bundle, folder / "lockstep", options.deaths) if options.deaths else [],
            "real time": run(bundle, folder / "realtime", options.realtime, realtime=True) if options.realtime else [],
            "control": control(bundle, folder / "control"),
        }
    supervised = np.array([d.ticks for d in results["lockstep"] + results["real time"]])
    passed = not over(supervised) and all(d.ticks > LIMIT for d in results["control"])
    machine = describe_machine("onnxruntime", "pymavlink")
    if options.json:
        rows = {name: [[d.kind, d.ticks] for d in deaths] for name, deaths in results.items()}
        print(json.dumps({"machine": machine, "passed": passed, **rows}, indent=1))
    else:
        print(machine)
        for name, title in (
            ("lockstep", "lockstep"),
            ("real time", f"real time, {bundle.contract.rate_hz:g} Hz"),
            ("control", "negative control: no process of its own"),
        ):
            print(f"\n{title}\n{table(results[name])}" if results[name] else f"\n{title}: not flown")
        print(f"\nfallback within {LIMIT} ticks in {len(supervised) - over(supervised)} of {len(supervised)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
