"""Signing keys on the machine that deploys: ed25519, one file a key, readable by its owner only.

The private half never leaves this folder. Beside each key lies the last version it signed, so that versions only grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sim2sky.deployment.release_check import key_id, parse_key
from sim2sky.errors import ConfigError, TargetError

__all__ = ["DEFAULT_KEY", "KeyRing", "SigningKey", "default_folder"]

DEFAULT_KEY = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def default_folder() -> Path:
    """`$XDG_CONFIG_HOME/sim2sky/keys`, or below `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sim2sky" / "keys"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, in memory.

    Attributes:
        name: how its owner calls it.
        public: 32 bytes.
    """

    name: str
    public: bytes
    _private: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A new key that is written nowhere."""
        private = Ed25519PrivateKey.generate()
        return cls(name, private.public_key().public_bytes_raw(), private)

    @property
    def id(self) -> str:
        """How messages name it."""
        return key_id(self.public)

    @property
    def line(self) -> str:
        """The public half as `trust` takes it."""
        return f"ed25519 {self.public.hex()} {self.name}"

    def sign(self, data: bytes) -> bytes:
        """ed25519 signature, 64 bytes."""
        return self._private.sign(data)


class KeyRing:
    """The keys in a folder.

    Args:
        folder: `default_folder()` by default; made when the first key is.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"key name {name!r} is not made of letters, digits, '.', '_' and '-'")
        return self.folder / f"{name}{suffix}"

    @contextlib.contextmanager
    def _plain_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{error.filename or self.folder}: {error.strerror or error}",
                hint="keys lie in $XDG_CONFIG_HOME/sim2sky/keys or ~/.config/sim2sky/keys, which must be yours",
            ) from error

    def new(self, name: str = DEFAULT_KEY) -> SigningKey:
        """Make a key; an existing one is never overwritten.

        Raises:
            ConfigError: there is one of that name, or the folder cannot be written.
        """
        path, key = self._path(name, ".key"), SigningKey.generate(name)
        data = key._private.private_bytes(  # pyright: ignore[reportPrivateUsage]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with self._plain_errors():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = self.folder / f".{name}.{os.getpid()}.tmp"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(handle)
                try:
                    path.hardlink_to(temporary)  # fails where the name is taken, unlike a rename
                except FileExistsError:
                    raise ConfigError(
                        f"there is a key '{name}' already ({path}); it is not overwritten",
                        hint="choose another name: sim2sky keys new NAME",
                    ) from None
            finally:
                temporary.unlink()
            self._path(name, ".pub").write_text(key.line + "\n", encoding="utf-8")
        return key

    def load(self, name: str = DEFAULT_KEY) -> SigningKey:
        """Read a key.

        Raises:
            ConfigError: there is none of that name; it is no ed25519 key; others than its owner can read it.
        """
        path = self._path(name, ".key")
        if not path.is_file():
            raise ConfigError(f"there is no key '{name}' ({path})", hint=f"make it: sim2sky keys new {name}")
        with self._plain_errors():
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"the private key {path} can be read by others", hint=f"chmod 600 {path}")
            data = path.read_bytes()
        try:
            private = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged: {error}", hint="sim2sky keys new NAME") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(f"{path} is not an ed25519 key", hint="sim2sky keys new NAME")
        return SigningKey(name, private.public_key().public_bytes_raw(), private)

    def names(self) -> list[str]:
        """Names of all keys here."""
        return sorted(p.stem for p in self.folder.glob("*.key")) if self.folder.is_dir() else []

    def public_line(self, key: str) -> str:
        """The public half of one of these keys, or of a `.pub` file someone sent.

        Raises:
            ConfigError: neither.
        """
        path = Path(key)
        if key.endswith(".pub") and path.is_file():
            try:
                parse_key(path.read_text(encoding="utf-8"))
            except (TargetError, OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path} is no public key of sim2sky: {error}") from error
            return path.read_text(encoding="utf-8").strip()
        return self.load(key).line

    def next_version(self, name: str, *, now_s: float) -> int:
        """A version above every one this key has signed: unix seconds, or one more than the last.

        Raises:
            ConfigError: the counter cannot be read or written.
        """
        path = self._path(name, ".version")
        with self._plain_errors(), path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read().split()
            try:
                last = int(text[-1]) if text else 0
            except ValueError as error:
                raise ConfigError(f"{path} is damaged", hint="write the last version into it") from error
            version = max(int(now_s), last + 1)
            file.write(f"{version}\n")
            file.flush()
            os.fsync(file.fileno())
        return version
