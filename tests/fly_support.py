"""The flying agent without Python, compiled as a library, against a virtual autopilot on a clock of their own; and the
Python agent around the same arithmetic, given the same script."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.c_support import build_shared
from tests.twin_agent import twin
from tests.virtual_support import STEP_NS, Flight, S, virtual_flight

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import agent_sources
from sim2sky.deployment.toolchain import firmware_folder
from sim2sky.hil.virtual_autopilot import VirtualAutopilot
from sim2sky.runtime.autopilots import ARDUPILOT, AutopilotKind
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.flight_loop import FlightLoop, FlightSummary
from sim2sky.runtime.fly_options import parse_engage
from sim2sky.runtime.link import MavlinkLink, mavlink, open_link
from sim2sky.runtime.recorder import Recorder
from sim2sky.telemetry.flight_log import LogMetadata

__all__ = ["PARTS", "RELEASED", "CFlight", "c_flight", "fly_library", "python_flight", "switch"]

PORT = firmware_folder() / "ports" / "linux"
PARTS = [*(PORT / f"{n}.c" for n in ("channel",)), *sorted(p for p in PORT.glob("fly_*.c") if p.stem != "fly_main")]
_SETPOINT = ("altitude_m", "airspeed_mps", "heading_rad", "roll_rad", "pitch_rad", "p_radps", "q_radps", "r_radps")
_MODES = {"LOITER": 12, "RTL": 11}

_NOW = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_RECEIVE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p
)
_SEND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_SAY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class _Io(ctypes.Structure):
    _fields_ = [
        ("context", ctypes.c_void_p), ("now", _NOW), ("receive", _RECEIVE), ("send", _SEND), ("say", _SAY),
        ("whole", ctypes.c_bool), ("interrupted", ctypes.c_void_p),
    ]  # fmt: skip


def fly_library(
    bundle: Bundle,
    folder: Path,
    broken: Mapping[str, tuple[str, str]] | None = None,
    *,
    options: Sequence[str] = (),
) -> ctypes.CDLL:
    """A bundle's flying agent and `tests/firmware/fly_calls.c`.

    Args:
        bundle: what flies.
        folder: for what is generated.
        broken: by file name, a text in it and what stands there instead: negative controls.
        options: more for the compiler.
    """
    parts: list[Path] = []
    for part in PARTS:
        text = part.read_text(encoding="ascii")
        if broken and part.name in broken:
            before, after = broken[part.name]
            assert text.count(before) == 1
            text = text.replace(before, after)
        parts.append(folder / part.name)
        parts[-1].write_text(text, encoding="ascii")
    for header in PORT.glob("*.h"):
        shutil.copy(header, folder)
    for name, text in agent_sources(bundle).items():
        (folder / name).write_text(text, encoding="ascii")
    calls = Path(__file__).parent / "firmware" / "fly_calls.c"
    generated = [folder / name for name in agent_sources(bundle) if name.endswith(".c")]
    core = sorted((firmware_folder() / "core").glob("*.c"))
    library = build_shared([calls, *parts, *core, *generated], folder, options=options)
    library.test_error.restype = ctypes.c_char_p
    library.test_counter.restype = ctypes.c_uint64
    return library


Row = tuple[int, str, tuple[int, ...]]
RELEASED = (0, 0, 0, 0, 65535, 65535, 65535, 65535)


@dataclass
class Overrides:
    """What came to an autopilot.

    Attributes:
        rows: stick overrides: when, in which flight mode, and the eight widths.
        messages: of all messages but texts (those are worded otherwise): when, sender, number, content.
    """

    rows: list[Row] = field(default_factory=list)
    messages: list[tuple[int, int, int, int, dict[str, Any]]] = field(default_factory=list)

    def watch(self, autopilot: VirtualAutopilot, clock: ManualClock) -> None:
        before = autopilot._handle

        def handle(m: Any, now: int) -> None:
            number = m.get_msgId()
            if number == mavlink.MAVLINK_MSG_ID_RC_CHANNELS_OVERRIDE:
                assert (m.target_system, m.target_component) == (1, 1)
                widths = tuple(getattr(m, f"chan{i}_raw") for i in range(1, 9))
                self.rows.append((clock.time_ns, autopilot.mode, widths))
            if number != mavlink.MAVLINK_MSG_ID_STATUSTEXT:
                self.messages.append((clock.time_ns, m.get_srcSystem(), m.get_srcComponent(), number, m.to_dict()))
            before(m, now)

        autopilot._handle = handle  # type: ignore[method-assign]

    @property
    def commands(self) -> list[Row]:
        """Without releases."""
        return [row for row in self.rows if row[2] != RELEASED]


@dataclass
class CFlight:
    """A virtual autopilot, and the C agent that has not yet connected."""

    library: ctypes.CDLL
    clock: ManualClock
    autopilot: VirtualAutopilot
    their_link: MavlinkLink
    socket: socket.socket
    overrides: Overrides
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    words: list[tuple[int, str]] = field(default_factory=list)
    events: list[str | bytes] = field(default_factory=list)
    broken: bool = False
    noise: Callable[[], bytes] = bytes

    later = Flight.later
    from_ground = Flight.from_ground
    command = Flight.command
    heard = Flight.heard
    texts = Flight.texts

    def counter(self, which: str) -> int:
        names = ("engagements", "ticks", "policy_ticks", "engaged", "control", "killed", "late", "pending")
        return int(self.library.test_counter(names.index(which)))

    @property
    def said(self) -> list[str]:
        return [text for _, text in self.words]

    @property
    def error(self) -> str:
        return self.library.test_error(ctypes.c_bool(False)).decode()

    @property
    def ended(self) -> list[str]:
        return [text.removeprefix("disengaged: ") for text in self.said if text.startswith("disengaged: ")]

    @property
    def commanded_while_not_engaged(self) -> int:
        """Stick commands that were sent while it had not said that it is engaged; releases are none."""
        engaged, outside = False, 0
        for event in self.events:
            if isinstance(event, str):
                engaged = event == "engaged" or (engaged and not event.startswith("disengaged: "))
                continue
            at = 0
            while at < len(event):  # MAVLink 2 frames
                if event[at + 7] == mavlink.MAVLINK_MSG_ID_RC_CHANNELS_OVERRIDE:
                    outside += not engaged and event[at + 10 : at + 18] != bytes(8)
                at += 12 + event[at + 1]
        return outside

    def interrupt(self) -> None:
        self.library.test_interrupt()

    def fly(
        self,
        seconds: float,
        *,
        engage: int = 7,
        kill: int = 0,
        setpoint: Mapping[str, float] | None = None,
        hand_back: str = "LOITER",
        connect_timeout_s: float = 10.0,
    ) -> int:
        """Run the agent; its exit code. What a callback raises is raised here."""
        raised: list[BaseException] = []

        def guarded(work: Callable[[], int]) -> int:
            try:
                return 1 if raised else work()
            except BaseException as error:
                raised.append(error)
                return 1

        def receive(timeout_ns: int, data: int, n: Any) -> int:
            self.clock.time_ns += min(timeout_ns, STEP_NS)
            for due in sorted(self.at):
                if due <= self.clock.time_ns / S:
                    self.at.pop(due)()
            self.autopilot.step(0.0)
            self.autopilot.step(0.0)
            came = b""
            with contextlib.suppress(BlockingIOError):
                while True:
                    came += self.socket.recv(65536)
            came += self.noise()
            assert len(came) <= 65536
            ctypes.memmove(data, came, len(came))
            n[0] = len(came)
            return 0

        def send(data: int, n: int) -> int:
            assert n <= 4096
            self.events.append(ctypes.string_at(data, n))
            self.socket.send(ctypes.string_at(data, n))
            return int(self.broken)

        def say(text: str) -> None:
            self.words.append((self.clock.time_ns, text))
            self.events.append(text)

        io = _Io(
            None,
            _NOW(lambda _: self.clock.time_ns),
            _RECEIVE(lambda _, timeout_ns, data, n, p: fail(p, guarded(lambda: receive(timeout_ns, data, n)))),
            _SEND(lambda _, data, n, p: fail(p, guarded(lambda: send(data, n)))),
            _SAY(lambda _, text: say(text.decode())),
            True,
            None,
        )

        def fail(p: int, code: int) -> int:
            if code:
                ctypes.memmove(p, ctypes.byref(ctypes.c_int(code)), 4)  # `exit_code` comes first
            return code

        given = setpoint or {}
        values = (ctypes.c_double * 8)(*(given.get(name, 0.0) for name in _SETPOINT))
        mask = sum(1 << i for i, name in enumerate(_SETPOINT) if name in given)
        code = self.library.test_fly(
            ctypes.byref(io), engage, kill, mask, values, _MODES[hand_back], ctypes.c_double(seconds),
            ctypes.c_double(connect_timeout_s),
        )  # fmt: skip
        if raised:
            raise raised[0]
        return int(code)


@contextlib.contextmanager
def c_flight(library: ctypes.CDLL, kind: AutopilotKind = ARDUPILOT, **options: Any) -> Generator[CFlight, None, None]:
    """The C agent's end, and the autopilot it will find. The pilot's switches are off."""
    clock = ManualClock(100 * S)
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(open_link("udpin:127.0.0.1:0", system=1, component=1))
        autopilot = VirtualAutopilot(theirs, clock, kind=kind, **options)
        ours = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ours.connect(("127.0.0.1", theirs.port))
        ours.setblocking(False)
        overrides = Overrides()
        overrides.watch(autopilot, clock)
        yield CFlight(library, clock, autopilot, theirs, ours, overrides)


def python_flight(
    bundle: Bundle,
    script: Callable[[Any], None],
    seconds: float,
    *,
    kill: int = 0,
    setpoint: Mapping[str, float] | None = None,
    hand_back: str = "LOITER",
    **options: Any,
) -> tuple[Overrides, FlightSummary, list[str], str]:
    """The same flight by the Python agent: overrides, summary, words, the autopilot's last mode."""
    with virtual_flight(hand_back_to=hand_back, **options) as flight:
        overrides = Overrides()
        overrides.watch(flight.autopilot, flight.clock)
        script(flight)
        flight.vehicle.connect(10.0)
        agent = twin(bundle.path)
        said: list[str] = []
        loop = FlightLoop(
            agent, agent._policy, flight.vehicle, Recorder(None, LogMetadata("virtual"), bundle.contract), flight.clock,
            engage=parse_engage("rc:7"), kill_channel=kill, setpoint=setpoint, say=said.append,
        )  # fmt: skip
        summary = loop.run(seconds)
        return overrides, summary, said, flight.autopilot.mode


def switch(flight: Any, channel: int, on: bool) -> None:
    """The pilot moves a switch."""
    flight.autopilot.receiver_us[channel - 1] = 1900 if on else 1100
