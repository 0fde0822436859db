"""Random event sequences on the kill switch: is there ever thrust after a kill without disarming and arming again?

    python benchmarks/kill_switch.py [--sequences 100000] [--seed 20261127] [--workers 2] [--json]

A sequence is twenty events: kill, disarm, arm, new episode, or a tick with plausible or broken data. The rule is kept
by a model of three lines beside the guard: after a kill every command is zero throttle and neutral surfaces, from the
very next tick on, until a disarm and then an arm; arming alone does not do it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from guard_fuzz import THEMES, Source, monitors
from machine import describe_machine

from sim2sky.runtime.safety import Mode

EVENTS = ("kill", "disarm", "arm", "reset", "tick", "tick", "tick", "tick")
LENGTH = 20
NEUTRAL = (0.0, 0.0, 0.0, 0.0)


def sequences(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Counts of what happened, and the first violations."""
    rng = random.Random(seed)
    guards, source = monitors(rng), Source(rng)
    counts: Counter[str] = Counter()
    violations: list[str] = []
    for k in range(count):
        guard = guards[k % len(guards)]
        guard.disarm()  # whatever the sequence before left
        guard.arm()
        guard.reset()
        killed, armed = False, True
        theme = THEMES[k % len(THEMES)]
        for _ in range(LENGTH):
            event = EVENTS[int(rng.random() * len(EVENTS))]
            counts[event] += 1
            if event == "kill":
                guard.kill()
                killed = True
            elif event == "disarm":
                guard.disarm()
                killed = armed = False
            elif event == "arm":
                armed = armed or not killed
                if guard.arm() is killed:
                    violations.append(f"sequence {k}: armed while a kill is latched")
            elif event == "reset":
                guard.reset()
            else:
                command, mode, _ = guard.guard(*source.tick(theme))
                stopped = killed or not armed
                counts["ticks stopped"] += stopped
                counts["ticks flown"] += not stopped
                if stopped != (mode is Mode.KILLED) or (stopped and command != NEUTRAL):
                    violations.append(f"sequence {k}: {'stopped' if stopped else 'armed'}, but {mode.name} {command}")
    return counts, violations[:20]


def _job(arguments: tuple[int, int]) -> tuple[Counter[str], list[str]]:
    return sequences(*arguments)


def campaign(count: int, seed: int, *, workers: int = 2) -> tuple[Counter[str], list[str]]:
    """All sequences, in chunks."""
    chunk = 5_000
    jobs = [(min(chunk, count - k * chunk), seed + k) for k in range(-(-count // chunk))]
    counts: Counter[str] = Counter()
    violations: list[str] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for k, (some, wrong) in enumerate(pool.imap(_job, jobs), 1):
            counts += some
            violations += wrong
            print(f"chunk {k} of {len(jobs)}", file=sys.stderr, flush=True)
    return counts, violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts, violations = campaign(options.sequences, options.seed, workers=options.workers)
    if options.json:
        print(json.dumps({"sequences": options.sequences, "counts": dict(counts), "violations": violations}))
    else:
        print(describe_machine("numpy"))
        print(f"{options.sequences:,} sequences: " + ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())))
        print(f"{len(violations)} commands after a kill without disarming and arming again")
        for text in violations:
            print("  " + text)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
