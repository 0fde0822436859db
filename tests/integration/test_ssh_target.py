"""Signed releases on an SSH target: the same installer as on a local one, through the command line and the library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy_support import flying_bundle, make_bundle
from tests.ssh_support import SshServer, make_venv, wait_for

from sim2sky.agent.bundle import Bundle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment import targets
from sim2sky.deployment.keys import KeyRing, SigningKey
from sim2sky.deployment.release import Release, build_release
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import fetch_bundle, open_target, test_on_target
from sim2sky.errors import TargetError
from sim2sky.validation.hil_check import fly_hil

SRC = Path(targets.__file__).resolve().parents[2]
KEY = SigningKey.generate("tests")
EASY = EnvironmentSettings.model_validate(
    {"task": {"duration_s": 5.0, "hold_s": 0.5, "altitude_step_m": 4.0, "heading_step_deg": 10.0}}
)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv")
    make_venv(folder)
    return folder / "venv"


@pytest.fixture
def root(tmp_path: Path, venv: Path) -> Path:
    folder = tmp_path / "controls"
    folder.mkdir()
    (folder / "venv").symlink_to(venv)
    return folder


@pytest.fixture
def target(laptop: SshServer, root: Path) -> Iterator[ReleaseTarget]:
    target = open_target(laptop.url(root))
    yield target
    target.transport.close()  # type: ignore[attr-defined]


def release(bundle: Bundle, folder: Path, version: int = 1, key: SigningKey = KEY) -> Release:
    return build_release(bundle, folder, key, version=version, now_s=time.time())


def test_install_status_rollback_gc(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / f"b{n}", seed=n, agent=f"a{n}") for n in range(3)]
    releases = [release(b, tmp_path / f"r{n}", n + 1) for n, b in enumerate(bundles)]
    states: list[str] = []
    report = target.activate(releases[0], now_s=time.time(), samples=50, on_state=states.append)
    assert report["digest"] == bundles[0].digest
    assert "commit" in states
    assert target.active() == releases[0].name
    assert (root / "current").readlink().name == releases[0].name
    target.activate(releases[1], now_s=time.time(), samples=50)
    assert target.active() == releases[1].name
    found = target.status()
    assert found["problems"] == []
    assert found["python"].startswith(str(root / "venv"))
    assert target.rollback()["release"] == releases[0].name
    assert test_on_target(target, samples=20)["digest"] == bundles[0].digest
    with pytest.raises(TargetError, match="version"):  # the highest version ever seen counts, not the active one
        target.activate(release(bundles[2], tmp_path / "old", 1), now_s=time.time(), samples=50)
    target.activate(releases[2], now_s=time.time(), samples=50)
    target.gc()
    assert {p.name for p in (root / "releases").iterdir()} <= {r.name for r in releases}
    assert list((root / "incoming").iterdir()) == []
    (tmp_path / "fetched").mkdir()
    assert fetch_bundle(target, tmp_path / "fetched").digest == bundles[2].digest


def test_a_flipped_byte_is_found_over_there(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    target.activate(release(make_bundle(tmp_path / "b"), tmp_path / "r"), now_s=time.time(), samples=50)
    policy = root / "current" / "bundle" / "policy.onnx"
    data = bytearray(policy.read_bytes())
    data[100] ^= 1
    policy.write_bytes(data)
    assert any("policy.onnx" in problem for problem in target.status()["problems"])


def test_keys_over_ssh(target: ReleaseTarget, tmp_path: Path) -> None:
    bundle, stranger = make_bundle(tmp_path / "b"), SigningKey.generate("stranger")
    target.activate(release(bundle, tmp_path / "r1"), now_s=time.time(), samples=50)
    theirs = release(make_bundle(tmp_path / "c", seed=3), tmp_path / "r2", 2, stranger)
    with pytest.raises(TargetError, match="key"):
        target.activate(theirs, now_s=time.time(), samples=50)
    assert target.trust(stranger.line)
    target.activate(theirs, now_s=time.time(), samples=50)
    assert target.revoke(stranger.line)
    assert stranger.id not in target.status()["trusted_keys"]


def test_hil_uses_tcp_through_the_tunnel_whatever_is_configured(target: ReleaseTarget, tmp_path: Path) -> None:
    bundle = flying_bundle(tmp_path / "b")
    target.activate(release(bundle, tmp_path / "r"), now_s=time.time(), samples=50)
    settings = ValidationSettings(hil_validation_episodes=2, hil_link="udp", environment=EASY, latency_samples=300)
    run = fly_hil(bundle, settings, target, log_dir=tmp_path / "logs")
    assert len(run.outcomes) == 2
    assert run.identity.bundle_digest == bundle.digest[: len(run.identity.bundle_digest)]
    assert run.agent_log is not None


def test_a_target_without_onnxruntime_names_the_pip_command(laptop: SshServer, tmp_path: Path) -> None:
    root = tmp_path / "controls"
    root.mkdir()
    make_venv(root, ("numpy", "pymavlink"))
    target = open_target(laptop.url(root))
    with pytest.raises(TargetError, match="lacks onnxruntime") as caught:
        target.activate(release(make_bundle(tmp_path / "b"), tmp_path / "r"), now_s=time.time())
    assert "pip install onnxruntime" in caught.value.hint
    assert {p.name for p in root.iterdir()} == {"venv"}  # nothing half-installed
    target.transport.close()  # type: ignore[attr-defined]


def test_a_profile_for_another_machine_is_named(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    import platform

    if platform.machine() == "aarch64":
        pytest.skip("this machine is what the profile asks for")
    from sim2sky.agent.bundle import write_bundle

    plain = make_bundle(tmp_path / "b")
    files = {name: plain.read(name) for name in plain.files}
    pi = write_bundle(
        tmp_path / "pi", agent="pi", contract=plain.contract, formats=dict(plain.formats), active="onnx",
        files=files, profile="raspberry_pi", provenance=plain.provenance,
    )  # fmt: skip
    with pytest.raises(TargetError, match="the release is for raspberry_pi") as caught:
        target.activate(release(pi, tmp_path / "r"), now_s=time.time())
    assert "generic_linux" in caught.value.hint
    assert {p.name for p in root.iterdir()} == {"venv"}


def test_a_connection_that_breaks_while_installing_leaves_the_old_release(
    target: ReleaseTarget, laptop: SshServer, root: Path, tmp_path: Path
) -> None:
    old = release(make_bundle(tmp_path / "a", seed=1), tmp_path / "r1", 1)
    new = release(make_bundle(tmp_path / "b", seed=2), tmp_path / "r2", 2)
    target.activate(old, now_s=time.time(), samples=50)
    target.stage(new, now_s=time.time())

    def breaker() -> None:
        wait_for(lambda: any("install.pyz install" in c for c in laptop.commands()), "the installer", 60.0)
        for child in laptop.children():
            if child.name() != "sshd":
                os.kill(child.pid, signal.SIGKILL)
        laptop.break_connections()

    thread = threading.Thread(target=breaker)
    thread.start()
    with pytest.raises(TargetError):
        target.finish(new, samples=2000)
    thread.join()
    assert target.active() == old.name
    assert test_on_target(target, samples=20)["passed"]
    target.activate(new, now_s=time.time(), samples=50)
    assert target.active() == new.name


def test_a_broken_upload_of_a_release_goes_on(
    target: ReleaseTarget, laptop: SshServer, root: Path, tmp_path: Path
) -> None:
    wanted = release(make_bundle(tmp_path / "b"), tmp_path / "r")
    total = sum((wanted.path / name).stat().st_size for name in wanted.files())

    broken = threading.Event()

    def breaker() -> None:
        while not broken.wait(0.02):  # between two commands a break does no harm: until one strikes an upload
            if any((root / "incoming").rglob("*.json")) or any((root / "incoming").rglob("*.npz")):
                laptop.break_connections()

    thread = threading.Thread(target=breaker)
    thread.start()
    try:
        with pytest.raises(TargetError, match="broke"):
            for _ in range(100):  # should it be quicker than the breaker
                target.stage(wanted, now_s=time.time())
                subprocess.run(["rm", "-rf", str(root / "incoming")], check=True)
    finally:
        broken.set()
        thread.join()
    there = sum(p.stat().st_size for p in (root / "incoming").rglob("*") if p.is_file())
    again = open_target(target.name)
    again.activate(wanted, now_s=time.time(), samples=50)
    sent = again.transport.session.bytes_sent  # type: ignore[attr-defined]
    again.transport.close()  # type: ignore[attr-defined]
    assert sent <= total - there + 300_000  # but for the tool, should that not have been there
    assert again.active() == wanted.name


def sim2sky(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sim2sky", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_commands_take_an_ssh_target(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    for version, seed in ((1, 1), (2, 2)):
        bundle = make_bundle(tmp_path / f"b{seed}", seed=seed)
        target.activate(release(bundle, tmp_path / f"r{seed}", version), now_s=time.time(), samples=50)
    second = target.active()
    done = sim2sky("target", "status", target.name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["active"] == second
    assert json.loads(sim2sky("test-inference", target.name, "--samples", 50, "--json").stdout)["passed"]
    assert sim2sky("target", "rollback", target.name).returncode == 0
    assert target.active() != second
    assert sim2sky("target", "gc", target.name).returncode == 0
    if "visitor" not in KeyRing().names():
        assert sim2sky("keys", "new", "visitor").returncode == 0
    assert sim2sky("keys", "trust", "visitor", target.name).returncode == 0
    assert len(target.status()["trusted_keys"]) == 2
    (root / "current" / "bundle" / "golden.npz").write_bytes(b"damaged")
    done = sim2sky("target", "status", target.name)
    assert done.returncode == 1
    assert "golden.npz" in done.stdout


def test_nothing_installed_is_misuse(target: ReleaseTarget) -> None:
    for command in (("target", "status"), ("test-inference",), ("hil",)):
        done = sim2sky(*command, target.name)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "nothing is installed" in done.stderr
        assert "Traceback" not in done.stderr
