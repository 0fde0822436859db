"""One tick of an agent in flight: state estimate in, guarded command out. No clock, no I/O.

The very same class flies in simulation, behind a HIL link and on the aircraft.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.errors import ContractError
from sim2sky.runtime.excitation import Excitation
from sim2sky.runtime.inference import Backend
from sim2sky.runtime.observation import ObservationBuilder
from sim2sky.runtime.safety import Mode, SafetyMonitor
from sim2sky.runtime.state import CHANNELS, Command, Health, PolicyState, Sample, Setpoint

__all__ = ["FlightAgent", "Tick"]

_NO_COMMAND = Command(math.nan, math.nan, math.nan, math.nan)


class Tick(NamedTuple):
    """What one tick decided.

    Attributes:
        command: what to send; always finite and within the limits.
        action: the policy's own answer (n,), in its own units; NaN where it was not asked.
        observation: (n,) as the policy saw it; NaN where the state was.
        guard: `Mode` as an integer.
        trips: `Trip` bits as an integer.
    """

    command: Command
    action: NDArray[np.float32]
    observation: NDArray[np.float32]
    guard: int
    trips: int


class FlightAgent:
    """Observation, policy, guard.

    Args:
        contract: continuous actions on the four channels, observations the runtime can compute.
        policy: the loaded policy.
        monitor: the guard.
        excitation: added to what the policy proposes, before the guard; it begins with the first tick after a reset.

    Raises:
        ContractError: the contract asks for something the runtime cannot fly.
    """

    def __init__(
        self, contract: Contract, policy: Backend, monitor: SafetyMonitor, excitation: Excitation | None = None
    ) -> None:
        output = contract.output
        if output.kind != "continuous" or tuple(s.name for s in output.signals) != CHANNELS:
            raise ContractError(
                f"flying needs the continuous actions {', '.join(CHANNELS)}; the contract has "
                f"{output.kind} {', '.join(s.name for s in output.signals)}"
            )
        self.contract = contract
        self.monitor = monitor
        self._policy = policy
        self._builder = ObservationBuilder(contract)
        self._signals = output.signals
        self._excitation = excitation
        self.reset()

    @property
    def policy_state(self) -> PolicyState:
        """What became of the last question put to the policy; after `reset`, whether there is one to ask."""
        return self._policy.state

    def reset(self) -> None:
        """New episode: forget previous actions, recurrent state and trips; a kill stays. May wait for a policy process
        that must be started again; where that failed, `policy_state` is `DEAD` and the episode must not begin."""
        self._builder.reset()
        self._policy.reset()
        self.monitor.reset()
        self._excited_ns: int | None = None

    def tick(self, sample: Sample, setpoint: Setpoint, now_ns: int, *, battery_v: float = math.nan) -> Tick:
        """One control step.

        Args:
            sample: newest state estimate.
            setpoint: what to follow.
            now_ns: time of this tick, on the clock of `sample.time_ns`.
            battery_v: battery voltage, NaN where it is not measured.
        """
        observation = self._builder.build(sample, setpoint)
        # A NaN must not reach the policy: integer graphs answer it with finite actions, recurrent ones keep it.
        asked = bool(np.isfinite(observation).all())
        action = self._act(observation) if asked else self._no_action()
        health = Health(self._policy.state if asked else PolicyState.ANSWERED, battery_v)
        answer: list[float] = action.tolist()
        if all(map(math.isfinite, answer)):
            proposed = Command(*(s.command(a) for s, a in zip(self._signals, answer, strict=True)))
        else:
            proposed = _NO_COMMAND
        if self._excitation is not None:
            self._excited_ns = now_ns if self._excited_ns is None else self._excited_ns
            proposed = self._excitation.add(proposed, (now_ns - self._excited_ns) / 1e9)
        guarded = self.monitor.guard(sample, setpoint, proposed, now_ns, health)
        if guarded.mode is not Mode.POLICY:
            answer = [s.action(c) for s, c in zip(self._signals, guarded.command, strict=True)]
        self._builder.record(answer)
        return Tick(guarded.command, action, observation, int(guarded.mode), int(guarded.trips))

    def _act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        action: NDArray[Any] = self._policy(observation)
        if action.shape != (len(CHANNELS),):
            raise ContractError(f"the policy answered an action of shape {action.shape}, not ({len(CHANNELS)},)")
        if self._policy.state is PolicyState.ANSWERED and not np.isfinite(action).all():
            self._policy.reset()  # whatever made it so must not live on in a recurrent state
        return action

    @staticmethod
    def _no_action() -> NDArray[np.float32]:
        return np.full(len(CHANNELS), np.nan, np.float32)
