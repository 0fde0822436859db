"""A hand-made agent that really flies, as a bundle: shared by the runtime and HIL tests."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np

from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import Contract, canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes
from sim2sky.agent.layers import Clip, Dense, InputHead, Network, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample

SRC = str(Path(__file__).resolve().parent.parent / "src")
LIMITS = SafetyLimits()


def settings(**task: object) -> EnvironmentSettings:
    return EnvironmentSettings.model_validate({"task": task} if task else {})


def linear_network(contract: Contract) -> Network:
    """Proportional control in the units of the contract: no training needed, deterministic, flies the task."""
    names = contract.observation_names
    gains = {
        "aileron": {"bank_error_rad": 0.8, "roll_error_rad": 0.8, "p_radps": -0.1, "p_error_radps": 0.1},
        "elevator": {
            "climb_rate_error_mps": 0.12, "pitch_rad": -1.5, "q_radps": -0.2, "pitch_error_rad": 1.5,
            "q_error_radps": 0.2,
        },
        "rudder": {"r_radps": -0.1},
        "throttle": {"airspeed_error_mps": 0.3, "climb_rate_error_mps": 0.1},
    }  # fmt: skip
    weight = np.zeros((4, len(names)), np.float32)
    for row, channel in enumerate(gains):
        for name, gain in gains[channel].items():
            if name in names:
                weight[row, names.index(name)] = gain
    bias = np.array([0.0, 1.5 * 0.05, 0.0, 0.0], np.float32)
    clip = Clip(np.full(4, -1.0, np.float32), np.ones(4, np.float32))
    return Network((InputHead("observation", len(names)),), (Dense(weight, bias), clip))


def make_golden(network: Network, contract: Contract, n: int = 256, seed: int = 0) -> GoldenVectors:
    rng = np.random.default_rng(seed)
    signals = contract.inputs[0].signals
    low, high = (np.array([getattr(s, end) for s in signals]) for end in ("low", "high"))
    rows = {"observation": rng.uniform(low, high, (n, len(signals))).astype(np.float32)}
    action = np.asarray(evaluate(network, rows)[0], np.float32)
    starts = None if network.lstm is None else np.ones(n, np.float32)  # each row by itself
    return GoldenVectors(rows, action, starts, np.array(["sampled"] * n), np.ones(action.shape[1]))


def make_bundle(
    out: Path,
    env: EnvironmentSettings,
    *,
    network: Network | None = None,
    golden_of: Network | None = None,
    limits: SafetyLimits = LIMITS,
    agent: str = "hand",
    provenance: dict[str, object] | None = None,
) -> Bundle:
    contract = make_contract(env)
    network = network or linear_network(contract)
    safety = {**limits.to_json(), "fallback": airframe(env.aircraft).gains.to_json()}
    files = {
        "network.npz": network_to_bytes(network),
        "golden.npz": golden_to_bytes(make_golden(golden_of or network, contract)),
        "policy.onnx": model_to_bytes(emit_onnx(network)),
        "safety.json": canonical_json(safety),
    }
    return write_bundle(
        out,
        agent=agent,
        contract=contract,
        formats={"onnx": "policy.onnx"},
        active="onnx",
        files=files,
        provenance=provenance,
    )


def agent_command(bundle: Bundle | Path, *extra: str) -> list[str]:
    path = bundle if isinstance(bundle, Path) else bundle.path
    return [sys.executable, "-m", "sim2sky.runtime.main", "--bundle", str(path), "--connect-timeout", "20", *extra]


def agent_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}


def sample(**changes: float) -> Sample:
    values = {
        "time_ns": 0, "roll_rad": 0.0, "pitch_rad": 0.05, "yaw_rad": 0.0, "p_radps": 0.0, "q_radps": 0.0,
        "r_radps": 0.0, "airspeed_mps": 18.0, "altitude_m": 150.0, "climb_rate_mps": 0.0, "north_m": 0.0,
        "east_m": 0.0,
    }  # fmt: skip
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


NAN = math.nan
