"""Quantised policies: the normaliser and the clip survive, versions stay, and what could go wrong is refused."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.export_support import dict_policy, observations, policy, run, session

from sim2sky.agent.layers import Activation, Clip, InputHead, Network, evaluate
from sim2sky.deployment import quantize
from sim2sky.deployment.onnx_emitter import emit_onnx, ir_version_for, model_to_bytes
from sim2sky.deployment.optimize_model import load_observations, main, quantize_onnx_model
from sim2sky.deployment.quantize import quantize_bytes
from sim2sky.errors import ConfigError, ExportError, NotSupportedError

SIZES = (12, 64, 64)


def float_model(network: Network | None = None, opset: int = 17) -> bytes:
    return model_to_bytes(emit_onnx(network or policy(3, SIZES), opset=opset))


def quantised(network: Network, method: str, weight_type: str = "int8", opset: int = 17, **extra: object) -> bytes:
    calibration = observations(network, 200, seed=2)
    return quantize_bytes(float_model(network, opset), weight_type, method=method, calibration=calibration, **extra)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_smaller_close_and_of_the_same_versions(method: str, weight_type: str, opset: int) -> None:
    network = policy(3, SIZES, "tanh", "box")
    data = quantised(network, method, weight_type, opset)
    model = onnx.load_from_string(data)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version_for(opset)
    assert len(data) < 0.65 * len(float_model(network, opset))
    rows = observations(network, 300)
    error = np.abs(run(data, rows)[0] - evaluate(network, rows)[0])
    assert error.max() < 0.2
    assert error.mean() < 0.02


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_all_products_are_integers_and_nothing_else_is(method: str) -> None:
    source = onnx.load_from_string(float_model())
    model = onnx.load_from_string(quantised(policy(3, SIZES), method))
    types = {t.name: t.data_type for t in model.graph.initializer}
    for name in ("mean_high", "mean_low", "scale", "low", "high"):
        assert types[f"/input0_0_normalise/{name}"] == onnx.TensorProto.FLOAT
    kept = {t.name: t for t in model.graph.initializer}
    for tensor in source.graph.initializer:
        if "normalise" in tensor.name or "clip" in tensor.name:
            assert kept[tensor.name] == tensor
    weights = [t for t in types if "weight" in t and "scale" not in t and "zero" not in t]
    assert len(weights) == 3
    assert {types[t] for t in weights} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("method", ["dynamic", "static"])
@pytest.mark.parametrize("end", ["box", "clip", "squash"])
def test_the_final_clip_holds_far_outside_the_calibrated_range(method: str, end: str) -> None:
    network = policy(3, SIZES, "relu", end)
    data = quantised(network, method)
    rows = {"observation": observations(network, 200)["observation"] * 50.0}
    action = run(data, rows)[0]
    exact = np.asarray(evaluate(network, observations(network, 2000))[0])
    limits = {"box": (-1.0, 1.0), "clip": ([-2, 0, -0.1], [2, 10, 0.1]), "squash": ([-2, 0], [2, 1])}[end]
    low, high = (np.asarray(v, np.float32) for v in limits)
    assert (action >= low).all()
    assert (action <= high).all()
    assert (exact.astype(np.float32) >= low).all()


def test_onnxruntimes_own_static_quantiser_does_not_hold_the_clip() -> None:
    """The trap this module avoids, shown on the library itself; should it be mended, this test says so."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    network = policy(3, SIZES, "relu", "box")
    rows = observations(network, 200)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [rows]

        def get_next(self) -> object:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder, quantize._quiet_root_logger():
        before, after = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        before.write_bytes(float_model(network))
        quantize_static(before, after, Reader(), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8)
        plain = onnx.load(after)
    ops = [node.op_type for node in plain.graph.node]
    assert ops[-1] != "Clip"
    assert "Clip" not in [n.op_type for n in plain.graph.node if "action" in n.output]


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_normaliser_in_integers_would_have_been_useless(method: str) -> None:
    """Negative control: with mixed units, quantising in front of the normaliser costs a large part of the range."""
    network = policy(3, SIZES, "tanh", "box")
    rows = observations(network, 300)
    ours = np.abs(run(quantised(network, method), rows)[0] - evaluate(network, rows)[0]).mean()
    raw = rows["observation"]
    step = (raw.max() - raw.min()) / 255.0
    rounded = {"observation": (np.round(raw / step) * step).astype(np.float32)}
    theirs = np.abs(evaluate(network, rounded)[0] - evaluate(network, rows)[0]).mean()
    assert theirs > 10 * ours


