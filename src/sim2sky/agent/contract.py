"""The contract between an agent and everything that runs it: ordered signals, units, limits, rate, vehicle.

Nothing downstream re-declares an order, unit, limit or rate. Imports numpy and the standard library only, because it
travels to the flight computer.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import ContractError

__all__ = ["ActionSignal", "Contract", "Input", "Output", "Signal", "canonical_json"]

InputKind = Literal["box", "discrete", "multi_discrete", "multi_binary"]
OutputKind = Literal["continuous", "discrete", "multi_discrete", "multi_binary"]

SCHEMA = 1


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no white space: equal values give equal bytes, hence equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _number(value: float) -> float | str:
    """JSON has no infinity: write it as a word."""
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")


@dataclass(frozen=True, slots=True)
class Signal:
    """One scalar of an observation.

    Attributes:
        name: e.g. `roll_rad`.
        unit: SI unit, e.g. `rad`, `m/s`, `1` for a ratio.
        frame: `body FRD`, `NED`, `setpoint`, ... or empty where none applies.
        low, high: limits in `unit`; a value outside is clipped before the policy sees it.
    """

    name: str
    unit: str
    frame: str
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "name": self.name,
            "unit": self.unit,
            "frame": self.frame,
            "low": _number(self.low),
            "high": _number(self.high),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Signal:
        """Inverse of `to_json`."""
        return cls(data["name"], data["unit"], data["frame"], float(data["low"]), float(data["high"]))


@dataclass(frozen=True, slots=True)
class ActionSignal:
    """One scalar of an action, and the command it stands for.

    The command follows from the action by straight lines through three points: `low` -> `command_low`,
    0 (or the middle of the range) -> `command_neutral`, `high` -> `command_high`. So the policy's zero is the trim
    and its range the authority it was trained with.

    Attributes:
        name: the command channel: `aileron`, `elevator`, `rudder`, `throttle`, or `action_0`... for foreign agents.
        unit: unit of the *command*: `1` (surfaces -1..1, throttle 0..1).
        low, high: limits of the policy's own answer, as the trainer's action space had them.
        deflection_limit_rad: surface deflection at command 1; 0 where it is no surface.
    """

    name: str
    unit: str
    low: float
    high: float
    command_low: float
    command_neutral: float
    command_high: float
    deflection_limit_rad: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        values = {name: getattr(self, name) for name in (f.name for f in fields(self))}
        return {k: _number(v) if isinstance(v, float) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionSignal:
        """Inverse of `to_json`."""
        return cls(
            data["name"],
            data["unit"],
            *(float(data[f.name]) for f in fields(cls)[2:]),
        )

    @property
    def middle(self) -> float:
        """The action that gives `command_neutral`."""
        return 0.5 * (self.low + self.high)

    def command(self, action: float) -> float:
        """Command for one scalar action; the action is clipped to its limits first."""
        a = min(max(action, self.low), self.high)
        middle = self.middle
        if a >= middle:
            return self.command_neutral + (a - middle) / (self.high - middle) * (
                self.command_high - self.command_neutral
            )
        return self.command_neutral + (middle - a) / (middle - self.low) * (self.command_low - self.command_neutral)

    def action(self, command: float) -> float:
        """Inverse of `command`, clipped to the action's limits."""
        up, down = self.command_high - self.command_neutral, self.command_neutral - self.command_low
        delta = command - self.command_neutral
        if delta >= 0.0:
            a = self.middle + (delta / up * (self.high - self.middle) if up else 0.0)
        else:
            a = self.middle + (delta / down * (self.middle - self.low) if down else 0.0)
        return min(max(a, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor of the policy.

    Attributes:
        key: `observation` for a single space, else the key of the Dict space.
        kind: the space's kind.
        shape: shape of one raw observation as the agent's space has it (`()` for discrete).
        dtype: numpy name of the raw observation's type.
        signals: one per scalar in C order (box), or one per category variable (others).
        sizes: number of categories per variable for discrete kinds, else empty.
    """

    key: str
    kind: InputKind
    shape: tuple[int, ...]
    dtype: str
    signals: tuple[Signal, ...]
    sizes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "key": self.key,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "signals": [s.to_json() for s in self.signals],
            "sizes": list(self.sizes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Input:
        """Inverse of `to_json`."""
        return cls(
            data["key"],
            data["kind"],
            tuple(data["shape"]),
            data["dtype"],
            tuple(Signal.from_json(s) for s in data["signals"]),
            tuple(data["sizes"]),
        )


@dataclass(frozen=True, slots=True)
class Output:
    """The policy's answer: `signals` for continuous actions, `sizes` (categories per variable) for discrete ones."""

    kind: OutputKind
    signals: tuple[ActionSignal, ...] = ()
    sizes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {"kind": self.kind, "signals": [s.to_json() for s in self.signals], "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Output:
        """Inverse of `to_json`."""
        return cls(data["kind"], tuple(ActionSignal.from_json(s) for s in data["signals"]), tuple(data["sizes"]))


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything a runtime must know about an agent besides its weights.

    Attributes:
        vehicle: airframe name (`ultrastick25e`), or empty for an agent that flies none of ours.
        task: `hsa`, `attitude`, `rate`, or empty.
        rate_hz: control rate; 0 where the agent's file does not say.
        inputs: the policy's input tensors in order.
        output: the policy's answer.
    """

    vehicle: str
    task: str
    rate_hz: float
    inputs: tuple[Input, ...]
    output: Output

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "schema": SCHEMA,
            "vehicle": self.vehicle,
            "task": self.task,
            "rate_hz": self.rate_hz,
            "inputs": [i.to_json() for i in self.inputs],
            "output": self.output.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Contract:
        """Inverse of `to_json`.

        Raises:
            ContractError: unknown schema, or a field is missing or of the wrong type.
        """
        if data.get("schema") != SCHEMA:
            raise ContractError(f"contract schema {data.get('schema')!r} is not {SCHEMA}")
        try:
            return cls(
                data["vehicle"],
                data["task"],
                float(data["rate_hz"]),
                tuple(Input.from_json(i) for i in data["inputs"]),
                Output.from_json(data["output"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"contract is malformed: {error!r}") from error

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical JSON form."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Names of all observation scalars, inputs concatenated in order."""
        return tuple(s.name for i in self.inputs for s in i.signals)

    def commands(self, action: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Map one action, shape (len(output.signals),), to commands by channel name.

        Raises:
            ContractError: the action is discrete or of the wrong length.
        """
        if self.output.kind != "continuous" or len(action) != len(self.output.signals):
            raise ContractError(
                f"an action of length {len(action)} does not fit the contract's {self.output.kind} output "
                f"with {len(self.output.signals)} signals"
            )
        return {s.name: s.command(float(a)) for s, a in zip(self.output.signals, action, strict=True)}
