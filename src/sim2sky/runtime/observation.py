"""State estimate and setpoint to the observation a contract names: the one place, shared by simulator and aircraft.

numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract, Signal
from sim2sky.errors import ContractError
from sim2sky.runtime.real import wrap_angle
from sim2sky.runtime.state import CHANNELS, Sample, Setpoint

__all__ = ["HISTORY", "SIGNALS", "ObservationBuilder", "history_index", "signal"]

HISTORY = 3  # how many previous actions an observation may name
CLIMB_GAIN = 0.4  # 1/s: altitude error to climb-rate reference
CLIMB_LIMIT_MPS = 3.0
BANK_GAIN = 1.2  # rad/rad: heading error to bank reference
BANK_LIMIT_RAD = 0.7


def climb_rate_reference(altitude_error: float) -> float:
    """Climb rate that an altitude error asks for: proportional, limited."""
    climb = CLIMB_GAIN * altitude_error
    return CLIMB_LIMIT_MPS if climb > CLIMB_LIMIT_MPS else max(climb, -CLIMB_LIMIT_MPS)


def bank_reference(heading_error: float) -> float:
    """Bank angle that a heading error asks for: proportional, limited."""
    bank = BANK_GAIN * heading_error
    return BANK_LIMIT_RAD if bank > BANK_LIMIT_RAD else max(bank, -BANK_LIMIT_RAD)


class SignalDefinition(NamedTuple):
    """Unit, frame and limits of an observation scalar, and how it follows from state `s` and setpoint `t`.

    The formulas are expressions, so that a contract's whole list becomes one function: in a simulator that steps in
    30 microseconds a call per signal would be felt.
    """

    unit: str
    frame: str
    low: float
    high: float
    formula: str


SIGNALS: dict[str, SignalDefinition] = {
    "roll_rad": SignalDefinition("rad", "NED", -math.pi, math.pi, "s.roll_rad"),
    "pitch_rad": SignalDefinition("rad", "NED", -math.pi / 2, math.pi / 2, "s.pitch_rad"),
    "p_radps": SignalDefinition("rad/s", "body FRD", -10.0, 10.0, "s.p_radps"),
    "q_radps": SignalDefinition("rad/s", "body FRD", -10.0, 10.0, "s.q_radps"),
    "r_radps": SignalDefinition("rad/s", "body FRD", -10.0, 10.0, "s.r_radps"),
    "airspeed_mps": SignalDefinition("m/s", "air", 0.0, 60.0, "s.airspeed_mps"),
    "climb_rate_mps": SignalDefinition("m/s", "up", -20.0, 20.0, "s.climb_rate_mps"),
    "altitude_error_m": SignalDefinition("m", "setpoint minus state", -40.0, 40.0, "t.altitude_m - s.altitude_m"),
    "airspeed_error_mps": SignalDefinition(
        "m/s", "setpoint minus state", -20.0, 20.0, "t.airspeed_mps - s.airspeed_mps"
    ),
    "heading_error_rad": SignalDefinition(
        "rad", "setpoint minus state", -math.pi, math.pi, "wrap_angle(t.heading_rad - s.yaw_rad)"
    ),
    "climb_rate_error_mps": SignalDefinition(
        "m/s",
        "reference from altitude error minus state",
        -20.0,
        20.0,
        "climb_rate_reference(t.altitude_m - s.altitude_m) - s.climb_rate_mps",
    ),
    "bank_error_rad": SignalDefinition(
        "rad",
        "reference from heading error minus state",
        -math.pi,
        math.pi,
        "bank_reference(wrap_angle(t.heading_rad - s.yaw_rad)) - s.roll_rad",
    ),
    "roll_error_rad": SignalDefinition(
        "rad", "setpoint minus state", -math.pi, math.pi, "wrap_angle(t.roll_rad - s.roll_rad)"
    ),
    "pitch_error_rad": SignalDefinition("rad", "setpoint minus state", -math.pi, math.pi, "t.pitch_rad - s.pitch_rad"),
    "p_error_radps": SignalDefinition("rad/s", "setpoint minus state", -10.0, 10.0, "t.p_radps - s.p_radps"),
    "q_error_radps": SignalDefinition("rad/s", "setpoint minus state", -10.0, 10.0, "t.q_radps - s.q_radps"),
    "r_error_radps": SignalDefinition("rad/s", "setpoint minus state", -10.0, 10.0, "t.r_radps - s.r_radps"),
}


def _measure_function(names: Sequence[str]) -> Callable[[Sample, Setpoint], list[float]]:
    """One function for a list of signals; the source is made of this module's own formulas only."""
    source = f"lambda s, t: [{', '.join(SIGNALS[name].formula for name in names)}]"
    scope = {
        "wrap_angle": wrap_angle,
        "climb_rate_reference": climb_rate_reference,
        "bank_reference": bank_reference,
    }
    return eval(source, {"__builtins__": {}, **scope})  # noqa: S307 - formulas of this module, never input


