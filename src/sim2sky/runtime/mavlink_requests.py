"""Requests both ways: ours, sent again until answered or sent often enough; and what ground stations ask of us.

MAVLink's acknowledgements name the command but not its parameters, so of each kind only one is under way at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from sim2sky.runtime.link import mavlink
from sim2sky.runtime.vehicle import Request

__all__ = ["Requests", "acknowledgement", "request_in", "unused"]

MAX_CONFIRMATION = 16  # how often a ground station that gets no answer may have repeated itself

_ASKED = {
    (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 1.0): Request.ENGAGE,
    (mavlink.MAV_CMD_NAV_GUIDED_ENABLE, 0.0): Request.DISENGAGE,
    (mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0): Request.KILL,
    (mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 0.0): Request.DISARM,
    (mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0): Request.ARM,
}


def request_in(command_long: Any) -> Request | None:
    """What a COMMAND_LONG asks of the flight agent; None where it is nothing we do, or where a parameter that means
    nothing is set: a damaged frame whose checksum happens to hold is most likely caught by that."""
    m = command_long
    return _ASKED.get((m.command, m.param1)) if unused(m, 2) else None


def unused(command_long: Any, first: int) -> bool:
    """Whether all parameters from number `first` on are left out: 0, or NaN."""
    values = [getattr(command_long, f"param{i}") for i in range(first, 8)]
    return all(value == 0.0 or math.isnan(value) for value in values) and command_long.confirmation < MAX_CONFIRMATION


def acknowledgement(command: int, result: int, system: int, component: int) -> Any:
    """COMMAND_ACK to whoever sent a command."""
    return mavlink.MAVLink_command_ack_message(command, result, 0, 0, system, component)


@dataclass(slots=True)
class _Waiting:
    message: Any
    tries: int
    due_ns: int = 0


class Requests:
    """First in, first out for each key.

    Args:
        retry_ns: time between two tries.
        tries: how often a request is sent at most.
    """

    def __init__(self, retry_ns: int = 300_000_000, tries: int = 4) -> None:
        self._retry_ns = retry_ns
        self._tries = tries
        self._queues: dict[Hashable, deque[_Waiting]] = {}

    def ask(self, key: Hashable, message: Any) -> None:
        """Add a request; what answers it is up to the caller."""
        self._queues.setdefault(key, deque()).append(_Waiting(message, self._tries))

    def answered(self, key: Hashable) -> bool:
        """The request of that key that is under way has its answer; False where none is."""
        queue = self._queues.get(key)
        if not queue or queue[0].tries == self._tries:  # not even sent
            return False
        queue.popleft()
        if not queue:
            del self._queues[key]
        return True

    def forget(self, key: Hashable) -> None:
        """Ask for that no longer."""
        self._queues.pop(key, None)

    def waiting(self, key: Hashable) -> bool:
        """Whether a request of that key has no answer yet and is still being sent."""
        return key in self._queues

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def due(self, now_ns: int) -> list[Any]:
        """Messages to send now. A request that was sent often enough is dropped when its last wait is over."""
        out: list[Any] = []
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and queue[0].tries == 0 and now_ns >= queue[0].due_ns:
                queue.popleft()
            if not queue:
                del self._queues[key]
                continue
            head = queue[0]
            if head.tries and (head.tries == self._tries or now_ns >= head.due_ns):
                head.tries -= 1
                head.due_ns = now_ns + self._retry_ns
                out.append(head.message)
        return out
