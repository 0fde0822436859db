"""From a real zip to ONNX and TorchScript: equal to `predict`, and every broken export is refused."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from tests.export_agents import HIGH, LOW, N_OBSERVED, make_agent, recipe
from tests.export_support import session
from tests.sb3_agents import KEYED, Recipe, make, save, truth

from sim2sky.agent.golden import GoldenVectors, make_golden
from sim2sky.agent.layers import Clip, InputHead, Network, Normalise
from sim2sky.agent.sb3 import TrainedAgent, load
from sim2sky.deployment import export_onnx, export_torchscript
from sim2sky.deployment.export_onnx import export_sb3_to_onnx, verify_onnx
from sim2sky.deployment.export_torchscript import (
    export_to_torchscript,
    torchscript_bytes,
    verify_torchscript,
)
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.verification import step_feeds
from sim2sky.errors import AgentError, ContractError, ExportError, GoldenMismatchError, NotSupportedError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "agents"
FOREIGN = sorted(SHARED.iterdir()) if SHARED.is_dir() else []
ALGORITHMS = ("PPO", "SAC", "TD3", "TQC", "DQN", "QRDQN", "RecurrentPPO")


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("agents")
    return {name: make_agent(folder / name, name) for name in ALGORITHMS}


@pytest.fixture(scope="module")
def ppo(zips: dict[str, Path]) -> TrainedAgent:
    return load(zips["PPO"])


@pytest.fixture(scope="module")
def golden(ppo: TrainedAgent) -> GoldenVectors:
    return make_golden(ppo, seed=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("profile", "opset", "versions"), [("jetson_nano", None, (13, 7)), ("local", 11, (11, 6))])
def test_export_equals_predict(
    algorithm: str, profile: str, opset: int | None, versions: tuple[int, int], zips: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "policy.onnx"
    result = export_sb3_to_onnx(str(zips[algorithm]), str(target), N_OBSERVED, profile=profile, opset_version=opset)
    assert (result.opset, result.ir_version) == versions
    assert result.max_error is not None
    assert result.max_error <= 1e-5
    assert result.n_golden >= 256
    assert result.path == target
    assert result.n_bytes == target.stat().st_size
    model = onnx.load(target)
    assert (model.opset_import[0].version, model.ir_version) == versions
    assert [p.name for p in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_raw_observation_in_physical_action_out(algorithm: str, tmp_path: Path) -> None:
    """Against the library's own `predict` and `VecNormalize`, not against anything of ours."""
    model, normaliser = make(recipe(algorithm), seed=3)
    assert normaliser is not None
    export_sb3_to_onnx(save(model, normaliser, tmp_path), tmp_path / "p.onnx", N_OBSERVED)
    ran = session((tmp_path / "p.onnx").read_bytes())
    statistics = normaliser.obs_rms
    rng = np.random.default_rng(5)
    raw = (statistics.mean + np.sqrt(statistics.var) * 3 * rng.normal(size=(64, N_OBSERVED))).astype(np.float32)
    starts = (np.arange(64) % 20 == 0).astype(np.float32) if algorithm == "RecurrentPPO" else None
    expected = truth(model, normaliser, {"observation": raw}, starts)
    got = np.concatenate([action for _, action in step_feeds(ran, {"observation": raw}, starts)])
    if algorithm in ("DQN", "QRDQN"):
        np.testing.assert_array_equal(got, expected)
    else:
        assert np.abs((got - expected) / HIGH).max() <= 1e-5
        assert (got >= LOW).all()
        assert (got <= HIGH).all()


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("MultiInputPolicy", spaces.Box(LOW, HIGH)),
        ("MultiInputPolicy", spaces.MultiDiscrete([3, 2])),
        ("MlpPolicy", spaces.MultiBinary(3)),
    ],
)
def test_dict_observations_and_every_discrete_action(name: str, action: spaces.Space, tmp_path: Path) -> None:
    keyed = name == "MultiInputPolicy"
    made = Recipe("PPO", KEYED if keyed else spaces.Box(-1, 1, (5,)), action, name, policy_kwargs={"net_arch": [16]})
    zip_path = save(*make(made), tmp_path)
    for opset in (11, 17):
        result = export_sb3_to_onnx(zip_path, tmp_path / "p.onnx", opset_version=opset)
        assert result.max_error is not None
        assert result.max_error <= 1e-5
    names = [i.name for i in session((tmp_path / "p.onnx").read_bytes()).get_inputs()]
    assert names == (sorted(KEYED.spaces) if keyed else ["observation"])
    assert export_to_torchscript(zip_path, tmp_path / "p.pt").max_error == pytest.approx(0.0, abs=1e-5)