def test_dict_policy_is_quantised() -> None:
    network = dict_policy()
    rows = observations(network, 300)
    for method in ("dynamic", "static"):
        data = quantised(network, method)
        assert [i.name for i in session(data).get_inputs()] == ["achieved", "desired", "mode", "switches"]
        assert np.abs(run(data, rows)[0] - evaluate(network, rows)[0]).mean() < 0.05


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_recurrent_policy_is_quantised_and_its_state_stays_float(method: str, opset: int) -> None:
    """Symptom: the hidden state came back rounded to int8, and opset 21 did not load."""
    network = policy(5, (12, 32), "tanh", "box", recurrent=1)
    data = quantised(network, method, opset=opset)
    model = session(data)
    rows = observations(network, 60)["observation"]
    hidden = cell = np.zeros((1, 1, 8), np.float32)
    state = None
    seen = []
    worst = 0.0
    for t in range(60):
        start = np.array([t % 20 == 0], np.float32)
        expected, state = evaluate(network, {"observation": rows[t : t + 1]}, state, start)
        feeds = {"observation": rows[t : t + 1], "state_h": hidden, "state_c": cell, "episode_start": start}
        got, hidden, cell = (np.asarray(v) for v in model.run(None, feeds))
        worst = max(worst, float(np.abs(got - expected).max()))
        seen.append(hidden.copy())
    assert worst < 0.1
    steps = np.concatenate(seen).reshape(-1)
    assert len(np.unique(steps)) > 400  # an int8 state would take at most 256 values


