"""A flight computer behind SSH as a transport: `ssh://user@host[:port]/path`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from sim2sky.deployment.local_transport import KNOWN
from sim2sky.deployment.ssh_session import Limits, SshAccess, SshAddress, SshSession
from sim2sky.deployment.transport import Completed
from sim2sky.errors import TargetError

__all__ = ["SshTransport"]

IN_FOLDER = ("sh", "-c", 'cd "$0" 2>/dev/null; exec "$@"')
PYTHON_HINT = "on the target: sudo apt install python3"


class SshTransport:
    """Files and commands over one kept SSH connection. Nothing is reached before the first call that needs it.

    Python is `venv/bin/python3` in the target's folder where that exists, else `python3`: current systems let pip
    install into a virtual environment only.

    Args:
        url: see `SshAddress`.
        access: key and trusted host keys, by default the user's own.
        limits: time-outs.
    """

    stands_in = False
    tunnelled = True

    def __init__(self, url: str, *, access: SshAccess | None = None, limits: Limits | None = None) -> None:
        self.session = SshSession(SshAddress.parse(url), access, limits)
        self.name = self.session.name
        self._root = ""

    @property
    def root(self) -> str:
        """As `Transport.root`."""
        if not self._root:
            path = self.session.address.path
            self._root = f"{self.session.home().rstrip('/')}{path[2:]}" if path.startswith("/~/") else path
        return self._root

    @functools.cached_property
    def _python(self) -> str:
        own = f"{self.root}/venv/bin/python3"
        script = 'test -x "$0" && echo "$0" || command -v python3'
        found = self.session.run(["sh", "-c", script, own]).stdout.strip()
        if not found:
            raise TargetError(f"target {self.name}: it has no python3", hint=PYTHON_HINT)
        asked = self.session.run([found, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"])
        try:
            version = tuple(int(v) for v in asked.stdout.split())
        except ValueError:
            version = ()
        if asked.returncode != 0 or len(version) != 2:
            reason = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise TargetError(f"target {self.name}: {found} does not start: {reason}", hint=PYTHON_HINT)
        if version < (3, 6):
            raise TargetError(
                f"target {self.name}: {found} is Python {version[0]}.{version[1]}; installing needs 3.6, flying 3.10",
                hint=f"make a virtual environment of a newer one: python3.11 -m venv {self.root}/venv",
            )
        return found

    def python(self) -> list[str]:
        """As `Transport.python`."""
        return [self._python, "-I", "-B"]

    def prepare(self) -> None:
        """As `Transport.prepare`."""
        entries = self.session.make_folder(self.root)
        strangers = [name for name in entries if name not in KNOWN and not name.startswith(".")]
        if strangers and "releases" not in entries:
            raise TargetError(
                f"target {self.name} is no target: the folder holds {strangers[0]!r}",
                hint="name an empty or a new folder",
            )

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> Completed:
        """As `Transport.run`."""
        return self.session.run([*IN_FOLDER, self.root, *argv], stdin=stdin, timeout_s=timeout_s)

    def command(self, argv: Sequence[str]) -> list[str]:
        """As `Transport.command`: a process here that keeps one there, see `ssh_attach`."""
        access = self.session.access
        options = [f"--known-hosts={access.known_hosts}"] if access.known_hosts else []
        options += [f"--key={access.key}"] if access.key else []
        return [sys.executable, "-m", "sim2sky.deployment.ssh_attach", *options, self.name, "--", *argv]

    def put_file(self, local: Path, remote: str) -> None:
        """As `Transport.put_file`; goes on where an earlier call for the same content stopped."""
        self.session.upload(local, f"{self.root}/{remote}")

    def get_file(self, remote: str, local: Path) -> None:
        """As `Transport.get_file`."""
        self.session.download(f"{self.root}/{remote}", local)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self.session.close()
