"""Files that would run code: refused by name, and nothing of them runs. Files that are merely broken: a clear error."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from tests.sb3_agents import BOXES, Recipe, make, save

from sim2sky.agent.sb3 import load
from sim2sky.agent.sb3_archive import read_vecnormalize
from sim2sky.errors import AgentError, ContractError, NotSupportedError, Sim2SkyError


class Payload:
    """Pickles to a call; whoever unpickles it runs it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(*make(Recipe("PPO", normalise=True)), tmp_path_factory.mktemp("good"))


@pytest.fixture
def agent(good: Path, tmp_path: Path) -> Path:
    for name in ("model.zip", "vecnormalize.pkl"):
        (tmp_path / name).write_bytes((good.parent / name).read_bytes())
    return tmp_path / "model.zip"


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def set_field(path: Path, name: str, value: Any) -> None:
    def change(entries: dict[str, bytes]) -> None:
        data = json.loads(entries["data"])
        data[name] = {":serialized:": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        entries["data"] = json.dumps(data).encode()

    rewrite(path, change)


def payloads(marker: Path) -> dict[str, tuple[bytes, str]]:
    touch = f"touch {marker}"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    lambda_call = cloudpickle.dumps(Payload(lambda path: open(path, "w").close(), str(marker)))
    return {
        "os.system": (pickle.dumps(Payload(os.system, touch)), "posix.system"),
        "protocol 0": (pickle.dumps(Payload(os.system, touch), protocol=0), "posix.system"),
        "os by name": (b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.", "os.system"),
        "inst": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "os.system"),
        "obj": (b"(cos\nsystem\nS'" + touch.encode() + b"'\no.", "os.system"),
        "eval": (pickle.dumps(Payload(eval, code)), "builtins.eval"),
        "exec": (pickle.dumps(Payload(exec, code)), "builtins.exec"),
        "open": (pickle.dumps(Payload(open, str(marker), "w")), "io.open"),
        "subprocess": (pickle.dumps(Payload(subprocess.Popen, ["touch", str(marker)])), "subprocess.Popen"),
        "import": (pickle.dumps(Payload(__import__, "os")), "builtins.__import__"),
        "getattr chain": (
            b"cbuiltins\ngetattr\n(cos\npath\nS'join'\ntR(S'a'\ntR.",
            "os.path",
        ),
        "lambda": (lambda_call, "_make_function"),
        "nested": (pickle.dumps({"a": [(1, {"b": Payload(os.system, touch)})]}), "posix.system"),
        "names through the memo": (
            pickletools.optimize(pickle.dumps([os.system, os.system, Payload(os.system, touch)], protocol=4)),
            "posix.system",
        ),
        "pickle in pickle": (
            pickle.dumps(Payload(pickle.loads, pickle.dumps(Payload(os.system, touch)))),
            "pickle.loads",
        ),
        "torch.load": (
            pickle.dumps(Payload(torch.storage._load_from_bytes, pickle.dumps(Payload(os.system, touch)))),
            "posix.system",
        ),
    }


NAMES = list(payloads(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["policy_kwargs", "observation_space", "lr_schedule", "policy_class", "made_up"])
def test_a_field_that_would_run_code_is_refused_by_name(agent: Path, tmp_path: Path, field: str, name: str) -> None:
    marker = tmp_path / "marker"
    payload, expected = payloads(marker)[name]
    set_field(agent, field, payload)
    before = set(sys.modules)
    with pytest.raises(AgentError) as caught:
        load(agent)
    assert expected in caught.value.message
    assert f"field '{field}'" in caught.value.message
    assert not marker.exists()
    assert not {m for m in set(sys.modules) - before if m in {"pty", "webbrowser"}}


@pytest.mark.parametrize("name", NAMES)
def test_a_normaliser_that_would_run_code_is_refused_by_name(agent: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    payload, expected = payloads(marker)[name]
    (tmp_path / "vecnormalize.pkl").write_bytes(payload)
    with pytest.raises(AgentError) as caught:
        load(agent)
    assert expected in caught.value.message
    assert "vecnormalize.pkl" in caught.value.message
    assert not marker.exists()


@pytest.mark.parametrize("entry", ["policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"])
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_that_would_run_code_are_refused_by_name(agent: Path, tmp_path: Path, entry: str, legacy: bool) -> None:
    marker = tmp_path / "marker"
    buffer = io.BytesIO()
    content = {"w": torch.zeros(2), "x": Payload(os.system, f"touch {marker}")}
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    rewrite(agent, lambda entries: entries.update({entry: buffer.getvalue()}))
    with pytest.raises(AgentError) as caught:
        load(agent)
    assert "posix.system" in caught.value.message
    assert f"'{entry}'" in caught.value.message
    assert not marker.exists()


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """Negative control of these tests: the standard machine does run them."""
    marker = tmp_path / "marker"
    for name in ("os.system", "os by name", "eval", "lambda", "nested"):
        pickle.loads(payloads(marker)[name][0])
        assert marker.exists(), name
        marker.unlink()


def test_a_payload_hidden_behind_a_second_entry_of_the_same_name(agent: Path) -> None:
    with zipfile.ZipFile(agent) as archive:
        data = archive.read("data")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(agent, "a") as archive:
        archive.writestr("data", data)
    with pytest.raises(AgentError, match="two of the same name"):
        load(agent)


def test_an_unknown_class_inside_a_space_is_refused_by_name(agent: Path) -> None:
    class Sneaky:
        pass

    Sneaky.__module__, Sneaky.__qualname__ = "evil.corp", "Sneaky"
    set_field(agent, "observation_space", b"cevil.corp\nSneaky\n)R.")
    with pytest.raises(AgentError, match=r"evil\.corp\.Sneaky"):
        load(agent)
    (agent.parent / "vecnormalize.pkl").write_bytes(b"cevil.corp\nSneaky\n)R.")
    with pytest.raises(AgentError, match=r"evil\.corp\.Sneaky"):
        read_vecnormalize(agent.parent / "vecnormalize.pkl")


# --- custom parts: exact refusal ------------------------------------------------------------------------------------


class MyExtractor(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"features_extractor_class": MyExtractor}, "MyExtractor"),
        ({"activation_fn": torch.nn.PReLU}, "torch.nn.modules.activation.PReLU"),
        ({"activation_fn": MyExtractor}, "MyExtractor"),
        ({"fancy_keyword": 3}, "fancy_keyword"),
    ],
)
def test_custom_parts_are_refused_with_the_way_out(agent: Path, kwargs: dict[str, Any], names: str) -> None:
    set_field(agent, "policy_kwargs", cloudpickle.dumps(kwargs))
    with pytest.raises(NotSupportedError, match=names) as caught:
        load(agent)
    assert caught.value.message.startswith("not supported:")
    assert "export_custom_model_to_onnx" in caught.value.hint


