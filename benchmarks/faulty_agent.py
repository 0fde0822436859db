"""The flight agent of `policy_deaths`: `sim2sky.runtime.main` with a policy process that fails on purpose.

With `--unsupervised` in front the same faulty policy runs in the flight agent's own process: the negative control.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
from collections.abc import Generator
from typing import Any

from benchmarks.faulty_policy import Faulty

from sim2sky.agent.bundle import Bundle
from sim2sky.runtime import main as runtime
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.inference import load_backend


class Inside(Faulty):
    """The faulty policy without a process of its own; what the report asks of a policy process is constant."""

    restarts, problem, runtime = 0, "", ""


@contextlib.contextmanager
def unsupervised(bundle: Bundle, *_: Any, **__: Any) -> Generator[tuple[FlightAgent, Any], None, None]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        policy = Inside(load_backend(bundle), theirs)
        yield FlightAgent(bundle.contract, policy, make_monitor(bundle.safety(), bundle.contract)), policy


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arguments = sys.argv[1:]
    if arguments[0] == "--unsupervised":
        runtime.supervised_agent = unsupervised  # type: ignore[assignment]
        arguments = arguments[1:]
    sys.exit(runtime.main(arguments, worker="benchmarks.faulty_policy"))
