"""Installing on a `local:` target: every state ended by an error and by SIGKILL, damage on the way, wrong exports.

Real processes, a real onnxruntime on the far side; after everything that goes wrong the previous release flies.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sim2sky.deployment.local_target import LocalTarget, distribution_closure, runtime_files
from tests.deploy_support import make_bundle, network

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.layers import Dense, Network
from sim2sky.deployment import install as installer
from sim2sky.deployment.install import STATES
from sim2sky.deployment.targets import open_target
from sim2sky.errors import ConfigError, NotSupportedError, TargetError

SRC = Path(installer.__file__).resolve().parents[2]


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "old", seed=1, agent="old")


@pytest.fixture
def new(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "new", seed=2, agent="new")


@pytest.fixture
def target(tmp_path: Path) -> LocalTarget:
    return LocalTarget(tmp_path / "target")


def flown(target: LocalTarget) -> dict[str, object]:
    """What a fresh process on the target finds when it starts `current`."""
    done = target.run(target.command("sim2sky.deployment.test_inference", "--bundle", "{release}/bundle"))
    assert done.returncode == 0, done
    return json.loads(done.stdout.splitlines()[-1])


def leftovers(target: LocalTarget) -> list[str]:
    return [p.name for p in (target.root / "incoming").iterdir()] + [
        p.name for p in (target.root / "releases").iterdir() if p.name.startswith(".")
    ]


def test_install_makes_current_and_reports_from_the_target(target: LocalTarget, new: Bundle) -> None:
    states: list[str] = []
    report = target.activate(new, on_state=states.append)
    assert tuple(states) == STATES
    assert report["digest"] == new.digest
    assert report["golden_max_error"] < 1e-5
    assert report["latency"]["n"] == 300
    assert report["foreign_modules"] == []
    assert target.active() == report["release"]
    assert (target.root / "current").readlink().name == report["release"]
    assert flown(target)["digest"] == new.digest
    assert leftovers(target) == []


def test_nothing_but_the_flight_packages_is_importable(target: LocalTarget, new: Bundle) -> None:
    target.activate(new)
    code = """
import importlib, json, sys
found = {}
for name in ("torch", "jsbsim", "pydantic", "stable_baselines3", "gymnasium", "onnx", "rich", "cyclopts", "scipy",
             "sim2sky.config", "sim2sky.cli", "sim2sky.validation", "sim2sky.training", "sim2sky.environments",
             "numpy", "onnxruntime", "pymavlink", "h5py", "sim2sky.runtime.inference", "sim2sky.runtime.safety"):
    try:
        importlib.import_module(name); found[name] = True
    except ImportError:
        found[name] = False
print(json.dumps(found))
"""
    release = target.active()
    assert release
    probe = target.root / "releases" / release / "runtime" / "probe.py"
    probe.write_text(code)
    done = target.run(target.command("probe"))
    found = json.loads(done.stdout)
    allowed = {"numpy", "onnxruntime", "pymavlink", "h5py", "sim2sky.runtime.inference", "sim2sky.runtime.safety"}
    assert {name for name, ok in found.items() if ok} == allowed


def test_every_module_of_the_released_runtime_imports_there(target: LocalTarget, new: Bundle) -> None:
    target.activate(new)
    release = target.active()
    assert release
    names = [n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in runtime_files()]
    probe = target.root / "releases" / release / "runtime" / "probe.py"
    probe.write_text(f"import importlib\nfor n in {names!r}:\n    importlib.import_module(n)\nprint('all')\n")
    done = target.run(target.command("probe"))
    assert done.stdout.strip() == "all", done.stderr


def test_site_holds_links_to_the_closure_of_four_packages(target: LocalTarget) -> None:
    target.prepare()
    names = {d.name.lower() for d in distribution_closure(("numpy", "onnxruntime", "pymavlink", "h5py"))}
    assert {"numpy", "onnxruntime", "pymavlink", "h5py", "lxml", "protobuf"} <= names
    assert not names & {"torch", "jsbsim", "pydantic", "onnx", "scipy"}
    assert all(p.is_symlink() or p.is_dir() for p in (target.root / "site").iterdir())
    assert (target.root / "site" / "numpy").is_symlink()
    before = sorted(p.name for p in target.root.iterdir())
    target.prepare()
    assert sorted(p.name for p in target.root.iterdir()) == before


KILLER = """
import os, signal, sys
from pathlib import Path
from sim2sky.deployment import install
root, release, state = Path(sys.argv[1]), *sys.argv[2:4]
def on_state(now):
    if now == state:
        os.kill(os.getpid(), signal.SIGKILL)
install.install(root, release, on_state=on_state,
                check=lambda root, release: install.run_inference_test(root, release, samples=20))
