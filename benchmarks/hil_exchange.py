"""Lockstep HIL exchanges over UDP and TCP, with the Python agent and the one without Python: latency, and how closely
the outcomes equal pure simulation.

    python benchmarks/hil_exchange.py BUNDLE [--episodes 20] [--json]

An exchange is everything from packing the state to having decoded the command, both processes included. The floor is
the same number of bytes thrown to and fro between two bare Python processes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe_machine

from sim2sky.agent.bundle import open_bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.linux_agent import build_linux_agent
from sim2sky.environments.episode import fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.hil_test import HilResult, compare_with_simulation, run_hil
from sim2sky.runtime.assembly import make_agent


def _echo(port: int, n: int, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.send(b"x")
        for _ in range(n):
            sock.recv(2048)
            sock.send(b"y" * size)


def floor_us(n: int = 2000) -> tuple[float, float]:
    """Median and p99 of a bare UDP echo with our datagram sizes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        child = multiprocessing.get_context("spawn").Process(target=_echo, args=(sock.getsockname()[1], n, 44))
        child.start()
        _, peer = sock.recvfrom(2048)
        took = np.empty(n)
        for i in range(n):
            begun = time.perf_counter_ns()
            sock.sendto(b"s" * 150, peer)
            sock.recv(2048)
            took[i] = time.perf_counter_ns() - begun
        child.join()
    return float(np.median(took)) / 1e3, float(np.percentile(took, 99)) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    settings = EnvironmentSettings.model_validate(
        {
            "aircraft": bundle.contract.vehicle,
            "rate_hz": bundle.contract.rate_hz,
            "task": {"name": bundle.contract.task},
        }
    )
    seeds = list(range(1000, 1000 + options.episodes))
    agent, vehicle = make_agent(bundle), SimVehicle(settings)
    simulated = []
    begun = time.perf_counter()
    for seed in seeds:
        agent.reset()
        simulated.append(fly_episode(vehicle, lambda s, t, now: agent.tick(s, t, now).command, seed))
    sim_s = time.perf_counter() - begun
    rows: dict[str, dict[str, object]] = {}
    python = [sys.executable, "-m", "sim2sky.runtime.main", "--bundle", str(options.bundle)]
    with tempfile.TemporaryDirectory() as folder:
        compiled = [str(build_linux_agent(bundle, Path(folder) / "sim2sky-agent"))]
        results: dict[str, tuple[HilResult, float]] = {}
        for link in ("udp", "tcp"):
            begun = time.perf_counter()
            result = run_hil(python, settings, seeds, link=link, log_dir=Path(folder))
            results[f"Python, {link}"] = result, time.perf_counter() - begun
            begun = time.perf_counter()
            result = run_hil(compiled, settings, seeds, link=link)  # it writes no log
            results[f"without Python, {link}"] = result, time.perf_counter() - begun
    for name, (result, took) in results.items():
        agreement = compare_with_simulation(result.outcomes, simulated)
        rows[name] = {
            "exchange_us": result.exchange_us,
            "round_trip_us": result.round_trip_us,
            "seconds": took,
            "retransmissions": result.retransmissions,
            "success": sum(o.success for o in result.outcomes),
            "same_success": agreement.same_success,
            "same_termination": agreement.same_termination,
            "same_duration": agreement.same_duration,
            "tracking_rmse_difference": agreement.tracking_rmse_difference,
            "action_rate_difference": agreement.action_rate_difference,
        }
    floor = floor_us()
    machine = describe_machine("jsbsim", "onnxruntime", "pymavlink")
    if options.json:
        print(json.dumps({"machine": machine, "floor_us": floor, "simulation_s": sim_s, "links": rows}, indent=1))
        return 0
    print(machine)
    print(f"{len(seeds)} episodes; pure simulation {sim_s:.2f} s, {sum(o.success for o in simulated)} successes")
    print(f"bare UDP echo between two Python processes: median {floor[0]:.0f} us, p99 {floor[1]:.0f} us")
    for link, row in rows.items():
        x = row["exchange_us"]
        assert isinstance(x, dict)
        print(
            f"{link}: exchange median {x['median']:.0f} us, p99 {x['p99']:.0f} us, max {x['max']:.0f} us, "
            f"n {x['n']:.0f}; {row['seconds']:.2f} s in all, {row['retransmissions']} sent again"
        )
        print(
            f"     outcomes equal to simulation: {row['same_success']}/{len(seeds)} success, "
            f"{row['same_termination']}/{len(seeds)} termination, {row['same_duration']}/{len(seeds)} duration; "
            f"largest differences {row['tracking_rmse_difference']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
