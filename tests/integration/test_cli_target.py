"""`sim2sky keys` and `sim2sky target` as people type them, on a local target."""

import json
import time
from pathlib import Path

import pytest
from tests.deploy_support import deliver, local_target, make_bundle

from sim2sky import cli
from sim2sky.deployment.keys import KeyRing
from sim2sky.deployment.signing import find_signer, signed_release
from sim2sky.errors import TargetError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_keys_are_made_listed_and_kept(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code, out, err = run(capsys, "keys", "list")
    assert (code, out) == (0, "")
    assert "the first deployment makes one" in err
    code, out, _ = run(capsys, "keys", "new", "hawk")
    assert code == 0
    assert str(config / "sim2sky" / "keys" / "hawk.key") in out
    public = KeyRing().load("hawk").public.hex()
    assert run(capsys, "keys", "list")[1] == f"{public[:16]}  hawk\n"
    assert json.loads(run(capsys, "keys", "list", "--json")[1])["keys"] == {"hawk": public}
    code, _, err = run(capsys, "keys", "new", "hawk")
    assert code == 2
    assert "it is not overwritten" in err


def test_status_rollback_and_gc(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where, target = f"local:{tmp_path / 'target'}", local_target(tmp_path / "target")
    for command in ("status", "rollback", "gc"):
        code, _, err = run(capsys, "target", command, where)
        assert code == 2
        assert "nothing is installed\n  -> sim2sky deploy NAME MODEL TARGET" in err
    first = deliver(target, make_bundle(tmp_path / "a", seed=1, agent="first"))["release"]
    second = deliver(target, make_bundle(tmp_path / "b", seed=2, agent="second"))["release"]
    code, out, _ = run(capsys, "target", "status", where)
    assert code == 0
    assert f"active    {second}" in out
    assert f"previous  {first}" in out
    assert "agent     second" in out
    assert "✓ 11 files read, every byte as signed" in out
    code, out, _ = run(capsys, "target", "rollback", where)
    assert (code, out) == (0, f"{target.name}: active is {first}, was {second}\n")
    assert json.loads(run(capsys, "target", "status", where, "--json")[1])["active"] == first
    assert run(capsys, "target", "gc", where)[1] == f"{target.name}: removed nothing\n"
    assert json.loads(run(capsys, "target", "gc", where, "--json")[1])["removed"] == []
    assert json.loads(run(capsys, "target", "rollback", where, "--json")[1])["release"] == second


def test_one_changed_byte_is_exit_code_1_and_its_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = f"local:{tmp_path / 'target'}"
    deliver(local_target(tmp_path / "target"), make_bundle(tmp_path / "a"))
    path = tmp_path / "target" / "current" / "bundle" / "policy.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    code, out, _ = run(capsys, "target", "status", where)
    assert code == 1
    assert "✗ bundle/policy.onnx differs from the signed manifest (sha256)" in out
    code, out, _ = run(capsys, "target", "status", where, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "fail")


def test_a_lost_laptop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The life of a key: first use, a second one trusted, the first revoked, and nothing of it starts any more."""
    where, target = f"local:{tmp_path / 'target'}", local_target(tmp_path / "target")
    bundle, told = make_bundle(tmp_path / "a"), list[str]()

    def install(name: str, now_s: float) -> str:
        key = find_signer(name, told.append)
        release = signed_release(bundle, tmp_path / f"release-{name}", key, now_s=now_s, above=target.highest_version())
        told.extend(target.stage(release, now_s=time.time()))
        return target.finish(release, samples=20)["release"]

    first = install("default", time.time())
    assert told[0].startswith("made the signing key ")
    assert told[1].startswith("first installation there: it trusts key ")
    assert run(capsys, "keys", "new", "second")[0] == 0
    with pytest.raises(TargetError, match="which this target does not trust"):
        install("second", time.time())
    code, out, _ = run(capsys, "keys", "trust", "second", where)
    assert code == 0
    assert out.startswith(f"{target.name} trusts key ")
    public = tmp_path / "config" / "sim2sky" / "keys" / "second.pub"
    assert "trusted already" in run(capsys, "keys", "trust", public, where)[1]
    code, out, _ = run(capsys, "keys", "revoke", "default", where)
    assert code == 0
    assert "does not start any more: deploy with another key" in out
    assert "had revoked" in run(capsys, "keys", "revoke", "default", where)[1]
    code, out, _ = run(capsys, "target", "status", where)
    assert code == 1
    assert "which is revoked here" in out
    code, _, err = run(capsys, "keys", "trust", "default", where)
    assert code == 1
    assert "was revoked here for good" in err
    assert run(capsys, "test-inference", where)[0] == 1
    again = install("second", time.time())
    assert again != first
    assert run(capsys, "target", "status", where)[0] == 0
    assert run(capsys, "target", "rollback", where)[0] == 1


def test_a_target_can_be_told_whom_to_trust_before_its_first_release(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """So that nobody else can be the first."""
    where = f"local:{tmp_path / 'target'}"
    assert run(capsys, "keys", "new", "mine")[0] == 0
    assert run(capsys, "keys", "trust", "mine", where)[0] == 0
    code, out, _ = run(capsys, "target", "status", where)
    assert code == 1
    assert "nothing is installed" in out
    with pytest.raises(TargetError, match="which this target does not trust"):
        deliver(local_target(tmp_path / "target"), make_bundle(tmp_path / "a"))


def test_a_release_is_signed_once_and_used_again(tmp_path: Path) -> None:
    bundle, out = make_bundle(tmp_path / "a"), tmp_path / "release"
    key = find_signer("default", lambda _: None)
    first = signed_release(bundle, out, key, now_s=1000.0)
    assert signed_release(bundle, out, key, now_s=2000.0, above=first.manifest["version"]).name == first.name
    fresh = signed_release(bundle, out, key, now_s=2000.0, fresh=True)
    assert fresh.manifest["version"] > first.manifest["version"]
    above = signed_release(bundle, out, key, now_s=2000.0, above=9_000)
    assert above.manifest["version"] == 9_001
    stale = signed_release(bundle, out, key, now_s=float(above.manifest["expires"]))
    assert stale.manifest["expires"] > above.manifest["expires"]
    other = signed_release(make_bundle(tmp_path / "b", seed=5), out, key, now_s=2e7)
    assert other.name[:16] != stale.name[:16]
    (out / "bundle" / "golden.npz").write_bytes(b"x")
    again = signed_release(make_bundle(tmp_path / "b", seed=5), out, key, now_s=2e7)
    assert again.manifest["version"] > other.manifest["version"]


@pytest.mark.parametrize(
    "arguments",
    [("keys", "trust"), ("keys", "trust", "nokey", "local:x"), ("keys", "revoke", "nokey", "local:x"),
     ("keys", "bogus"), ("target", "status"), ("target", "status", "nonsense"), ("target", "bogus", "local:x"),
     ("deploy", "hawk", "nowhere.zip", "local:x", "--key", "nokey"), ("keys", "new", "../x")],
)  # fmt: skip
def test_misuse_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *arguments)[0] == 2
    assert not (tmp_path / "x").exists()
