"""What every export ends with: reading, checking, replaying, and writing completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.export_support import dict_policy, golden_of, policy

from sim2sky.agent.golden import GoldenVectors
from sim2sky.agent.layers import Network
from sim2sky.deployment import verification
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.verification import (
    exit_code_of,
    golden_actions,
    open_session,
    parse_model,
    read_model,
    verify_onnx,
    write_output,
)
from sim2sky.errors import EXIT_FAIL, EXIT_USAGE, ConfigError, ExportError, GoldenMismatchError


@pytest.mark.parametrize(
    "network",
    [
        policy(1),
        policy(1, end="multi_discrete"),
        policy(1, end="argmax"),
        dict_policy(),
        policy(1, (12, 16), recurrent=2),
    ],
    ids=["box", "multi_discrete", "argmax", "dict", "recurrent"],
)
def test_a_true_export_passes(network: Network) -> None:
    found = verify_onnx(model_to_bytes(emit_onnx(network)), golden_of(network))
    assert found.max_error <= 1e-5
    assert found.n_golden == 256


def test_a_recurrent_state_that_is_not_reset_is_found() -> None:
    """A graph that ignores `episode_start` is right on the first episode and wrong on the next."""
    network = policy(1, (12, 16), recurrent=1)
    model = emit_onnx(network)
    zero = onnx.helper.make_node("Sub", ["episode_start", "episode_start"], ["/never"])
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "episode_start":
                node.input[i] = "/never"
    model.graph.node.insert(0, zero)
    golden = golden_of(network)
    with pytest.raises(GoldenMismatchError):
        verify_onnx(model_to_bytes(model), golden)
    first = {k: v[:50] for k, v in golden.observations.items()}
    part = GoldenVectors(first, golden.action[:50], golden.episode_start[:50], golden.kind[:50], golden.scale)  # type: ignore[index]
    verify_onnx(model_to_bytes(model), part)


def test_one_wrong_category_in_256_is_refused() -> None:
    network = policy(1, end="argmax")
    golden = golden_of(network)
    golden.action[200] = (golden.action[200] + 3) % 5 - 2
    with pytest.raises(GoldenMismatchError):
        verify_onnx(model_to_bytes(emit_onnx(network)), golden)


def test_an_answer_that_is_not_finite_is_refused_even_without_tolerance() -> None:
    network = policy(1)
    model = emit_onnx(network)
    bias = next(t for t in model.graph.initializer if t.name.endswith("bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(64, np.nan, np.float32), bias.name))
    with pytest.raises(GoldenMismatchError, match="inf"):
        verify_onnx(model_to_bytes(model), golden_of(network))
    assert verify_onnx(model_to_bytes(model), golden_of(network), tolerance=np.inf).max_error == np.inf


def test_a_model_that_is_right_only_at_batch_one_is_refused() -> None:
    """An exporter that fixes the batch axis passes every test on single rows."""
    network = policy(1)
    model = emit_onnx(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(GoldenMismatchError, match="does not run"):
        verify_onnx(model_to_bytes(model), golden_of(network))


def test_answers_come_row_by_row() -> None:
    network = policy(1)
    golden = golden_of(network, 20)
    answers = golden_actions(open_session(model_to_bytes(emit_onnx(network))), golden)
    np.testing.assert_allclose(answers, golden.action, atol=1e-5)


def test_damaged_models_are_named(tmp_path: Path) -> None:
    good = model_to_bytes(emit_onnx(policy(1)))
    for name, data in {"empty": b"", "text": b"hello world", "cut": good[: len(good) // 2]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ExportError, match=name):
            read_model(tmp_path / name)
    with pytest.raises(ExportError, match="cannot read"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ExportError, match="cannot read"):
        read_model(tmp_path)


def test_weights_in_a_second_file_are_refused() -> None:
    model = emit_onnx(policy(1))
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")
    with pytest.raises(ExportError, match="second file"):
        parse_model(model_to_bytes(model))


def test_an_unknown_operator_does_not_pass() -> None:
    model = emit_onnx(policy(1))
    model.graph.node[0].op_type = "Subtract"
    with pytest.raises(ExportError, match="checker"):
        parse_model(model_to_bytes(model))
    with pytest.raises(ExportError, match="cannot load"):
        open_session(model_to_bytes(model))


def test_output_is_complete_public_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "policy.onnx"
    assert write_output(str(target), b"one") == target
    write_output(target, b"two")
    assert target.read_bytes() == b"two"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert [p.name for p in target.parent.iterdir()] == ["policy.onnx"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "policy.onnx"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((verification.os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(ExportError, match="No space left"):
        write_output(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["policy.onnx"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_output(tmp_path / "policy.onnx", b"new")
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_and_streams(capsys: pytest.CaptureFixture[str]) -> None:
    def mistake() -> str:
        raise ConfigError("no such thing", hint="try another")

    def failure() -> str:
        raise ExportError("did not work")

    assert exit_code_of(lambda: "done") == 0
    assert capsys.readouterr() == ("done\n", "")
    assert exit_code_of(mistake) == EXIT_USAGE
    assert capsys.readouterr() == ("", "error: no such thing\n  -> try another\n")
    assert exit_code_of(failure) == EXIT_FAIL
