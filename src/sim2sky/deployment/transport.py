"""How files and commands reach a target: one small Protocol, one class per kind of target.

A transport knows nothing of releases. `target.ReleaseTarget` does all of that over any transport, so that a folder on
this machine and a flight computer behind SSH are installed by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Completed", "Transport"]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended on the target."""

    returncode: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """Files and commands on one target. Every method raises TargetError with the remedy; nothing waits for ever."""

    @property
    def name(self) -> str:
        """As the user named it, e.g. `local:models/hawk/target`."""
        ...

    @property
    def root(self) -> str:
        """Absolute path of the target's folder, there."""
        ...

    @property
    def stands_in(self) -> bool:
        """True for what stands in for a flight computer of any architecture: the machine type is not compared."""
        ...

    @property
    def tunnelled(self) -> bool:
        """True where what `command` starts reaches this machine by TCP only."""
        ...

    def python(self) -> list[str]:
        """Begin of a command: a Python >= 3.6 there, which runs the installer and looks for one that can fly."""
        ...

    def prepare(self) -> None:
        """Make the target's folder; refuse one that holds something else."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> Completed:
        """Run a command there to its end; it is ended and TargetError raised where it takes longer than `timeout_s`.

        Not run by a shell. Works before `prepare`, too. A command that a signal ended is a TargetError.
        """
        ...

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that starts `argv` there, as a process of this machine (e.g. for a HIL run)."""
        ...

    def put_file(self, local: Path, remote: str) -> None:
        """Copy a file to `remote`, relative to the root, with its folders: complete and on the disk, or not at all.

        What an interrupted call left is gone on with or written anew; never is a part of a file named `remote`.
        """
        ...

    def get_file(self, remote: str, local: Path) -> None:
        """Copy the file `remote`, relative to the root, here: complete or not at all."""
        ...