def _broken(ppo: TrainedAgent) -> dict[str, Network]:
    network = ppo.network
    head = network.inputs[0]
    first = head.layers[0]
    assert isinstance(first, Normalise)
    order = np.arange(N_OBSERVED)
    order[[3, 4]] = 4, 3
    dense = network.dense[0]
    at = network.layers.index(dense)
    swapped = [*network.layers]
    swapped[at] = replace(dense, weight=np.ascontiguousarray(dense.weight[:, order]))
    wider = replace(first, clip=1e9)
    last = network.layers[-1]
    assert isinstance(last, Clip)
    return {
        "normaliser dropped": Network((InputHead(head.key, head.size),), network.layers),
        "channels swapped": Network(network.inputs, tuple(swapped)),
        "clip removed": Network(network.inputs, network.layers[:-1]),
        "clip limits exchanged": Network(
            network.inputs, (*network.layers[:-1], Clip(last.low[::-1].copy(), last.high[::-1].copy()))
        ),
        "observation clip forgotten": Network((InputHead(head.key, head.size, (wider,)),), network.layers),
        "activation left out": Network(network.inputs, (network.layers[0], *network.layers[2:])),
        "actions reversed": Network(
            network.inputs,
            (*network.layers[:-2], replace(network.dense[-1], weight=-network.dense[-1].weight), last),
        ),
    }


def test_the_true_export_passes_the_gate(ppo: TrainedAgent, golden: GoldenVectors) -> None:
    found = verify_onnx(model_to_bytes(emit_onnx(ppo.network)), golden)
    assert found.max_error < 1e-5
    assert (found.opset, found.ir_version, found.n_golden) == (17, 8, len(golden))


@pytest.mark.parametrize(
    "fault",
    [
        "normaliser dropped",
        "channels swapped",
        "clip removed",
        "clip limits exchanged",
        "observation clip forgotten",
        "activation left out",
        "actions reversed",
    ],
)
def test_a_broken_export_is_refused(fault: str, ppo: TrainedAgent, golden: GoldenVectors) -> None:
    network = _broken(ppo)[fault]
    with pytest.raises(GoldenMismatchError, match="differs from the trainer's answers"):
        verify_onnx(model_to_bytes(emit_onnx(network)), golden)
    with pytest.raises(GoldenMismatchError, match="differs from the trainer's answers"):
        verify_torchscript(torchscript_bytes(network), network, golden)


