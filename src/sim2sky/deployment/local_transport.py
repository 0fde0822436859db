"""A folder of this machine as a transport: its own Python path, its own processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from sim2sky.deployment.local_site import TARGET_ENVIRONMENT, TARGET_PACKAGES, link_site
from sim2sky.deployment.transport import Completed
from sim2sky.errors import TargetError

__all__ = ["LocalTransport"]

KNOWN = {
    "current", "incoming", "install.json", "install.lock", "install.pyz", "logs", "native", "python", "releases",
    "site", "trust", "venv", "versions.json",
}  # fmt: skip
"""What a target's folder may hold."""


class LocalTransport:
    """A folder that stands for a flight computer: commands run as processes that can import nothing else.

    `site/` holds links to numpy, onnxruntime, pymavlink, h5py and what they require. Python runs isolated (`-I -S`), so
    neither the environment nor the interpreter's own packages leak in.

    Args:
        root: the folder; made on first use.
    """

    stands_in = True
    tunnelled = False

    def __init__(self, root: Path) -> None:
        self.folder = root.absolute()
        self.root = str(self.folder)
        self.name = f"local:{root}"

    def python(self) -> list[str]:
        """As `Transport.python`."""
        return [sys.executable, "-I", "-S", "-B"]

    def prepare(self) -> None:
        """Make the folder and the links.

        Raises:
            TargetError: the folder cannot be written, belongs to something else, or a package is not installed.
        """
        with self._plain_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            strangers = [p.name for p in self.folder.iterdir() if p.name not in KNOWN and not p.name.startswith(".")]
            if strangers and not (self.folder / "site").exists():
                raise TargetError(
                    f"{self.folder} is no target: it holds {strangers[0]!r}", hint="name an empty or a new folder"
                )
            link_site(self.folder / "site", TARGET_PACKAGES)

    @contextlib.contextmanager
    def _plain_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise TargetError(
                f"target {self.name}: {error.filename or self.root}: {error.strerror or error}",
                hint="free some space on its disk" if full else "check that the folder exists and is writable",
            ) from error

    def put_file(self, local: Path, remote: str) -> None:
        """As `Transport.put_file`."""
        with self._plain_errors():
            final = self.folder / remote
            final.parent.mkdir(parents=True, exist_ok=True)
            part = final.with_name(f".{final.name}.part")
            try:
                with part.open("wb") as file:
                    file.write(local.read_bytes())
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(final)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def get_file(self, remote: str, local: Path) -> None:
        """As `Transport.get_file`."""
        with self._plain_errors():
            part = local.with_name(f".{local.name}.part")
            try:
                shutil.copyfile(self.folder / remote, part)
                part.replace(local)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> Completed:
        """As `Transport.run`."""
        with self._plain_errors():
            try:
                done = subprocess.run(
                    list(argv),
                    cwd=self.folder if self.folder.is_dir() else "/",
                    env=dict(TARGET_ENVIRONMENT),
                    input=stdin or b"",
                    capture_output=True,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise TargetError(f"target {self.name}: a command did not end within {timeout_s:g} s") from error
        if done.returncode < 0:
            raise TargetError(
                f"target {self.name}: a command was ended by {signal.Signals(-done.returncode).name}",
                hint="the previous release stays active; deploy again",
            )
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def command(self, argv: Sequence[str]) -> list[str]:
        """As `Transport.command`: a process of this machine anyway, but in the target's environment."""
        return ["env", "-i", *(f"{name}={value}" for name, value in TARGET_ENVIRONMENT.items()), *argv]
