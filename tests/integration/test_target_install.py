"""Installing on a `local:` target: every state ended by an error and by SIGKILL, damage on the way, wrong exports.

Real processes, a real onnxruntime on the far side; after everything that goes wrong the previous release flies.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.deploy_support import deliver, local_target, make_bundle, make_release, network

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.layers import Dense, Network
from sim2sky.deployment import install as installer
from sim2sky.deployment import test_inference as inference_module
from sim2sky.deployment.install import STATES
from sim2sky.deployment.local_site import distribution_closure
from sim2sky.deployment.release import Release, runtime_files
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import open_target, temporary_target, test_on_target
from sim2sky.errors import ConfigError, NotSupportedError, TargetError

SRC = Path(installer.__file__).resolve().parents[2]
INFERENCE_TEST = ("sim2sky.deployment.test_inference", "--bundle", "{release}/bundle")


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "old", seed=1, agent="old")


@pytest.fixture
def new(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "new", seed=2, agent="new")


@pytest.fixture
def target(tmp_path: Path) -> ReleaseTarget:
    return local_target(tmp_path / "target")


@pytest.fixture
def root(target: ReleaseTarget) -> Path:
    return Path(target.transport.root)


def flown(target: ReleaseTarget) -> dict[str, object]:
    """What a fresh process on the target finds when it starts `current`."""
    done = target.run(target.module(*INFERENCE_TEST))
    assert done.returncode == 0, done
    return json.loads(done.stdout.splitlines()[-1])


def leftovers(root: Path) -> list[str]:
    """What is there and should not be after a clean-up."""
    journal = json.loads((root / "install.json").read_text()) if (root / "install.json").is_file() else {}
    kept = {journal.get("active"), journal.get("previous")}
    found = [p for folder in ("incoming", "releases", "python") for p in (root / folder).iterdir()]
    hidden = [p.name for p in root.iterdir() if p.name.startswith(".")]
    return [f"{p.parent.name}/{p.name}" for p in found if p.name not in kept] + hidden


def test_install_makes_current_and_reports_from_the_target(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    states: list[str] = []
    report = target.activate(make_release(new), now_s=time.time(), on_state=states.append)
    assert tuple(states) == STATES
    assert report["digest"] == new.digest
    assert report["golden_max_error"] < 1e-5
    assert report["latency"]["n"] == 300
    assert report["foreign_modules"] == []
    assert target.active() == report["release"]
    assert (root / "current").readlink().name == report["release"]
    assert flown(target)["digest"] == new.digest
    assert leftovers(root) == []


def test_the_release_holds_one_zip_a_starter_and_a_unit(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    deliver(target, new)
    names = sorted(p.name for p in (root / "current").iterdir())
    assert names == [
        "bundle", "fly", "install.pyz", "release.json", "release.sig", "sim2sky-fly.service", "sim2sky.pyz",
    ]  # fmt: skip
    assert os.access(root / "current" / "fly", os.X_OK)
    assert not os.access(root / "current" / "sim2sky.pyz", os.X_OK)
    done = subprocess.run([root / "current" / "fly", "--help"], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_fly_through_the_link_starts_the_committed_release_whatever_the_link_says(
    target: ReleaseTarget, root: Path, old: Bundle, new: Bundle
) -> None:
    """As after a kill between activate and commit: `current` names one release, the journal another."""
    first, second = deliver(target, old)["release"], deliver(target, new)["release"]
    state = json.loads((root / "install.json").read_text())
    (root / "install.json").write_text(json.dumps({**state, "active": first, "previous": None}))
    assert (root / "current").readlink().name == second
    assert flown(target)["digest"] == old.digest
    (root / "releases" / str(first) / "bundle" / "policy.onnx").write_bytes(b"gone")
    done = subprocess.run([root / "current" / "fly", "--help"], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 1
    assert "error: bundle/policy.onnx has 4 bytes" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_but_the_flight_packages_is_importable(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    deliver(target, new)
    names = ["torch", "jsbsim", "pydantic", "stable_baselines3", "gymnasium", "onnx", "rich", "cyclopts", "scipy"]
    names += ["cryptography", "rfc8785", "sim2sky.config", "sim2sky.cli", "sim2sky.validation", "sim2sky.training"]
    names += ["sim2sky.environments", "sim2sky.deployment.keys"]
    allowed = {"numpy", "onnxruntime", "pymavlink", "h5py", "sim2sky.runtime.inference", "sim2sky.runtime.safety"}
    code = f"""
