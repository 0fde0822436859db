"""How long one action takes: Stable-Baselines3, TorchScript, onnxruntime as it comes, as it flies here, and int8.

    PYTHONPATH=src python benchmarks/policy_latency.py [--rounds 60] [--calls 50] [--json]

Two networks with random weights, a normaliser in front and a clip behind; every runtime answers the same raw
observation, batch 1, one thread, in interleaved rounds whose order rotates. Ratios are to Stable-Baselines3's
`VecNormalize.normalize_obs` + `predict` of the same round; absolute times depend on the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime as ort
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sim2sky.agent.golden import make_golden
from sim2sky.agent.sb3 import load
from sim2sky.deployment.candidates import candidates_for
from sim2sky.deployment.export_torchscript import torchscript_bytes
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


def runtimes(n: int, widths: list[int], activation: Any) -> tuple[dict[str, Call], dict[str, tuple[int, float]]]:
    """Per runtime a call without arguments, and size in bytes and largest error on the golden vectors."""
    rng = np.random.default_rng(0)
    env = VecNormalize(DummyVecEnv([lambda: Still(n)]))
    env.obs_rms.mean, env.obs_rms.var = rng.normal(0, 100, n), 10.0 ** rng.uniform(-4, 3, n)
    options = {"net_arch": widths, "activation_fn": activation}
    model = sb3.PPO("MlpPolicy", env, policy_kwargs=options, seed=0, device="cpu")
    with torch.no_grad():
        model.policy.action_net.weight.copy_(torch.from_numpy(rng.normal(0, 0.2, (4, widths[-1])).astype(np.float32)))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.zip")
        env.save(str(Path(folder) / "vecnormalize.pkl"))
        agent = load(Path(folder) / "model.zip")
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
    for name in ("TorchScript frozen", "onnxruntime default", "ours: fp32"):
        assert np.abs(np.asarray(calls[name]()).reshape(-1) - reference).max() < 1e-5, name
    return calls, facts


def measure(calls: dict[str, Call], rounds: int, n: int) -> dict[str, np.ndarray]:
    """Nanoseconds (rounds, n) per runtime."""
    times = {name: np.zeros((rounds, n)) for name in calls}
    order = list(calls)
    clock = time.perf_counter_ns
    for turn in range(rounds):
        for offset in range(len(order)):
            name = order[(turn + offset) % len(order)]
            call = calls[name]
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
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    versions = {"onnxruntime": ort.__version__, "onnx": onnx.__version__, "torch": torch.__version__}
    versions |= {"stable-baselines3": sb3.__version__, "numpy": np.__version__}
    result: dict[str, Any] = {"machine": machine, "versions": versions, "rounds": args.rounds, "calls": args.calls}
    for title, n, widths, activation in NETWORKS:
        calls, facts = runtimes(n, widths, activation)
        times = measure(calls, args.rounds, args.calls)
        base = np.median(times["SB3 predict"], axis=1)
        result[title] = {
            name: {
                "median_us": round(float(np.median(t)) / 1e3, 2),
                "p99_us": round(float(np.percentile(t, 99)) / 1e3, 2),
                "times_faster_than_predict": round(float(np.median(base / np.median(t, axis=1))), 2),
                "bytes": facts[name][0] or None,
                "max_action_error": facts[name][1] if name.startswith("ours") else None,
            }
            for name, t in times.items()
        }
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{machine}; {', '.join(f'{k} {v}' for k, v in versions.items())}")
    print(f"{args.rounds} interleaved rounds of {args.calls} calls each, batch 1, one thread")
    for title, *_ in NETWORKS:
        print(f"\n{title:26}{'median us':>10}{'p99 us':>9}{'vs predict':>12}{'bytes':>9}{'max error':>11}")
        for name, row in result[title].items():
            size = "" if row["bytes"] is None else str(row["bytes"])
            error = "" if row["max_action_error"] is None else f"{row['max_action_error']:.1g}"
            ratio = f"{row['times_faster_than_predict']:.1f}x"
            print(f"{name:26}{row['median_us']:>10.1f}{row['p99_us']:>9.1f}{ratio:>12}{size:>9}{error:>11}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
