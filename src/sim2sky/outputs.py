"""Files that a command writes for its user: whole or not at all, and refused before the work where they cannot be."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Generator
from pathlib import Path

from sim2sky.errors import ConfigError
from sim2sky.telemetry.log_files import replacing

__all__ = ["require_writable", "write_whole"]


def write_whole(path: Path, text: str, what: str = "") -> None:
    """Put a file in place, whole or not at all.

    Args:
        path: of the file.
        text: its content, written as UTF-8.
        what: it is, for the message.

    Raises:
        ConfigError: it cannot be written.
    """
    with _writing(path, what), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(path: Path, what: str = "") -> None:
    """Find out before the work is done whether its result can be written; nothing is left behind.

    Raises:
        ConfigError: it cannot.
    """
    with _writing(path, what):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass


@contextlib.contextmanager
def _writing(path: Path, what: str) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        name = f"{what} {path}" if what else str(path)
        raise ConfigError(
            f"cannot write {name}: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable, on a disk with room",
        ) from error
