"""A plant that loses, delays and damages what it exchanges with the flight agent, and kills it, as a script says.

In lockstep only: every period the plant says what time it is (SYSTEM_TIME), so that the agent ticks whatever has become
of the state, and a lost second is a second of old data to it although it takes no time at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.hil.fault_schedule import Fault
from sim2sky.hil.faults import FaultyChannel, FaultyVehicle
from sim2sky.hil.plant import Plant
from sim2sky.runtime import messages
from sim2sky.runtime.link import Link, mavlink
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import Command, Sample

__all__ = ["FaultPlan", "FaultReport", "FaultyPlant"]


@dataclass(eq=False)
class FaultReport:
    """What was done to one flight, and who commanded.

    Attributes:
        applied: how often each kind of fault struck: packets, or ticks.
        modes: the agent's `Mode` at every tick; None while there was no agent.
        rate_hz: ticks per second.
        outcome: how the flight ended; None where the run did.
    """

    rate_hz: float
    applied: Counter[str] = field(default_factory=Counter[str])
    modes: list[int | None] = field(default_factory=list[int | None])
    outcome: EpisodeOutcome | None = None

    @property
    def guarded(self) -> int:
        """Ticks in which the policy was not in command."""
        return sum(mode is not None and mode != Mode.POLICY for mode in self.modes)

    def takeover_s(self, after_s: float) -> float | None:
        """How long after a time the fallback law first commanded; None where it never did."""
        first = round(after_s * self.rate_hz)
        for tick, mode in enumerate(self.modes[first:]):
            if mode is not None and mode != Mode.POLICY:
                return tick / self.rate_hz
        return None


@dataclass(eq=False)
class FaultPlan:
    """Scripts of the flights of a run, one each, and afterwards what came of them.

    Attributes:
        scripts: faults by episode.
        seed: of everything random.
        reports: of the flights begun, in order.
    """

    scripts: Sequence[Sequence[Fault]]
    seed: int = 0
    reports: list[FaultReport] = field(default_factory=list[FaultReport])


class FaultyPlant(Plant):
    """See the module.

    Args:
        plan: the scripts; filled with reports.
        kill: ends the agent's process at once.
        revive: starts another one, and returns a link for it.
        others: as `Plant`.
    """

    def __init__(
        self,
        vehicle: FaultyVehicle,
        *others: Any,
        plan: FaultPlan,
        kill: Callable[[], None],
        revive: Callable[[], Link],
        **more: Any,
    ) -> None:
        super().__init__(vehicle, *others, **more)
        self._faulty = vehicle
        self._plan = plan
        self._kill, self._revive = kill, revive

    def _fly(self, episode: int, seed: int) -> EpisodeOutcome:
        faults = self._plan.scripts[episode]
        self._report = report = FaultReport(self._rate_hz)
        self._plan.reports.append(report)
        self._faulty.inject(faults, report.applied)
        states, commands = np.random.SeedSequence([self._plan.seed, episode]).spawn(2)
        self._states = FaultyChannel(faults, "states", np.random.default_rng(states), report.applied)
        self._commands = FaultyChannel(faults, "commands", np.random.default_rng(commands), report.applied)
        self._jumps = [f for f in faults if f.kind == "clock_jump"]
        self._restart = next((f for f in faults if f.kind == "restart"), None)
        self._back_s = float("inf")
        self._flown_usec = -1
        self._episode, self._seed = episode, seed
        report.outcome = super()._fly(episode, seed)
        return report.outcome

    def _exchange(self, sample: Sample) -> Command:
        time_s = self._vehicle.time_s
        if self._agent_is_down(time_s):
            self._report.modes.append(None)
            return self._command  # the actuators stay where they are
        for packet in self._states.carry(self._stamped(sample, time_s), time_s):
            self._link.send(*packet)
        start = self._clock.now_ns()
        number, usec = mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS, self._usec
        told = mavlink.MAVLink_system_time_message(usec, usec // 1000 & 0xFFFFFFFF)
        answer = self._ask([told], lambda m: m.get_msgId() == number and m.time_usec == usec)
        self.statistics.exchange_ns.append(self._clock.now_ns() - start)
        self._report.modes.append(int(messages.mode_from(answer)))
        for packet in self._commands.carry([answer], time_s):
            for message in packet:
                self._newest(message)
        return self._command

    def _newest(self, message: Any) -> None:
        """Fly a command that has arrived, unless a newer one is flown already."""
        if (
            message.get_msgId() == mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS
            and message.time_usec >= self._flown_usec
        ):
            self._flown_usec = message.time_usec
            self._take(message)

    def _stamped(self, sample: Sample, time_s: float) -> list[Any]:
        """State messages with the time that the plant's clock shows, right or wrong."""
        right = self._usec
        for jump in self._jumps:
            if jump.active(time_s):
                self._usec = max(self._usec + round(jump.offset * 1e6), 0)
                self._report.applied["clock_jump"] += 1
        out = self._state_messages(sample)
        self._usec = right
        return out

    def _agent_is_down(self, time_s: float) -> bool:
        fault = self._restart
        if fault is not None and fault.active(time_s):
            self._restart = None
            self._report.applied["restart"] += 1
            self._kill()
            if fault.down_s is not None:
                self._back_s = time_s + fault.down_s
        if time_s < self._back_s < float("inf"):
            return True
        if self._back_s < float("inf"):
            self._back_s = float("inf")
            self._link = self._revive()
            self.connect()
            self._known = {}
            start = messages.episode_start(self._episode, self._seed, self._rate_hz)
            self._acknowledged(messages.EPISODE_START, [start])
        return False
