"""Bundles: written whole or not at all, equal inputs give equal digests, and no change of any byte goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from sim2sky.agent.bundle import MANIFEST, Bundle, open_bundle, write_bundle
from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal, canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes, max_error
from sim2sky.agent.layers import Activation, Dense, InputHead, Network, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.errors import BundleError

CONTRACT = Contract(
    "",
    "",
    50.0,
    (Input("observation", "box", (3,), "float32", tuple(Signal(f"s{i}", "1", "", -1.0, 1.0) for i in range(3))),),
    Output("continuous", (ActionSignal("aileron", "1", -1.0, 1.0, -1.0, 0.0, 1.0),)),
)


def network() -> Network:
    rng = np.random.default_rng(3)
    return Network(
        (InputHead("observation", 3),),
        (Dense(rng.normal(size=(1, 3)).astype(np.float32), np.zeros(1, np.float32)), Activation("tanh")),
    )


def golden() -> GoldenVectors:
    x = np.random.default_rng(4).normal(size=(256, 3)).astype(np.float32)
    action = evaluate(network(), {"observation": x})[0].astype(np.float32)
    return GoldenVectors({"observation": x}, action, None, np.array(["sampled"] * 256), np.ones(1))


def contents() -> dict[str, bytes]:
    return {
        "network.npz": network_to_bytes(network()),
        "golden.npz": golden_to_bytes(golden()),
        "policy.onnx": b"not really a graph, but bytes all the same",
        "safety.json": canonical_json({"altitude_min_m": 10.0}),
    }


def write(out: Path, **changes: object) -> Bundle:
    arguments = {
        "agent": "hawk",
        "contract": CONTRACT,
        "formats": {"onnx": "policy.onnx"},
        "active": "onnx",
        "files": contents(),
        "profile": "jetson_nano",
        "provenance": {"algorithm": "PPO", "num_timesteps": 7, "zip_sha256": "0" * 64},
    }
    return write_bundle(out, **(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "b")


def test_what_went_in_comes_out(bundle: Bundle) -> None:
    again = open_bundle(bundle.path, digest=bundle.digest)
    assert (again.agent, again.active, again.profile) == ("hawk", "onnx", "jetson_nano")
    assert again.contract == CONTRACT
    assert again.safety() == {"altitude_min_m": 10.0}
    assert again.policy_file() == "policy.onnx"
    assert again.read("policy.onnx") == contents()["policy.onnx"]
    replay = evaluate(again.network(), again.golden().observations)[0]
    assert max_error(again.golden(), replay) < 1e-6


def test_equal_inputs_give_equal_bytes_and_digest(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert first.digest == second.digest
    for name in [*first.files, MANIFEST]:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_digest_is_the_hash_of_the_canonical_manifest(bundle: Bundle) -> None:
    document = json.loads((bundle.path / MANIFEST).read_bytes())
    assert hashlib.sha256(canonical_json(document["manifest"])).hexdigest() == bundle.digest == document["digest"]


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "kite"},
        {"profile": ""},
        {"provenance": {"algorithm": "SAC"}},
        {"files": contents() | {"policy.onnx": b"other"}},
        {"contract": Contract("", "", 51.0, CONTRACT.inputs, CONTRACT.output)},
    ],
)
def test_any_other_input_gives_another_digest(bundle: Bundle, tmp_path: Path, change: dict[str, object]) -> None:
    assert write(tmp_path / "other", **change).digest != bundle.digest


def test_writing_the_same_bundle_again_changes_nothing(bundle: Bundle) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in bundle.path.iterdir()}
    assert write(bundle.path).digest == bundle.digest
    assert {p.name: p.stat().st_mtime_ns for p in bundle.path.iterdir()} == before


def test_another_bundle_is_not_overwritten_unless_asked(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="already exists"):
        write(bundle.path, agent="kite")
    assert open_bundle(bundle.path).agent == "hawk"
    assert write(bundle.path, agent="kite", replace=True).agent == "kite"
    assert sorted(p.name for p in bundle.path.parent.iterdir()) == ["b"]


def test_replace_never_removes_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="already exists"):
        write(tmp_path / "precious", replace=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_a_damaged_bundle_is_repaired_by_replace(bundle: Bundle) -> None:
    (bundle.path / "policy.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        write(bundle.path)
    assert write(bundle.path, replace=True).digest == bundle.digest


def test_a_flipped_bit_at_any_place_of_any_file_is_found(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(bundle.path.iterdir()):
        good = path.read_bytes()
        places = range(len(good)) if len(good) < 400 else {0, len(good) - 1, *rng.integers(0, len(good), 40).tolist()}
        for place in places:
            bad = bytearray(good)
            bad[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(bad))
            with pytest.raises(BundleError):
                open_bundle(bundle.path)
        path.write_bytes(good)
    open_bundle(bundle.path)


def test_truncation_at_any_length_is_found(bundle: Bundle) -> None:
    for path in sorted(bundle.path.iterdir()):
        good = path.read_bytes()
        for length in {0, 1, len(good) // 2, len(good) - 1}:
            path.write_bytes(good[:length])
            with pytest.raises(BundleError):
                open_bundle(bundle.path)
        path.write_bytes(good + b"\n")
        with pytest.raises(BundleError):
            open_bundle(bundle.path)
        path.write_bytes(good)


def test_missing_and_superfluous_files_are_named(bundle: Bundle) -> None:
    (bundle.path / "policy.onnx").rename(bundle.path / "policy2.onnx")
    with pytest.raises(BundleError, match=r"lacks policy\.onnx"):
        open_bundle(bundle.path)
    (bundle.path / "policy2.onnx").rename(bundle.path / "policy.onnx")
    (bundle.path / "extra.txt").write_text("")
    with pytest.raises(BundleError, match=r"does not name: extra\.txt"):
        open_bundle(bundle.path)
    (bundle.path / "extra.txt").unlink()
    (bundle.path / "folder").mkdir()
    with pytest.raises(BundleError, match="folder"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["policy.onnx", "bundle.json", "contract.json"])
def test_links_and_pipes_are_refused_even_with_the_right_content(bundle: Bundle, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (bundle.path / name).rename(outside)
    (bundle.path / name).symlink_to(outside)
    with pytest.raises(BundleError, match="not a plain file"):
        open_bundle(bundle.path)
    (bundle.path / name).unlink()
    os.mkfifo(bundle.path / name)
    with pytest.raises(BundleError, match="not a plain file"):
        open_bundle(bundle.path)


def test_a_link_to_the_folder_is_how_a_target_names_the_current_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle.path)
    assert open_bundle(tmp_path / "current").path == bundle.path.resolve()


def forge(bundle: Bundle, change: object) -> None:
    """Rewrite the manifest with a digest that fits: what an attacker, not an accident, would do."""
    document = json.loads((bundle.path / MANIFEST).read_bytes())
    change(document["manifest"])  # type: ignore[operator]
    document["digest"] = hashlib.sha256(canonical_json(document["manifest"])).hexdigest()
    (bundle.path / MANIFEST).write_bytes(canonical_json(document) + b"\n")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", ".", ".hidden", "a\\b", "bundle.json", ""])
def test_names_that_leave_the_folder_are_refused(bundle: Bundle, name: str) -> None:
    forge(bundle, lambda m: m["files"].update({name: m["files"]["policy.onnx"]}))
    with pytest.raises(BundleError, match="not allowed"):
        open_bundle(bundle.path)
    with pytest.raises(BundleError, match="not allowed"):
        write(bundle.path.parent / "new", files=contents() | {name: b""})
    assert not (bundle.path.parent / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=2), "schema 2"),
        (lambda m: m.pop("profile"), "fields"),
        (lambda m: m.update(surprise=1), "fields"),
        (lambda m: m.update(agent=7), "not a text"),
        (lambda m: m.update(agent="../up"), "agent name"),
        (lambda m: m.update(files=[]), "not a mapping"),
        (lambda m: m.update(active="tensorrt"), "active format"),
        (lambda m: m["formats"].update(torchscript="policy.pt"), "format 'torchscript'"),
        (lambda m: m["formats"].update(onnx=["policy.onnx"]), "format 'onnx'"),
        (lambda m: m["files"].pop("golden.npz"), "needs a file golden"),
        (lambda m: m["files"]["policy.onnx"].update(size=-1), "malformed"),
        (lambda m: m["files"]["policy.onnx"].update(size=True), "malformed"),
        (lambda m: m["files"]["policy.onnx"].update(sha256="abc"), "malformed"),
        (lambda m: m["files"]["policy.onnx"].update(mode=7), "exactly sha256 and size"),
        (lambda m: m["files"].update({"POLICY.onnx": m["files"]["policy.onnx"]}), "differ in case"),
        (lambda m: m.update(contract_hash="0" * 64), "not the contract"),
    ],
)
def test_a_forged_manifest_is_refused(bundle: Bundle, change: object, message: str) -> None:
    forge(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_a_consistent_forgery_has_another_digest(bundle: Bundle) -> None:
    forge(bundle, lambda m: m.update(agent="impostor"))
    assert open_bundle(bundle.path).digest != bundle.digest
    with pytest.raises(BundleError, match="has digest"):
        open_bundle(bundle.path, digest=bundle.digest)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b'{"manifest": []}', b"{", b"\xff\xfe", b"[" * 100_000, b'{"manifest": {"a": NaN}}']
)
def test_a_manifest_that_is_no_manifest(bundle: Bundle, text: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError):
        open_bundle(bundle.path)


def test_white_space_in_the_manifest_counts_as_damage(bundle: Bundle) -> None:
    document = json.loads((bundle.path / MANIFEST).read_bytes())
    (bundle.path / MANIFEST).write_text(json.dumps(document, indent=1))
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(bundle.path)


def test_a_file_changed_after_opening_is_not_handed_out(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path)
    size = len(opened.read("policy.onnx"))
    (bundle.path / "policy.onnx").write_bytes(b"y" * size)
    with pytest.raises(BundleError, match="differs from its manifest"):
        opened.read("policy.onnx")
    with pytest.raises(BundleError, match="no file"):
        opened.read("../secret")


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="cannot read"):
        open_bundle(tmp_path / "empty")


def test_provenance_must_be_json(tmp_path: Path) -> None:
    for value in (object(), float("nan"), b"bytes"):
        with pytest.raises(BundleError, match="not JSON"):
            write(tmp_path / "b", provenance={"x": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(BundleError, match="cannot write"):
            write(tmp_path / "b")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot write"):
        write(tmp_path / "file" / "b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real ENOSPC: the kernel's own full device stands in for the third file that is written.
    real_open, opened = Path.open, []

    def full_after_two(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        if mode == "xb":
            opened.append(self)
            if len(opened) > 2:
                return real_open(Path("/dev/full"), "wb")
        return real_open(self, mode, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", full_after_two)
    with pytest.raises(BundleError, match="No space left"):
        write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_imports_only_numpy_of_third_parties() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import sim2sky.agent.bundle, sim2sky.agent.golden; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch','stable_baselines3','gymnasium','onnx','pydantic','h5py','jsbsim'}))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
