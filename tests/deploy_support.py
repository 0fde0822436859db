"""Small real bundles for tests: a tanh policy with its ONNX file, golden vectors from the reference evaluator."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np

from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes
from sim2sky.agent.layers import Activation, Clip, Dense, InputHead, Network, Normalise, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.keys import SigningKey
from sim2sky.deployment.local_transport import LocalTransport
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.release import Release, build_release
from sim2sky.deployment.target import ReleaseTarget


def contract(vehicle: str = "", size: int = 6) -> Contract:
    signals = tuple(Signal(f"signal_{i}", "1", "", -10.0, 10.0) for i in range(size))
    limit = math.radians(25)
    names = ("aileron", "elevator", "rudder", "throttle")
    actions = tuple(
        ActionSignal(n, "1", -1.0, 1.0, -0.6 if n != "throttle" else 0.0, 0.0 if n != "throttle" else 0.6,
                     0.6 if n != "throttle" else 1.0, limit if n != "throttle" else 0.0)
        for n in names
    )  # fmt: skip
    return Contract(
        vehicle,
        "hsa" if vehicle else "",
        20.0 if vehicle else 0.0,
        (Input("observation", "box", (size,), "float32", signals),),
        Output("continuous", actions),
    )


def network(seed: int = 0, size: int = 6, *, normalised: bool = True) -> Network:
    rng = np.random.default_rng(seed)

    def dense(n_in: int, n_out: int) -> Dense:
        weight = rng.normal(0, 1.5 / math.sqrt(n_in), (n_out, n_in)).astype(np.float32)
        return Dense(weight, rng.normal(0, 0.3, n_out).astype(np.float32))

    head: tuple[Normalise, ...] = ()
    if normalised:
        head = (Normalise(rng.normal(0, 1, size), rng.uniform(0.5, 2, size), 1e-8, 10.0),)
    ones = np.ones(4, np.float32)
    layers = (dense(size, 16), Activation("tanh"), dense(16, 4), Clip(-ones, ones))
    return Network((InputHead("observation", size, head),), layers)


def golden(net: Network, size: int = 6, *, n: int = 256, seed: int = 1) -> GoldenVectors:
    observation = np.random.default_rng(seed).normal(0, 2, (n, size)).astype(np.float32)
    action, _ = evaluate(net, {"observation": observation})
    return GoldenVectors(
        {"observation": observation}, action.astype(np.float32), None, np.full(n, "sampled"), np.ones(4)
    )


def make_bundle(
    out: Path,
    *,
    seed: int = 0,
    exported: Network | None = None,
    onnx: bytes | None = None,
    agent: str = "test",
    vehicle: str = "",
    provenance: dict[str, object] | None = None,
) -> Bundle:
    """A bundle; `exported` or `onnx` puts another policy into the ONNX file than the golden vectors were made with."""
    net = network(seed)
    data = onnx if onnx is not None else model_to_bytes(emit_onnx(exported or net, opset=17))
    files = {"network.npz": network_to_bytes(net), "golden.npz": golden_to_bytes(golden(net)), "policy.onnx": data}
    return write_bundle(
        out,
        agent=agent,
        contract=contract(vehicle),
        formats={"onnx": "policy.onnx"},
        active="onnx",
        files=files,
        profile="local",
        provenance=provenance or {"made by": "tests"},
    )


GAINS: dict[str, dict[str, float]] = {
    "aileron": {"bank_error_rad": 0.9, "p_radps": -0.12},
    "elevator": {"climb_rate_error_mps": 0.14, "q_radps": -0.2, "airspeed_error_mps": -0.02, "pitch_rad": -0.3},
    "rudder": {"r_radps": -0.05},
    "throttle": {"airspeed_error_mps": 0.35, "climb_rate_error_mps": 0.25},
}
"""A linear law on the observations of the `hsa` task: a policy that flies, without training."""


def flying_bundle(out: Path, *, scale: float = 1.0, agent: str = "linear", seed: int = 0) -> Bundle:
    """A bundle of the linear law for the Ultra Stick, with safety limits; `scale` makes it worse."""
    from sim2sky.agent.contract import canonical_json
    from sim2sky.config import EnvironmentSettings
    from sim2sky.config.safety import SafetySettings, resolve_safety
    from sim2sky.environments.airframes import AIRFRAMES
    from sim2sky.environments.tasks import make_contract

    spec = make_contract(EnvironmentSettings())
    names = [s.name for s in spec.inputs[0].signals]
    weight = np.zeros((4, len(names)), np.float32)
    for row, gains in enumerate(GAINS.values()):
        for name, gain in gains.items():
            weight[row, names.index(name)] = gain * scale
    bias = np.zeros(4, np.float32)
    ones = np.ones(4, np.float32)
    net = Network((InputHead("observation", len(names)),), (Dense(weight, bias), Clip(-ones, ones)))
    vectors = golden(net, len(names), seed=seed + 1)
    safety = {
        **resolve_safety(SafetySettings(extends="default")).values,
        "fallback": AIRFRAMES[spec.vehicle].gains.to_json(),
    }
    files = {
        "network.npz": network_to_bytes(net),
        "golden.npz": golden_to_bytes(vectors),
        "policy.onnx": model_to_bytes(emit_onnx(net, opset=17)),
        "safety.json": canonical_json(safety),
    }
    return write_bundle(
        out, agent=agent, contract=spec, formats={"onnx": "policy.onnx"}, active="onnx", files=files, profile="local"
    )


def linear_agent(folder: Path, *, scale: float = 1.0) -> Path:
    """The linear law as a real Stable-Baselines3 PPO zip, with its contract beside it."""
    import gymnasium
    import torch
    from stable_baselines3 import PPO

    from sim2sky.agent.contract import canonical_json
    from sim2sky.config import EnvironmentSettings
    from sim2sky.environments.tasks import make_contract

    spec = make_contract(EnvironmentSettings())
    signals = spec.inputs[0].signals
    box = gymnasium.spaces.Box(
        np.array([s.low for s in signals], np.float32), np.array([s.high for s in signals], np.float32)
    )

    class Spaces(gymnasium.Env):  # type: ignore[type-arg]
        observation_space = box
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

        def reset(self, **_: object) -> tuple[np.ndarray, dict[str, object]]:  # type: ignore[override]
            return np.zeros(box.shape, np.float32), {}

        def step(self, _: object) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
            return np.zeros(box.shape, np.float32), 0.0, True, False, {}

    model = PPO("MlpPolicy", Spaces(), policy_kwargs={"net_arch": []}, n_steps=8, batch_size=8, seed=0, device="cpu")
    names = [s.name for s in signals]
    weight = torch.zeros(4, len(names))
    for row, gains in enumerate(GAINS.values()):
        for name, gain in gains.items():
            weight[row, names.index(name)] = gain * scale
    with torch.no_grad():
        model.policy.action_net.weight.copy_(weight)
        model.policy.action_net.bias.zero_()
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    (folder / "contract.json").write_bytes(canonical_json(spec.to_json()))
    return folder / "model.zip"


KEY = SigningKey.generate("tests")
"""Signs the releases of one test run."""
_versions = itertools.count(1_000)


def local_target(root: Path) -> ReleaseTarget:
    return ReleaseTarget(LocalTransport(root))


def make_release(
    bundle: Bundle,
    out: Path | None = None,
    *,
    key: SigningKey = KEY,
    version: int | None = None,
    now_s: float | None = None,
) -> Release:
    """A signed release beside the bundle; each call gives a higher version."""
    version = next(_versions) if version is None else version
    out = out or bundle.path.with_name(f"{bundle.path.name}-release-{version}")
    return build_release(bundle, out, key, version=version, now_s=time.time() if now_s is None else now_s)


def deliver(target: ReleaseTarget, bundle: Bundle, **how: object) -> dict[str, object]:
    """Sign and install a bundle; the report."""
    return target.activate(make_release(bundle), now_s=time.time(), samples=20, **how)  # type: ignore[arg-type]
