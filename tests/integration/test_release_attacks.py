"""One test per attack on an update, after the list of The Update Framework: nothing of it is ever installed or run.

The attacker may write anything into `incoming/`; what he lacks is a key that the target trusts. Every attack ends with
the release of before active, nothing of his left, and his code never started (`self_test` below would record it).
"""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy_support import KEY, make_bundle, make_release

from sim2sky.deployment import release_check
from sim2sky.deployment.install import go_back, install, recover, status
from sim2sky.deployment.keys import SigningKey
from sim2sky.deployment.launch import resolve, start
from sim2sky.deployment.release import LIFETIME_S, Release, build_release, installer_zip, open_release, runtime_zip
from sim2sky.deployment.release_check import canonical, check_manifest
from sim2sky.deployment.target_state import TargetState
from sim2sky.errors import TargetError

STRANGER = SigningKey.generate("stranger")
FIELDS = (
    "agent", "bundle_digest", "contract_hash", "expires", "files", "golden_hash", "key", "profile", "release", "schema",
    "version",
)  # fmt: skip


class Victim:
    """A target with release 10 installed, and release 20 of another agent just uploaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "target"
        self.root.mkdir()
        self.state = TargetState(str(self.root))
        with self.state.locked():
            self.state.add_key(KEY.line, first=True)
        self.tested: list[str] = []
        self.old = make_release(make_bundle(folder / "old", seed=1, agent="old"), version=10)
        self.new = make_release(make_bundle(folder / "new", seed=2, agent="new"), version=20)
        self.upload(self.old)
        self.install(self.old.name)
        self.tested.clear()

    def upload(self, release: Release) -> Path:
        return self.place(release.path, release.name)

    def place(self, source: Path, name: str) -> Path:
        where = self.root / "incoming" / name
        shutil.rmtree(where, ignore_errors=True)
        return Path(shutil.copytree(source, where, symlinks=True))

    def self_test(self, _: str, release: str) -> dict[str, object]:
        self.tested.append(release)
        return {"passed": True}

    def install(self, name: str, *, now_s: float | None = None) -> dict[str, Any]:
        return install(str(self.root), name, check=self.self_test, now_s=now_s)

    def refuses(self, name: str, message: str, **how: Any) -> None:
        before = self.state.highest_seen()
        with pytest.raises(TargetError, match=message):
            self.install(name, **how)
        assert self.tested == []
        assert self.state.highest_seen() == before
        self.is_unharmed()

    def is_unharmed(self) -> None:
        found = status(str(self.root))
        assert (found["active"], found["problems"]) == (self.old.name, [])
        assert [p.name for p in (self.root / "releases").iterdir()] == [self.old.name]
        assert list((self.root / "incoming").iterdir()) == []


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim"))


@pytest.fixture
def victim(template: Victim, tmp_path: Path) -> Victim:
    """A copy of its own for each test."""
    twin = copy.copy(template)
    twin.root = Path(shutil.copytree(template.root, tmp_path / "target", symlinks=True))
    twin.state, twin.tested, twin.folder = TargetState(str(twin.root)), [], tmp_path
    return twin


def resign(folder: Path, change: Callable[[dict[str, Any]], None], key: SigningKey = KEY) -> None:
    """Change a manifest and sign it again: what only the holder of `key` can do."""
    manifest = json.loads((folder / "release.json").read_bytes())
    change(manifest)
    data = rfc8785.dumps(manifest)
    (folder / "release.json").write_bytes(data)
    (folder / "release.sig").write_bytes(key.public + key.sign(data))


def test_without_an_attack_it_is_installed(victim: Victim) -> None:
    """The positive control of everything below."""
    victim.upload(victim.new)
    assert victim.install(victim.new.name)["previous"] == victim.old.name
    assert victim.tested == [victim.new.name]
    assert status(str(victim.root))["active"] == victim.new.name


# Arbitrary software ---------------------------------------------------------------------------------------------------


def test_attack_an_extra_file(victim: Victim) -> None:
    (victim.upload(victim.new) / "sitecustomize.py").write_text("import os; os.abort()")
    victim.refuses(victim.new.name, r"sitecustomize\.py is not in the release's manifest")


def test_attack_a_missing_file(victim: Victim) -> None:
    (victim.upload(victim.new) / "bundle" / "safety.json").unlink(missing_ok=True)
    (victim.root / "incoming" / victim.new.name / "bundle" / "golden.npz").unlink()
    victim.refuses(victim.new.name, r"bundle/golden\.npz did not arrive")


def test_attack_an_exchanged_file(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    shutil.copy(victim.old.path / "bundle" / "policy.onnx", folder / "bundle" / "policy.onnx")
    victim.refuses(victim.new.name, r"bundle/policy\.onnx (differs from the signed manifest|has \d+ bytes)")


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_attack_one_flipped_byte_in_every_file(victim: Victim) -> None:
    """First, middle and last byte of each of them, also of manifest and signature."""
    names = _files(victim.new.path)
    assert len(names) == 11
    for name in names:
        size = (victim.new.path / name).stat().st_size
        for position in (0, size // 2, size - 1):
            path = victim.upload(victim.new) / name
            data = bytearray(path.read_bytes())
            data[position] ^= 0x20
            path.write_bytes(data)
            said = r"signed with key|signature" if name.startswith("release.") else rf"{name} differs"
            victim.refuses(victim.new.name, said)


@pytest.mark.parametrize("position", range(96))
def test_attack_one_flipped_byte_anywhere_in_the_signature(template: Victim, tmp_path: Path, position: int) -> None:
    data = bytearray((template.new.path / "release.sig").read_bytes())
    data[position] ^= 1 << position % 8
    for name in ("release.json", "release.sig"):
        shutil.copy(template.new.path / name, tmp_path / name)
    (tmp_path / "release.sig").write_bytes(data)
    with pytest.raises(TargetError):
        release_check.read_manifest(str(tmp_path), template.state.trust())


def _altered(value: object) -> object:
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return ("b" if value[0] == "a" else "a") + value[1:]
    assert isinstance(value, dict)
    name = min(value)
    return {**value, name: {**value[name], "size": value[name]["size"] + 1}}


@pytest.mark.parametrize("field", FIELDS)
def test_attack_every_field_of_the_manifest_changed_unsigned(victim: Victim, field: str) -> None:
    folder = victim.upload(victim.new)
    manifest = json.loads((folder / "release.json").read_bytes())
    assert set(manifest) == set(FIELDS)
    manifest[field] = _altered(manifest[field])
    (folder / "release.json").write_bytes(rfc8785.dumps(manifest))
    victim.refuses(victim.new.name, r"the signature is not that of release\.json")


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "expires"])
def test_even_signed_a_field_that_does_not_fit_the_content_is_refused(victim: Victim, field: str) -> None:
    """Nothing in the manifest is decoration: each field is compared with what it speaks of (expiry: see freeze)."""
    folder = victim.upload(victim.new)
    resign(folder, lambda m: m.update({field: _altered(m[field])}))
    with pytest.raises(TargetError):
        victim.install(victim.new.name)
    assert victim.tested == []
    victim.is_unharmed()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "", "../x", -1, 0, 1.5, True, [], {}, "A" * 200, 2**60, "gone"])
def test_manifests_with_senseless_fields_are_refused(template: Victim, field: str, value: object) -> None:
    manifest = json.loads((template.new.path / "release.json").read_bytes())
    assert check_manifest(canonical(manifest)) == manifest
    if value == "gone":
        del manifest[field]
    else:
        manifest[field] = value
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(TargetError, match=r"release\.json: "):
        check_manifest(data)


def test_attack_a_stranger_signs(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    resign(folder, lambda m: m.update(key=STRANGER.public.hex()), STRANGER)
    victim.refuses(victim.new.name, f"signed with key {STRANGER.id}, which this target does not trust")


def test_attack_a_stranger_signs_in_the_name_of_a_trusted_key(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    data = (folder / "release.json").read_bytes()
    (folder / "release.sig").write_bytes(KEY.public + STRANGER.sign(data))
    victim.refuses(victim.new.name, "the signature is not that of")


def test_attack_a_trusted_key_signs_what_names_another_key(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    resign(folder, lambda m: m.update(key=STRANGER.public.hex()))
    victim.refuses(victim.new.name, "names another key than the one that signed it")


def test_attack_unsigned(victim: Victim) -> None:
    (victim.upload(victim.new) / "release.sig").unlink()
    victim.refuses(victim.new.name, r"unsigned or incomplete: release\.sig")


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 96, b"x" * 95, b"x" * 97, KEY.public + bytes(64)],
    ids=["empty", "zero", "short", "long", "key without signature"],
)
def test_attack_a_signature_that_is_none(victim: Victim, data: bytes) -> None:
    (victim.upload(victim.new) / "release.sig").write_bytes(data)
    victim.refuses(victim.new.name, r"release\.sig|does not trust|the signature is not")


def test_attack_the_signature_of_another_manifest(victim: Victim) -> None:
    shutil.copy(victim.old.path / "release.sig", victim.upload(victim.new) / "release.sig")
    victim.refuses(victim.new.name, "the signature is not that of")


# Rollback, freeze, mix and match --------------------------------------------------------------------------------------


def test_attack_downgrade(victim: Victim) -> None:
    """An old release with a perfect signature, replayed: also after the newer one was only seen, not installed."""
    victim.upload(victim.new)

    def fails(_: str, __: str) -> dict[str, object]:
        raise TargetError("golden vectors differ")

    with pytest.raises(TargetError, match="golden vectors differ"):
        install(str(victim.root), victim.new.name, check=fails)
    middle = make_release(make_bundle(victim.folder / "middle", seed=3), version=15)
    victim.upload(middle)
    victim.refuses(middle.name, "version 15 is below the highest seen here, 20")


def test_attack_downgrade_with_the_record_of_versions_gone(victim: Victim) -> None:
    (victim.root / "versions.json").unlink()
    older = make_release(make_bundle(victim.folder / "older", seed=3), version=9)
    victim.upload(older)
    victim.refuses(older.name, "version 9 is below the highest seen here, 10")
    (victim.root / "versions.json").write_text('{"version": -5, "release": ""}')
    victim.upload(older)
    victim.refuses(older.name, "version 9 is below")


def test_attack_another_release_of_the_same_version(victim: Victim) -> None:
    twin = make_release(make_bundle(victim.folder / "twin", seed=3), version=10)
    victim.upload(twin)
    victim.refuses(twin.name, "version 10 is not above the highest seen here, 10")


def test_going_back_on_purpose_is_not_a_downgrade_and_opens_no_door_to_one(victim: Victim) -> None:
    victim.upload(victim.new)
    victim.install(victim.new.name)
    assert go_back(str(victim.root), refused=False)["release"] == victim.old.name
    middle = make_release(make_bundle(victim.folder / "middle", seed=3), version=15)
    victim.upload(middle)
    with pytest.raises(TargetError, match="version 15 is below the highest seen here, 20"):
        victim.install(middle.name)


def test_attack_freeze(victim: Victim) -> None:
    """Held back until it has expired, a release is no longer accepted."""
    expires = victim.new.manifest["expires"]
    victim.upload(victim.new)
    victim.refuses(victim.new.name, r"expired 0\.0 days ago by this target's clock", now_s=float(expires))
    victim.upload(victim.new)
    victim.refuses(victim.new.name, r"expired 30\.0 days ago", now_s=expires + 30 * 86400.0)
    victim.upload(victim.new)
    assert victim.install(victim.new.name, now_s=expires - 1.0)["release"] == victim.new.name
    found = status(str(victim.root), now_s=expires + 1.0)
    assert (found["expired"], found["problems"]) == (True, [])  # what is installed flies on


def test_attack_mix_and_match_of_two_signed_releases(victim: Victim) -> None:
    """Files of two releases, each with a good signature, under either of their manifests."""
    for name in _files(victim.new.path):
        ours, theirs = victim.new.path / name, victim.old.path / name
        if ours.read_bytes() == theirs.read_bytes():
            continue
        folder = victim.upload(victim.new)
        shutil.copy(theirs, folder / name)
        victim.refuses(victim.new.name, ".")


@pytest.mark.parametrize("name", ["policy.onnx", "network.npz", "golden.npz"])
def test_a_bundle_mixed_of_two_is_refused_even_if_someone_signed_it(victim: Victim, name: str) -> None:
    """The bundle's own digest, inside the signed list, still says which files belong together."""
    folder = victim.upload(victim.new)
    shutil.copy(victim.old.path / "bundle" / name, folder / "bundle" / name)

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][f"bundle/{name}"] = victim.old.manifest["files"][f"bundle/{name}"]
        manifest["golden_hash"] = manifest["files"]["bundle/golden.npz"]["sha256"]

    resign(folder, change)
    with pytest.raises(TargetError, match=rf"bundle/{name} belongs to another bundle"):
        victim.install(victim.new.name)
    victim.is_unharmed()


