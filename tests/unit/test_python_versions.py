"""What runs on a target keeps to the Python it may meet there: 3.6 to install, 3.10 to fly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sim2sky.deployment.release import INSTALLER_FILES, RUNTIME_FILES, installer_zip

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "sim2sky"


def needs(paths: list[Path], version: str) -> subprocess.CompletedProcess[str]:
    """Vermin's word on whether these files run on a Python version and all later ones."""
    command = [
        sys.executable,
        "-c",
        "from vermin import main; main()",
        f"-t={version}-",
        "--no-tips",
        "--violations",
        *map(str, paths),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files(patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(PACKAGE.glob(pattern))]


def test_the_installer_runs_on_python_3_6() -> None:
    paths = [*files(INSTALLER_FILES), PACKAGE / "deployment" / "preflight.py"]
    assert len(paths) == 11
    done = needs(paths, "3.6")
    assert done.returncode == 0, done.stdout


def test_the_flight_runtime_runs_on_python_3_10() -> None:
    done = needs(files(RUNTIME_FILES), "3.10")
    assert done.returncode == 0, done.stdout


def test_the_check_sees_newer_python(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "x.py").write_text("from __future__ import annotations\n")
    (tmp_path / "y.py").write_text("def f(d: dict) -> None:\n    if (n := len(d)) > 1:\n        print(n)\n")
    for name in ("x.py", "y.py"):
        done = needs([tmp_path / name], "3.6")
        assert done.returncode != 0
        assert "Target versions not met" in done.stdout


def test_what_installs_imports_the_standard_library_only(tmp_path: Path) -> None:
    """Started isolated and without site packages, as the sole file there is."""
    (tmp_path / "install.pyz").write_bytes(installer_zip())
    command = [sys.executable, "-I", "-S", "-B", tmp_path / "install.pyz", "status", "--root", tmp_path / "t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert '"nothing is installed"' in done.stdout


def old_pythons() -> list[str]:
    """Interpreters from before 3.10 on this machine."""
    names = [f"python3.{minor}" for minor in range(6, 10)]
    found = [shutil.which(name) for name in names] + [
        str(p) for name in names for p in Path.home().glob(f".pyenv/versions/*/bin/{name}")
    ]
    return sorted({os.path.realpath(python) for python in found if python and _works(python)})


def _works(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not old_pythons(), reason="no Python below 3.10 on this machine; the check by vermin stands")
def test_old_pythons_really_run_the_installer(tmp_path: Path) -> None:
    (tmp_path / "install.pyz").write_bytes(installer_zip())
    for python in old_pythons():
        command = [python, "-I", "-B", tmp_path / "install.pyz", "status", "--root", tmp_path / "t"]
        done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), python
