"""Fault scripts for HIL runs: YAML in, frozen and checked models out. What each kind does is in `faults`."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import Settings

__all__ = ["Case", "Expectation", "Fault", "FaultSettings", "Kind"]

Kind = Literal[
    "drop", "duplicate", "reorder", "delay", "jitter", "corrupt", "clock_jump",
    "bias", "freeze", "nan", "dropout",
    "stuck", "slow", "reversed", "thrust_loss",
    "restart",
]  # fmt: skip

Expectation = Literal["completes", "recovers", "guarded", "lost", "ends"]
"""How a flight with a fault is expected to go.

completes: to its end, the policy in command all the way. recovers: the fallback law took over and gave back, the policy
commands at the end. guarded: to its end, the fallback law commands at the end. lost: the aircraft leaves its envelope
although the guard may do what it can. ends: the run ends with a plain error in bounded time.
"""

Signal = Literal[
    "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m",
    "climb_rate_mps", "north_m", "east_m", "north_mps", "east_mps",
]  # fmt: skip
Channel = Literal["aileron", "elevator", "rudder", "throttle"]

PARAMETERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "drop": ((), ("probability", "direction")),
    "duplicate": ((), ("probability", "direction")),
    "reorder": (("probability", "delay_s"), ("direction",)),
    "delay": (("delay_s",), ("direction",)),
    "jitter": (("delay_s",), ("direction",)),
    "corrupt": ((), ("probability", "direction")),
    "clock_jump": (("offset",), ()),
    "bias": (("signals", "offset"), ()),
    "freeze": ((), ("signals",)),
    "nan": (("signals",), ()),
    "dropout": ((), ()),
    "stuck": (("channels",), ("position",)),
    "slow": (("channels", "rate_per_s"), ()),
    "reversed": (("channels",), ()),
    "thrust_loss": (("factor",), ()),
    "restart": ((), ("down_s",)),
}
"""By kind: parameters that must be given, and those that may."""

_SIGNALS: tuple[Signal, ...] = get_args(Signal)


class Fault(Settings):
    """One fault, for a time."""

    kind: Kind
    start_s: float = Field(default=6.0, gt=0, description="since the start of the flight, simulated time")
    duration_s: float | None = Field(default=None, gt=0, description="until the end of the flight where it is absent")
    probability: float = Field(default=1.0, gt=0, le=1, description="that a packet is hit")
    direction: Literal["states", "commands", "both"] = Field(
        default="both", description="states: to the agent; commands: from it"
    )
    delay_s: float = Field(default=0.0, gt=0, le=60, description="jitter: the longest; reorder: of the packets hit")
    signals: tuple[Signal, ...] = Field(default=_SIGNALS, min_length=1, description="of the state estimate")
    offset: float = Field(default=0.0, description="bias: in the signal's unit; clock_jump: s")
    channels: tuple[Channel, ...] = Field(default=(), min_length=1)
    position: float | None = Field(default=None, ge=-1, le=1, description="stuck: there; where it is absent: as it was")
    rate_per_s: float = Field(default=0.0, gt=0, description="slow: full travels per second")
    factor: float = Field(default=0.0, ge=0, le=1, description="thrust_loss: what is left")
    down_s: float | None = Field(
        default=None, gt=0, description="restart: simulated time without an agent; never again where it is absent"
    )

    @model_validator(mode="after")
    def _parameters_of_its_kind(self) -> Self:
        required, optional = PARAMETERS[self.kind]
        given = self.model_fields_set - {"kind", "start_s", "duration_s"}
        if missing := [name for name in required if name not in given]:
            raise ValueError(f"'{self.kind}' needs '{missing[0]}'")
        if foreign := sorted(given - {*required, *optional}):
            takes = ", ".join((*required, *optional)) or "no parameters"
            raise ValueError(f"'{self.kind}' does not take '{foreign[0]}'; it takes {takes}")
        if self.kind == "reversed" and "throttle" in self.channels:
            raise ValueError("a throttle cannot be reversed; use thrust_loss")
        if self.kind == "restart" and self.duration_s is not None:
            raise ValueError("a restart has 'down_s', not 'duration_s'")
        return self

    def active(self, time_s: float) -> bool:
        """Whether it is there at this time of the flight."""
        ends = float("inf") if self.duration_s is None else self.start_s + self.duration_s
        return self.start_s - 1e-9 <= time_s < ends - 1e-9


class Case(Settings):
    """One flight with its faults and what is expected of it."""

    name: str = Field(min_length=1)
    severity: str = Field(default="", description="mild, moderate, severe: the columns of the printed matrix")
    faults: tuple[Fault, ...] = Field(min_length=1)
    expect: Expectation
    within_s: float | None = Field(
        default=None, gt=0, description="the fallback law must command so soon after the first fault began"
    )

    @model_validator(mode="after")
    def _one_restart(self) -> Self:
        if sum(f.kind == "restart" for f in self.faults) > 1:
            raise ValueError("one restart per flight")
        if self.within_s is not None and self.expect not in {"recovers", "guarded", "lost"}:
            raise ValueError(f"'within_s' says when the fallback law takes over; '{self.expect}' expects no takeover")
        return self

    @property
    def title(self) -> str:
        """Name and severity."""
        return f"{self.name} {self.severity}".strip()


class FaultSettings(Settings):
    """A fault file."""

    environment: EnvironmentSettings = EnvironmentSettings()
    seed: int = Field(default=1, ge=0, description="of the flight, the same in every case, and of the faults")
    cases: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        titles = [case.title for case in self.cases]
        if twice := [t for t in titles if titles.count(t) > 1]:
            raise ValueError(f"two cases are called '{twice[0]}'")
        late = [(c.title, f) for c in self.cases for f in c.faults if f.start_s >= self.environment.task.duration_s]
        if late:
            raise ValueError(f"'{late[0][0]}': a fault begins at {late[0][1].start_s} s, after the end of the flight")
        return self