import importlib, json, sys
sys.path[:0] = {[str(root / "current" / "sim2sky.pyz"), str(root / "site")]!r}
found = []
for name in {[*names, *allowed]!r}:
    try:
        importlib.import_module(name); found.append(name)
    except ImportError:
        pass
print(json.dumps(found))
"""
    done = target.run([*target.transport.python(), "-c", code])
    assert set(json.loads(done.stdout)) == allowed


def test_every_module_of_the_released_runtime_imports_there(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    deliver(target, new)
    names = [n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in runtime_files()]
    assert len(names) > 25
    code = f"""
import importlib, sys
sys.path[:0] = {[str(root / "current" / "sim2sky.pyz"), str(root / "site")]!r}
print({{"sim2sky.pyz" in importlib.import_module(n).__file__ for n in {names!r}}})
"""
    done = target.run([*target.transport.python(), "-c", code])
    assert done.stdout.strip() == "{True}", done.stderr


def test_site_holds_links_to_the_closure_of_four_packages(target: ReleaseTarget, root: Path) -> None:
    target.transport.prepare()
    names = {d.name.lower() for d in distribution_closure(("numpy", "onnxruntime", "pymavlink", "h5py"))}
    assert {"numpy", "onnxruntime", "pymavlink", "h5py", "lxml", "protobuf"} <= names
    assert not names & {"torch", "jsbsim", "pydantic", "onnx", "scipy"}
    assert all(p.is_symlink() or p.is_dir() for p in (root / "site").iterdir())
    assert (root / "site" / "numpy").is_symlink()
    before = sorted(p.name for p in root.iterdir())
    target.transport.prepare()
    assert sorted(p.name for p in root.iterdir()) == before


# Every state, twice: error and SIGKILL --------------------------------------------------------------------------------

KILLER = """
import os, signal, sys
from sim2sky.deployment import install
root, release, state = sys.argv[1:4]
def on_state(now):
    if now == state:
        os.kill(os.getpid(), signal.SIGKILL)
install.install(root, release, on_state=on_state,
                check=lambda root, release: install.run_self_test(root, release, samples=20, max_latency_ms=20.0))
