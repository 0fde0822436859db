"""The aircraft as `sim2sky fly` sees it, whatever it speaks: what it says, what it is told, who has control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from sim2sky.runtime.state import Command, Sample

__all__ = ["Asked", "Control", "Reading", "Request", "Status", "Vehicle"]


class Control(Enum):
    """Whose commands reach the actuators."""

    THEIRS = auto()  # the autopilot's, or its pilot's
    ASKED = auto()  # we have asked for it
    OURS = auto()
    RETURNING = auto()  # we have asked the autopilot to take over again


class Request(Enum):
    """What a ground station, or the autopilot by its own arming, asks of the flight agent."""

    ENGAGE = auto()
    DISENGAGE = auto()
    KILL = auto()
    DISARM = auto()
    ARM = auto()
    FOLLOW = auto()


class Asked(NamedTuple):
    """A request.

    Attributes:
        request: what is asked.
        answer_to: system, component and command number; None where nobody waits for an answer.
        setpoint: of `FOLLOW`, new values of fields of `Setpoint`.
    """

    request: Request
    answer_to: tuple[int, int, int] | None = None
    setpoint: Mapping[str, float] | None = None


class Status(NamedTuple):
    """What the flight agent says of itself to ground stations, several times a second.

    Attributes:
        engaged: whether it commands.
        guard: `safety.Mode` as an integer.
        trips: `safety.Trip` bits as an integer.
        late: ticks so far that missed their deadline.
    """

    engaged: bool
    guard: int
    trips: int
    late: int


@dataclass(slots=True)
class Reading:
    """The newest of everything the aircraft has said.

    Attributes:
        sample: state estimate; None until each part of it has come once. Its time is that of its oldest part.
        battery_v: NaN where nobody says.
        rc_us: pulse width by receiver channel, the first is channel 1; empty where none came lately.
        mode: the autopilot's own name of its flight mode; empty where it has none.
        control: who commands.
        problem: what came up during the last `receive` that ends our control; empty where nothing did.
    """

    sample: Sample | None = None
    battery_v: float = math.nan
    rc_us: tuple[int, ...] = ()
    mode: str = ""
    control: Control = Control.THEIRS
    problem: str = ""


class Vehicle(Protocol):
    """One aircraft on one link.

    Attributes:
        name: what it is, for people.
        virtual: it says itself that it is simulated.
    """

    @property
    def name(self) -> str: ...

    @property
    def virtual(self) -> bool: ...

    def connect(self, timeout_s: float) -> None:
        """Wait until it speaks, find out what it is and whether it can be commanded.

        Raises:
            LinkError: it does not speak, or the link broke.
            NotSupportedError: it is of a kind that we do not command.
            ConfigError: it is not set up for being commanded; the hint says what to set.
        """
        ...

    def receive(self, timeout_s: float) -> None:
        """Take in what comes within `timeout_s`, and go on with whatever has been asked for.

        Raises:
            LinkError: the link broke.
        """
        ...

    @property
    def reading(self) -> Reading:
        """The newest of everything; changes with each `receive`."""
        ...

    def requests(self) -> list[Asked]:
        """What has been asked for since the last call."""
        ...

    def answer(self, asked: Asked, *, accepted: bool) -> None:
        """Tell whoever asked whether it was done."""
        ...

    def take_over(self) -> None:
        """Ask for control; `reading.control` says when we have it, `reading.problem` why not."""
        ...

    def send(self, command: Command) -> None:
        """Command the actuators.

        Raises:
            LinkError: the link broke.
        """
        ...

    def hand_back(self) -> None:
        """Ask the autopilot to fly again; `reading.control` says when it does."""
        ...

    def let_go(self) -> None:
        """Stop commanding at once and leave the flight mode as it is: the sticks are the pilot's."""
        ...

    def announce(self, status: Status, text: str = "") -> None:
        """Tell ground stations how it goes."""
        ...

    def close(self) -> None:
        """Release the link."""
        ...
