"""The scripts that set the tests up: what they say where something is missing, and the emulated aarch64 Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "scripts" / "system_packages.sh"
SRC = ROOT / "src"


@pytest.fixture
def only() -> Iterator[Callable[..., dict[str, str]]]:
    """An environment in which only these programs are found, by every user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)

        def make(*programs: str) -> dict[str, str]:
            for name in programs:
                (Path(folder) / name).symlink_to(str(shutil.which(name)))
            return {"PATH": folder}

        yield make


def as_nobody(command: list[str]) -> list[str]:
    """Not root, wherever the tests run."""
    ids = ("--reuid=65534", "--regid=65534", "--clear-groups")
    return [str(shutil.which("setpriv")), *ids, *command] if os.geteuid() == 0 else command


def test_nothing_to_do_is_quick_and_silent() -> None:
    done = subprocess.run([PACKAGES], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_make_test_runs_the_script_first() -> None:
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines.index("scripts/system_packages.sh") < next(i for i, line in enumerate(lines) if "-m pytest" in line)


def test_without_root_and_sudo_it_names_what_is_missing(only: Callable[..., dict[str, str]]) -> None:
    path = only("bash", "env", "id", "apt-get")
    bash = str(shutil.which("bash"))
    done = subprocess.run(  # noqa: PLW1510 - the exit code is compared below
        as_nobody([bash, "-s"]), input=PACKAGES.read_text(), env=path, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "qemu-user" in done.stderr
    assert "needs root: sudo apt-get install" in done.stderr


def test_on_a_system_without_apt_it_names_what_is_missing(only: Callable[..., dict[str, str]]) -> None:
    path = only("bash", "env", "id")
    done = subprocess.run(  # noqa: PLW1510 - the exit code is compared below
        [str(shutil.which("bash")), PACKAGES], env=path, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "package manager" in done.stderr


@pytest.fixture(scope="module")
def aarch64() -> str:
    """Python of a Raspberry Pi, emulated; made once and kept under build/."""
    made = subprocess.run(
        [ROOT / "scripts" / "aarch64_python.sh"], stdout=subprocess.PIPE, text=True, timeout=600, check=True
    )
    return made.stdout.strip()


@pytest.mark.slow
def test_the_emulated_python_is_another_architecture(aarch64: str) -> None:
    script = "import platform, struct; print(platform.machine(), struct.calcsize('P'))"
    done = subprocess.run([aarch64, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["aarch64", "8"]


@pytest.mark.slow
def test_making_it_again_is_quick(aarch64: str) -> None:
    done = subprocess.run([ROOT / "scripts" / "aarch64_python.sh"], capture_output=True, text=True, timeout=5)  # noqa: PLW1510
    assert done.stdout.strip() == aarch64


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_golden_replay_of_the_shipped_agent_on_aarch64(aarch64: str, damaged: bool, tmp_path: Path) -> None:
    from sim2sky.deployment.bundling import export_bundle

    bundle = export_bundle(
        ROOT / "agents" / "hawk" / "model.zip", tmp_path / "hawk", agent_name="hawk", profile="raspberry_pi"
    ).bundle
    if damaged:
        data = bytearray((bundle.path / "policy.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (bundle.path / "policy.onnx").write_bytes(data)
    script = f"import sys; sys.path.insert(0, {str(SRC)!r}); from sim2sky.deployment.test_inference import main; "
    script += "sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(  # noqa: PLW1510 - the exit code is compared below
        [aarch64, "-I", "-B", "-c", script, "--bundle", str(bundle.path), "--samples", "300", "--max-latency-ms", "50"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    if damaged:
        assert done.returncode == 1
        assert "policy.onnx" in report["reason"]
        return
    assert done.returncode == 0, report
    assert report["machine"] == "aarch64"
    assert report["golden_vectors"] == 384
    assert 0 < report["golden_max_error"] < 1e-5  # other kernels round otherwise: exactly 0 would be another machine's
