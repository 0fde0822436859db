"""Processor in the loop: latency by medium, how fast an episode is, and whether the chip flies like the local target.

    python benchmarks/pil.py BUNDLE [--episodes 50] [--json]

BUNDLE is an export of a flying agent. `bare` is the exchange of a question that needs no computing (identify: 6 bytes
out, 125 back); `step` is a whole control step: state out, observation, policy and guard on the chip, command back. Both
from before the question is packed until after the answer is unpacked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.agent.bundle import Bundle, open_bundle, write_bundle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.firmware_build import build_agent
from sim2sky.deployment.targets import temporary_target
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.pil import ChipAgent, PilLink
from sim2sky.hil.pil_flight import fly_chip, measure_steps
from sim2sky.hil.qemu import EmulatedChip
from sim2sky.hil.unicorn_chip import UnicornChip
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.flight import environment_for
from sim2sky.validation.hil_check import fly_hil

MEDIA = ("FIFO", "UART", "unicorn")
EPISODE = {"duration_s": 20.0}


@contextlib.contextmanager
def medium(name: str, elf: Path) -> Generator[PilLink, None, None]:
    """A running chip, by the way to it."""
    with UnicornChip(elf) if name == "unicorn" else EmulatedChip(elf, uart=name == "UART") as chip:
        yield PilLink(chip.channel, ended=lambda: chip.ended, name="the emulated chip", timeout_s=30.0)


def exchange_us(name: str, elf: Path, bundle: Bundle, env: EnvironmentSettings, n: int) -> dict[str, dict[str, float]]:
    """Median and p99 of `bare` and `step`, the step in flight."""
    took: dict[str, list[int]] = {"bare": [], "step": []}
    vehicle = SimVehicle(env)
    with medium(name, elf) as link:
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        for _ in range(n):
            start = time.perf_counter_ns()
            link.identify()
            took["bare"].append(time.perf_counter_ns() - start)
        seed = 0
        while len(took["step"]) < n:
            agent.reset()
            sample = vehicle.reset(seed)
            while not vehicle.done and len(took["step"]) < n:
                start = time.perf_counter_ns()
                tick = agent.tick(sample, vehicle.setpoint, sample.time_ns)
                took["step"].append(time.perf_counter_ns() - start)
                sample = vehicle.step(tick.command)
            seed += 1
    return {
        what: {"median": float(np.median(ns)) / 1e3, "p99": float(np.percentile(ns, 99)) / 1e3}
        for what, ns in took.items()
    }


def at_rate(bundle: Bundle, rate_hz: float, out: Path) -> Bundle:
    """The same agent with another control rate, for timing."""
    kept = {n: bundle.read(n) for n in bundle.files if n in {"network.npz", "golden.npz", "safety.json", "policy.onnx"}}
    contract = replace(bundle.contract, rate_hz=rate_hz)
    formats = {"onnx": "policy.onnx"}
    return write_bundle(out, agent=bundle.agent, contract=contract, formats=formats, active="onnx", files=kept)


def episode_seconds(bundle: Bundle, folder: Path, n: int) -> list[tuple[int, float]]:
    """(steps, seconds) of `n` episodes of 20 s at 50 Hz over FIFOs, plant included."""
    fast = at_rate(bundle, 50.0, folder / "fast")
    env = environment_for(fast.contract, EnvironmentSettings.model_validate({"task": EPISODE}))
    image = build_agent(fast, folder / "fast.elf")
    found: list[tuple[int, float]] = []
    with medium("FIFO", image.elf) as link:
        agent = ChipAgent.expecting(link, fast.contract, fast.digest)
        for seed in range(n):
            start = time.perf_counter()
            run = fly_chip(agent, fast, env, [seed])
            found.append((run.ticks, time.perf_counter() - start))
    return found


def outcomes(bundle: Bundle, elf: Path, folder: Path, episodes: int) -> dict[str, Any]:
    """Episodes on the chip and on a local target, seed by seed."""
    settings = ValidationSettings(hil_validation_episodes=episodes)
    env = environment_for(bundle.contract, settings.environment)
    seeds = campaign_seeds(settings.seed, episodes)
    with medium("FIFO", elf) as link:
        start = time.perf_counter()
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        chip = fly_chip(agent, bundle, env, seeds)
        chip_s = time.perf_counter() - start
    start = time.perf_counter()
    local = fly_hil(bundle, settings, temporary_target(bundle, folder))
    pairs = list(zip(chip.outcomes, local.outcomes, strict=True))
    return {
        "episodes": episodes,
        "same_success": sum(a.success == b.success for a, b in pairs),
        "same_termination": sum(a.termination == b.termination for a, b in pairs),
        "successes": sum(o.success for o in chip.outcomes),
        "chip_s": chip_s,
        "local_s": time.perf_counter() - start,
    }


def measure(bundle: Bundle, *, exchanges: int, fast_episodes: int, episodes: int) -> dict[str, Any]:
    """Everything in the table."""
    env = environment_for(bundle.contract, EnvironmentSettings.model_validate({"task": EPISODE}))
    with tempfile.TemporaryDirectory(prefix="sim2sky-pil-") as name:
        folder = Path(name)
        image = build_agent(bundle, folder / "firmware.elf")
        with EmulatedChip(image.elf, icount=True) as chip:
            cost = measure_steps(PilLink(chip.channel), bundle, env, 0, ticks=100)
        n = {"FIFO": exchanges, "UART": max(exchanges // 20, 10), "unicorn": max(exchanges // 4, 10)}
        latency = {name: exchange_us(name, image.elf, bundle, env, n[name]) for name in MEDIA}
        timed = episode_seconds(bundle, folder, fast_episodes)
        return {
            "flash": image.flash,
            "ram": image.ram,
            "stack": image.stack,
            "instructions": cost._asdict(),
            "exchange_us": latency,
            "episode": {"steps": timed[0][0], "seconds": float(np.median([s for _, s in timed]))},
            "outcomes": outcomes(bundle, image.elf, folder, episodes),
        }


def main() -> int:
    from machine import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(open_bundle(options.bundle), exchanges=5000, fast_episodes=5, episodes=options.episodes)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print(describe_machine("numpy", "jsbsim", "unicorn"))
    cost, episode, flown = found["instructions"], found["episode"], found["outcomes"]
    print(f"firmware: {found['flash']:,} bytes of flash, {found['ram']:,} of RAM ({found['stack']:,} of them stack)")
    print(f"control step: {cost['step']:,} instructions (at most {cost['step_max']:,}), policy {cost['policy']:,}")
    for name, rows in found["exchange_us"].items():
        for what, us in rows.items():
            print(f"{name:8} {what:5} median {us['median']:8.1f} us   p99 {us['p99']:8.1f} us")
    print(f"20 s at 50 Hz: {episode['steps']} steps in {episode['seconds']:.2f} s, plant included")
    print(
        f"{flown['episodes']} episodes: same success {flown['same_success']}, same termination "
        f"{flown['same_termination']} as the local target; {flown['chip_s']:.1f} s, local {flown['local_s']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
