"""Agents that others trained, and files as old versions of the libraries wrote them."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from tests.integration.test_sb3_hostile import rewrite, set_field
from tests.integration.test_sb3_parity import replay, replay_torch
from tests.sb3_agents import BOXES, Recipe, make, save, truth

from sim2sky.agent.golden import GoldenVectors, make_golden, max_error
from sim2sky.agent.layers import Activation, Normalise, evaluate
from sim2sky.agent.policy import DeterministicPolicy
from sim2sky.agent.sb3 import load
from sim2sky.errors import AgentError

AGENTS = Path(__file__).parents[3] / "shared" / "data" / "agents"  # beside the repository

WILD = {
    "dlr_ppo_bipedalwalker": "PPO",
    "dlr_a2c_pendulum": "A2C",
    "dlr_sac_pendulum": "SAC",
    "dlr_tqc_pandareach": "TQC",
    "dlr_dqn_cartpole": "DQN",
    "plume_recurrentppo_shaping": "RecurrentPPO",
}


def wild(name: str) -> tuple[Path, GoldenVectors]:
    folder = AGENTS / name
    if not folder.is_dir():
        pytest.skip("needs the agents of ../shared/data")
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    keyed = {k.removeprefix("obs__"): v for k, v in arrays.items() if k.startswith("obs__")}
    action = arrays["action"]
    scale = None if action.dtype.kind in "iu" else np.maximum(np.abs(action).max(axis=0).reshape(-1), 1.0).astype(float)
    observations = keyed or {"observation": arrays["obs"]}
    return folder / "model.zip", GoldenVectors(
        observations, action, arrays.get("episode_start"), np.array(["rollout"] * len(action)), scale
    )


@pytest.mark.parametrize("name", WILD)
def test_agents_others_trained_answer_as_they_did_there(name: str) -> None:
    path, golden = wild(name)
    agent = load(path)
    assert agent.algorithm == WILD[name]
    assert max_error(golden, agent.sb3_predict(golden.observations, golden.episode_start)) <= 1e-5
    assert max_error(golden, replay(agent.network, golden)) <= 1e-5
    assert max_error(golden, replay(agent.network, golden, np.float32)) <= 1e-5
    assert max_error(golden, replay_torch(DeterministicPolicy(agent.network), golden)) <= 1e-5
    ours = make_golden(agent, seed=3, rollout=golden.observations)
    assert max_error(ours, replay_torch(DeterministicPolicy(agent.network), ours)) <= 1e-5
    assert "gym" not in sys.modules


def test_gsde_of_an_agent_others_trained_is_clipped() -> None:
    path, golden = wild("dlr_sac_pendulum")
    agent = load(path)
    assert Activation("hardtanh", low=-2.0, high=2.0).low in {
        la.low for la in agent.network.layers if isinstance(la, Activation) and la.name == "hardtanh"
    }
    kept = tuple(la for la in agent.network.layers if not (isinstance(la, Activation) and la.name == "hardtanh"))
    without = type(agent.network)(agent.network.inputs, kept)
    assert max_error(golden, evaluate(without, golden.observations)[0]) > 1e-3
    assert agent.provenance["stable_baselines3_version"] is None


# --- files as old versions wrote them --------------------------------------------------------------------------------


LEGACY = {"Box": "box", "Dict": "dict", "Discrete": "discrete", "MultiDiscrete": "multi_discrete"}
CLASSES = {name: type(name, (), {"__module__": f"gym.spaces.{module}"}) for name, module in LEGACY.items()}


def legacy(name: str, **state: Any) -> Any:
    """A space that pickles under the legacy package's names."""
    space = CLASSES[name]()
    space.__dict__.update(state)
    return space


def pickled(monkeypatch: pytest.MonkeyPatch, value: Any, protocol: int) -> bytes:
    """The legacy package exists while the file is written, and is gone when it is read."""
    with monkeypatch.context() as installed:
        for parent in ("gym", "gym.spaces"):
            installed.setitem(sys.modules, parent, types.ModuleType(parent))
        for name, module in LEGACY.items():
            fake = types.ModuleType(f"gym.spaces.{module}")
            setattr(fake, name, CLASSES[name])
            installed.setitem(sys.modules, fake.__name__, fake)
        return cloudpickle.dumps(value, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_spaces_of_the_legacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    path = save(make(Recipe("PPO"))[0], None, tmp_path)
    expected = load(path).contract
    low, high = np.float32([-10, -1, 0]), np.float32([10, 1, 1e4])
    box = legacy("Box", dtype=np.dtype(np.float32), shape=(3,), low=low, high=high, np_random=np.random.RandomState(3))
    set_field(path, "observation_space", pickled(monkeypatch, box, protocol))
    assert load(path).contract == expected
    assert "gym" not in sys.modules


def test_the_stored_order_of_a_legacy_dict_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make(Recipe("PPO", BOXES, policy="MultiInputPolicy"))[0], None, tmp_path)
    wind = legacy("Box", dtype=np.dtype("f4"), low=-np.ones(2, "f4"), high=np.ones(2, "f4"))
    a = legacy("Box", dtype=np.dtype("f4"), low=-np.ones(3, "f4"), high=np.ones(3, "f4"))
    keyed = legacy("Dict", spaces=OrderedDict([("wind", wind), ("a", a)]))
    set_field(path, "observation_space", pickled(monkeypatch, keyed, 4))
    agent = load(path)
    assert [h.key for h in agent.network.inputs] == ["wind", "a"]
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(50, 3)).astype("f4"), "wind": rng.normal(size=(50, 2)).astype("f4")}
    assert np.abs(agent.sb3_predict(x, None) - evaluate(agent.network, x)[0]).max() < 1e-4


