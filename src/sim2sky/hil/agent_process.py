"""The flight agent's process as a HIL run starts it, ends it, and quotes its last words."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from sim2sky.errors import LinkError

__all__ = ["AgentProcess"]

GRACE_S = 3.0


class AgentProcess:
    """A child in a session of its own (so that Ctrl-C reaches only us), ended by its id at the end.

    Args:
        arguments: command line.
        output: where its words go; None: nowhere.
        environment: None inherits.

    Raises:
        LinkError: it cannot be started.
    """

    def __init__(self, arguments: Sequence[str], output: Path | None, environment: Mapping[str, str] | None) -> None:
        self._arguments = list(arguments)
        self._output = output
        self._environment = None if environment is None else dict(environment)
        self._sink: BinaryIO | None = None if output is None else output.open("wb")
        self._process = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._sink is not None:
            self._sink.close()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def restart(self, arguments: Sequence[str]) -> None:
        """Start it again after it has ended.

        Raises:
            LinkError: it cannot be started.
        """
        self._arguments = list(arguments)
        self._process = self._started()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ends within a time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def ended(self) -> str:
        """How it ended, with its last words; empty while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        text = ""
        if self._output is not None and self._output.is_file():
            text = self._output.read_text(encoding="utf-8", errors="replace").strip()
        saying = f", saying: {text.splitlines()[-1] if len(text) > 500 else text}" if text else ""
        return f"its process ended with code {code}{saying}"

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=self._sink or subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            if self._sink is not None:
                self._sink.close()
            raise LinkError(f"cannot start the flight agent '{self._arguments[0]}': {error.strerror}") from error
