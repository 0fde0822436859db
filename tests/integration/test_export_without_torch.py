"""The base install has no torch: what needs none works, what needs it says which extra to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.export_support import observations, policy

from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes

BLOCKED = """
import sys
for name in ("torch", "jsbsim", "gymnasium", "stable_baselines3", "scipy", "pydantic"):
    sys.modules[name] = None
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )


def test_quantising_and_measuring_need_no_torch(tmp_path: Path) -> None:
    network = policy(1, (12, 16))
    (tmp_path / "m.onnx").write_bytes(model_to_bytes(emit_onnx(network)))
    np.savez(tmp_path / "flights.npz", **observations(network, 50))
    done = python(
        """
from pathlib import Path
from sim2sky.deployment import candidates, export_onnx, export_torchscript, optimize_model, prune_model
folder = Path(sys.argv[1])
flights = optimize_model.load_observations(folder / "flights.npz")
result = optimize_model.quantize_onnx_model(folder / "m.onnx", folder / "q.onnx", method="static", calibration=flights)
print(result.bytes_after)
""",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (tmp_path / "q.onnx").stat().st_size
    assert done.stderr == ""


def test_what_needs_torch_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"")
    for call in (
        "export_onnx.export_custom_model_to_onnx(None, folder / 'x.onnx', (1, 12))",
        "prune_model.prune_model(None)",
        "export_torchscript.torchscript_bytes(None)",
    ):
        done = python(
            f"""
from pathlib import Path
from sim2sky.deployment import export_onnx, export_torchscript, prune_model
from sim2sky.errors import MissingExtraError
folder = Path(sys.argv[1])
try:
    {call}
except MissingExtraError as error:
    print(error)
""",
            str(tmp_path),
        )
        assert "pip install 'sim2sky[train]'" in done.stdout, done.stderr