"""


def killed_in(root: Path, release: Release, state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(root), release.name, state],
        env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def error_in(root: Path, release: Release, state: str) -> None:
    def fail(now: str) -> None:
        if now == state:
            raise TargetError(f"made to fail in {now}")

    def check(root: str, release: str) -> dict[str, object]:
        return installer.run_self_test(root, release, samples=20, max_latency_ms=20.0)

    with pytest.raises(TargetError, match=f"made to fail in {state}"):
        installer.install(str(root), release.name, on_state=fail, check=check)


ENDED = [pytest.param(how, state, id=f"{how.__name__}_{state}") for how in (error_in, killed_in) for state in STATES]


@pytest.mark.parametrize(("how", "state"), ENDED)
def test_ended_in_any_state_a_complete_release_flies(
    target: ReleaseTarget, root: Path, old: Bundle, new: Bundle, how: Callable[[Path, Release, str], None], state: str
) -> None:
    """Before commit it is the old one, after it the new one; the next installation finds a clean house either way."""
    first = deliver(target, old)["release"]
    release = make_release(new)
    target.stage(release, now_s=time.time())
    how(root, release, state)
    expected = old if state != "cleanup" else new
    status = target.status()
    assert status["active"] == (first if expected is old else release.name)
    assert [p for p in status["problems"] if "the link current" not in p and "install.pyz" not in p] == []
    assert flown(target)["digest"] == expected.digest
    if how is error_in:  # cleaned up at once; after a kill, by the next installation
        assert leftovers(root) == []
        assert (root / "current").readlink().name == status["active"]
        assert status["problems"] == []
        assert (root / "releases" / release.name).exists() == (expected is new)
    report = target.activate(release, now_s=time.time(), samples=20)
    assert report["previous"] == first
    assert flown(target)["digest"] == new.digest
    assert leftovers(root) == []


@pytest.mark.parametrize("state", ["verify", "activate", "commit"])
def test_killed_during_the_very_first_installation_nothing_is_active(
    target: ReleaseTarget, root: Path, new: Bundle, state: str
) -> None:
    release = make_release(new)
    target.stage(release, now_s=time.time())
    killed_in(root, release, state)
    assert target.active() is None
    done = target.run(target.module(*INFERENCE_TEST))
    assert done.returncode == 1
    assert "nothing is installed here" in done.stderr
    assert target.activate(release, now_s=time.time(), samples=20)["previous"] is None
    assert flown(target)["digest"] == new.digest


UPLOADER = """
import os, signal, sys, time
from pathlib import Path
from tests.deploy_support import local_target, make_release
from sim2sky.agent.bundle import open_bundle
target = local_target(Path(sys.argv[1]))
put, count = target.transport.put_file, 0
def put_file(local, remote):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    put(local, remote)
target.transport.put_file = put_file
target.stage(make_release(open_bundle(Path(sys.argv[2]))), now_s=time.time())
"""


@pytest.mark.parametrize("at", [1, 3, 11])
def test_killed_while_copying_leaves_the_old_release(
    target: ReleaseTarget, root: Path, old: Bundle, new: Bundle, at: int
) -> None:
    first = deliver(target, old)["release"]
    done = subprocess.run(
        [sys.executable, "-c", UPLOADER, str(root), str(new.path), str(at)],
        env={**os.environ, "PYTHONPATH": f"{SRC}:{SRC.parent}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert target.status()["active"] == first
    assert flown(target)["digest"] == old.digest
    deliver(target, new)
    assert leftovers(root) == []


def test_gc_removes_what_a_broken_upload_left(target: ReleaseTarget, root: Path, old: Bundle, new: Bundle) -> None:
    first = deliver(target, old)["release"]
    release = make_release(new)
    target.stage(release, now_s=time.time())
    (root / "incoming" / "stray").write_bytes(b"x")
    assert target.gc() == [f"incoming/{release.name}", "incoming/stray"]
    assert target.gc() == []
    assert (target.active(), leftovers(root)) == (first, [])


# What is refused ------------------------------------------------------------------------------------------------------


def _sources_changed(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Sign a runtime with another source in it: what an unlucky edit would bring to the target."""
    from sim2sky.deployment import release as module

    real = module.runtime_files
    monkeypatch.setattr(module, "runtime_files", lambda: {**real(), name: text.encode()})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "inference test was ended by SIGKILL"),
        ("raise SystemExit(9)\n", r"gave no report \(exit 9\): no output"),
        ("raise ImportError('libfoo.so.1')\n", "gave no report .*libfoo"),
        ("print('{}')\n", "inference test failed: no reason given"),
    ],
)
def test_a_test_process_that_dies_on_the_target_is_a_plain_failure(
    target: ReleaseTarget,
    root: Path,
    old: Bundle,
    new: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    message: str,
) -> None:
    deliver(target, old)
    _sources_changed(monkeypatch, f"sim2sky/deployment/{Path(inference_module.__file__).name}", text)
    with pytest.raises(TargetError, match=message):
        deliver(target, new)
    assert flown(target)["digest"] == old.digest
    assert leftovers(root) == []