def test_attack_a_release_under_another_name(victim: Victim) -> None:
    victim.place(victim.new.path, victim.old.name.replace("-10", "-30"))
    with pytest.raises(TargetError, match=f"holds release {victim.new.name}"):
        victim.install(victim.old.name.replace("-10", "-30"))
    victim.is_unharmed()


# Endless data, odd names, links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["release.json", "release.sig", "bundle/policy.onnx", "sim2sky.pyz"])
def test_attack_endless_data(victim: Victim, name: str) -> None:
    """A terabyte (sparse, so that the test can afford it) is refused by its size, before a byte of it is read."""
    os.truncate(victim.upload(victim.new) / name, 1 << 40)
    began = time.monotonic()
    victim.refuses(victim.new.name, "is larger than|bytes, the manifest says")
    assert time.monotonic() - began < 2.0


def test_attack_endless_files(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    for number in range(500):
        (folder / "bundle" / f"x{number}").touch()
    victim.refuses(victim.new.name, "is not in the release's manifest")


@pytest.mark.parametrize("limit", ["MAX_FILE_BYTES", "MAX_TOTAL_BYTES"])
def test_a_manifest_that_announces_too_much_is_refused(template: Victim, limit: str) -> None:
    manifest = json.loads((template.new.path / "release.json").read_bytes())
    manifest["files"]["sim2sky.pyz"]["size"] = getattr(release_check, limit) + 1
    with pytest.raises(TargetError, match=r"the size of sim2sky\.pyz"):
        check_manifest(canonical(manifest))
    manifest["files"]["sim2sky.pyz"]["size"] = 1
    manifest["files"].update({f"x{i}": {"sha256": "0" * 64, "size": 200 << 20} for i in range(3)})
    with pytest.raises(TargetError, match="bytes in all"):
        check_manifest(canonical(manifest))
    manifest["files"].update({f"x{i}": {"sha256": "0" * 64, "size": 0} for i in range(300)})
    with pytest.raises(TargetError, match="at most 256 files"):
        check_manifest(canonical(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "bundle/../../evil", "./x", "bundle//x", "bundle/.hidden", "", ".", "..", "a\\b",
        "x\ny", "bundle/x/", "a/b/c/d/e", "x" * 200, "caf\u00e9", "release.json", "release.sig", "-rf", "x\0y",
    ],
)  # fmt: skip
def test_attack_path_traversal_and_odd_names(template: Victim, name: str) -> None:
    manifest = json.loads((template.new.path / "release.json").read_bytes())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    with pytest.raises(TargetError, match="is not allowed"):
        check_manifest(canonical(manifest))


@pytest.mark.parametrize(
    ("name", "message"),
    [("FLY", "differ in case only"), ("Bundle/policy.onnx", "differ in case only"), ("fly/x", "lies below a file")],
)
def test_attack_names_that_collide(template: Victim, name: str, message: str) -> None:
    manifest = json.loads((template.new.path / "release.json").read_bytes())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    with pytest.raises(TargetError, match=message):
        check_manifest(canonical(manifest))


def _symlink(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    elsewhere = path.parents[3] / "elsewhere"
    elsewhere.write_bytes(data)
    path.symlink_to(elsewhere)


def _hard_link(path: Path) -> None:
    os.link(path, path.parents[3] / "still-writable")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("how", [_symlink, _hard_link, _pipe, _folder])
@pytest.mark.parametrize("name", ["fly", "release.json", "release.sig"])
def test_attack_what_is_no_plain_file(victim: Victim, how: Callable[[Path], None], name: str) -> None:
    how(victim.upload(victim.new) / name)
    victim.refuses(victim.new.name, "is a link|is not a plain file|did not arrive|incomplete|manifest says")


def test_attack_a_folder_that_is_a_link(victim: Victim) -> None:
    folder = victim.upload(victim.new)
    (folder / "bundle").rename(victim.folder / "bundle-elsewhere")
    (folder / "bundle").symlink_to(victim.folder / "bundle-elsewhere")
    victim.refuses(victim.new.name, "bundle is not a plain file")


def test_attack_an_upload_that_is_a_link(victim: Victim) -> None:
    (victim.root / "incoming" / victim.new.name).symlink_to(victim.new.path)
    with pytest.raises(TargetError, match="was not copied"):
        victim.install(victim.new.name)
    assert open_release(victim.new.path, KEY).name == victim.new.name  # what the link named is untouched
    victim.is_unharmed()


@pytest.mark.parametrize("name", ["../old", "x", "", "a" * 16, "a" * 16 + "-0", "a" * 16 + "-1/..", "A" * 16 + "-1"])
def test_names_of_releases_that_are_none(victim: Victim, name: str) -> None:
    with pytest.raises(TargetError, match="is not the name of a release"):
        victim.install(name)


# The form of the manifest ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b'"schema":1', b'"schema":1,"schema":1'),
        lambda d: d.replace(b'"schema":1', b'"schema":2,"schema":1'),
        lambda d: d.replace(b'"schema":1', b'"schema":1.0'),
        lambda d: d.replace(b'"schema":1', b'"schema":1e0'),
        lambda d: d.replace(b'"schema":1', b'"schema":NaN'),
        lambda d: d.replace(b'"schema":1', b'"schema": 1'),
        lambda d: d.replace(b'"agent":"new"', b'"agent":"n\\u0065w"'),
        lambda d: d + b"\n",
        lambda d: b" " + d,
        lambda d: b"\xef\xbb\xbf" + d,
        lambda d: d[:-1],
        lambda d: d + d,
        lambda d: b"",
        lambda d: b"[]",
        lambda d: b"null",
        lambda d: b"[" * 100_000,
        lambda d: d.replace(b'"sha256"', b'"SHA256"', 1),
    ],
)
def test_only_the_canonical_form_is_a_manifest(template: Victim, change: Callable[[bytes], bytes]) -> None:
    """Two readings of one signed text are an attack of their own: duplicate keys, spaces, escapes, other numbers."""
    data = (template.new.path / "release.json").read_bytes()
    assert check_manifest(data)
    with pytest.raises(TargetError, match=r"release\.json: "):
        check_manifest(change(data))


