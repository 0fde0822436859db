"""The flight loop's end of the recorder: packs each tick and hands it to a process of its own, without ever waiting.

Between the two lies a pipe that holds about a minute of flight. When it is full (a stalled disk) ticks are dropped and
counted; when the recorder process dies another one goes on where it stopped. The aircraft flies on in every case.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim2sky.agent.contract import Contract
from sim2sky.errors import FlightLogError
from sim2sky.runtime.boot import module_command
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.telemetry.journal import Kind, TickLayout, json_frame
from sim2sky.telemetry.log_files import Header, create_parts
from sim2sky.telemetry.log_schema import LogMetadata
from sim2sky.telemetry.trips import STATE_COLUMNS, TRIP_COLUMNS, TripLog

__all__ = ["LOCKSTEP_WAIT_S", "Recorder", "state_row"]

LOCKSTEP_WAIT_S = 5.0
"""What a lockstep run may wait for the recorder: its time stands still meanwhile."""


PIPE_BYTES = 1 << 20
LOOK_S = 0.25  # between looks at the recorder process
RESTART_S = 1.0  # between two starts of the recorder process
READY_S = 20.0
CLOSE_S = 60.0
MAX_PENDING = 64
MAX_TEXT = 500


def state_row(sample: Sample, time_s: float) -> tuple[float, ...]:
    """A measured state in the log's columns; body velocities are taken along the flight path, as the aircraft has no
    better."""
    s = sample
    return (
        time_s, s.north_m, s.east_m, -s.altitude_m, s.airspeed_mps, 0.0, 0.0, s.roll_rad, s.pitch_rad, s.yaw_rad,
        s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps, s.altitude_m, 0.0,
    )  # fmt: skip


class Recorder:
    """Records the ticks of a flight agent.

    Args:
        path: the log; None records nothing.
        metadata: of the log.
        contract: names of observations and actions.
        overwrite: replace an existing log.
        wait_s: how long a tick may wait for room in the pipe. 0 in flight; a lockstep run, whose time can wait, loses
            no tick when the disk is slower than the simulation.

    Raises:
        FlightLogError: the log cannot be created at all (folder missing or read-only, file exists).
    """

    def __init__(
        self,
        path: Path | None,
        metadata: LogMetadata,
        contract: Contract,
        *,
        overwrite: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        self._path = path
        self._wait_s = wait_s
        self._layout = TickLayout(len(contract.observation_names), len(contract.output.signals))
        self._problem = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)
        self._recording = False
        self._flight, self._seed, self._count = -1, -1, 0
        self._trips: TripLog | None = None
        self._told = 0
        self._started_s = self._looked_s = -math.inf
        self.dropped = 0
        if path is None:
            return
        create_parts(path, Header.of(metadata, contract), overwrite=overwrite)
        # The reading end stays open here as well: what a recorder that dies has not read, the next one will.
        self._reading, self._writing = os.pipe()
        self._heard, self._saying = os.pipe()
        os.set_blocking(self._writing, False)
        os.set_blocking(self._heard, False)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a user's quota of pipe memory may be used up: 64 KiB then
                fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._start()
        self._await_ready()

    @property
    def recording(self) -> bool:
        """Whether an episode is open."""
        return self._recording

    @property
    def ticks(self) -> int:
        """Ticks of the open episode, dropped ones included."""
        return self._count

    @property
    def process(self) -> int | None:
        """Process id of the recorder process; None where nothing is recorded."""
        return None if self._process is None else self._process.pid

    @property
    def problem(self) -> str:
        """What keeps the log from being whole, in one sentence; empty when nothing does."""
        self._listen()
        if not self._problem and self.dropped:
            return f"the recorder could not keep up: {self.dropped} ticks are missing in the log"
        return self._problem

    def begin(self, seed: int) -> None:
        """Open an episode; one that is still open is ended as abandoned."""
        self.end(success=False, termination="abandoned")
        self._count, self._recording, self._seed = 0, True, seed
        self._trips, self._told = None, 0
        self._flight += 1
        self._say_begin()

    def record(
        self,
        state: tuple[float, ...],
        setpoint: Setpoint,
        tick: Tick,
        timing_ns: tuple[int, int, int] = (0, 0, 0),
        reward: float | None = None,
    ) -> None:
        """Add a tick of the open episode. Never waits for a disk.

        Args:
            state: 15 or 16 values in the log's column order.
            setpoint: followed at this tick.
            tick: what the agent decided.
            timing_ns: when the state was received, the command decided and sent.
            reward: of this tick, where there is one.
        """
        if not self._recording or self._process is None:
            return
        s = setpoint
        head = (
            self._count, self._flight, self._seed, *(state if len(state) == 16 else (*state, 0.0)),
            s.altitude_m, s.airspeed_mps, s.heading_rad, s.roll_rad, s.pitch_rad, s.p_radps, s.q_radps, s.r_radps,
            *timing_ns, tick.guard, tick.trips, math.nan if reward is None else reward, *tick.command,
        )  # fmt: skip
        self._count += 1
        data = self._layout.pack(head, tick.observation, tick.action)
        if (self._pending and not self._catch_up()) or not self._write(data):
            self.dropped += 1
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._look()

    def event(self, data: Mapping[str, Any]) -> None:
        """Add something that happened (a trip) to the open episode: JSON-compatible, at most 4 KB."""
        if self._recording:
            try:
                self._say(json_frame(Kind.EVENT, data))
            except FlightLogError as error:
                self._problem = error.message

    def trips(self, log: TripLog) -> None:
        """Add what is new in the guard's log to the open episode; call it at every tick, it mostly looks at a length.

        Each becomes an event with `event` "trip", the names in `reasons`, `trips` and `mode`, and the state; how long
        each trip was set becomes the episode's attribute `trip_ticks` (JSON).
        """
        if not self._recording:
            return
        self._trips = log
        while self._told < len(log):
            e = log[self._told]
            self._told += 1
            numbers = dict(zip(TRIP_COLUMNS, e.numbers, strict=True))
            state = dict(zip(STATE_COLUMNS, e.state, strict=True))
            self.event({"event": "trip", "reasons": e.reasons, **numbers, "state": state})

    def end(self, *, success: bool, termination: str, **extra: str | float | int | bool) -> None:
        """Close the episode.

        Args:
            success: whether the task was fulfilled.
            termination: why it ended.
            extra: further attributes of the episode.
        """
        if not self._recording:
            return
        self._recording = False
        given: dict[str, Any] = {k: v[:MAX_TEXT] if isinstance(v, str) else v for k, v in extra.items()}
        if self._trips is not None:
            given |= {"trip_ticks": json.dumps(self._trips.ticks), "trip_events_dropped": self._trips.dropped}
        for name, value in given.items():
            self._say(json_frame(Kind.EXTRA, {name: value}))
        data = {"success": success, "termination": termination[:MAX_TEXT], "ticks": self._count}
        self._say(json_frame(Kind.END, data))
        self._look()

    def close(self) -> None:
        """Let the recorder process finish the log, and wait for it. A failure is kept in `problem`, not raised."""
        if self._process is None:
            return
        self.end(success=False, termination="log closed")
        deadline = time.monotonic() + CLOSE_S
        self._started_s = -math.inf
        while self._pending and time.monotonic() < deadline:
            self._look()
            select.select([], [self._writing], [], 0.1)
            self._catch_up()
        self._look()
        os.close(self._writing)
        os.close(self._reading)
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._problem = f"the recorder process {self._process.pid} still writes {self._path}; it ends by itself"
        self._listen()
        if self._process.returncode and not self._problem:
            self._problem = self._not_closed(self._process.returncode)
        os.close(self._heard)
        os.close(self._saying)
        self._process = None

    def _say_begin(self) -> None:
        self._say(json_frame(Kind.BEGIN, {"seed": self._seed, "flight": self._flight}))

    def _say(self, data: bytes) -> None:
        """A frame that must not be dropped: kept until there is room."""
        if self._process is not None:
            self._pending.append(data)
            self._catch_up()

    def _catch_up(self) -> bool:
        while self._pending and self._write(self._pending[0]):
            self._pending.popleft()
        return not self._pending

    def _write(self, data: bytes) -> bool:
        try:
            os.write(self._writing, data)
            return True
        except BlockingIOError:
            if self._wait_s > 0.0 and select.select([], [self._writing], [], self._wait_s)[1]:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writing, data)
                    return True
            self._look()
            return False

    def _await_ready(self) -> None:
        """Before the flight: until the recorder process takes what comes, or says why not."""
        deadline = time.monotonic() + READY_S
        while self._process is not None and not self._ready:
            select.select([self._heard], [], [], 0.1)
            self._listen()
            if self._process.poll() is not None:
                self._problem = self._problem or f"the recorder process ended with code {self._process.returncode}"
                return
            if time.monotonic() >= deadline:
                self._problem = f"the recorder process is not ready after {READY_S:g} s"
                return

    def _listen(self) -> None:
        """Take in what the recorder process says: that it is ready (an empty problem), and problems."""
        if self._process is None:
            return
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._heard, 65536).splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    said = str(json.loads(line)["problem"])
                    self._problem = said or self._problem
                    self._ready = True

    def _look(self) -> None:
        """Start another recorder process where it has died."""
        self._looked_s = time.monotonic()
        if self._process is None or self._process.poll() is None:
            return
        if time.monotonic() - self._started_s >= RESTART_S:
            self._listen()
            self._problem = self._problem or f"the recorder process died ({self._process.returncode}); another goes on"
            self._start()
            if self._recording:
                self._say_begin()  # the first one may have died with the process

    def _start(self) -> None:
        """Start the recorder process; it takes about a millisecond, its own start goes on beside the flight."""
        self._started_s = time.monotonic()
        arguments = [str(self._path), str(self._reading), str(self._saying), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                module_command("sim2sky.runtime.recorder_process", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._reading, self._saying),
                start_new_session=True,  # Ctrl-C is for the flight; the recorder ends after it
            )
        except OSError as error:
            self._problem = f"flying without a log: cannot start the recorder process: {error.strerror}"
            if self._process is None:
                for handle in (self._reading, self._writing, self._heard, self._saying):
                    os.close(handle)

    def _not_closed(self, code: int) -> str:
        path = self._path
        return f"the recorder process ended with code {code}; the log is in {path}.parts: sim2sky log recover {path}"
