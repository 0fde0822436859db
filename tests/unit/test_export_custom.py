"""Custom torch modules through `torch.onnx`: exact opset, one file, no warnings, no paths, verified."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.export_support import session
from torch import nn

from sim2sky.deployment.export_onnx import export_custom_model_to_onnx
from sim2sky.deployment.onnx_emitter import ir_version_for
from sim2sky.errors import ConfigError, ExportError, GoldenMismatchError, NotSupportedError


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 4), nn.Tanh())


@pytest.mark.parametrize("opset", range(11, 21))
def test_exact_opset_in_one_file(opset: int, tmp_path: Path) -> None:
    model = mlp()
    result = export_custom_model_to_onnx(model, str(tmp_path / "m.onnx"), (1, 12), opset_version=opset)
    written = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert [(o.domain, o.version) for o in written.opset_import] == [("", opset)]
    assert written.ir_version == ir_version_for(opset) == result.ir_version
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert result.max_error is not None
    assert result.max_error <= 1e-5


def test_the_profile_decides_the_default_opset(tmp_path: Path) -> None:
    assert export_custom_model_to_onnx(mlp(), tmp_path / "m.onnx", (1, 12)).opset == 17
    result = export_custom_model_to_onnx(mlp(), tmp_path / "m.onnx", (1, 12), profile="jetson_nano")
    assert (result.opset, result.ir_version) == (13, 7)


def test_names_and_dynamic_batch(tmp_path: Path) -> None:
    model = mlp().eval()
    export_custom_model_to_onnx(model, tmp_path / "m.onnx", (3, 12))
    ran = session((tmp_path / "m.onnx").read_bytes())
    assert [i.name for i in ran.get_inputs()] == ["observation"]
    assert [o.name for o in ran.get_outputs()] == ["action"]
    for n in (1, 3, 40):
        x = np.random.default_rng(n).normal(size=(n, 12)).astype(np.float32)
        got = ran.run(None, {"observation": x})[0]
        np.testing.assert_allclose(got, model(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


def test_images_keep_their_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    result = export_custom_model_to_onnx(model, tmp_path / "m.onnx", (1, 2, 8, 8), opset_version=11)
    assert result.max_error is not None
    assert result.max_error <= 1e-5


def test_discrete_answers(tmp_path: Path) -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q(x).argmax(dim=1)

    torch.manual_seed(0)
    assert export_custom_model_to_onnx(Greedy(), tmp_path / "m.onnx", (1, 12)).max_error == 0.0


def test_no_warning_no_print_no_path_and_reproducible(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in "ab":
            export_custom_model_to_onnx(mlp(), tmp_path / f"{name}.onnx", (1, 12))
    assert capfd.readouterr() == ("", "")
    data = (tmp_path / "a.onnx").read_bytes()
    assert data == (tmp_path / "b.onnx").read_bytes()
    for word in (str(tmp_path).encode(), b"/tmp", b"/home", b"/root", b"site-packages", b".py"):
        assert word not in data


def test_the_module_is_left_in_the_mode_it_was_in(tmp_path: Path) -> None:
    model = mlp().train()
    model[1].eval()
    random = torch.get_rng_state()
    export_custom_model_to_onnx(model, tmp_path / "m.onnx", (1, 12))
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(NotSupportedError):
        export_custom_model_to_onnx(model, tmp_path / "m.onnx", (1, 12), opset_version=21)
    assert model.training


def test_a_branch_on_the_data_is_found_by_the_check_not_shipped(tmp_path: Path) -> None:
    """Tracing follows one input: whatever the other branch does is silently lost."""

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if bool(x[0, 0] > 1000.0) or x.shape[0] > 1 else x * 3

    with pytest.raises(GoldenMismatchError, match="differs"):
        export_custom_model_to_onnx(Branch(), tmp_path / "m.onnx", (1, 12))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(), (12,), (1, 0), (0, 12)])
def test_a_shape_that_is_none(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="input_shape"):
        export_custom_model_to_onnx(mlp(), tmp_path / "m.onnx", shape)


@pytest.mark.parametrize("opset", [7, 10, 21, 22])
def test_opsets_that_torch_would_silently_change(opset: int, tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=f"opset {opset}"):
        export_custom_model_to_onnx(mlp(), tmp_path / "m.onnx", (1, 12), opset_version=opset)


def test_modules_that_do_not_fit(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class Cube(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x.reshape(-1, 3, 4) @ x.reshape(-1, 4, 3)).real

    with pytest.raises(NotSupportedError, match="tuple"):
        export_custom_model_to_onnx(Pair(), tmp_path / "m.onnx", (1, 12))
    with pytest.raises(ExportError, match="torch could not export"):
        export_custom_model_to_onnx(Cube(), tmp_path / "m.onnx", (1, 12))
    with pytest.raises(ExportError, match="torch could not export"):
        export_custom_model_to_onnx(mlp(), tmp_path / "m.onnx", (1, 11))
    assert list(tmp_path.iterdir()) == []