def signal(name: str) -> Signal:
    """The contract entry of a signal.

    Args:
        name: a key of `SIGNALS`, or `previous_CHANNEL_K`: the action of channel CHANNEL, K ticks ago (1..HISTORY).

    Raises:
        ContractError: no such signal.
    """
    if name in SIGNALS:
        definition = SIGNALS[name]
        return Signal(name, definition.unit, definition.frame, definition.low, definition.high)
    history_index(name)
    return Signal(name, "1", "action", -1.0, 1.0)


def history_index(name: str) -> int:
    """Position in the flat history (newest first, four channels each) of `previous_CHANNEL_K`.

    Raises:
        ContractError: no such signal.
    """
    parts = name.split("_")
    if len(parts) == 3 and parts[0] == "previous" and parts[1] in CHANNELS and parts[2].isdigit():
        age = int(parts[2])
        if 1 <= age <= HISTORY:
            return (age - 1) * len(CHANNELS) + CHANNELS.index(parts[1])
    raise ContractError(
        f"the contract names an observation '{name}' that the runtime cannot compute",
        hint="known signals: " + ", ".join(SIGNALS) + ", previous_CHANNEL_1..3",
    )


class ObservationBuilder:
    """Builds observations in the contract's order, clipped to its limits. A NaN in the state stays a NaN.

    Args:
        contract: one box input whose signals are all known here.

    Raises:
        ContractError: the contract asks for something else.
    """

    def __init__(self, contract: Contract) -> None:
        if len(contract.inputs) != 1 or contract.inputs[0].kind != "box":
            raise ContractError("flying needs a contract with a single box observation")
        signals = contract.inputs[0].signals
        measured = [s.name for s in signals if s.name in SIGNALS]
        self._measure = _measure_function(measured)
        history = [history_index(s.name) for s in signals if s.name not in SIGNALS]
        if any(s.name in SIGNALS for s in signals[len(measured) :]):
            raise ContractError("in a contract the previous actions come after all measured signals")
        self._history_picks = history
        # The common case, all of the newest entries in order, needs no gather.
        self._plain = history == list(range(len(history)))
        self._n_history = len(history)
        self._neutral = [s.middle for s in contract.output.signals]
        self._low = np.array([s.low for s in signals], np.float32)
        self._high = np.array([s.high for s in signals], np.float32)
        self._history: list[float] = []
        self.reset()

    def reset(self) -> None:
        """Forget previous actions: they read as the neutral action."""
        self._history = self._neutral * HISTORY

    def record(self, action: Sequence[float]) -> None:
        """Remember the policy's action of this tick (in the policy's own units)."""
        self._history = [*action, *self._history[: -len(action)]]

    def build(self, sample: Sample, setpoint: Setpoint) -> NDArray[np.float32]:
        """Observation, shape (n,), float32."""
        values = self._measure(sample, setpoint)
        history = self._history
        values += history[: self._n_history] if self._plain else [history[i] for i in self._history_picks]
        observation = np.array(values, np.float32)
        np.maximum(observation, self._low, out=observation)
        return np.minimum(observation, self._high, out=observation)