_values = st.recursive(
    st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(min_codepoint=32, max_codepoint=126)) | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_values)
@settings(max_examples=200, deadline=None)
def test_our_canonical_form_is_that_of_the_standard(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    with pytest.raises(TargetError):
        check_manifest(data)


# Keys -----------------------------------------------------------------------------------------------------------------


def test_attack_a_revoked_key(victim: Victim) -> None:
    """Neither for a new release, nor for going back, nor for starting what it signed; and never again."""
    other = SigningKey.generate("other")
    with victim.state.locked():
        assert victim.state.add_key(other.line)
        assert victim.state.revoke_key(KEY.line)
        assert not victim.state.revoke_key(KEY.line)
        with pytest.raises(TargetError, match="was revoked here for good"):
            victim.state.add_key(KEY.line)
        assert not victim.state.add_key(KEY.line, first=True)
    victim.upload(victim.new)
    with pytest.raises(TargetError, match=rf"signed with key {KEY.id} \(tests\), which is revoked here"):
        victim.install(victim.new.name)
    assert "which is revoked here" in status(str(victim.root))["problems"][0]
    assert Path(resolve(str(victim.root), "current")).name == victim.old.name
    with pytest.raises(TargetError, match="which is revoked here"):
        start(str(victim.root), "current", "sim2sky.runtime.main", [], switch=False)
    fresh = build_release(
        make_bundle(victim.folder / "fresh", seed=4), victim.folder / "r", other, version=30, now_s=time.time()
    )
    victim.upload(fresh)
    assert victim.install(fresh.name)["release"] == fresh.name
    with pytest.raises(TargetError, match=r"cannot be used: signed with key .* which is revoked here"):
        go_back(str(victim.root), refused=False)


def test_trust_on_first_use_is_for_the_first_time_only(victim: Victim) -> None:
    with victim.state.locked():
        assert not victim.state.add_key(STRANGER.line, first=True)
        assert STRANGER.public not in victim.state.trust().keys
        assert not victim.state.add_key(KEY.line)
        assert victim.state.add_key(STRANGER.line)
    assert set(victim.state.trust().keys) == {KEY.public, STRANGER.public}


@pytest.mark.parametrize("content", ["garbage\n", "ed25519 00 x\n", "x" * 20_000])
def test_a_damaged_trust_store_trusts_nobody(victim: Victim, content: str) -> None:
    (victim.root / "trust" / "odd.pub").write_text(content)
    victim.upload(victim.new)
    with pytest.raises(TargetError):
        victim.install(victim.new.name)
    assert victim.tested == []


def test_a_link_in_the_trust_store_is_refused(victim: Victim) -> None:
    (victim.folder / "mine.pub").write_text(STRANGER.line)
    (victim.root / "trust" / "mine.pub").symlink_to(victim.folder / "mine.pub")
    with pytest.raises(TargetError, match=r"mine\.pub is a link"):
        victim.state.trust()


# What is signed -------------------------------------------------------------------------------------------------------


def test_the_same_sources_give_the_same_zip_bytes(tmp_path: Path) -> None:
    assert runtime_zip() == runtime_zip()
    assert installer_zip() == installer_zip()
    assert len(runtime_zip()) < 2 << 20
    bundle = make_bundle(tmp_path / "b")
    first = make_release(bundle, tmp_path / "r1", version=5, now_s=1000.0)
    again = make_release(bundle, tmp_path / "r2", version=5, now_s=1000.0)
    assert (first.path / "release.sig").read_bytes() == (again.path / "release.sig").read_bytes()
    assert first.manifest["expires"] == 1000 + LIFETIME_S


def test_a_release_that_lies_half_written_is_made_anew(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    first = make_release(bundle, tmp_path / "r", version=5)
    (first.path / "fly").unlink()
    with pytest.raises(TargetError, match="fly did not arrive"):
        open_release(first.path, KEY)
    assert make_release(bundle, tmp_path / "r", version=6).name.endswith("-6")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot write the release"):
        make_release(bundle, tmp_path / "file" / "r", version=7)


def test_recovering_twice_changes_nothing(victim: Victim) -> None:
    with victim.state.locked():
        assert recover(victim.state) is None
        before = sorted(p.as_posix() for p in victim.root.rglob("*"))
        assert recover(victim.state) is None
    assert sorted(p.as_posix() for p in victim.root.rglob("*")) == before
