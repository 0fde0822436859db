"""The C policy on targets: compiled there, judged there, flown there, and out of the way whenever something is odd."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.deploy_support import deliver, flying_bundle, local_target, make_release
from tests.native_support import broken, fake_compiler, with_c

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.cli_target import status_text
from sim2sky.deployment import install as installer
from sim2sky.deployment import local_transport
from sim2sky.deployment.native_build import compile_policy, install_native
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import runtime_lines, test_on_target
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.errors import BundleError
from sim2sky.runtime.inference import load_backend
from sim2sky.runtime.native_record import LIBRARY, RECORD, folder_of, which_flies
from sim2sky.runtime.policy_process import PolicyProcess
from sim2sky.runtime.state import PolicyState

SRC = Path(installer.__file__).resolve().parents[2]
PATIENCE_S = 60.0


@pytest.fixture
def target(tmp_path: Path) -> ReleaseTarget:
    return local_target(tmp_path / "target")


@pytest.fixture
def root(target: ReleaseTarget) -> Path:
    return Path(target.transport.root)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_c(flying_bundle(tmp_path_factory.mktemp("bundle") / "plain"))


@pytest.fixture(scope="module")
def installed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a target whose release flies the compiled policy; not to be changed."""
    root = tmp_path_factory.mktemp("installed") / "target"
    deliver(local_target(root), bundle)
    return root


@pytest.fixture
def there(installed: Path, tmp_path: Path) -> Bundle:
    """The bundle as it lies on a target of the test's own."""
    root = tmp_path / "copy"
    shutil.copytree(installed, root, symlinks=True)
    return open_bundle(root / "current" / "bundle")


