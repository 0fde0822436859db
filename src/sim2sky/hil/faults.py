"""Faults on the link, in the sensors, in the actuators: what the script says, at the time it says, on the real packets
and the simulated aircraft. Time is that of the simulated flight, so a run is repeatable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.disturbances import Scenario
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.fault_schedule import Fault
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.state import CHANNELS, Command, Sample

__all__ = ["CorruptedMessage", "FaultyChannel", "FaultyVehicle", "damage"]

_EPSILON_S = 1e-6  # a delay of three periods ends at the third period, not one later


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """The same bytes with one to three of them changed."""
    out = bytearray(data)
    for at in rng.choice(len(out), size=int(rng.integers(1, 4)), replace=False):
        out[at] ^= int(rng.integers(1, 256))
    return bytes(out)


class CorruptedMessage:
    """A message that is damaged after it was packed, checksum and all: what arrives is what a noisy radio delivers."""

    def __init__(self, message: Any, rng: np.random.Generator) -> None:
        self._message = message
        self._rng = rng

    def pack(self, mav: Any) -> bytes:
        """As a message's own."""
        return damage(self._message.pack(mav), self._rng)

    @staticmethod
    def received(message: Any, rng: np.random.Generator) -> Any | None:
        """What is decoded of a received message whose bytes are damaged: nothing, where its checksum catches it or its
        number has become one that does not exist."""
        try:
            decoded = mavlink.MAVLink(None).decode(bytearray(damage(bytes(message.get_msgbuf()), rng)))
        except (mavlink.MAVError, ValueError):
            return None
        return None if isinstance(decoded, mavlink.MAVLink_unknown) else decoded


class FaultyChannel:
    """One direction of the link.

    Args:
        faults: the script; kinds that are not of the link are passed over.
        direction: `states` or `commands`.
        rng: for everything random.
        applied: counts packets hit, by kind.
    """

    def __init__(
        self, faults: Sequence[Fault], direction: str, rng: np.random.Generator, applied: Counter[str]
    ) -> None:
        kinds = {"drop", "duplicate", "reorder", "delay", "jitter", "corrupt"} | (
            {"dropout"} if direction == "states" else set()
        )
        self._faults = [f for f in faults if f.kind in kinds and f.direction in {direction, "both"}]
        self._commands = direction == "commands"
        self._rng = rng
        self._applied = applied
        self._under_way: list[tuple[float, int, list[Any]]] = []
        self._number = 0

    def carry(self, packet: list[Any], time_s: float) -> list[list[Any]]:
        """Put a packet in at one end; what comes out at the other at this time, in the order of its arrival."""
        for late_s, copy in self._hit(packet, time_s):
            self._number += 1
            self._under_way.append((time_s + late_s, self._number, copy))
        self._under_way.sort(key=lambda entry: entry[:2])
        out = [copy for due_s, _, copy in self._under_way if due_s <= time_s + _EPSILON_S]
        del self._under_way[: len(out)]
        return out

    def _hit(self, packet: list[Any], time_s: float) -> list[tuple[float, list[Any]]]:
        copies = [(0.0, packet)]
        for fault in self._faults:
            if not fault.active(time_s) or self._rng.random() >= fault.probability:
                continue
            self._applied[fault.kind] += 1
            if fault.kind in {"drop", "dropout"}:
                return []
            if fault.kind == "duplicate":
                copies *= 2
            elif fault.kind == "corrupt":
                copies = [(late_s, self._corrupted(copy)) for late_s, copy in copies]
            else:
                more = fault.delay_s * (float(self._rng.random()) if fault.kind == "jitter" else 1.0)
                copies = [(late_s + more, copy) for late_s, copy in copies]
        return copies

    def _corrupted(self, packet: list[Any]) -> list[Any]:
        if self._commands:
            return [m for m in (CorruptedMessage.received(m, self._rng) for m in packet) if m is not None]
        return [CorruptedMessage(m, self._rng) for m in packet]


class FaultyVehicle(SimVehicle):
    """The simulated aircraft with faults between the command and the surfaces, and between the truth and the agent."""

    def __init__(self, settings: EnvironmentSettings) -> None:
        super().__init__(settings)
        self._script: Sequence[Fault] = ()
        self._applied: Counter[str] = Counter()

    def inject(self, faults: Sequence[Fault], applied: Counter[str]) -> None:
        """The script of the next flight; `applied` counts ticks, by kind."""
        self._script, self._applied = faults, applied

    def start(self, scenario: Scenario) -> Sample:
        """See `SimVehicle`."""
        self._flown = list(self.airframe.trim)
        self._kept: dict[tuple[int, str], float] = {}
        return self._sensed(super().start(scenario), 0.0)

    def step(self, command: Command) -> Sample:
        """See `SimVehicle`."""
        return self._sensed(super().step(self._actuated(command, self.time_s)), self.time_s)

    def _active(self, time_s: float, *kinds: str) -> list[tuple[int, Fault]]:
        found = [(i, f) for i, f in enumerate(self._script) if f.kind in kinds and f.active(time_s)]
        for _, fault in found:
            self._applied[fault.kind] += 1
        return found

    def _actuated(self, command: Command, time_s: float) -> Command:
        values = list(command)
        for number, fault in self._active(time_s, "stuck", "slow", "reversed"):
            for channel in fault.channels:
                i = CHANNELS.index(channel)
                last = self._flown[i]
                if fault.kind == "stuck":
                    position = self._kept.setdefault((number, channel), last)
                    values[i] = position if fault.position is None else fault.position
                elif fault.kind == "reversed":
                    values[i] = -values[i]
                else:
                    most = fault.rate_per_s / self.settings.rate_hz
                    values[i] = min(max(values[i], last - most), last + most)
        self._flown = values
        left = 1.0
        for _, fault in self._active(time_s, "thrust_loss"):
            left *= fault.factor
        self._plant.scale_thrust(left)
        return Command(*values)

    def _sensed(self, sample: Sample, time_s: float) -> Sample:
        for number, fault in self._active(time_s, "bias", "freeze", "nan"):
            changed: dict[str, Any] = {}
            for name in fault.signals:
                value = float(getattr(sample, name))
                if fault.kind == "bias":
                    changed[name] = value + fault.offset
                elif fault.kind == "freeze":
                    changed[name] = self._kept.setdefault((number, name), value)
                else:
                    changed[name] = float("nan")
            sample = replace(sample, **changed)
        return sample