def test_shared_layers_of_versions_before_1_8(tmp_path: Path) -> None:
    path = save(make(Recipe("PPO", policy_kwargs={"net_arch": {"pi": [12, 9, 5], "vf": []}}))[0], None, tmp_path)
    expected = load(path)

    def change(entries: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        old = OrderedDict()
        for key, value in state.items():
            name = key.replace("policy_net.0.", "shared_net.0.").replace("policy_net.2.", "shared_net.2.")
            old[name.replace("policy_net.4.", "policy_net.0.")] = value
        buffer = io.BytesIO()
        torch.save(old, buffer, _use_new_zipfile_serialization=False)
        entries["policy.pth"] = buffer.getvalue()
        data = json.loads(entries["data"])
        data["policy_kwargs"] = {"net_arch": [12, 9, {"pi": [5], "vf": [3]}]}
        entries["data"] = json.dumps(data).encode()
        del entries["_stable_baselines3_version"]

    rewrite(path, change)
    agent = load(path)
    x = {"observation": np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)}
    assert np.array_equal(agent.sb3_predict(x, None), expected.sb3_predict(x, None))
    assert np.abs(evaluate(agent.network, x)[0] - expected.sb3_predict(x, None)).max() < 1e-5
    assert agent.provenance["stable_baselines3_version"] is None
    set_field(path, "policy_kwargs", {"net_arch": [12, {"pi": [5], "vf": [3]}]})
    with pytest.raises(AgentError, match="promises hidden layers"):
        load(path)


def test_a_dict_normaliser_without_norm_obs_keys_means_all_keys(tmp_path: Path) -> None:
    model, normaliser = make(Recipe("PPO", BOXES, policy="MultiInputPolicy", normalise=True))
    assert normaliser is not None
    path = save(model, normaliser, tmp_path)
    expected = make_golden(load(path), seed=0)
    del normaliser.__dict__["norm_obs_keys"]
    normaliser.save(str(tmp_path / "vecnormalize.pkl"))
    agent = load(path)
    assert all(isinstance(h.layers[0], Normalise) for h in agent.network.inputs)
    assert max_error(expected, replay(agent.network, expected)) < 1e-5


def test_lambdas_and_closures_in_training_settings_are_no_reason_to_refuse(tmp_path: Path) -> None:
    rate = 3e-4
    recipe = Recipe("PPO", kwargs={"learning_rate": lambda left: left * rate, "clip_range": lambda _: 0.2})
    assert load(save(make(recipe)[0], None, tmp_path / "a")).algorithm == "PPO"
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(  # noqa: S102
        "import math, numpy as np\n"
        "class Schedule:\n"
        "    def __init__(self, a): self.a = a\n"
        "    def __call__(self, left): return self.a * math.cos(left) + float(np.abs(0))\n",
        scope,
    )
    recipe = Recipe("A2C", kwargs={"learning_rate": scope["Schedule"](1e-3)})
    assert load(save(make(recipe)[0], None, tmp_path / "b")).algorithm == "A2C"


def test_training_noise_and_tensors_among_the_state(tmp_path: Path) -> None:
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    for name, noise in (
        ("TD3", NormalActionNoise(np.zeros(4), np.ones(4))),
        ("DDPG", OrnsteinUhlenbeckActionNoise(np.zeros(4), np.ones(4))),
    ):
        assert (
            load(save(make(Recipe(name, kwargs={"action_noise": noise}))[0], None, tmp_path / name)).algorithm == name
        )
    model, _ = make(Recipe("RecurrentPPO", learn=40))  # saves its LSTM state as pickled tensors
    assert load(save(model, None, tmp_path / "r")).algorithm == "RecurrentPPO"


def test_another_numpy_name_for_the_same_arrays(tmp_path: Path) -> None:
    """numpy 1 pickles say numpy.core, numpy 2 says numpy._core."""
    model, normaliser = make(Recipe("SAC", normalise=True))
    path = save(model, normaliser, tmp_path)
    expected = load(path)
    data = pickle.dumps(normaliser, protocol=3)
    assert b"numpy._core.multiarray" in data
    (tmp_path / "vecnormalize.pkl").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    x = {"observation": np.ones((3, 3), np.float32)}
    assert np.array_equal(load(path).sb3_predict(x, None), expected.sb3_predict(x, None))
    assert np.allclose(truth(model, normaliser, x), expected.sb3_predict(x, None))
