"""Environment speed: steps per second against raw JSBSim and against other JSBSim environments, interleaved in one run.

Every environment steps the physics six times per control step. Ours flies in wind and turbulence with sensor noise; the
rivals, at their own defaults, have none of these. `x raw` is the time of a step over the time of six
`FGFDMExec.run()` of the very same aircraft in the very same air, so it does not depend on how heavy a model is.

    pip install 'sim2sky[bench]'; python benchmarks/env_speed.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe_machine

from sim2sky.environments.aircraft_env import AircraftEnv

STEPS, ROUNDS, SUBSTEPS = 350, 25, 6


def timed(prepare: Callable[[], None], step: Callable[[], Any]) -> float:
    """Seconds per step of one episode's worth of steps."""
    prepare()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def ours() -> dict[str, tuple[Callable[[], None], Callable[[], Any]]]:
    env = AircraftEnv({"disturbances": {"wind_mps": [3, 3], "turbulence_w20_mps": [5, 5]}})
    action = np.zeros(4, np.float32)

    def reset() -> None:
        env.reset(seed=1)

    def raw() -> None:
        run = env.vehicle._plant._fdm.run
        for _ in range(SUBSTEPS):
            run()

    return {"sim2sky, raw FGFDMExec.run()": (reset, raw), "sim2sky AircraftEnv": (reset, lambda: env.step(action))}


def rival(module: str) -> dict[str, tuple[Callable[[], None], Callable[[], Any]]]:
    """gymnasium-jsbsim and jsbgym share their ancestor's interface; 10 Hz at their fixed 60 Hz is six substeps."""
    environment = importlib.import_module(f"{module}.environment")
    tasks = importlib.import_module(f"{module}.tasks")
    env = environment.NoFGJsbSimEnv(task_type=tasks.HeadingControlTask, agent_interaction_freq=60 // SUBSTEPS)
    env.reset()
    action = env.action_space.sample() * 0

    def raw() -> None:
        run = env.sim.jsbsim.run
        for _ in range(SUBSTEPS):
            run()

    return {f"{module}, raw FGFDMExec.run()": (env.reset, raw), f"{module}": (env.reset, lambda: env.step(action))}


def main() -> None:
    warnings.simplefilter("ignore")
    contenders = ours()
    for module in ("gymnasium_jsbsim", "jsbgym"):
        if importlib.util.find_spec(module) is None:
            print(f"not installed, left out: {module}")
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            contenders |= rival(module)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(ROUNDS):
            for name, (prepare, step) in contenders.items():
                times[name].append(timed(prepare, step))
    print(describe_machine("jsbsim", "gymnasium", "gymnasium-jsbsim", "jsbgym", "numpy"))
    print(
        f"{'':36}{'us/step':>9}{'steps/s':>10}{'x raw':>8}   (medians of {ROUNDS} interleaved rounds of {STEPS} steps)"
    )
    raw = 1.0
    for name, values in times.items():
        median = statistics.median(values)
        if "raw" in name:
            raw = values
            print(f"{name:36}{median * 1e6:9.1f}{1 / median:10.0f}")
        else:
            ratio = statistics.median(v / r for v, r in zip(values, raw, strict=True))
            print(f"{name:36}{median * 1e6:9.1f}{1 / median:10.0f}{ratio:8.2f}")
    print("FW-JSBGym is not on PyPI and was not measured; its authors' figures are not comparable across machines.")


if __name__ == "__main__":
    main()
