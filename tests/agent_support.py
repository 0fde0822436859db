"""Two agents side by side: what they are flown with, and whether they answer the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.agent.layers import Activation, Affine, Clip, Dense, InputHead, Lstm, Network, Normalise
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import Sample, Setpoint

MEASURED = tuple(f.name for f in fields(Sample))[1:]
EXTREMES = (math.nan, math.inf, -math.inf, 1e300, -1e30, 1e7, -0.0, 5e-324, 400.0, -400.0)


class Agent(Protocol):
    """What `FlightAgent` and its twins have in common."""

    monitor: Any

    def reset(self) -> None: ...

    def tick(self, sample: Sample, setpoint: Setpoint, now_ns: int, *, battery_v: float = ...) -> Tick: ...


class Moment(NamedTuple):
    """One thing that happens to an agent."""

    event: Literal["tick", "reset", "kill", "disarm", "arm"]
    sample: Sample | None = None
    setpoint: Setpoint | None = None
    now_ns: int = 0
    battery_v: float = math.nan


def network_of(contract: Contract, kind: str, seed: int = 0) -> Network:
    """A network with random weights: `tanh`, `relu`, `lstm`, or `wild` (answers beyond its limits and not finite)."""
    rng = np.random.default_rng(seed)
    signals = contract.inputs[0].signals
    n = len(signals)

    def dense(inputs: int, outputs: int, gain: float = 1.0) -> Dense:
        weight = rng.normal(size=(outputs, inputs)) * gain / math.sqrt(inputs)
        return Dense(weight.astype(np.float32), (0.1 * rng.normal(size=outputs)).astype(np.float32))

    half = np.array([0.5 * (s.high - s.low) for s in signals])
    head = InputHead("observation", n, (Normalise(0.05 * half, half**2 / 9.0, 1e-8, 10.0),))
    clip = Clip(np.full(4, -1.0, np.float32), np.ones(4, np.float32))
    if kind == "lstm":
        gates = [(rng.normal(size=(64, k)) / 4.0).astype(np.float32) for k in (16, 16)]
        lstm = Lstm((gates[0],), (gates[1],), (rng.normal(size=64).astype(np.float32) * 0.1,))
        return Network((head,), (dense(n, 16), Activation("tanh"), lstm, dense(16, 4), clip))
    if kind == "wild":  # far outside of the limits in turn, and infinite where the roll rate is large
        huge = Affine(np.array([2.0, 1e30, 1.0, 1.0], np.float32), np.zeros(4, np.float32))
        return Network((replace(head, layers=()),), (dense(n, 8, 1e6), dense(8, 4, 1e6), huge))
    return Network((head,), (dense(n, 16), Activation(kind), dense(16, 4, 0.5), clip))  # type: ignore[arg-type]


def moments(seed: int, n: int, dt_ns: int = 50_000_000) -> Iterator[Moment]:
    """Flight as random as it gets: a wandering state, and again and again something that lasts for a while: a value
    that is missing or impossible, a state that grows old, a clock that jumps, a battery that sinks, a fence that is
    passed, a kill, a new episode."""
    rng = np.random.default_rng(seed)
    trim = np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 18.0, 150.0, 0.0, 0.0, 0.0, 10.0, 0.0])
    sway = np.array([0.12, 0.04, 0.1, 0.15, 0.1, 0.1, 0.6, 4.0, 0.7, 15.0, 15.0, 1.0, 1.0])
    state, now = trim.copy(), 0
    setpoint = Setpoint(altitude_m=155.0, airspeed_mps=18.0, heading_rad=0.4)
    left, kind, field, extreme = 0, "", 0, 0.0
    frozen = Sample(0, *trim.tolist())
    for i in range(n):
        now += dt_ns
        state += 0.08 * (trim - state) + sway * rng.normal(size=13) * 0.5
        if left == 0:
            kind, left = "", int(rng.integers(1, 80))
            if rng.random() < 0.5:
                kind = str(rng.choice(["extreme", "old", "future", "battery", "outside", "low", "setpoint", "switch"]))
                field, extreme = int(rng.integers(13)), float(rng.choice(EXTREMES))
                left = int(rng.choice([1, 2, 3, 8, 40, 300]))
        left -= 1
        sample, battery, wanted = Sample(now, *state.tolist()), 11.5, setpoint
        if kind == "extreme":
            sample = replace(sample, **{MEASURED[field]: extreme})
        elif kind == "old":
            sample = replace(frozen, time_ns=frozen.time_ns)
        elif kind == "future":
            sample = replace(sample, time_ns=now + dt_ns * (field - 6))
        elif kind == "battery":
            battery = float(rng.choice([9.0, math.nan, 0.0]))
        elif kind == "outside":
            sample = replace(sample, north_m=430.0 + 20.0 * field, east_m=-90.0)
        elif kind == "low":
            sample = replace(sample, altitude_m=20.0 + 10.0 * field, climb_rate_mps=-1.0 * field)
        elif kind == "setpoint":
            wanted = Setpoint(*(float(v) for v in rng.choice([*EXTREMES, 0.1, -3.0], 8)))
        elif kind == "switch" and rng.random() < 0.2:
            yield Moment(rng.choice(["kill", "disarm", "arm", "arm", "reset"]))  # type: ignore[arg-type]
        if kind != "switch" and i % 1000 == 999:
            yield Moment("disarm")
            yield Moment("arm")
        if kind != "old":
            frozen = sample
        yield Moment("tick", sample, wanted, now, battery)


def step(agent: Agent, moment: Moment) -> Tick | bool | None:
    """What an agent answers to a moment."""
    if moment.event == "tick":
        assert moment.sample is not None and moment.setpoint is not None
        return agent.tick(moment.sample, moment.setpoint, moment.now_ns, battery_v=moment.battery_v)
    if moment.event == "reset":
        return agent.reset()
    return getattr(agent.monitor, moment.event)()


def _bits(values: NDArray[Any] | tuple[float, ...]) -> NDArray[Any]:
    array = np.asarray(values)
    whole: NDArray[Any] = array.view(np.uint32 if array.dtype == np.float32 else np.uint64)
    return np.where(np.isnan(array), 0x7FC00000, whole)


def differs(a: Tick, b: Tick) -> str:
    """The first part in which two ticks are not the same bits (any NaN is any other); empty where there is none."""
    if (a.guard, a.trips) != (b.guard, b.trips):
        return f"mode or trips: {a.guard} {a.trips:#x}, {b.guard} {b.trips:#x}"
    for name in ("observation", "action", "command"):
        x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        if x.dtype != y.dtype or not np.array_equal(_bits(x), _bits(y)):
            return f"{name}: {x.tolist()}, {y.tolist()}"
    return ""
