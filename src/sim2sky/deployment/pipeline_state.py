"""What a deployment has done so far, kept in its output folder: a step whose inputs are the same is not done again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from sim2sky.agent.contract import canonical_json
from sim2sky.errors import ConfigError, TargetError

__all__ = ["PipelineState", "content_hash", "plain_file_errors"]

STATE = "deploy.json"
LOG = "deploy.log"


def content_hash(*parts: object) -> str:
    """sha256 over JSON-compatible values and bytes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part)
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def plain_file_errors(what: Path) -> Generator[None, None, None]:
    """Turn what the operating system says about a folder into an error a user can act on."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or what}: {error.strerror or error}",
            hint="choose an output folder you may write to, with room in it: --output FOLDER",
        ) from error


class PipelineState:
    """The record of finished steps, and a log of what was written.

    Args:
        folder: the deployment's output folder; made if absent.

    Raises:
        ConfigError: it cannot be written, or its record is no deployment's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with plain_file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / STATE
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            self._steps: dict[str, dict[str, Any]] = json.loads(text)["steps"] if text else {}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is damaged: {error!r}", hint="remove it; the steps are then done again"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """One deployment at a time in this folder.

        Raises:
            TargetError: another one is running.
        """
        with plain_file_errors(self.folder), (self.folder / ".deploy.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TargetError(f"another deployment is running in {self.folder}") from error
            yield

    def result(self, step: str, key: str) -> dict[str, Any] | None:
        """What a step gave when it was last done with the same inputs, else None."""
        record = self._steps.get(step)
        return record["result"] if record is not None and record.get("key") == key else None

    def record(self, step: str, key: str, result: Mapping[str, Any]) -> None:
        """Note a step as done; on disk before this returns."""
        self._steps[step] = {"key": key, "result": dict(result)}
        self.write(STATE, json.dumps({"schema": 1, "steps": self._steps}, indent=1) + "\n")

    def forget(self, step: str) -> None:
        """Note a step as not done."""
        if self._steps.pop(step, None) is not None:
            self.write(STATE, json.dumps({"schema": 1, "steps": self._steps}, indent=1) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file of this folder, complete or not at all."""
        path = self.folder / name
        temporary = path.with_name(f".{name}.tmp")
        with plain_file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        return path

    def log(self, line: str) -> None:
        """Append a line to the deployment's log."""
        with plain_file_errors(self.folder / LOG), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
