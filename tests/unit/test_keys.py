"""Signing keys on disk: secret, never overwritten, with versions that only grow."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from sim2sky.deployment.ed25519 import verify
from sim2sky.deployment.keys import KeyRing, SigningKey, default_folder
from sim2sky.deployment.release_check import parse_key
from sim2sky.errors import ConfigError, TargetError


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "config" / "keys")


def test_a_new_key_is_secret_and_signs(ring: KeyRing) -> None:
    assert ring.names() == []
    key = ring.new()
    assert stat.S_IMODE((ring.folder / "default.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700
    assert sorted(p.name for p in ring.folder.iterdir()) == ["default.key", "default.pub"]
    again = ring.load()
    assert again.public == key.public
    assert verify(key.public, b"message", again.sign(b"message"))
    assert parse_key((ring.folder / "default.pub").read_text()) == (key.public, "default")
    assert ring.public_line("default") == ring.public_line(str(ring.folder / "default.pub")) == key.line


def test_a_key_is_never_overwritten(ring: KeyRing) -> None:
    before = ring.new("hawk").public
    with pytest.raises(ConfigError, match="there is a key 'hawk' already"):
        ring.new("hawk")
    assert ring.load("hawk").public == before
    assert not [p for p in ring.folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(ring: KeyRing, mode: int) -> None:
    ring.new()
    (ring.folder / "default.key").chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        ring.load()
    assert caught.value.hint.startswith("chmod 600 ")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_names_that_leave_the_folder_are_refused(ring: KeyRing, name: str) -> None:
    for act in (ring.new, ring.load):
        with pytest.raises(ConfigError, match="key name"):
            act(name)


def test_damaged_missing_and_foreign_keys_are_plain_errors(ring: KeyRing, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no key 'default'") as caught:
        ring.load()
    assert caught.value.hint == "make it: sim2sky keys new default"
    ring.new()
    path = ring.folder / "default.key"
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nxx")
    with pytest.raises(ConfigError, match="is damaged"):
        ring.load()
    rsa = generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(rsa.private_bytes(*form))
    with pytest.raises(ConfigError, match="not an ed25519 key"):
        ring.load()
    (tmp_path / "x.pub").write_text("ssh-ed25519 AAAA me")
    with pytest.raises(ConfigError, match="no public key of sim2sky"):
        ring.public_line(str(tmp_path / "x.pub"))


@pytest.mark.parametrize(
    "line", ["", "ed25519 00 x", "ed25519 " + "0" * 64 + " x", "ed25519 " + "f" * 64 + " x", "rsa " + "1" * 64 + " x"]
)
def test_lines_that_are_no_usable_public_keys(line: str) -> None:
    with pytest.raises(TargetError):
        parse_key(line)


def test_versions_only_grow_whatever_the_clock_does(ring: KeyRing) -> None:
    ring.new()
    versions = [ring.next_version("default", now_s=t) for t in (100.0, 100.9, 50.0, 0.0, 1000.0, 1000.0)]
    assert versions == [100, 101, 102, 103, 1000, 1001]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda _: KeyRing(ring.folder).next_version("default", now_s=0.0), range(40)))
    assert sorted(many) == list(range(1002, 1042))
    (ring.folder / "default.version").write_text("soon\n")
    with pytest.raises(ConfigError, match=r"default\.version is damaged"):
        ring.next_version("default", now_s=0.0)


def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        KeyRing(tmp_path / "file" / "keys").new()


def test_the_folder_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sim2sky" / "keys"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/pilot")
    assert default_folder() == Path("/home/pilot/.config/sim2sky/keys")


def test_a_generated_key_lies_nowhere(tmp_path: Path) -> None:
    key = SigningKey.generate("temporary")
    assert len(key.public) == 32
    assert key.id == key.public.hex()[:16]
    assert "PRIVATE" not in repr(key)
