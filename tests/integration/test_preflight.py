"""What the preflight finds on a target before anything is written there: real interpreters, folders, limits."""

import functools
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
from tests.deploy_support import local_target, make_bundle, make_release
from tests.unit.test_python_versions import old_pythons

from sim2sky.deployment import preflight
from sim2sky.deployment.local_transport import LocalTransport
from sim2sky.deployment.preflight import ONNXRUNTIME, judge
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.errors import TargetError

NEEDS: dict[str, Any] = {
    "profile": "generic_linux", "packages": ["numpy", "onnxruntime", "pymavlink"], "optional": ["h5py"], "opset": 17,
    "ir_version": 8, "bytes": 1_000_000, "stands_in": False,
}  # fmt: skip
GOOD: dict[str, Any] = {
    "python": "/usr/bin/python3", "version": [3, 11, 2], "bits": 64, "machine": "aarch64",
    "packages": {"numpy": "1.26.4", "onnxruntime": "1.23.2", "pymavlink": "?", "h5py": None},
}  # fmt: skip


class PlainTransport(LocalTransport):
    """A folder without packages of its own: Python is what the machine has, as behind SSH."""

    stands_in = False
    interpreter = sys.executable

    def python(self) -> list[str]:
        return [self.interpreter, "-I", "-B"]

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)


def examined(
    root: Path, *, python: str = sys.executable, uid: int = 0, ahead_s: float = 0.0, **needs: object
) -> dict[str, Any]:
    """Run the preflight as a target does: from standard input, asked by a machine whose clock is `ahead_s` ahead."""
    asked = json.dumps({**NEEDS, "now_s": time.time() + ahead_s, **needs})
    done = subprocess.run(
        [python, "-I", "-", "--root", str(root), "--needs", asked],
        input=Path(preflight.__file__).read_bytes(), capture_output=True, check=False, env={"PATH": "/nowhere"},
        user=uid or None, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(report: dict[str, Any]) -> str:
    return "; ".join(f"{p['problem']} -> {p['remedy']}" for p in report["problems"])


def test_this_machine_can_fly(tmp_path: Path) -> None:
    report = examined(tmp_path / "new" / "folder")
    assert report["problems"] == []
    assert report["python"] == sys.executable
    assert not (tmp_path / "new").exists()  # it only looks


def test_a_python_without_our_packages(tmp_path: Path) -> None:
    """A real one: the virtual environment that someone made and forgot to fill."""
    venv.create(tmp_path / "bare", with_pip=False)
    bare = str(tmp_path / "bare" / "bin" / "python")
    report = examined(tmp_path / "target", python=bare)
    assert report["python"] is None
    for package in NEEDS["packages"]:
        assert f"lacks {package}" in said(report)
        assert f"{bare} -m pip install {package}" in said(report)
    assert "h5py" not in said(report)


def _filled(root: Path) -> str:
    """A virtual environment in the target's folder that can import what this one can."""
    venv.create(root / "venv", with_pip=False)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    paths = [p for p in sys.path if p.endswith("site-packages")]
    (site / "packages.pth").write_text("\n".join(paths) + "\n")
    return str(root / "venv" / "bin" / "python")


def test_the_folders_own_virtual_environment_comes_first(tmp_path: Path) -> None:
    own = _filled(tmp_path)
    report = examined(tmp_path)
    assert report["problems"] == []
    assert report["python"] == own


@pytest.mark.skipif(not old_pythons(), reason="no Python below 3.10 on this machine")
@pytest.mark.parametrize("python", old_pythons())
def test_a_real_old_python_is_named_and_a_newer_one_beside_it_used(tmp_path: Path, python: str) -> None:
    report = examined(tmp_path, python=python)
    assert report["python"] is None
    assert "the flight runtime needs 3.10 or newer" in said(report)
    assert "python3.11 -m venv" in said(report)
    own = _filled(tmp_path)
    assert examined(tmp_path, python=python)["python"] == own


@pytest.mark.skipif(not old_pythons(), reason="no Python below 3.10 on this machine")
def test_installed_by_python_3_6_flown_by_a_newer_one(tmp_path: Path) -> None:
    """A Jetson Nano as it is delivered, with a virtual environment of a newer Python in the target's folder."""
    transport = PlainTransport(tmp_path / "target")
    transport.interpreter = min(old_pythons(), key=lambda p: int(p.rpartition(".")[2]) if p[-1].isdigit() else 99)
    transport.prepare()
    own = _filled(transport.folder)
    target = ReleaseTarget(transport)
    report = target.activate(make_release(make_bundle(tmp_path / "b")), now_s=time.time(), samples=20)
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    assert target.status()["python"] == own
    fly = [transport.folder / "current" / "fly", "--help"]
    done = subprocess.run(fly, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
    assert done.returncode == 0, done.stderr
    done = target.run(target.module("sim2sky.deployment.test_inference", "--bundle", "{release}/bundle"))
    assert json.loads(done.stdout.splitlines()[-1])["python"] == report["python"]


def test_no_python_at_all(tmp_path: Path) -> None:
    transport = PlainTransport(tmp_path / "target")
    transport.interpreter = "/usr/bin/false"
    target = ReleaseTarget(transport)
    with pytest.raises(TargetError, match="no usable Python there") as caught:
        target.activate(make_release(make_bundle(tmp_path / "b")), now_s=time.time())
    assert "sudo apt install python3" in caught.value.hint
    assert list(transport.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("needs", "problem", "remedy"),
    [
        ({"profile": "jetson_nano"}, "the release is for jetson_nano (aarch64)", "generic_linux"),
        ({"profile": "raspberry_pi"}, "the release is for raspberry_pi (aarch64)", "generic_linux"),
        ({"bytes": 1 << 60}, "MB are needed", "free some space"),
        ({"ahead_s": 7 * 3600}, "clock is 7.0 hours behind", "set-ntp true"),
        ({"ahead_s": -7 * 3600}, "clock is 7.0 hours ahead", "sudo date -s @"),
        ({"packages": ["numpy", "tensorrt_of_nobody"]}, "lacks tensorrt_of_nobody", "-m pip install"),
        ({"opset": 99}, "opset", "profile jetson_nano"),
    ],
)
def test_each_mismatch_is_named_with_its_remedy(
    tmp_path: Path, needs: dict[str, Any], problem: str, remedy: str
) -> None:
    if "profile" in needs and os.uname().machine == "aarch64":
        pytest.skip("this is such a machine")
    report = examined(tmp_path, **needs)
    assert problem in said(report)
    assert remedy in said(report)


def test_what_stands_in_for_a_flight_computer_may_be_of_any_architecture(tmp_path: Path) -> None:
    assert examined(tmp_path, profile="jetson_nano", stands_in=True)["problems"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, to whom the folder is read-only")
def test_a_read_only_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):  # the other user must be able to get there
        if folder.owner() == "root" and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    report = examined(tmp_path / "target", python="/usr/bin/python3", uid=65534)
    assert f"{tmp_path} is not writable" in said(report)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file is not a folder" in said(examined(tmp_path / "file" / "target"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"bits": 32}, "is a 32-bit Python; onnxruntime exists for 64 bit only"),
        ({"version": [3, 9, 2]}, "is Python 3.9.2; the flight runtime needs 3.10 or newer"),
        ({"version": [3, 10, 0]}, ""),
        ({"error": "OSError: Exec format error"}, "does not run: OSError"),
    ],
)
def test_interpreters_are_judged(change: dict[str, object], problem: str) -> None:
    problems = judge({**GOOD, **change}, NEEDS)
    assert (problem in problems[0]["problem"] and bool(problems[0]["remedy"])) if problem else problems == []


