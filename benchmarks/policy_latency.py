"""How long one action takes: Stable-Baselines3, TorchScript, onnxruntime, emlearn, and our generated C.

    PYTHONPATH=src python benchmarks/policy_latency.py [--rounds 60] [--calls 50] [--no-chip] [--json]

Two networks with random weights, a normaliser in front and a clip behind; every runtime answers the same raw
observation, batch 1, one thread, in interleaved rounds whose order rotates. Ratios are to Stable-Baselines3's
`VecNormalize.normalize_obs` + `predict` of the same round; absolute times depend on the machine and its load.
In C loops the clock is read every 16 steps, and their p99 is that of such a mean. The floor reads as many weights as
the network has, once, and does nothing else. Instructions are exact, counted by QEMU on its Cortex-M7.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import gymnasium as gym
import numpy as np
import onnxruntime as ort
import stable_baselines3 as sb3
import torch
from c_rivals import IN_A_ROW, CRivals, emlearn_net
from machine import describe_machine
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sim2sky.agent.golden import make_golden
from sim2sky.agent.sb3 import load
from sim2sky.deployment.candidates import candidates_for
from sim2sky.deployment.export_torchscript import torchscript_bytes
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.deployment.verification import golden_actions, open_session
from sim2sky.runtime.inference import OnnxBackend

NETWORKS = (("12-64-64-4 tanh", 12, [64, 64], torch.nn.Tanh), ("20-256-256-4 relu", 20, [256, 256], torch.nn.ReLU))
Call = Callable[[], Any]


class Still(gym.Env[Any, Any]):
    """Spaces only; nothing moves."""

    def __init__(self, n: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        del action
        return np.zeros(self.observation_space.shape or (), np.float32), 0.0, True, False, {}


@dataclass(frozen=True)
class Rivals:
    """All runtimes of one network.

    Attributes:
        calls: from Python, without arguments.
        facts: size in bytes (0: none of its own) and largest error on the golden vectors, where measured.
        c: those in C.
    """

    calls: dict[str, Call]
    facts: dict[str, tuple[int, float]]
    c: CRivals


def runtimes(n: int, widths: list[int], activation: Any, folder: Path) -> Rivals:
    """Build everything; every runtime must answer as Stable-Baselines3 does."""
    rng = np.random.default_rng(0)
    env = VecNormalize(DummyVecEnv([lambda: Still(n)]))
    env.obs_rms.mean, env.obs_rms.var = rng.normal(0, 100, n), 10.0 ** rng.uniform(-4, 3, n)
    options = {"net_arch": widths, "activation_fn": activation}
    model = sb3.PPO("MlpPolicy", env, policy_kwargs=options, seed=0, device="cpu")
    with torch.no_grad():
        model.policy.action_net.weight.copy_(torch.from_numpy(rng.normal(0, 0.2, (4, widths[-1])).astype(np.float32)))
    model.save(folder / "model.zip")
    env.save(str(folder / "vecnormalize.pkl"))
    agent = load(folder / "model.zip")
    golden = make_golden(agent, seed=0)
    flown = env.obs_rms.mean + np.sqrt(env.obs_rms.var) * rng.normal(size=(2000, n))
    built = {c.name: c.model for c in candidates_for(agent.network, observations={"observation": flown})}
    script = torchscript_bytes(agent.network)
    row = flown[:1].astype(np.float32)
    tensor, one = torch.from_numpy(row), row[0]
    with tempfile.NamedTemporaryFile(suffix=".pt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file.write(script)
        file.flush()
        module = torch.jit.load(file.name)
    plain = ort.InferenceSession(built["fp32"], providers=["CPUExecutionProvider"])  # as everyone writes it

    def predict() -> Any:
        return model.predict(env.normalize_obs(row), deterministic=True)[0]

    def traced() -> Any:
        with torch.inference_mode():
            return module(tensor).numpy()

    calls: dict[str, Call] = {
        "SB3 predict": predict,
        "TorchScript frozen": traced,
        "onnxruntime default": lambda: plain.run(None, {"observation": row})[0],
    }
    facts = dict.fromkeys(calls, (0, 0.0))
    facts["TorchScript frozen"] = (len(script), 0.0)
    names = {"fp32": "ours: fp32", "pruned": "ours: neurons -30 %", "static_qdq": "ours: static QDQ int8"}
    for name, data in built.items():
        label = names.get(name, f"ours: {name.replace('_', ' ')}")
        session = open_session(data)
        facts[label] = (len(data), float(np.abs(golden_actions(session, golden) - golden.action).max()))
        backend = OnnxBackend(session)
        calls[label] = lambda backend=backend: backend(one)
    reference = predict()[0]
    c = CRivals(agent.network, agent.contract, golden, np.ascontiguousarray(flown[:64], np.float32), folder)
    calls |= c.calls
    answers = {name: calls[name]() for name in ("TorchScript frozen", "onnxruntime default", "ours: fp32")}
    for name, answer in (
        answers | {k: v for k, v in c.answers.items() if "int8" not in k and "floor" not in k}
    ).items():
        # emlearn writes its weights with six decimals
        allowed = 1e-3 if name.startswith("emlearn") else 1e-5
        assert np.abs(np.asarray(answer).reshape(-1) - reference).max() < allowed, name
    facts |= {name: (size, 0.0) for name, size in c.sizes.items()}
    return Rivals(calls, facts, c)


def measure(rivals: Rivals, rounds: int, n: int) -> dict[str, np.ndarray]:
    """Nanoseconds (rounds, n) per runtime."""
    order = [*rivals.calls, *rivals.c.loops]
    times = {name: np.zeros((rounds, n)) for name in order}
    clock = time.perf_counter_ns
    for turn in range(rounds):
        for offset in range(len(order)):
            name = order[(turn + offset) % len(order)]
            if name in rivals.c.loops:
                times[name][turn] = rivals.c.loops[name](n + 1)[1:]
                continue
            call = rivals.calls[name]
            for _ in range(5):
                call()
            for i in range(n):
                start = clock()
                call()
                times[name][turn, i] = clock() - start
    return times


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--no-chip", action="store_true", help="leave out the emulated Cortex-M7")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    machine = describe_machine("onnxruntime", "onnx", "torch", "stable-baselines3", "emlearn", "numpy")
    compilers = [str(find_compiler()), *([] if args.no_chip else [str(find_compiler("cortex-m7"))])]
    result: dict[str, Any] = {"machine": machine, "compilers": compilers, "rounds": args.rounds, "calls": args.calls}
    for title, n, widths, activation in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rivals = runtimes(n, widths, activation, Path(folder))
            times = measure(rivals, args.rounds, args.calls)
            chip = {} if args.no_chip else {weights: rivals.c.chip(weights) for weights in ("float32", "int8")}
        result[title] = {"runtimes": table(times, rivals.facts), "ratios": ratios(times), "chip": chip}
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{machine}, {', '.join(compilers)}")
    print(f"{args.rounds} interleaved rounds of {args.calls} calls, batch 1, one thread; C loops: {IN_A_ROW} at a time")
    if emlearn_net is None:
        print("emlearn is not here: pip install 'sim2sky[bench]'")
    for title, *_ in NETWORKS:
        print(f"\n{title:32}{'median us':>10}{'p99 us':>9}{'vs predict':>12}{'bytes':>9}{'max error':>11}")
        for name, row in result[title]["runtimes"].items():
            size = "" if row["bytes"] is None else str(row["bytes"])
            error = "" if row["max_action_error"] is None else f"{row['max_action_error']:.1g}"
            ratio = f"{row['times_faster_than_predict']:.1f}x"
            print(f"{name:32}{row['median_us']:>10.2f}{row['p99_us']:>9.2f}{ratio:>12}{size:>9}{error:>11}")
        for what, value in result[title]["ratios"].items():
            print(f"{what}: {value:.2f}")
        for weights, row in result[title]["chip"].items():
            print(
                f"Cortex-M7, {weights}: {row['instructions']} instructions a step, {row['flash_bytes']} bytes of flash"
            )
    return 0


def table(times: dict[str, np.ndarray], facts: dict[str, tuple[int, float]]) -> dict[str, dict[str, Any]]:
    """Medians, p99 and ratios per runtime."""
    base = np.median(times["SB3 predict"], axis=1)
    return {
        name: {
            "median_us": round(float(np.median(t)) / 1e3, 3),
            "p99_us": round(float(np.percentile(t, 99)) / 1e3, 3),
            "times_faster_than_predict": round(float(np.median(base / np.median(t, axis=1))), 2),
            "bytes": facts.get(name, (0, 0.0))[0] or None,
            "max_action_error": facts[name][1] if name in facts and facts[name][1] > 0 else None,
        }
        for name, t in times.items()
    }


def ratios(times: dict[str, np.ndarray]) -> dict[str, float]:
    """The two that the C policy is judged by: medians within a round, and of those over the rounds."""

    def of(slower: str, faster: str) -> float:
        return float(np.median(np.median(times[slower], axis=1) / np.median(times[faster], axis=1)))

    return {
        "C from Python, times faster than tuned onnxruntime": of("ours: fp32", "ours: C, from Python"),
        "C loop, multiple of the floor": of("ours: C, C loop", "floor: weights read once, C loop"),
    }


if __name__ == "__main__":
    sys.exit(main())
