"""What it costs to ask a policy in a process of its own instead of calling it.

    PYTHONPATH=src python benchmarks/policy_process_latency.py BUNDLE [--rounds 40] [--calls 200] [--paced 250]

Interleaved rounds on the same observation: the call in this process, the question to the policy process, and the floor,
the same bytes thrown to and fro between two bare Python processes over the same kind of socket. Then once more at
50 Hz, where both processes sleep between two questions and the processor's caches and clock have cooled down.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.runtime.inference import load_backend
from sim2sky.runtime.policy_process import PolicyProcess
from sim2sky.runtime.policy_wire import Kind, pack_values

PERIOD_S = 0.02


ECHO = """
import socket, sys
channel, answer = socket.socket(fileno=int(sys.argv[1])), b"a" * int(sys.argv[2])
while channel.recv(65536):
    channel.send(answer)
"""


def _time(call: Callable[[], Any], n: int, pause_s: float = 0.0) -> NDArray[np.float64]:
    took = np.empty(n)
    for i in range(n):
        if pause_s:
            time.sleep(pause_s)
        begun = time.perf_counter_ns()
        call()
        took[i] = time.perf_counter_ns() - begun
    return took * 1e-3


def measure(bundle: Bundle, *, rounds: int, calls: int, paced: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Microseconds of every call: `busy` and `paced`, by `in process`, `own process` and `floor`."""
    golden = bundle.golden()
    (rows,) = golden.observations.values()
    observation = np.ascontiguousarray(rows[0], np.float32).reshape(-1)
    question = pack_values(Kind.OBSERVATION, 1, observation)
    answer = pack_values(Kind.ACTION, 1, np.zeros(len(bundle.contract.output.signals)))
    inside = load_backend(bundle)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", ECHO, str(theirs.fileno()), str(len(answer))]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()

    def throw() -> None:
        ours.send(question)
        ours.recv(65536)

    with ours, PolicyProcess(bundle, deadline_s=1.0) as outside:
        contenders: dict[str, Callable[[], Any]] = {
            "in process": lambda: inside(observation),
            "own process": lambda: outside(observation),
            "floor": throw,
        }
        assert np.array_equal(inside(observation), outside(observation))
        throw()
        names = list(contenders)
        busy: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
        for i in range(rounds):
            for name in names[i % 3 :] + names[: i % 3]:
                busy[name].append(_time(contenders[name], calls))
        slow = {name: _time(contenders[name], paced, PERIOD_S) for name in names}
        assert outside.restarts == 0
    child.wait()
    return {"busy": {name: np.concatenate(parts) for name, parts in busy.items()}, "paced": slow}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=200, help="per round and contender")
    parser.add_argument("--paced", type=int, default=250, help="calls per contender at 50 Hz")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(open_bundle(options.bundle), rounds=options.rounds, calls=options.calls, paced=options.paced)
    table = {
        pace: {
            name: {"median_us": float(np.median(us)), "p99_us": float(np.percentile(us, 99))}
            for name, us in rows.items()
        }
        for pace, rows in found.items()
    }
    machine = describe_machine("onnxruntime")
    if options.json:
        print(json.dumps({"machine": machine, **table}, indent=1))
        return 0
    print(machine)
    for pace, title in (("busy", "without a pause"), ("paced", "at 50 Hz")):
        reference = table[pace]["in process"]["median_us"]
        print(f"\n{title:16s} {'median us':>10s} {'p99 us':>8s} {'to in process':>14s} {'extra us':>9s}")
        for name, row in table[pace].items():
            median = row["median_us"]
            print(
                f"{name:16s} {median:10.1f} {row['p99_us']:8.1f} {median / reference:13.1f}x {median - reference:9.1f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
