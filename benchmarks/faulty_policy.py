"""A real policy process that fails once, on purpose: the module `benchmarks.policy_deaths` and the tests let it run in
place of `sim2sky.runtime.policy_worker`.

The environment variable `FAULTS` holds JSON: `kinds` (taken in turn, one per process), `seed`, `first` and `last` (the
fault strikes at a random one of these ticks), `spread_s` (killed and stopped: at a random time after that tick's
start), `slow_s` (how long a slow policy takes), `log` (one line per fault: number, kind, monotonic time in ns).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.runtime.inference import Backend
from sim2sky.runtime.policy_wire import Kind, pack_values
from sim2sky.runtime.policy_worker import main
from sim2sky.runtime.state import PolicyState

KINDS = (
    "killed", "stopped", "spins", "slow", "mute", "garbage", "flipped", "old_number", "future_number", "flood",
    "closed", "exits", "raises", "nan", "memory", "segfault",
)  # fmt: skip


class Faulty:
    """The loaded policy, with one fault ahead."""

    state = PolicyState.ANSWERED

    def __init__(self, backend: Backend, channel: socket.socket) -> None:
        plan = json.loads(os.environ["FAULTS"])
        self._log = Path(plan["log"])
        self._number = len(self._log.read_text().splitlines()) if self._log.exists() else 0
        self._random = np.random.default_rng([plan["seed"], self._number])
        self._kind = plan["kinds"][self._number % len(plan["kinds"])]
        self._tick = int(self._random.integers(plan["first"], plan["last"] + 1))
        self._delay_s = float(self._random.uniform(0.0, plan["spread_s"]))
        self._slow_s = plan["slow_s"]
        self._backend, self._channel = backend, channel
        self._count = -1

    def reset(self) -> None:
        self._backend.reset()

    def __call__(self, observation: Any) -> NDArray[Any]:
        self._count += 1
        action = self._backend(observation)
        if self._count == self._tick and self._kind in {"killed", "stopped"}:
            threading.Thread(target=self._strike_from_outside, daemon=True).start()
        elif self._count >= self._tick and self._kind not in {"killed", "stopped"}:
            if self._count == self._tick:
                self._note()
            return self._strike(action)
        return action

    def _note(self) -> None:
        with self._log.open("a") as file:
            file.write(f"{self._number} {self._kind} {time.monotonic_ns()}\n")

    def _strike_from_outside(self) -> None:
        """Note the time and strike without letting go of the interpreter in between: another thread that answers on
        after the noted time would make the guard look late."""
        libc = ctypes.PyDLL(None)
        name = self._kind.encode()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        time.sleep(self._delay_s)
        sys.setswitchinterval(60.0)
        line = b"%d %s %d\n" % (self._number, name, time.monotonic_ns())
        libc.write(log, line, len(line))
        libc.kill(os.getpid(), int(signal.SIGKILL if self._kind == "killed" else signal.SIGSTOP))

    def _strike(self, action: NDArray[Any]) -> NDArray[Any]:
        kind = self._kind
        if kind == "nan":
            if self._count > self._tick + 3:
                os._exit(0)
            return np.full_like(action, np.nan)
        if kind == "slow":
            time.sleep(self._slow_s)
            return action
        if kind == "spins":
            while True:
                pass
        if kind in {"old_number", "future_number"}:
            self._channel.send(pack_values(Kind.ACTION, 0 if kind == "old_number" else 2**63, action))
        if kind == "garbage":
            self._channel.send(self._random.bytes(int(self._random.integers(1, 2000))))
        if kind == "flipped":
            data = bytearray(pack_values(Kind.ACTION, 0, action))
            data[int(self._random.integers(len(data)))] ^= 1 << int(self._random.integers(8))
            self._channel.send(data)
        while kind == "flood":
            self._channel.send(pack_values(Kind.ACTION, 0, action))
        if kind == "closed":
            os.close(self._channel.fileno())
        if kind == "exits":
            os._exit(3)
        if kind == "raises":
            raise RuntimeError("this fault was injected")
        if kind == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**20, 2**20))
            np.zeros(2**28)
        if kind == "segfault":
            ctypes.string_at(0)
        while True:  # what is left can do nothing any more
            time.sleep(1.0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main(around=Faulty))
