"""Transitions out of flight logs: what the policy saw, what was really commanded, what it earned.

The action is the command after excitation and guard, in the policy's units; ticks the guard flew itself are left out.
Rewards are the task's, from the log's measured states; sideslip, which no log of an aircraft has, counts as none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.environments.tasks import reward_function
from sim2sky.errors import FlightLogError
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.telemetry.flight_log import Episode, FlightLog, read_flight_log

__all__ = ["LoggedFlight", "read_transitions", "vehicle_of"]

Vehicle = Literal["virtual", "hil", "mavlink"]
_VEHICLES: dict[str, Vehicle] = {"virtual": "virtual", "hil": "hil", "real": "mavlink"}
_STATE = ("roll", "pitch", "yaw", "p", "q", "r", "airspeed", "altitude")


@dataclass(frozen=True, eq=False)
class LoggedFlight:
    """One episode.

    Attributes:
        observations: (n, size) float32, as the policy saw them.
        actions: (n, 4) float32, what was commanded, in the policy's units.
        rewards: (n,) of each tick, from the state measured at the next one; the last is of the tick before it.
        by_policy: (n,) whether the policy was in command.
        ended_early: the episode left the envelope.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    by_policy: NDArray[np.bool_]
    ended_early: bool


def vehicle_of(logs: Sequence[Path]) -> Vehicle:
    """What kind of vehicle the logs were flown on; `virtual` where there are none.

    Raises:
        FlightLogError: a simulation's, or logs of different kinds, or unreadable.
    """
    sources: set[str] = set()
    for path in logs:
        with read_flight_log(path) as log:
            sources.add(log.metadata.source)
    if "sim" in sources:
        raise FlightLogError(
            "a log of simulated flights teaches nothing about the aircraft", hint="give logs of flights", misuse=True
        )
    if len(sources) > 1:
        raise FlightLogError(f"the logs are of different kinds: {', '.join(sorted(sources))}", misuse=True)
    return _VEHICLES[sources.pop()] if sources else "virtual"


def read_transitions(logs: Sequence[Path], contract: Contract, vehicle: Vehicle) -> list[LoggedFlight]:
    """Every episode of the logs.

    Args:
        logs: flight logs of a flight agent.
        contract: of the agent that is to learn; the logs must be flown under the same.
        vehicle: what they must be flown on.

    Raises:
        FlightLogError: another contract, vehicle or rate, no policy in command at all, or unreadable.
    """
    if vehicle_of(logs) != vehicle:
        raise FlightLogError(f"the logs are of the vehicle '{vehicle_of(logs)}', not '{vehicle}'", misuse=True)
    flights: list[LoggedFlight] = []
    for path in logs:
        with read_flight_log(path) as log:
            _check(log, path, contract)
            flights += [_flight(episode, contract) for episode in log.episodes if len(episode) > 2]
    if not any(flight.by_policy.any() for flight in flights):
        raise FlightLogError("in none of the logged flights was the policy in command", misuse=True)
    return flights


def _check(log: FlightLog, path: Path, contract: Contract) -> None:
    if log.metadata.contract_hash != contract.hash:
        raise FlightLogError(
            f"{path} was flown under another contract than the agent's",
            hint="learn from flights of this agent, or of one with the same contract.json",
            misuse=True,
        )


def _flight(episode: Episode, contract: Contract) -> LoggedFlight:
    signals = contract.output.signals
    controls = episode["controls"]
    actions = np.array([[s.action(c) for s, c in zip(signals, row, strict=True)] for row in controls], np.float32)
    observations = episode["observations"].astype(np.float32)
    commanded = np.asarray(np.isfinite(np.column_stack([actions, observations])).all(axis=1))
    if "guard" in episode:
        commanded &= episode.column("guard", "mode") == int(Mode.POLICY)
    return LoggedFlight(
        observations,
        np.nan_to_num(actions),
        _rewards(episode, contract, np.nan_to_num(actions)),
        commanded,
        episode.termination.startswith("envelope"),
    )


def _rewards(episode: Episode, contract: Contract, actions: NDArray[np.float32]) -> NDArray[np.float64]:
    reward = reward_function(contract.task)
    rows = np.column_stack([episode.column("states", name) for name in _STATE])
    targets = episode["setpoints"]
    climb = _climb_rate(episode)
    change = np.abs(np.diff(actions, axis=0, prepend=np.zeros((1, actions.shape[1]), np.float32))).sum(axis=1)
    n = len(actions)
    earned = np.zeros(n)
    for t in range(n - 1):
        k = t + 1
        roll, pitch, yaw, p, q, r, airspeed, altitude = map(float, rows[k])
        sample = Sample(0, roll, pitch, yaw, p, q, r, airspeed, altitude, float(climb[k]), 0.0, 0.0)
        setpoint = Setpoint(*map(float, targets[t]))
        value = reward(sample, setpoint, float(change[t]), 0.0)
        earned[t] = value if math.isfinite(value) else 0.0
    earned[n - 1] = earned[n - 2]
    return earned


def _climb_rate(episode: Episode) -> NDArray[Any]:
    """As the policy saw it where it did; else from the altitude."""
    names = episode.columns("observations")
    if "climb_rate_mps" in names:
        return episode.column("observations", "climb_rate_mps")
    return np.gradient(episode.column("states", "altitude"), episode["time_s"])