def rows(report: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Of onnxruntime and of the compiled policy; exactly one flies."""
    onnx, native = report["runtimes"]  # type: ignore[misc]
    assert onnx["flies"] is not native["flies"]
    return onnx, native


def native_folder(bundle: Bundle) -> Path:
    folder = folder_of(bundle.path)
    assert folder is not None
    return folder


def compiler_of_the_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Let the target's PATH hold one program named cc, or none."""
    only = tmp_path / "bin"
    only.mkdir()
    if kind == "no compiler":
        (only / "cc").symlink_to("/bin/true")
    elif kind == "refuses":
        fake_compiler(only / "cc", 'echo "policy.c is not to its taste, an error"; exit 1\n')
    for name in ("env", "test", "sleep"):
        (only / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setitem(local_transport.TARGET_ENVIRONMENT, "PATH", str(only))


# Installing ------------------------------------------------------------------------------------------


def test_the_target_compiles_tries_and_flies_the_c_policy(target: ReleaseTarget, root: Path, bundle: Bundle) -> None:
    report = deliver(target, bundle)
    onnx, native = rows(report)
    assert native["golden_max_error"] <= 1e-5  # type: ignore[operator]
    assert str(native["runtime"]).startswith(("C, gcc", "C, clang"))
    assert native["flies"] and "bit-identical" in str(native["why"])
    assert 0 < native["p50_us"] < onnx["p50_us"]  # type: ignore[operator]
    folder = root / "native" / str(report["release"])
    assert sorted(p.name for p in folder.iterdir()) == [RECORD, LIBRARY]
    assert [p.stat().st_mode & 0o777 for p in (folder, folder / RECORD, folder / LIBRARY)] == [0o755, 0o644, 0o644]
    assert os.listdir(root / "native") == [report["release"]]
    assert target.status()["problems"] == []  # nothing of it lies in the signed folder
    assert "policy    compiled C flies: bit-identical" in status_text("t", target.status())
    lines = runtime_lines(report["runtimes"])  # type: ignore[arg-type]
    assert [line.split()[0] for line in lines] == ["runtime", "onnxruntime", "C,"]
    assert " flies  (bit-identical" in lines[2] and " flies" not in lines[1]


def test_a_bundle_without_c_has_one_runtime(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    report = deliver(target, flying_bundle(tmp_path / "plain"))
    assert [(row["runtime"], row["flies"]) for row in report["runtimes"]] == [("onnxruntime", True)]  # type: ignore[attr-defined]
    assert not (root / "native").exists()
    assert "native" not in target.status()


def test_another_test_tries_the_same_library_again(target: ReleaseTarget, root: Path, bundle: Bundle) -> None:
    library = root / "native" / str(deliver(target, bundle)["release"]) / LIBRARY
    before = library.read_bytes()
    assert rows(test_on_target(target, samples=20))[1]["flies"]
    assert library.read_bytes() == before


NO_COMPILER = [
    pytest.param("none", "no C compiler", id="none"),
    pytest.param("no compiler", "no C compiler", id="no compiler"),
    pytest.param("refuses", "refuses the source: policy.c is not to its taste, an error", id="refuses"),
]


@pytest.mark.parametrize(("cc", "why"), NO_COMPILER)
def test_without_a_compiler_that_works_onnxruntime_flies(
    target: ReleaseTarget, root: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cc: str,
    why: str,
) -> None:  # fmt: skip
    compiler_of_the_target(monkeypatch, tmp_path, cc)
    report = deliver(target, bundle)
    onnx, native = rows(report)
    assert onnx["flies"] and why in str(native["why"])
    assert native["p50_us"] is None and native["golden_max_error"] is None
    assert not (root / "native" / str(report["release"]) / LIBRARY).exists()
    assert "onnxruntime flies" in status_text("t", target.status())
    assert " -  " in runtime_lines(report["runtimes"])[2]  # type: ignore[arg-type]
    monkeypatch.undo()  # a compiler was installed there: the next test of the same release uses it
    assert rows(test_on_target(target, samples=20))[1]["flies"]


def test_a_compiler_that_hangs_is_ended_in_time(there: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    compiler = fake_compiler(tmp_path / "cc", f"echo $$ > {pids}\nsleep 600 & echo $! >> {pids}\nwait\n")
    monkeypatch.setenv("CC", str(compiler))
    (native_folder(there) / RECORD).unlink()
    report = install_native(there, timeout_s=1.0)
    assert not report["flies"] and "within 1 s" in report["why"]
    deadline = time.monotonic() + PATIENCE_S
    for pid in map(int, pids.read_text().split()):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert not which_flies(there.path, there.digest)["native"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("vector", r"not bit-identical: 1 of \d+ vectors, first 0"),
        ("network", "generated from another network"),
        ("contract", "made for another contract"),
        ("illegal", "ended by SIGILL"),
        ("segfault", "ended by SIGSEGV"),
        ("slow", r"not faster: \d+\.\d\d us, onnxruntime \d+\.\d\d us"),
        ("wrong", r"its golden vectors differ by 0\.001, allowed 1e-05"),
    ],
)
def test_a_policy_that_is_not_what_it_should_be_does_not_fly(
    target: ReleaseTarget, tmp_path: Path, how: str, why: str
) -> None:
    """Negative controls: every one compiles, and every one is found out over there without harm to the installation."""
    bundle = with_c(flying_bundle(tmp_path / "plain"), change=broken(how))
    report = deliver(target, bundle)
    onnx, native = rows(report)
    assert onnx["flies"]
    assert re.search(why, str(native["why"])), native["why"]
    assert not target.status()["native"]["native"]
    here = open_bundle(Path(target.transport.root) / "current" / "bundle")
    with PolicyProcess(here, deadline_s=PATIENCE_S) as policy:
        assert policy.runtime.startswith("onnxruntime flies: ") and policy.state is PolicyState.ANSWERED


# Flying ------------------------------------------------------------------------------------------


def test_the_policy_process_flies_what_was_compiled_bit_for_bit(there: Bundle) -> None:
    inside = load_backend(there, "c")
    golden = there.golden()
    with PolicyProcess(there, deadline_s=PATIENCE_S, tolerance=1e-5) as policy:
        assert policy.runtime.startswith("compiled C flies: bit-identical")
        assert policy.pid is not None
        assert "--format c" in " ".join(psutil.Process(policy.pid).cmdline())
        for row in golden.observations["observation"][:50]:
            assert np.array_equal(policy(row), inside(row))


def test_a_format_that_was_asked_for_is_flown_whatever_was_chosen(there: Bundle) -> None:
    with PolicyProcess(there, "onnx", deadline_s=PATIENCE_S) as policy:
        assert policy.runtime == ""
        assert policy.pid is not None
        assert "--format onnx" in " ".join(psutil.Process(policy.pid).cmdline())
    with PolicyProcess(there, "c", deadline_s=PATIENCE_S) as policy:
        assert policy.state is PolicyState.ANSWERED


def _flip(data: bytes) -> bytes:
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


def edited(folder: Path, **changes: object) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, **changes}))


