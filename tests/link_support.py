"""Pseudo-terminals that stand for a serial cable, and a way to wait without fixed sleeps."""

from __future__ import annotations

import contextlib
import os
import time
import tty
from collections.abc import Callable, Generator

PATIENCE_S = 20.0


@contextlib.contextmanager
def serial_cable() -> Generator[tuple[int, str], None, None]:
    """The other end's descriptor, and the device name of ours."""
    other, ours = os.openpty()
    tty.setraw(ours)
    try:
        yield other, os.ttyname(ours)
    finally:
        for descriptor in (other, ours):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Call `condition` until it holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s for: {what}"
        time.sleep(0.001)