def test_a_test_that_hangs_is_ended(
    target: ReleaseTarget, root: Path, new: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sources_changed(monkeypatch, "sim2sky/deployment/test_inference.py", "import time\ntime.sleep(60)\n")
    release = make_release(new)
    target.stage(release, now_s=time.time())

    def check(where: str, name: str) -> dict[str, object]:
        return installer.run_self_test(where, name, samples=20, max_latency_ms=20.0, timeout_s=1.0)

    with pytest.raises(TargetError, match="did not end within 1 s"):
        installer.install(str(root), release.name, check=check)
    assert target.active() is None


def _wrong(kind: str) -> Network:
    net = network(2)
    if kind == "normaliser dropped":
        return Network((replace(net.inputs[0], layers=()),), net.layers)
    if kind == "clip removed":
        return Network(net.inputs, net.layers[:-1])
    last = net.layers[2]
    assert isinstance(last, Dense)
    order = np.array([1, 0, 2, 3])
    return Network(net.inputs, (*net.layers[:2], Dense(last.weight[order], last.bias[order]), net.layers[3]))


@pytest.mark.parametrize("kind", ["normaliser dropped", "channels swapped", "clip removed"])
def test_a_broken_export_is_refused_by_the_golden_replay_on_the_target(
    target: ReleaseTarget, old: Bundle, tmp_path: Path, kind: str
) -> None:
    deliver(target, old)
    broken = make_bundle(tmp_path / "broken", seed=2, exported=_wrong(kind))
    with pytest.raises(TargetError, match="golden vectors differ by"):
        deliver(target, broken)
    assert flown(target)["digest"] == old.digest


def test_a_policy_that_cannot_be_loaded_is_refused(target: ReleaseTarget, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot load"):
        deliver(target, make_bundle(tmp_path / "b", onnx=b"no onnx at all"))
    assert target.active() is None


def test_a_policy_that_is_too_slow_there_is_refused(target: ReleaseTarget, new: Bundle) -> None:
    release = make_release(new)
    target.stage(release, now_s=time.time())
    with pytest.raises(TargetError, match=r"mean latency .* ms is not below 1e-06 ms"):
        target.finish(release, samples=20, max_latency_ms=1e-6)
    assert target.active() is None


def test_a_recorded_tolerance_lets_a_quantised_policy_pass(target: ReleaseTarget, tmp_path: Path) -> None:
    rough = network(0)
    dense = rough.layers[0]
    assert isinstance(dense, Dense)
    rounded = Dense(np.round(dense.weight, 2), dense.bias)
    net = Network(rough.inputs, (rounded, *rough.layers[1:]))
    with pytest.raises(TargetError, match="golden"):
        deliver(target, make_bundle(tmp_path / "strict", exported=net))
    bundle = make_bundle(tmp_path / "loose", exported=net, provenance={"golden_tolerance": 0.1})
    error = deliver(target, bundle)["golden_max_error"]
    assert isinstance(error, float)
    assert 1e-5 < error < 0.1


def test_two_installations_at_once_are_refused(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    release = make_release(new)
    target.stage(release, now_s=time.time())
    with (root / "install.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for change in (lambda: target.finish(release), target.rollback, target.gc, lambda: target.trust("x")):
            with pytest.raises(TargetError, match="another installation is running"):
                change()
        assert target.status()["active"] is None  # reading needs no lock
    assert target.finish(release, samples=20)["digest"] == new.digest


# Current, previous, nothing else --------------------------------------------------------------------------------------


def test_current_and_previous_are_kept_and_nothing_else(target: ReleaseTarget, root: Path, tmp_path: Path) -> None:
    names = [deliver(target, make_bundle(tmp_path / str(i), seed=i))["release"] for i in range(4)]
    assert {p.name for p in (root / "releases").iterdir()} == set(names[-2:])
    assert {p.name for p in (root / "python").iterdir()} == set(names[-2:])


def test_rollback_goes_back_and_forth_and_never_lowers_the_highest_version(
    target: ReleaseTarget, root: Path, old: Bundle, new: Bundle
) -> None:
    first, second = deliver(target, old)["release"], deliver(target, new)["release"]
    highest = target.highest_version()
    assert target.rollback() == {"release": first, "left": second}
    assert flown(target)["digest"] == old.digest
    assert (root / "current").readlink().name == first
    assert target.highest_version() == highest
    assert target.rollback() == {"release": second, "left": first}
    assert flown(target)["digest"] == new.digest
    assert leftovers(root) == []


def test_rollback_without_a_previous_release(target: ReleaseTarget, old: Bundle) -> None:
    with pytest.raises(TargetError, match="nothing is installed"):
        target.rollback()
    first = deliver(target, old)["release"]
    with pytest.raises(TargetError, match="no previous release to go back to"):
        target.rollback()
    assert target.active() == first


def test_rollback_to_a_damaged_release_is_refused(target: ReleaseTarget, root: Path, old: Bundle, new: Bundle) -> None:
    first, second = deliver(target, old)["release"], deliver(target, new)["release"]
    (root / "releases" / str(first) / "bundle" / "golden.npz").write_bytes(b"x")
    with pytest.raises(TargetError, match=rf"previous release {first} cannot be used: bundle/golden\.npz has 1 bytes"):
        target.rollback()
    assert target.active() == second


def test_a_refused_release_is_left_for_the_one_before_it(target: ReleaseTarget, old: Bundle, new: Bundle) -> None:
    first = deliver(target, old)["release"]
    deliver(target, new)
    assert target.revert() == first
    assert flown(target)["digest"] == old.digest
    with pytest.raises(TargetError, match="no previous release"):
        target.rollback()  # what was refused does not come back
    assert target.revert() is None
    assert target.active() is None


def test_the_installer_of_the_active_release_judges_the_next_one(
    target: ReleaseTarget, root: Path, old: Bundle, new: Bundle
) -> None:
    deliver(target, old)
    (root / "install.pyz").write_bytes((root / "install.pyz").read_bytes() + b" ")
    assert target.status()["problems"] == ["install.pyz differs from the active release's"]
    deliver(target, new)
    assert target.status()["problems"] == []
    assert (root / "install.pyz").read_bytes() == (root / "current" / "install.pyz").read_bytes()


# Status ---------------------------------------------------------------------------------------------------------------


def test_status_finds_one_changed_byte_in_any_file(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    deliver(target, new)
    files = [p for p in sorted((root / "current").resolve().rglob("*")) if p.is_file()]
    assert len(files) == 11
    for path in files:
        data = path.read_bytes()
        for position in (0, len(data) // 2, len(data) - 1):
            flipped = bytearray(data)
            flipped[position] ^= 1
            path.write_bytes(flipped)
            (problem, *_) = installer.status(str(root))["problems"]
            expected = r"release\.json|signed with key" if path.name == "release.sig" else path.name
            assert expected in problem or path.name == "release.sig", (path, problem)
        path.write_bytes(data)
    assert target.status()["problems"] == []


def test_status_of_nothing_and_of_a_damaged_journal(target: ReleaseTarget, root: Path, new: Bundle) -> None:
    with pytest.raises(TargetError, match="nothing is installed") as caught:
        target.status()
    assert caught.value.exit_code == 2
    deliver(target, new)
    (root / "install.json").write_text("{")
    for ask in (target.status, target.active, target.rollback, lambda: deliver(target, new)):
        with pytest.raises(TargetError, match=r"install\.json is damaged"):
            ask()


def test_status_says_what_was_signed_by_whom(target: ReleaseTarget, new: Bundle) -> None:
    release = make_release(new)
    target.activate(release, now_s=time.time(), samples=20)
    status = target.status()
    assert status["bundle_digest"] == new.digest
    assert status["contract_hash"] == new.contract.hash
    assert status["golden_hash"] == new.files["golden.npz"]["sha256"]
    assert (status["agent"], status["profile"], status["expired"]) == ("new", "local", False)
    assert status["version"] == status["highest_version"] == release.manifest["version"]
    assert status["signed_by"] == f"{release.manifest['key'][:16]} (tests)"
    assert status["python"] == sys.executable


# The folder -----------------------------------------------------------------------------------------------------------


def test_a_folder_below_a_file_is_a_plain_error(tmp_path: Path, new: Bundle) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetError, match="Not a directory"):
        deliver(local_target(tmp_path / "file" / "target"), new)


LIMITED = """
import os, resource, sys, time
from pathlib import Path
import packaging.requirements  # while everything can be read
from tests.deploy_support import local_target, make_release
from sim2sky.agent.bundle import open_bundle
from sim2sky.errors import TargetError
bundle, root, uid, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
release = make_release(open_bundle(bundle))
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
if uid:
    os.seteuid(uid)
try:
    local_target(root).activate(release, now_s=time.time())
except TargetError as error:
    print(error)
"""


def limited(bundle: Bundle, root: Path, *, uid: int = 0, size: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(bundle.path), str(root), str(uid), str(size)],
        env={**os.environ, "PYTHONPATH": f"{SRC}:{SRC.parent}", "TMPDIR": "/tmp"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_leaves_no_half_release(target: ReleaseTarget, root: Path, old: Bundle, new: Bundle) -> None:
    """The file size limit makes the kernel refuse a write in the middle of the copy, as a full disk does."""
    first = deliver(target, old)["release"]
    said = limited(new, root, size=9000)
    assert "File too large" in said
    assert "free some space" in said
    assert (target.active(), flown(target)["digest"]) == (first, old.digest)
    target.gc()
    assert leftovers(root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, to whom the folder is read-only")
def test_a_read_only_target_is_a_plain_error(tmp_path: Path, new: Bundle) -> None:
    root = tmp_path / "readonly"
    root.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    assert "Permission denied" in limited(new, root, uid=65534)
    assert list(root.iterdir()) == []


def test_a_temporary_target_is_as_good_as_any(new: Bundle, tmp_path: Path) -> None:
    target = temporary_target(new, tmp_path)
    assert test_on_target(target, samples=20)["digest"] == new.digest
    shutil.rmtree(Path(target.transport.root) / "releases")
    with pytest.raises(TargetError, match="there is no release"):
        test_on_target(target, samples=20)


@pytest.mark.parametrize("text", ["serial:/dev/ttyACM0", "tcp:127.0.0.1:5760"])
def test_targets_that_are_not_supported_say_so(text: str) -> None:
    with pytest.raises(NotSupportedError, match=r"^not supported: (tcp|serial) targets") as caught:
        open_target(text)
    assert "local:" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["local:", "models/hawk", ""])
def test_senseless_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_target(text)
    assert caught.value.hint.startswith("write local:FOLDER")


def test_a_login_is_told_how_to_write_it() -> None:
    with pytest.raises(ConfigError) as caught:
        open_target("jetson@192.168.1.100")
    assert caught.value.hint == "write ssh://jetson@192.168.1.100/~/controls"
