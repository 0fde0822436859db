"""A virtual autopilot and a vehicle on a real UDP link, in one thread and on a clock of their own: repeatable, and as
fast as the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from tests.link_support import serial_cable

from sim2sky.environments.jsbsim_plant import Air
from sim2sky.hil.virtual_autopilot import VirtualAutopilot
from sim2sky.runtime.autopilots import ARDUPILOT, AutopilotKind
from sim2sky.runtime.channel import SerialChannel
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.link import Address, LinkStatistics, MavlinkLink, mavlink, open_link
from sim2sky.runtime.mavlink_vehicle import COMPONENT, WANTED, MavlinkVehicle
from sim2sky.runtime.signing import Signer

STEP_NS = 5_000_000
S = 1_000_000_000


class PumpedLink:
    """A link whose waiting lets the clock run and the other side work."""

    def __init__(self, inner: MavlinkLink, clock: ManualClock, other: Callable[[], None]) -> None:
        self.inner, self._clock, self._other = inner, clock, other

    def receive(self, timeout_s: float) -> list[Any]:
        self._clock.time_ns += min(int(timeout_s * S), STEP_NS)
        self._other()
        messages = self.inner.receive(0.0)
        while more := self.inner.receive(0.0):
            messages += more
        return messages

    def send(self, *messages: Any) -> None:
        self.inner.send(*messages)

    def introduce(self, system: int, component: int) -> None:
        self.inner.introduce(system, component)

    @property
    def address(self) -> Address:
        return self.inner.address

    @property
    def statistics(self) -> LinkStatistics:
        return self.inner.statistics

    def close(self) -> None:
        self.inner.close()


@dataclass
class Flight:
    """Both ends of a link."""

    clock: ManualClock
    autopilot: VirtualAutopilot
    vehicle: MavlinkVehicle
    their_link: MavlinkLink
    at: dict[float, Callable[[], object]]
    problems: list[str] = field(default_factory=list)

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something when so much time has passed from now on."""
        self.at[self.clock.time_ns / S + seconds] = action

    def pump(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.time_ns + int(seconds * S)
        while self.clock.time_ns < end:
            self._receive()

    def _receive(self) -> None:
        self.vehicle.receive(0.005)
        if self.vehicle.reading.problem:
            self.problems.append(self.vehicle.reading.problem)

    def pump_until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Let time pass until something holds."""
        end = self.clock.time_ns + int(seconds * S)
        while not condition():
            assert self.clock.time_ns < end, "it never came about"
            self._receive()

    def from_ground(self, message: Any, system: int = 255, component: int = 190) -> None:
        """A message of another component, as the autopilot passes it on."""
        self.their_link.introduce(system, component)
        self.their_link.send(message)
        self.their_link.introduce(1, 1)

    def command(self, number: int, *parameters: float, system: int = 255) -> None:
        """A command for the flight agent from a ground station that has announced itself."""
        gcs = mavlink.MAVLink_heartbeat_message(mavlink.MAV_TYPE_GCS, mavlink.MAV_AUTOPILOT_INVALID, 0, 0, 4, 3)
        self.from_ground(gcs, system)
        values = [*parameters, *(0.0,) * (7 - len(parameters))]
        self.from_ground(mavlink.MAVLink_command_long_message(1, COMPONENT, number, 0, *values), system)

    def heard(self, number: int) -> list[Any]:
        """What the autopilot would pass on to ground stations."""
        return [m for m in self.autopilot.received if m.get_msgId() == number]

    def texts(self) -> list[str]:
        return [m.text for m in self.heard(mavlink.MAVLINK_MSG_ID_STATUSTEXT)]


@contextlib.contextmanager
def virtual_flight(
    kind: AutopilotKind = ARDUPILOT,
    *,
    rate_hz: float = 20.0,
    signers: tuple[Signer | None, Signer | None] = (None, None),
    aircraft: str = "ultrastick25e",
    hand_back_to: str = "LOITER",
    air: Air | None = None,
    noise: float = 0.0,
    medium: str = "udp",
) -> Generator[Flight, None, None]:
    """A vehicle that is not connected yet, and the autopilot it will find; over `udp`, `tcp` or a `serial` port."""
    clock = ManualClock(100 * S)
    with contextlib.ExitStack() as stack:
        if medium == "serial":
            other_end, device = stack.enter_context(serial_cable())
            os.set_blocking(other_end, False)
            channel = SerialChannel(os.dup(other_end))
            theirs = MavlinkLink(channel, Address("serial", "other end", 0), system=1, component=1, signer=signers[0])
            stack.callback(theirs.close)
            where = f"serial:{device}:921600"
        else:
            theirs = stack.enter_context(open_link(f"{medium}in:127.0.0.1:0", system=1, component=1, signer=signers[0]))
            where = f"{medium}:127.0.0.1:{theirs.port}"
        autopilot = VirtualAutopilot(theirs, clock, kind=kind, aircraft=aircraft, air=air, noise=noise)
        at: dict[float, Callable[[], object]] = {}

        def other() -> None:
            for due in sorted(at):
                if due <= clock.time_ns / S:
                    at.pop(due)()
            autopilot.step(0.0)
            autopilot.step(0.0)

        ours = open_link(where, system=1, component=COMPONENT, wanted=WANTED, signer=signers[1])
        link = PumpedLink(ours, clock, other)
        vehicle = MavlinkVehicle(link, clock, rate_hz, hand_back_to=hand_back_to)  # type: ignore[arg-type]
        try:
            yield Flight(clock, autopilot, vehicle, theirs, at)
        finally:
            vehicle.close()