def test_a_package_that_does_not_load_is_told_from_one_that_is_not_there() -> None:
    packages = {**GOOD["packages"], "onnxruntime": None}
    found = {**GOOD, "packages": packages, "errors": {"onnxruntime": "ImportError: libgomp.so.1: cannot open"}}
    assert "cannot load onnxruntime: ImportError: libgomp.so.1" in judge(found, NEEDS)[0]["problem"]
    found["errors"] = {"onnxruntime": "ModuleNotFoundError: No module named 'onnxruntime'"}
    assert "lacks onnxruntime" in judge(found, NEEDS)[0]["problem"]


@pytest.mark.parametrize(
    ("version", "opset", "ir_version", "fits"),
    [
        ("1.10.0", 13, 7, True), ("1.10.0", 17, 8, False), ("1.11.1", 15, 8, True), ("1.12.0", 17, 8, True),
        ("1.16.3", 19, 9, True), ("1.16.3", 17, 10, False), ("1.17.0", 17, 10, False), ("1.23.2", 21, 11, True),
        ("1.23.2", 17, 12, False), ("1.32.0", 17, 13, True), ("1.9.0", 11, 6, False), ("2.0.0", 24, 13, True),
        ("odd", 11, 6, False),
    ],
)  # fmt: skip
def test_onnxruntime_versions_know_what_they_read(version: str, opset: int, ir_version: int, fits: bool) -> None:
    found = {**GOOD, "packages": {**GOOD["packages"], "onnxruntime": version}}
    problems = judge(found, {**NEEDS, "opset": opset, "ir_version": ir_version})
    assert (problems == []) is fits
    if not fits:
        assert f"onnxruntime {version} reads IR version" in problems[0]["problem"]


def test_the_table_fits_the_onnxruntime_that_is_here() -> None:
    """The highest entry that applies must be readable here: a model of that IR version and opset is loaded."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    here = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    _, _, ir_version, opset = max(entry for entry in ONNXRUNTIME if entry[:2] <= here)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [x], [y])
    opset = min(opset, onnx.defs.onnx_opset_version())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    session = functools.partial(onnxruntime.InferenceSession, providers=["CPUExecutionProvider"])
    assert session(model.SerializeToString()).get_inputs()[0].name == "x"


def test_a_target_that_cannot_fly_is_left_untouched(tmp_path: Path) -> None:
    """All reasons at once, and not a byte copied."""
    transport = PlainTransport(tmp_path / "target")
    bundle = make_bundle(tmp_path / "b", provenance={"opset": 99, "ir_version": 8})
    with pytest.raises(TargetError, match=r"cannot fly this release: .* reads IR version") as caught:
        ReleaseTarget(transport).activate(make_release(bundle), now_s=time.time() + 9 * 3600)
    assert "hours behind" in caught.value.message
    assert list(transport.folder.iterdir()) == []


def test_a_missing_recorder_library_is_a_note_only(tmp_path: Path) -> None:
    report = examined(tmp_path, optional=["h5py_of_nobody"])
    assert (report["problems"], report["notes"]) == ([], ["h5py_of_nobody is not installed there"])
    assert local_target(tmp_path / "t").active() is None