DAMAGE = {
    "missing library": (lambda f: (f / LIBRARY).unlink(), "No such file"),
    "one bit": (lambda f: (f / LIBRARY).write_bytes(_flip((f / LIBRARY).read_bytes())), "sha256"),
    "truncated": (lambda f: (f / LIBRARY).write_bytes((f / LIBRARY).read_bytes()[:4096]), "sha256"),
    "empty": (lambda f: (f / LIBRARY).write_bytes(b""), "sha256"),
    "link": (lambda f: ((f / LIBRARY).rename(f / "x"), (f / LIBRARY).symlink_to(f / "x")), "symbolic"),
    "writable by others": (lambda f: (f / LIBRARY).chmod(0o666), "written by somebody else"),
    "folder writable by others": (lambda f: f.chmod(0o777), "written by somebody else"),
    "no record": (lambda f: (f / RECORD).unlink(), "not compiled here"),
    "record cut": (lambda f: (f / RECORD).write_text('{"schema": 1, '), "damaged"),
    "record of another schema": (lambda f: edited(f, schema=2), "damaged"),
    "record without a verdict": (lambda f: edited(f, flies="yes"), "damaged"),
    "record of another bundle": (lambda f: edited(f, bundle="0" * 64), "another bundle"),
    "record is a folder": (lambda f: ((f / RECORD).unlink(), (f / RECORD).mkdir()), "directory"),
    "another CPU": (lambda f: edited(f, features=["amx_tile_of_the_future"]), "another CPU .*amx_tile_of_the_future"),
    "another machine": (lambda f: edited(f, machine="riscv64"), r"another CPU \(riscv64\)"),
    "no folder": (shutil.rmtree, "not compiled here"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_not_as_it_was_installed_is_never_loaded(there: Bundle, what: str) -> None:
    """Replaced, truncated, opened to others, or a disk in another computer: onnxruntime flies and it is said."""
    damage, why = DAMAGE[what]
    damage(native_folder(there))  # type: ignore[operator]
    with pytest.raises(BundleError, match=why):
        load_backend(there, "c")
    found = which_flies(there.path, there.digest)
    assert not found["native"]
    with PolicyProcess(there, deadline_s=PATIENCE_S) as policy:
        assert policy.runtime == f"onnxruntime flies: {found['why']}"
        assert policy.state is PolicyState.ANSWERED and policy.restarts == 0


def plant(bundle: Bundle, how: str, tmp_path: Path) -> None:
    """Put a compiled policy of another kind in, as if it had been compiled and judged here."""
    other = with_c(flying_bundle(tmp_path / "other"), change=broken(how))
    source, header = (other.read(name).decode() for name in ("policy.c", "policy.h"))
    library = compile_policy(source, header, native_folder(bundle) / LIBRARY, find_compiler())
    library.chmod(0o644)
    edited(native_folder(bundle), sha256=hashlib.sha256(library.read_bytes()).hexdigest())


@pytest.mark.parametrize(("how", "why"), [("illegal", "ended"), ("segfault", "ended"), ("vector", "not bit-identical")])
def test_a_library_that_cannot_run_here_costs_one_process_and_no_flight(
    there: Bundle, tmp_path: Path, how: str, why: str
) -> None:
    """What an illegal instruction of another CPU's code would do: the flight process only hears of it."""
    plant(there, how, tmp_path)
    with PolicyProcess(there, deadline_s=PATIENCE_S, tolerance=1e-5) as policy:
        assert "the compiled C did not start" in policy.runtime and why in policy.runtime
        assert policy.pid is not None
        assert "--format onnx" in " ".join(psutil.Process(policy.pid).cmdline())
        assert policy.state is PolicyState.ANSWERED


def test_a_native_process_that_dies_in_flight_is_replaced_by_onnxruntime(there: Bundle) -> None:
    row = there.golden().observations["observation"][0]
    with PolicyProcess(there, deadline_s=PATIENCE_S) as policy:
        policy(row)
        assert policy.pid is not None
        os.kill(policy.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        policy(row)
        while policy.state is not PolicyState.ANSWERED:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            policy(row)
        assert policy.restarts == 1 and "from then on onnxruntime, not the compiled C" in policy.problem
        assert policy.pid is not None
        assert "--format onnx" in " ".join(psutil.Process(policy.pid).cmdline())


# Releases come and go ------------------------------------------------------------------------------------------


def test_each_release_has_its_own_library_and_takes_it_along(
    target: ReleaseTarget, root: Path, bundle: Bundle, tmp_path: Path
) -> None:
    first = str(deliver(target, bundle)["release"])
    other = with_c(flying_bundle(tmp_path / "other", scale=0.9))
    second = str(deliver(target, other)["release"])
    assert sorted(os.listdir(root / "native")) == sorted([first, second])
    assert target.rollback()["release"] == first
    assert target.status()["native"]["native"]
    assert rows(test_on_target(target, samples=20))[1]["flies"]
    third = str(deliver(target, with_c(flying_bundle(tmp_path / "third", scale=0.8)))["release"])
    assert sorted(os.listdir(root / "native")) == sorted([first, third])  # gone with its release: second
    assert target.gc() == []


KILLER = """
import os, signal, sys, threading, time
from sim2sky.deployment import install
root, release, cc = sys.argv[1:4]
os.environ["CC"] = cc
def kill():
    while not os.path.exists(cc + ".began"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
install.install(root, release, check=lambda root, release: install.run_self_test(
    root, release, samples=20, max_latency_ms=20.0))
"""


def test_killed_while_it_compiles_the_release_before_flies_with_its_library(
    target: ReleaseTarget, root: Path, bundle: Bundle, tmp_path: Path
) -> None:
    first = str(deliver(target, bundle)["release"])
    release = make_release(with_c(flying_bundle(tmp_path / "other", scale=0.9)))
    target.stage(release, now_s=time.time())
    compiler = tmp_path / "cc"
    fake_compiler(compiler, f"echo $$ > {compiler}.pid; touch {compiler}.began; exec sleep 600\n")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(root), release.name, str(compiler)],
        env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    hanging = int(Path(f"{compiler}.pid").read_text())
    tester = psutil.Process(hanging).parent()  # nobody's child now; it would wait for its compiler and end by itself
    assert tester is not None and "test_inference" in " ".join(tester.cmdline())
    tester.kill()
    os.kill(hanging, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert target.status()["active"] == first
    assert target.status()["native"]["native"]
    report = deliver(target, bundle)  # the next installation clears up
    assert report["previous"] == first or report["release"] == first
    assert set(os.listdir(root / "native")) <= {first, str(report["release"])}