def test_a_symmetric_profile_writes_zero_zero_points() -> None:
    network = policy(3, SIZES, "relu", "box")
    model = onnx.load_from_string(quantised(network, "static", opset=13, profile="jetson_nano"))
    points = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("zero_point")]
    assert len(points) >= 6
    assert all((p == 0).all() for p in points)
    free = onnx.load_from_string(quantised(network, "static", opset=13))
    others = [onnx.numpy_helper.to_array(t) for t in free.graph.initializer if t.name.endswith("zero_point")]
    assert any((p != 0).any() for p in others)
    with pytest.raises(ConfigError, match="symmetric"):
        quantised(network, "static", "uint8", 13, profile="jetson_nano")


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_reproducible_quiet_and_without_leftovers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    network = policy(3, SIZES)
    handlers = list(logging.getLogger().handlers)
    records: list[logging.LogRecord] = []
    catcher = logging.Handler()
    catcher.emit = records.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(catcher)
    try:
        first, second = quantised(network, method), quantised(network, method)
    finally:
        logging.getLogger().removeHandler(catcher)
    assert first == second
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger().handlers == handlers
    assert [r for r in records if r.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")
    for word in (str(tmp_path).encode(), b"/tmp", b"/home", b"/root", b"onnx.quantize", b"pre_process"):
        assert word not in first


def test_the_float_model_is_not_changed() -> None:
    data = float_model()
    copy = bytes(data)
    quantize_bytes(data)
    assert data == copy


def test_nan_may_become_a_finite_action_and_the_module_says_so() -> None:
    """The documented reason why the runtime tests observations first: an integer has no NaN."""
    network = policy(3, SIZES, "relu", "box")
    rows = observations(network, 1)
    rows["observation"][0, 2] = np.nan
    assert not np.isfinite(run(float_model(network), rows)[0]).any()
    assert np.isfinite(run(quantised(network, "static"), rows)[0]).all()
    assert "finite action to a NaN observation" in (quantize.__doc__ or "")
    assert "NaN" in (quantize_onnx_model.__doc__ or "")


def test_a_quantiser_that_drops_or_changes_a_node_is_caught() -> None:
    source = onnx.load_from_string(float_model())
    good = onnx.load_from_string(quantised(policy(3, SIZES), "static"))
    quantize._check(source, good)

    def broken() -> onnx.ModelProto:
        return onnx.ModelProto.FromString(good.SerializeToString())

    without_clip = broken()
    last = without_clip.graph.node[-1]
    assert last.op_type == "Clip"
    last.op_type = "Identity"
    del last.input[1:]
    with pytest.raises(ExportError, match="Clip"):
        quantize._check(source, without_clip)
    other_mean = broken()
    mean = next(t for t in other_mean.graph.initializer if t.name.endswith("mean_high"))
    mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) + 1, mean.name))
    with pytest.raises(ExportError, match="mean_high"):
        quantize._check(source, other_mean)
    newer = broken()
    newer.ir_version = 10
    with pytest.raises(ExportError, match="IR"):
        quantize._check(source, newer)
    renamed = broken()
    renamed.graph.input[0].name = "x"
    with pytest.raises(ExportError, match="names"):
        quantize._check(source, renamed)
    with pytest.raises(ExportError, match="changed nothing"):
        quantize._check(source, source)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"weight_type": "int4"}, "int4"),
        ({"method": "magic"}, "magic"),
        ({"profile": "abacus"}, "abacus"),
        ({"method": "static"}, "calibration"),
        ({"method": "static", "calibration": {"other": np.zeros((5, 12))}}, "observation"),
        ({"method": "static", "calibration": {"observation": np.zeros((0, 12))}}, "rows"),
        ({"method": "static", "calibration": {"observation": np.float32(1)}}, "rows"),
        ({"method": "static", "calibration": {"observation": np.full((5, 12), np.nan)}}, "finite"),
        ({"method": "static", "calibration": {"observation": np.zeros((5, 11))}}, "fit"),
    ],
)
def test_bad_arguments_are_configuration_errors(kwargs: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        quantize_bytes(float_model(), **kwargs)  # type: ignore[arg-type]


def test_nothing_to_quantise_and_twice_are_not_supported() -> None:
    box = (Activation("tanh"), Clip(np.zeros(3, np.float32), np.ones(3, np.float32)))
    with pytest.raises(NotSupportedError, match="without Gemm"):
        quantize_bytes(float_model(Network((InputHead("observation", 3),), box)))
    with pytest.raises(NotSupportedError, match="already"):
        quantize_bytes(quantised(policy(3, SIZES), "dynamic"))


def test_file_in_file_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "hawk.onnx", tmp_path / "new" / "hawk_quantized.onnx"
    source.write_bytes(float_model())
    result = quantize_onnx_model(source, target, "uint8")
    assert result.bytes_after == target.stat().st_size < result.bytes_before == source.stat().st_size
    assert result.ratio > 1.5
    assert main(["--input", str(source), "--output", str(target)]) == 0
    assert "Compression ratio" in capsys.readouterr().out
    assert sorted(p.name for p in target.parent.iterdir()) == [target.name]


def test_command_line_static_with_calibration_file(tmp_path: Path) -> None:
    network = policy(3, SIZES)
    (tmp_path / "m.onnx").write_bytes(float_model(network))
    np.savez(tmp_path / "flights.npz", **observations(network, 100))
    np.save(tmp_path / "flights.npy", observations(network, 100)["observation"])
    for name in ("flights.npz", "flights.npy"):
        arguments = [
            "--input",
            str(tmp_path / "m.onnx"),
            "--output",
            str(tmp_path / f"{name}.onnx"),
            "--method",
            "static",
        ]
        assert main([*arguments, "--calibration", str(tmp_path / name)]) == 0
    assert (tmp_path / "flights.npz.onnx").read_bytes() == (tmp_path / "flights.npy.onnx").read_bytes()


def test_unreadable_models_are_named_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("not a model at all")
    (tmp_path / "cut.onnx").write_bytes(float_model()[:5000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("missing.onnx", "text.onnx", "cut.onnx", "empty.onnx"):
        assert main(["--input", str(tmp_path / name), "--output", str(tmp_path / "out.onnx")]) == 1
        error = capsys.readouterr().err
        assert name in error
        assert "Traceback" not in error
    assert not (tmp_path / "out.onnx").exists()


def test_observation_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("a.npz", "b.npy", "missing.npz"):
        with pytest.raises(ConfigError, match=name[:1]):
            load_observations(tmp_path / name)


def test_folder_that_takes_no_files(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(float_model())
    with pytest.raises(ExportError, match="cannot write"):  # even the superuser makes no files in /proc
        quantize_onnx_model(tmp_path / "m.onnx", "/proc/q.onnx")


def test_output_below_a_file_or_on_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(float_model())
    (tmp_path / "folder.onnx").mkdir()
    for target in (tmp_path / "m.onnx" / "q.onnx", tmp_path / "folder.onnx"):
        with pytest.raises(ExportError, match="cannot write"):
            quantize_onnx_model(tmp_path / "m.onnx", target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.onnx", "m.onnx"]
