"""A policy in a process of its own, so that the flight process commands on whatever becomes of it.

The flight process owns link, guard, fallback law and clock, and asks one question at a time. A policy that is killed,
stopped, hanging, slow or talking nonsense costs it at most one deadline, never a command. Linux only.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
from sim2sky.errors import BundleError, ContractError, NotSupportedError, Sim2SkyError
from sim2sky.runtime.boot import module_command
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.inference import Observation, preflight
from sim2sky.runtime.native_record import FORMAT, which_flies
from sim2sky.runtime.policy_wire import MAX_PACKET, Kind, error_from, pack_values, unpack, values_of
from sim2sky.runtime.state import PolicyState

__all__ = ["WORKER", "PolicyProcess"]

WORKER = "sim2sky.runtime.policy_worker"
LATE_TICKS = 10  # ticks in a row without an answer in time before the process is replaced
RESTARTS = 3  # per episode: what keeps dying is left dead, and the fallback law flies
FLOOD = 16  # answers with an old number that are skipped within one call
START_S = 30.0  # a small computer needs seconds to load onnxruntime
GRACE_S = 0.5

_S = 1_000_000_000


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    started_ns: int
    ready: bool = False


class PolicyProcess:
    """A `Backend` whose inference runs in a child process.

    A call sends the observation with a sequence number and waits until the deadline. `state` says what became of it:
    `ANSWERED`; `LATE`, no answer with this number yet; `DEAD`, there is no process that could answer. While an answer
    is outstanding later calls only look whether it has come, and ask anew when it has. A process that stays late, ends,
    or sends what is no answer is killed and replaced without waiting for the new one; a new one starts with an empty
    recurrent state. Where the bundle's policy was compiled on this target and is to fly, it does, until a process that
    runs it is given up. Use it in the thread that made it: the kernel ends the child with that thread.

    Args:
        bundle: verified; the child opens it again and compares the digest.
        fmt: policy format, and no other; default what the installation chose, else the active one.
        deadline_s: how long a call may wait for the answer, s.
        tolerance: largest error on the golden vectors, checked at every start; infinite checks nothing.
        realtime: the child asks for real-time scheduling, below the flight process's.
        worker: module that is run.
        clock: for the waiting.

    Raises:
        GoldenMismatchError: the policy on this machine does not answer as the trainer's did.
        BundleError, NotSupportedError: the bundle cannot be loaded here, or the process does not start.
        ContractError: the contract has no single observation.
    """

    def __init__(
        self,
        bundle: Bundle,
        fmt: str | None = None,
        *,
        deadline_s: float,
        tolerance: float = math.inf,
        realtime: bool = False,
        worker: str = WORKER,
        clock: Clock | None = None,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise NotSupportedError("a policy process on this system; it needs Linux")
        contract = bundle.contract
        if len(contract.inputs) != 1 or contract.output.kind != "continuous":
            raise ContractError("a policy process needs one observation and continuous actions")
        if not deadline_s > 0:
            raise ContractError(f"the policy's deadline must be above 0 s, got {deadline_s}")
        bundle.policy_file(fmt)
        self._n_actions = len(contract.output.signals)
        self._deadline_ns = int(deadline_s * _S)
        self._tolerance = tolerance
        self._clock = clock or RealClock()
        self._command = module_command(
            worker, "--parent", str(os.getpid()), "--bundle", str(bundle.path), "--digest", bundle.digest,
            *(["--realtime"] if realtime else []),
        )  # fmt: skip
        self._format, self._spare = fmt or bundle.active, ""
        self.runtime = ""
        """Whether the policy compiled on this target flies and why; empty where the bundle offers none."""
        if fmt is None and bundle.active == "onnx" and FORMAT in bundle.formats:
            found = which_flies(bundle.path, bundle.digest)
            self.runtime = f"{'compiled C' if found['native'] else 'onnxruntime'} flies: {found['why']}"
            if found["native"]:
                self._format, self._spare = FORMAT, bundle.active
        self._worker: _Worker | None = None
        self._retired: list[subprocess.Popen[bytes]] = []
        self._sequence = 0
        self._waiting = False
        self._late = 0
        self._fresh = True
        self._nonfinite = False
        self._restarts_left = RESTARTS
        self._closed = False
        self._failure: Sim2SkyError | None = None
        self.state = PolicyState.DEAD
        self.problem = ""
        """Why the last process was given up; empty where none was."""
        self.restarts = 0
        """Processes started after the first."""
        native = self._format
        self._spawn()
        failure = self._await_ready()
        if failure is not None and self._format != native:
            self.runtime = f"onnxruntime flies, the compiled C did not start: {failure.message}"
            self._spawn()
            failure = self._await_ready()
        if failure is not None:
            self.close()
            raise failure

    def __enter__(self) -> PolicyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the policy process, None where there is none."""
        return None if self._worker is None else self._worker.process.pid

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """See `Backend`; NaN unless `state` is `ANSWERED`. Waits at most the deadline."""
        if self._retired:
            self._retired = [process for process in self._retired if process.poll() is None]
        answer = self._step(observation)
        self._late = self._late + 1 if self.state is PolicyState.LATE else 0
        if self._late >= LATE_TICKS:
            self._retire(f"it gave no answer in time for {self._late} ticks")
        if answer is None:
            return np.full(self._n_actions, np.nan)
        self._nonfinite = not np.isfinite(answer).all()
        return answer

    def _step(self, observation: Observation) -> NDArray[Any] | None:
        if self._worker is None:
            if self._restarts_left > 0:
                self._restarts_left -= 1
                self.restarts += 1
                self._spawn()
            return None
        if not self._worker.ready and not self._look_for_ready(0.0):
            return None
        if self._waiting and self._receive(0) is None:  # what comes now is too late to fly, but frees the worker
            return None
        return self._ask(observation)

    def _ask(self, observation: Observation) -> NDArray[Any] | None:
        worker = self._worker
        if worker is None:
            return None
        if isinstance(observation, Mapping):
            (observation,) = observation.values()
        self._sequence += 1
        self._waiting = True
        question = pack_values(Kind.OBSERVATION, self._sequence, observation, fresh=self._fresh)
        self._fresh = False
        due = self._clock.now_ns() + self._deadline_ns
        try:
            worker.channel.send(question, socket.MSG_DONTWAIT)
        except OSError:
            self._retire(f"its process ended with code {worker.process.poll()}")
            return None
        return self._receive(due)

    def _receive(self, due_ns: int) -> NDArray[Any] | None:
        """The answer to the last question, None where it does not come until `due_ns`; 0 only looks."""
        worker = self._worker
        if worker is None:
            return None
        for _ in range(FLOOD):
            remaining = due_ns - self._clock.now_ns() if due_ns else 0
            data = _receive(worker.channel, max(remaining, 0) / _S)
            if data is None:
                self.state = PolicyState.LATE
                return None
            if not data:
                self._retire("its process ended or closed its socket")
                return None
            packet = unpack(data)
            values = None if packet is None else values_of(packet, self._n_actions)
            if packet is None or packet.kind is not Kind.ACTION or values is None or packet.sequence > self._sequence:
                self._retire(f"it sent {len(data)} bytes that are no answer")
                return None
            if packet.sequence == self._sequence:
                self._waiting = False
                self.state = PolicyState.ANSWERED
                return values
        self._retire("it answers questions that nobody asked")
        return None

    def reset(self) -> None:
        """See `Backend`. Brings back a process that is not there or not well, and may wait for it; `state` is `DEAD` if
        that fails. After an answer that was not finite it only forgets the recurrent state and never waits: the agent
        asks for that in flight."""
        self._fresh = True
        if self._nonfinite:
            self._nonfinite = False
            return
        if self._closed:
            return
        self._restarts_left, self._late = RESTARTS, 0
        worker = self._worker
        if worker is not None and worker.process.poll() is not None:
            self._retire(f"its process ended with code {worker.process.returncode}")
        elif self._waiting:
            if self._receive(self._clock.now_ns() + self._deadline_ns) is None:
                self._retire(self.problem if self._worker is None else "it gave no answer in time")
        elif worker is not None and worker.ready and _receive(worker.channel, 0.0) is not None:
            self._retire("it closed its socket, or spoke without being asked")
        while not (self._worker is not None and self._worker.ready):
            if self._worker is None:
                if self._restarts_left == 0:
                    return
                self._restarts_left -= 1
                self.restarts += 1
                self._spawn()
            self._await_ready()
        self._restarts_left = RESTARTS
        self.state = PolicyState.ANSWERED

    def close(self) -> None:
        """End the child and wait for it. The policy can be asked no more."""
        self._closed, self._restarts_left = True, 0
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.channel.close()  # a worker that is well ends by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(GRACE_S if worker.ready and not self._waiting else 0.0)
            worker.process.kill()
            self._retired.append(worker.process)
        for process in self._retired:
            process.wait()
        self._retired.clear()
        self.state = PolicyState.DEAD

    def _spawn(self) -> None:
        """Start a process; about a millisecond."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self.problem = f"its process cannot be started: {error.strerror}"
            return
        try:
            process = subprocess.Popen(
                [*self._command, "--format", self._format, "--socket", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # a network stepped alone is slower on several threads
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the flight process
            )
        except OSError as error:
            ours.close()
            self.problem = f"its process cannot be started: {error.strerror}"
            return
        finally:
            theirs.close()
        self._worker = _Worker(process, ours, self._clock.now_ns())
        self._waiting, self._fresh, self.state = False, True, PolicyState.DEAD

    def _await_ready(self) -> Sim2SkyError | None:
        """Wait for the process to be ready; why it is not, where it is not."""
        if self._look_for_ready(START_S):
            return None
        return self._failure or BundleError(f"the policy process does not start: {self.problem}")

    def _look_for_ready(self, timeout_s: float) -> bool:
        self._failure = None
        worker = self._worker
        if worker is None:
            return False
        data = _receive(worker.channel, timeout_s)
        if data is None:
            if self._clock.now_ns() - worker.started_ns >= START_S * _S:
                self._retire(f"it was not ready after {START_S:g} s")
            return False
        packet = unpack(data)
        values = None if packet is None or packet.kind is not Kind.READY else values_of(packet, 1)
        try:
            if not data:
                raise BundleError("the policy process ended while starting", hint="see its output above")
            if packet is not None and packet.kind is Kind.REFUSED:
                raise error_from(packet)
            if values is None:
                raise BundleError("the policy process does not speak our language", hint="install the release again")
            if self._tolerance < math.inf:
                preflight(float(values[0]), self._tolerance)
        except Sim2SkyError as failure:
            self._failure = failure
            self._retire(failure.message)
            return False
        worker.ready = True
        self.state = PolicyState.ANSWERED
        return True

    def _retire(self, why: str) -> None:
        """Kill the process without waiting for its end. What replaces one that ran compiled C runs onnxruntime."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.channel.close()
            worker.process.kill()
            self._retired.append(worker.process)
        self.problem = why
        if self._spare:
            self._format, self._spare = self._spare, ""
            self.problem = f"{why}; from then on onnxruntime, not the compiled C"
        self._waiting, self.state = False, PolicyState.DEAD


def _receive(channel: socket.socket, timeout_s: float) -> bytes | None:
    """One packet; empty where the other end is closed, None where none comes in time."""
    channel.settimeout(timeout_s)
    try:
        return channel.recv(MAX_PACKET)
    except (TimeoutError, BlockingIOError):
        return None
    except OSError:  # reset by a killed peer
        return b""
