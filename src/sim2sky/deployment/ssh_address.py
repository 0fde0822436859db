"""Where an SSH target is, and what proves who is who."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from sim2sky.errors import ConfigError

__all__ = ["SshAccess", "SshAddress"]


@dataclass(frozen=True, slots=True)
class SshAddress:
    """`ssh://user@host[:port]/path`; a path that begins with `/~/` lies in the user's home."""

    user: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """Read a URL.

        Raises:
            ConfigError: not of that form, or it holds a password.
        """
        hint = "write ssh://user@host[:port]/path, for example ssh://pi@192.168.1.20/~/controls"
        try:
            url = urlsplit(text)
            port, host, user = url.port, url.hostname, url.username
        except ValueError as error:
            raise ConfigError(f"'{text}' is no SSH address: {error}", hint=hint) from error
        if url.password is not None:
            shown = text.replace(f":{url.password}@", ":...@")
            raise ConfigError(
                f"'{shown}' holds a password; sim2sky logs in with a key or an agent only",
                hint=f"ssh-copy-id {user}@{host}, then leave the password out",
            )
        if url.scheme != "ssh" or not host or not user or url.query or url.fragment:
            raise ConfigError(f"'{text}' is no SSH address", hint=hint)
        path = PurePosixPath(url.path)
        if len(path.parts) < 2 or ".." in path.parts or path.parts == ("/", "~") or not url.path.isprintable():
            raise ConfigError(f"'{text}' does not name a folder on the target", hint=hint)
        if host.startswith("-") or user.startswith("-") or not (user.isprintable() and host.isprintable()):
            raise ConfigError(f"'{text}' is no SSH address", hint=hint)
        return cls(user, host, port, str(path).replace("//", "/", 1))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user}@{host}{f':{self.port}' if self.port else ''}{self.path}"


@dataclass(frozen=True, slots=True)
class SshAccess:
    """What proves who is who; by default what `ssh` itself would use.

    Attributes:
        known_hosts: file of trusted host keys; None: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
        key: private key; None: the agent's, ~/.ssh/config's, ~/.ssh/id_*.
    """

    known_hosts: Path | None = None
    key: Path | None = None

    def trusted(self) -> list[str]:
        """The files of trusted host keys that exist."""
        usual = [Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")]
        return [str(p) for p in ([self.known_hosts] if self.known_hosts else usual) if os.access(p, os.R_OK)]