"""


def _tested(root: Path, release: str) -> dict[str, object]:
    return installer.run_inference_test(root, release, samples=20)


def installer_ended(target: LocalTarget, release: str, state: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLER, str(target.root), release, state],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", ["kill", "error"])
@pytest.mark.parametrize("state", STATES)
def test_ended_in_every_state_the_previous_release_flies(
    target: LocalTarget, old: Bundle, new: Bundle, state: str, how: str
) -> None:
    first = target.activate(old, samples=20)["release"]
    release = target.stage(new)
    if how == "kill":
        done = installer_ended(target, release, state)
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:

        def fail(now: str) -> None:
            if now == state:
                raise TargetError(f"made to fail in {now}")

        with pytest.raises(TargetError, match=f"made to fail in {state}"):
            installer.install(target.root, release, on_state=fail, check=_tested)
    assert target.active() == first
    assert flown(target)["digest"] == old.digest
    if how == "error":  # cleaned up at once; after a kill, by the next installation
        assert leftovers(target) == []
        assert (target.root / "current").readlink().name == first
        assert not (target.root / "releases" / release).exists()
    report = target.activate(new, samples=20)
    assert report["previous"] == first
    assert flown(target)["digest"] == new.digest
    assert leftovers(target) == []


@pytest.mark.parametrize("state", ["stage", "switch", "commit"])
def test_killed_during_the_very_first_installation_nothing_is_active(
    target: LocalTarget, new: Bundle, state: str
) -> None:
    release = target.stage(new)
    installer_ended(target, release, state)
    assert target.active() is None
    with pytest.raises(TargetError, match="nothing is installed"):
        _run_current(target)
    assert target.activate(new, samples=20)["previous"] is None
    assert flown(target)["digest"] == new.digest


def _run_current(target: LocalTarget) -> None:
    done = target.run(target.command("sim2sky.deployment.test_inference", "--bundle", "{release}/bundle"))
    if done.returncode:
        raise TargetError(done.stderr.strip())


def test_killed_while_copying_leaves_no_release(target: LocalTarget, old: Bundle, new: Bundle) -> None:
    target.activate(old, samples=20)
    part = target.root / "incoming" / "half.part"
    part.mkdir()
    (part / "policy.onnx").write_bytes(b"half")
    target.activate(new, samples=20)
    assert leftovers(target) == []


def test_killed_test_process_on_the_target_is_a_plain_failure(target: LocalTarget, old: Bundle, new: Bundle) -> None:
    target.activate(old, samples=20)
    release = target.stage(new)
    suicide = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    _tamper(target, release, "runtime/sim2sky/deployment/test_inference.py", suicide.encode(), consistent=True)
    with pytest.raises(TargetError, match="inference test was ended by SIGKILL"):
        target.finish(_rename_to_content(target, release), new.digest)
    assert flown(target)["digest"] == old.digest


def _tamper(target: LocalTarget, release: str, name: str, data: bytes, *, consistent: bool) -> None:
    folder = target.root / "incoming" / release
    (folder / name).write_bytes(data)
    if consistent:
        manifest = json.loads((folder / "release.json").read_text())
        import hashlib

        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        manifest["release"] = installer.release_name(manifest["bundle_digest"], manifest["files"])
        (folder / "release.json").write_text(json.dumps(manifest))


def _rename_to_content(target: LocalTarget, release: str) -> str:
    folder = target.root / "incoming" / release
    name = json.loads((folder / "release.json").read_text())["release"]
    folder.rename(folder.with_name(name))
    return name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "bundle/policy.onnx").write_bytes(b"x"), "policy.onnx was damaged on the way"),
        (lambda f: (f / "runtime/sim2sky/errors.py").unlink(), "errors.py did not arrive"),
        (lambda f: (f / "runtime/sim2sky/extra.py").write_text(""), "extra.py is not in the release's manifest"),
        (lambda f: (f / "release.json").write_text("{"), "without a readable release.json"),
        (lambda f: (f / "bundle/link").symlink_to("/etc/passwd"), "bundle/link is not a plain file"),
    ],
)
def test_damage_on_the_way_is_refused(
    target: LocalTarget, old: Bundle, new: Bundle, damage: object, message: str
) -> None:
    target.activate(old, samples=20)
    release = target.stage(new)
    damage(target.root / "incoming" / release)  # type: ignore[operator]
    # The damaged release's own code is not trusted with the verdict: this installer judges it.
    with pytest.raises(TargetError, match=message):
        installer.install(target.root, release, check=lambda *_: {}, digest=new.digest)
    assert flown(target)["digest"] == old.digest
    assert leftovers(target) == []


def test_another_bundle_than_asked_for_is_refused(target: LocalTarget, old: Bundle, new: Bundle) -> None:
    release = target.stage(new)
    with pytest.raises(TargetError, match=f"expected {old.digest[:12]}"):
        target.finish(release, old.digest)
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
    target: LocalTarget, old: Bundle, tmp_path: Path, kind: str
) -> None:
    target.activate(old, samples=20)
    broken = make_bundle(tmp_path / "broken", seed=2, exported=_wrong(kind))
    with pytest.raises(TargetError, match="golden vectors differ by"):
        target.activate(broken)
    assert flown(target)["digest"] == old.digest


def test_a_policy_that_cannot_be_loaded_is_refused(target: LocalTarget, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot load"):
        target.activate(make_bundle(tmp_path / "b", onnx=b"no onnx at all"))
    assert target.active() is None


def test_a_recorded_tolerance_lets_a_quantised_policy_pass(target: LocalTarget, tmp_path: Path) -> None:
    rough = network(0)
    dense = rough.layers[0]
    assert isinstance(dense, Dense)
    rounded = Dense(np.round(dense.weight, 2), dense.bias)
    net = Network(rough.inputs, (rounded, *rough.layers[1:]))
    with pytest.raises(TargetError, match="golden"):
        target.activate(make_bundle(tmp_path / "strict", exported=net))
    bundle = make_bundle(tmp_path / "loose", exported=net, provenance={"golden_tolerance": 0.1})
    report = target.activate(bundle)
    assert 1e-5 < report["golden_max_error"] < 0.1


def test_two_installations_at_once_are_refused(target: LocalTarget, new: Bundle) -> None:
    release = target.stage(new)
    with (target.root / "install.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another installation is running"):
            target.finish(release, new.digest)
    assert target.finish(release, new.digest)["digest"] == new.digest


def test_old_releases_are_pruned_but_never_the_previous_one(target: LocalTarget, tmp_path: Path) -> None:
    releases = [target.activate(make_bundle(tmp_path / str(i), seed=i), samples=20)["release"] for i in range(5)]
    kept = {p.name for p in (target.root / "releases").iterdir()}
    assert len(kept) == installer.KEEP
    assert set(releases[-2:]) <= kept


def test_a_damaged_journal_is_a_plain_error(target: LocalTarget, new: Bundle) -> None:
    target.activate(new, samples=20)
    (target.root / "install.json").write_text("{")
    with pytest.raises(TargetError, match=r"install\.json is damaged"):
        target.activate(new)


def test_a_folder_that_holds_something_else_is_not_taken(tmp_path: Path, new: Bundle) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(TargetError, match="is no target: it holds"):
        LocalTarget(tmp_path).activate(new)
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("new", "thesis.txt")] == []


def test_a_folder_below_a_file_is_a_plain_error(tmp_path: Path, new: Bundle) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetError, match="Not a directory"):
        LocalTarget(tmp_path / "file" / "target").activate(new)


LIMITED = """
import os, resource, sys
from pathlib import Path
from sim2sky.agent.bundle import open_bundle
from sim2sky.deployment.targets import LocalTarget
from sim2sky.errors import TargetError
bundle, root, uid, size = open_bundle(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
if uid:
    os.seteuid(uid)
try:
    LocalTarget(root).activate(bundle)
except TargetError as error:
    print(error)
"""


def test_a_full_disk_leaves_no_half_release(target: LocalTarget, old: Bundle, new: Bundle) -> None:
    """The file size limit makes the kernel refuse a write in the middle of the copy, as a full disk does."""
    target.activate(old, samples=20)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(new.path), str(target.root), "0", "9000"],
        env={**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": "/tmp"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "File too large" in done.stdout, done
    assert "free some space" in done.stdout
    assert leftovers(target) == []
    assert flown(target)["digest"] == old.digest


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, to whom the folder is read-only")
def test_a_read_only_target_is_a_plain_error(tmp_path: Path, new: Bundle) -> None:
    root = tmp_path / "readonly"
    root.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(new.path), str(root), "65534", "0"],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Permission denied" in done.stdout, done
    assert list(root.iterdir()) == []


def test_put_and_get_are_complete_or_not_at_all(target: LocalTarget, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"abc")
    target.prepare()
    target.put(source, "incoming/x")
    target.get("incoming/x/deep/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"abc"
    with pytest.raises(TargetError, match="No such file"):
        target.get("incoming/none", tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_a_command_that_hangs_or_dies_is_a_plain_error(target: LocalTarget) -> None:
    target.prepare()
    with pytest.raises(TargetError, match="did not end within"):
        target.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)
    with pytest.raises(TargetError, match="ended by SIGSEGV"):
        target.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])


@pytest.mark.parametrize("text", ["ssh://pi@10.0.0.2", "jetson@192.168.1.100", "serial:/dev/ttyACM0"])
def test_targets_that_come_later_say_so(text: str) -> None:
    with pytest.raises(NotSupportedError, match=r"^not supported: (ssh|serial) targets") as caught:
        open_target(text)
    assert "local:" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["local:", "models/hawk", ""])
def test_senseless_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_target(text)
    assert caught.value.hint == "write local:FOLDER"
