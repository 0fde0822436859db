"""Two agents side by side: what they are flown with, and whether they answer the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import Contract, canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes
from sim2sky.agent.layers import Activation, Affine, Clip, Dense, InputHead, Lstm, Network, Normalise, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import Sample, Setpoint

MEASURED = tuple(f.name for f in fields(Sample))[1:]
LIMITS = SafetyLimits(
    airspeed_min_mps=12.0,
    airspeed_max_mps=30.0,
    sink_max_mps=8.0,
    battery_min_voltage=10.0,
    geofence_polygons=(((-450.0, -400.0), (-450.0, 450.0), (460.0, 430.0), (440.0, -420.0)),),
)
KINDS = ("extreme", "old", "future", "battery", "outside", "height", "setpoint", "switch")
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
    if kind == "wild":  # far outside of the limits, and infinite where the observation is large
        huge = Affine(np.array([2.0, 3e24, 1.0, 1.0], np.float32), np.zeros(4, np.float32))
        return Network((replace(head, layers=()),), (dense(n, 8, 1e6), dense(8, 4, 1e6), huge))
    return Network((head,), (dense(n, 16), Activation(kind), dense(16, 4, 0.5), clip))  # type: ignore[arg-type]


def golden_of(network: Network, contract: Contract, n: int = 64) -> GoldenVectors:
    """Random observations, in sequence where the network remembers, and the reference evaluation's answers."""
    rng = np.random.default_rng(9)
    signals = contract.inputs[0].signals
    low, high = (np.array([getattr(s, end) for s in signals]) for end in ("low", "high"))
    rows = (rng.uniform(low, high, (n, len(signals))) * 0.1).astype(np.float32)
    starts = np.zeros(n, np.float32) if network.lstm is not None else None
    if starts is None:
        action = evaluate(network, {"observation": rows})[0]
    else:
        starts[[0, 20, 21]] = 1.0
        answers, state = [], None
        for row, start in zip(rows, starts, strict=True):
            answer, state = evaluate(network, {"observation": row[None]}, state, np.array([start]))
            answers.append(answer)
        action = np.concatenate(answers)
    scale = np.maximum(np.abs(action).max(axis=0), 1.0)
    return GoldenVectors({"observation": rows}, action.astype(np.float32), starts, np.array(["sampled"] * n), scale)


def bundle_of(
    out: Path,
    kind: str,
    env: EnvironmentSettings | None = None,
    *,
    limits: SafetyLimits = LIMITS,
    seed: int = 0,
    contract: Contract | None = None,
) -> Bundle:
    """A bundle around `network_of`; `contract` in the place of that of `env`."""
    env = env or EnvironmentSettings()
    contract = contract or make_contract(env)
    network = network_of(contract, kind, seed)
    files = {
        "network.npz": network_to_bytes(network),
        "golden.npz": golden_to_bytes(golden_of(network, contract)),
        "policy.onnx": model_to_bytes(emit_onnx(network)),
        "safety.json": canonical_json({**limits.to_json(), "fallback": airframe(env.aircraft).gains.to_json()}),
    }
    return write_bundle(out, agent=kind, contract=contract, formats={"onnx": "policy.onnx"}, active="onnx", files=files)


def moments(seed: int, n: int, dt_ns: int = 50_000_000) -> Iterator[Moment]:
    """Flight as random as it gets: a wandering state, and again and again something that lasts for a while: a value
    that is missing or impossible, a state that grows old, a clock that jumps, a battery that sinks, a fence that is
    passed, a floor, a ceiling, a kill, a new episode."""
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
                kind = str(rng.choice(KINDS))
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
            battery = (9.0, 0.0, math.nan)[field % 3]
        elif kind == "outside":
            sample = replace(sample, north_m=430.0 + 20.0 * field, east_m=-90.0)
        elif kind == "height":
            altitude = 20.0 + 10.0 * field if field % 2 else 440.0 + 10.0 * field
            sample = replace(sample, altitude_m=altitude, climb_rate_mps=-1.0 * field)
        elif kind == "setpoint":
            wanted = Setpoint(*(float(v) for v in rng.choice([*EXTREMES, 0.1, -3.0], 8)))
        elif kind == "switch" and rng.random() < 0.2:
            yield Moment(rng.choice(["kill", "disarm", "arm", "arm", "reset"]))  # type: ignore[arg-type]
        if kind != "switch" and i % 200 == 199:
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