def test_classes_pickled_by_value_are_named_too(agent: Path) -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "torch": torch}
    exec("class LocalExtractor(torch.nn.Module):\n    def forward(self, x): return x * 2", scope)  # noqa: S102
    set_field(agent, "policy_kwargs", cloudpickle.dumps({"features_extractor_class": scope["LocalExtractor"]}))
    with pytest.raises(NotSupportedError, match="LocalExtractor"):
        load(agent)
    set_field(agent, "policy_kwargs", {})
    set_field(agent, "policy_class", cloudpickle.dumps(scope["LocalExtractor"]))
    with pytest.raises(NotSupportedError, match="policy class 'LocalExtractor'"):
        load(agent)


def test_a_layer_nobody_knows_is_named(agent: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        state["features_extractor.linear.0.weight"] = torch.zeros(3, 3)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        entries["policy.pth"] = buffer.getvalue()

    rewrite(agent, change)
    with pytest.raises(NotSupportedError, match=r"features_extractor\.linear\.0\.weight"):
        load(agent)


def test_images_are_refused(tmp_path: Path) -> None:
    from gymnasium import spaces

    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for policy in ("CnnPolicy", "MlpPolicy"):
        path = save(*make(Recipe("PPO", image, policy=policy)), tmp_path / policy)
        with pytest.raises(NotSupportedError, match="image"):
            load(path)


def test_a_policy_that_was_compiled_is_read_all_the_same(agent: Path) -> None:
    expected = load(agent)

    def change(entries: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        buffer = io.BytesIO()
        torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, buffer)
        entries["policy.pth"] = buffer.getvalue()

    rewrite(agent, change)
    observation = {"observation": np.ones((2, 3), np.float32)}
    assert np.array_equal(load(agent).sb3_predict(observation, None), expected.sb3_predict(observation, None))


def test_maskable_ppo_is_refused(agent: Path) -> None:
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

    set_field(agent, "policy_class", cloudpickle.dumps(MaskableActorCriticPolicy))
    with pytest.raises(NotSupportedError, match="MaskablePPO"):
        load(agent)


# --- broken files ---------------------------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="does not exist"):
        load(tmp_path / "nothing.zip")
    with pytest.raises(AgentError, match="is a folder"):
        load(tmp_path)


def test_the_suffix_may_be_left_out(agent: Path) -> None:
    assert load(agent.with_suffix("")).algorithm == "PPO"


def test_truncated_at_any_place(agent: Path) -> None:
    data = agent.read_bytes()
    for part in (0, 1, 10, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1):
        agent.write_bytes(data[:part])
        with pytest.raises(AgentError, match="truncated"):
            load(agent)


def test_not_a_zip(agent: Path) -> None:
    for content in (b"", b"hello", b"PK\x03\x04" + b"x" * 100, pickle.dumps({})):
        agent.write_bytes(content)
        with pytest.raises(AgentError, match="not a readable zip"):
            load(agent)


@pytest.mark.parametrize("place", range(8))
def test_a_flipped_byte_gives_a_sim2sky_error_or_the_same_agent(agent: Path, place: int) -> None:
    expected = load(agent).provenance["algorithm"]
    data = bytearray(agent.read_bytes())
    data[len(data) * place // 8 + 7] ^= 0x55
    agent.write_bytes(bytes(data))
    with contextlib.suppress(Sim2SkyError):
        assert load(agent).provenance["algorithm"] == expected


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_an_entry_that_is_missing_or_garbage(agent: Path, name: str) -> None:
    rewrite(agent, lambda entries: entries.update({name: b"\x80garbage"}))
    with pytest.raises(AgentError, match=name):
        load(agent)
    rewrite(agent, lambda entries: entries.pop(name))
    with pytest.raises(AgentError, match=f"lacks '{name}'"):
        load(agent)


@pytest.mark.parametrize("field", ["policy_class", "observation_space", "action_space"])
def test_a_needed_field_that_is_damaged_or_missing(agent: Path, field: str) -> None:
    for content in (b"", b"\x80\x04", b".", b"N.", b"]\x94(K\x01", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."):
        set_field(agent, field, content)
        with pytest.raises(Sim2SkyError):
            load(agent)

    def remove(entries: dict[str, bytes]) -> None:
        data = json.loads(entries["data"])
        del data[field]
        entries["data"] = json.dumps(data).encode()

    rewrite(agent, remove)
    with pytest.raises(AgentError, match="does not say which policy class" if field == "policy_class" else field):
        load(agent)


def test_a_damaged_field_that_nobody_reads_does_no_harm(agent: Path) -> None:
    set_field(agent, "ep_info_buffer", b"\x80\x04garbage")
    assert load(agent).algorithm == "PPO"


def test_a_memory_bomb_is_not_unpacked(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim2sky.agent.sb3_archive.MAX_WEIGHT_BYTES", 20 << 20)
    assert load(agent).algorithm == "PPO"
    with zipfile.ZipFile(agent, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.pth", b"\0" * (21 << 20))
    assert agent.stat().st_size < (1 << 20)
    with pytest.raises(AgentError, match="unpacks to more than"):
        load(agent)


def test_a_tensor_that_pretends_to_be_huge(agent: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        state["action_net.weight"] = torch.zeros(1).expand(1 << 20, 1 << 20)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        entries["policy.pth"] = buffer.getvalue()

    rewrite(agent, change)
    with pytest.raises(AgentError, match="million parameters"):
        load(agent)


def test_weights_that_are_not_finite(agent: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        state["action_net.bias"][0] = float("nan")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        entries["policy.pth"] = buffer.getvalue()

    rewrite(agent, change)
    with pytest.raises(AgentError, match=r"action_net\.bias.*not finite"):
        load(agent)


def test_spaces_that_do_not_fit_the_weights(agent: Path, tmp_path: Path) -> None:
    from gymnasium import spaces

    (tmp_path / "vecnormalize.pkl").unlink()
    set_field(agent, "observation_space", cloudpickle.dumps(spaces.Box(-1, 1, (5,))))
    with pytest.raises(AgentError, match="do not fit"):
        load(agent)
    set_field(agent, "observation_space", cloudpickle.dumps(spaces.Box(-1, 1, (3,))))
    set_field(agent, "action_space", cloudpickle.dumps(spaces.Box(-1, 1, (9,))))
    with pytest.raises(AgentError, match="do not fit the action space"):
        load(agent)
    set_field(agent, "action_space", cloudpickle.dumps(spaces.Tuple([spaces.Discrete(2)])))
    with pytest.raises(NotSupportedError, match="Tuple"):
        load(agent)
    set_field(agent, "action_space", cloudpickle.dumps(spaces.Discrete(10**15)))
    with pytest.raises(AgentError, match="categories"):
        load(agent)


def test_net_arch_that_contradicts_the_weights(agent: Path) -> None:
    set_field(agent, "policy_kwargs", {"net_arch": [32, 32]})
    with pytest.raises(AgentError, match=r"promises hidden layers \[32, 32\], the weights have \[64, 64\]"):
        load(agent)
    set_field(agent, "policy_kwargs", {"net_arch": "wide"})
    with pytest.raises(AgentError, match="malformed"):
        load(agent)


def test_values_that_would_take_forever_to_print(agent: Path) -> None:
    endless: Any = [1]
    for _ in range(60):
        endless = [endless, endless]
    for kwargs in ({"net_arch": endless}, {"activation_fn": endless}, {"features_extractor_class": endless}):
        set_field(agent, "policy_kwargs", pickle.dumps(kwargs))
        with pytest.raises(Sim2SkyError):
            load(agent)
    for field in ("policy_class", "policy_kwargs", "observation_space", "action_space"):
        set_field(agent, "policy_kwargs", {})
        set_field(agent, field, pickle.dumps(endless))
        with pytest.raises(Sim2SkyError):
            load(agent)


# --- normaliser -----------------------------------------------------------------------------------------------------


def test_the_normaliser_beside_the_zip_is_used_and_hashed(agent: Path) -> None:
    loaded = load(agent)
    assert loaded.network.inputs[0].layers
    assert loaded.provenance["vecnormalize_sha256"] == read_vecnormalize(agent.parent / "vecnormalize.pkl")[1]
    (agent.parent / "vecnormalize.pkl").rename(agent.parent / "elsewhere.pkl")
    assert not load(agent).network.inputs[0].layers
    assert load(agent, vecnormalize=agent.parent / "elsewhere.pkl").network.inputs[0].layers
    with pytest.raises(AgentError, match="does not exist"):
        load(agent, vecnormalize=agent.parent / "nowhere.pkl")


def test_a_dict_normaliser_beside_a_box_model(agent: Path, tmp_path: Path) -> None:
    _, keyed = make(Recipe("PPO", BOXES, policy="MultiInputPolicy", normalise=True))
    assert keyed is not None
    keyed.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(AgentError, match="belongs to a Dict observation space"):
        load(agent)


def test_a_box_normaliser_beside_a_dict_model(agent: Path, tmp_path: Path) -> None:
    path = save(make(Recipe("PPO", BOXES, policy="MultiInputPolicy"))[0], None, tmp_path / "dict")
    with pytest.raises(AgentError, match="belongs to a single observation space"):
        load(path, vecnormalize=tmp_path / "vecnormalize.pkl")


def test_a_normaliser_of_another_width(agent: Path, tmp_path: Path) -> None:
    from gymnasium import spaces

    _, other = make(Recipe("PPO", spaces.Box(-1, 1, (4,)), normalise=True))
    assert other is not None
    other.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(AgentError, match="has 4 values for 'observation', the agent observes 3"):
        load(agent)


def test_a_normaliser_of_rewards_only_changes_nothing(agent: Path, tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    model, normaliser = make(Recipe("PPO", normalise=True))
    assert normaliser is not None
    VecNormalize(normaliser.venv, norm_obs=False).save(str(tmp_path / "vecnormalize.pkl"))
    loaded = load(agent)
    assert not loaded.network.inputs[0].layers
    assert loaded.provenance["vecnormalize_sha256"]
    assert model is not None


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\x80\x04]\x94.", pickle.dumps({"mean": 0})])
def test_a_normaliser_that_is_none(agent: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(content)
    with pytest.raises(AgentError, match=r"vecnormalize\.pkl"):
        load(agent)


ZOO = "!!python/object/apply:collections.OrderedDict\n- - - batch_size\n    - 64\n  - - normalize\n    - {}\n"


@pytest.mark.parametrize(
    ("name", "text", "needed"),
    [
        ("config.yaml", "training:\n  vec_normalize: true  # yes\n", True),
        ("config.yaml", "normalize:\n  clip_obs: 10\n", True),
        ("config.yaml", "normalize: \"{'norm_obs': True, 'norm_reward': False}\"\n", True),
        ("config.yaml", "normalize: false\n", False),
        ("config.yaml", "normalize: null\nnormalize_advantage: true\nnormalize_images: true\n", False),
        ("config.yaml", "normalize: \"{'norm_obs': False, 'norm_reward': True}\"\n", False),
        ("config.yaml", "normalize:\n  norm_obs: false\n  norm_reward: true\n", False),
        ("run.json", '{"algorithm": "PPO", "normalize": true, "seed": 1}', True),
        ("run.json", '{"algorithm": "PPO", "normalize": false, "seed": 1}', False),
        ("run.json", '{"config": {"vec_normalize": {"clip_obs": 10.0}}}', True),
        ("run.json", '{"config": {"vec_normalize": null}}', False),
        ("config.yml", ZOO.format("true"), True),
        ("config.yml", ZOO.format("'{''norm_obs'': True}'"), True),
        ("config.yml", ZOO.format("false"), False),
        ("config.yml", "\xff\xfe not yaml at all", False),
    ],
)
def test_a_run_that_names_a_normaliser_nobody_supplied(agent: Path, name: str, text: str, needed: bool) -> None:
    (agent.parent / "vecnormalize.pkl").rename(agent.parent / "away.pkl")
    (agent.parent / name).write_text(text)
    if needed:
        with pytest.raises(AgentError, match="trained with a normaliser") as caught:
            load(agent)
        assert name in caught.value.message
        assert "--vecnormalize" in caught.value.hint
        assert load(agent, vecnormalize=agent.parent / "away.pkl").network.inputs[0].layers
    else:
        assert not load(agent).network.inputs[0].layers


def test_normalisers_under_the_names_training_tools_give_them(agent: Path) -> None:
    pkl = agent.parent / "vecnormalize.pkl"
    run = agent.parent / "Hawk-v0"
    run.mkdir()
    (run / "config.yml").write_text(ZOO.format("true"))
    pkl.rename(run / "vecnormalize.pkl")  # rl-zoo: best_model.zip above the run's own folder
    assert load(agent).network.inputs[0].layers
    (run / "vecnormalize.pkl").rename(agent.parent / "rl_model_vecnormalize_500_steps.pkl")
    (run / "config.yml").unlink()
    checkpoint = agent.rename(agent.parent / "rl_model_500_steps.zip")
    assert load(checkpoint).network.inputs[0].layers


# --- contract -------------------------------------------------------------------------------------------------------


def test_a_contract_beside_the_zip_is_used_when_it_fits(agent: Path) -> None:
    generic = load(agent).contract
    assert (generic.vehicle, generic.task, generic.rate_hz) == ("", "", 0.0)
    assert generic.observation_names == ("observation_0", "observation_1", "observation_2")
    assert [s.name for s in generic.output.signals] == ["action_0", "action_1", "action_2", "action_3"]
    signal = generic.output.signals[3]
    assert (signal.low, signal.high, signal.command(2.5)) == (0.0, 10.0, 2.5)
    data = generic.to_json() | {"vehicle": "hawk", "rate_hz": 50.0}
    (agent.parent / "contract.json").write_text(json.dumps(data))
    assert load(agent).contract.vehicle == "hawk"
    assert load(agent).contract.rate_hz == 50.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["inputs"][0]["signals"].pop(), "signals"),
        (lambda d: d["inputs"][0].update(key="obs"), "inputs"),
        (lambda d: d["inputs"][0].update(shape=[4]), "shape"),
        (lambda d: d["inputs"][0].update(dtype="float64"), "dtype"),
        (lambda d: d["output"]["signals"].pop(), "action signals"),
        (lambda d: d["output"]["signals"][0].update(high=1.0), "action_0"),
        (lambda d: d["output"].update(kind="discrete", sizes=[4], signals=[]), "output"),
        (lambda d: d.update(schema=99), "schema"),
        (lambda d: d.pop("rate_hz"), "malformed"),
    ],
)
def test_a_contract_that_does_not_fit(agent: Path, change: Any, message: str) -> None:
    data = load(agent).contract.to_json()
    change(data)
    (agent.parent / "contract.json").write_text(json.dumps(data))
    with pytest.raises(ContractError, match=message):
        load(agent)


def test_a_contract_that_is_no_contract(agent: Path) -> None:
    for text in ("", "[]", "{", "[" * 100_000):
        (agent.parent / "contract.json").write_text(text)
        with pytest.raises(ContractError):
            load(agent)
    (agent.parent / "contract.json").unlink()
    with pytest.raises(ContractError, match="cannot read"):
        load(agent, contract=agent.parent / "nowhere.json")