def test_a_broken_export_leaves_the_old_file_alone(
    zips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emitter itself is broken here: it forgets the last layer."""
    target = tmp_path / "policy.onnx"
    target.write_bytes(b"the old one")
    real = export_onnx.emit_onnx
    monkeypatch.setattr(export_onnx, "emit_onnx", lambda n, **kw: real(Network(n.inputs, n.layers[:-1]), **kw))
    with pytest.raises(GoldenMismatchError):
        export_sb3_to_onnx(zips["PPO"], target, N_OBSERVED)
    assert target.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["policy.onnx"]
    export_sb3_to_onnx(zips["PPO"], target, N_OBSERVED, verify=False)  # and this is what the gate is for
    assert target.read_bytes() != b"the old one"


def test_one_wrong_answer_of_256_is_enough(ppo: TrainedAgent, golden: GoldenVectors) -> None:
    model = model_to_bytes(emit_onnx(ppo.network))
    action = golden.action.copy()
    action[137, 3] += 1e-4 * 0.1
    with pytest.raises(GoldenMismatchError):
        verify_onnx(model, replace(golden, action=action))
    assert verify_onnx(model, replace(golden, action=action), tolerance=np.inf).max_error == pytest.approx(
        1e-4, rel=0.1
    )


def test_golden_vectors_of_another_agent_are_refused(zips: dict[str, Path], golden: GoldenVectors) -> None:
    recurrent = load(zips["RecurrentPPO"])
    with pytest.raises(GoldenMismatchError, match="state_h"):
        verify_onnx(model_to_bytes(emit_onnx(recurrent.network)), golden)
    other = replace(golden, observations={"x": golden.observations["observation"]})
    with pytest.raises(GoldenMismatchError, match="observation"):
        verify_onnx(model_to_bytes(emit_onnx(load(zips["PPO"]).network)), other)
    narrow = replace(golden, observations={"observation": golden.observations["observation"][:, :5]})
    with pytest.raises(GoldenMismatchError, match="does not run"):
        verify_onnx(model_to_bytes(emit_onnx(load(zips["PPO"]).network)), narrow)


def test_obs_dim_is_checked_against_the_agent(zips: dict[str, Path], tmp_path: Path) -> None:
    for wrong in (11, 13, 0, -1):
        with pytest.raises(ContractError, match=rf"obs_dim is {wrong}, but the agent observes 12"):
            export_sb3_to_onnx(zips["PPO"], tmp_path / "p.onnx", wrong)
        with pytest.raises(ContractError):
            export_to_torchscript(zips["PPO"], tmp_path / "p.pt", obs_dim=wrong)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_zips(zips: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zips["PPO"].read_bytes()[:3000])
    for path in (tmp_path / "missing.zip", cut):
        with pytest.raises(AgentError):
            export_sb3_to_onnx(path, tmp_path / "p.onnx", N_OBSERVED)
    assert not (tmp_path / "p.onnx").exists()


def test_an_output_that_cannot_be_written(zips: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match="cannot write"):
        export_sb3_to_onnx(zips["PPO"], "/proc/policy.onnx", N_OBSERVED)
    with pytest.raises(ExportError, match="cannot write"):
        export_to_torchscript(zips["PPO"], "/proc/policy.pt")


def test_exports_are_reproducible_and_name_no_folder(zips: dict[str, Path], tmp_path: Path) -> None:
    for name, function in (("onnx", export_sb3_to_onnx), ("pt", export_to_torchscript)):
        for target in (tmp_path / f"a.{name}", tmp_path / f"b.{name}"):
            function(zips["SAC"], target)
        data = (tmp_path / f"a.{name}").read_bytes()
        assert data == (tmp_path / f"b.{name}").read_bytes()
        for word in (str(tmp_path).encode(), b"/tmp", b"/home", b"/root", b"site-packages"):
            assert word not in data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_torchscript_equals_predict_and_loads_by_itself(algorithm: str, zips: dict[str, Path], tmp_path: Path) -> None:
    import torch

    result = export_to_torchscript(zips[algorithm], tmp_path / "p.pt", obs_dim=N_OBSERVED)
    assert result.max_error is not None
    assert result.max_error <= 1e-5
    with pytest.warns(DeprecationWarning):
        module = torch.jit.load(tmp_path / "p.pt")
    assert not any("sim2sky" in name for name in dict(module.named_modules()))
    x = torch.zeros(5, N_OBSERVED)
    if algorithm == "RecurrentPPO":
        zeros = torch.zeros(1, 5, 16)
        action, (hidden, _) = module(x, (zeros, zeros), torch.ones(5))
        assert hidden.shape == (1, 5, 16)
    else:
        action = module(x)
    assert action.shape[0] == 5


@pytest.mark.parametrize("folder", FOREIGN, ids=lambda p: p.name)
def test_agents_nobody_here_made(folder: Path, tmp_path: Path) -> None:
    """Against the answers that came with them, as well as the ones drawn here."""
    export_sb3_to_onnx(folder / "model.zip", tmp_path / "p.onnx", None, profile="jetson_nano")
    model = session((tmp_path / "p.onnx").read_bytes())
    with np.load(folder / "golden.npz") as stored:
        names = [i.name for i in model.get_inputs()]
        if "episode_start" in names:
            shape = next(i.shape for i in model.get_inputs() if i.name == "state_h")
            hidden = cell = np.zeros((shape[0], 1, shape[2]), np.float32)
            rows, starts, answers = stored["obs"].astype(np.float32), stored["episode_start"], []
            for x, start in zip(rows, starts, strict=True):
                feeds = {"observation": x[None], "state_h": hidden, "state_c": cell}
                action, hidden, cell = model.run(None, {**feeds, "episode_start": np.array([start], np.float32)})
                answers.append(action[0])
            np.testing.assert_array_equal(np.array(answers), stored["action"].reshape(-1))
            return
        feeds = {name: stored["obs" if name == "observation" and "obs" in stored else f"obs__{name}"] for name in names}
        got = model.run(None, {k: v.astype(np.float32).reshape(len(v), -1) for k, v in feeds.items()})[0]
        action = stored["action"].reshape(got.shape)
        scale = max(1.0, float(np.abs(action).max()))
        assert np.abs(got.astype(np.float64) - action).max() <= 1e-5 * scale


@pytest.mark.parametrize("folder", FOREIGN, ids=lambda p: p.name)
def test_torchscript_of_agents_nobody_here_made(folder: Path, tmp_path: Path) -> None:
    result = export_to_torchscript(folder / "model.zip", tmp_path / "p.pt")
    assert result.max_error is not None
    assert result.max_error <= 1e-5


def test_command_lines(zips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model-path", str(zips["PPO"]), "--output"]
    assert export_onnx.main([*arguments, str(tmp_path / "p.onnx"), "--opset-version", "11"]) == 0
    assert "opset 11, IR 6" in capsys.readouterr().out
    assert export_onnx.main([*arguments, str(tmp_path / "q.onnx"), "--no-verify"]) == 0
    assert "Not verified" in capsys.readouterr().out
    assert export_torchscript.main([*arguments, str(tmp_path / "p.pt")]) == 0
    assert "256 golden vectors" in capsys.readouterr().out
    assert export_onnx.main([*arguments, str(tmp_path / "r.onnx"), "--obs-dim", "7"]) == ContractError.exit_code
    assert (
        export_onnx.main([*arguments, str(tmp_path / "r.onnx"), "--opset-version", "3"]) == NotSupportedError.exit_code
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not (tmp_path / "r.onnx").exists()


def test_runs_as_a_module(zips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["export_onnx", "--model-path", str(zips["PPO"]), "--output", str(tmp_path / "p.onnx")]
    )
    monkeypatch.delitem(sys.modules, "sim2sky.deployment.export_onnx")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("sim2sky.deployment.export_onnx", run_name="__main__")
    assert end.value.code == 0
    assert (tmp_path / "p.onnx").exists()
