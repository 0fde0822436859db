"""What the two guards are asked in `guard_twin.py`: random limits, gains and contracts, and the calls of one flight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import AIRFRAMES, airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ConfigError
from sim2sky.hil.native_guard import ARM, DISARM, KILL, RESET
from sim2sky.runtime.autopilot import AutopilotGains
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.state import PolicyState

FLIGHT = 500  # steps
RECORD = np.dtype([
    ("time_ns", "i8"), ("state", "f8", 13), ("setpoint", "f8", 8), ("proposed", "f8", 4), ("now_ns", "i8"),
    ("battery_v", "f8"), ("policy", "i4"), ("what", "i4"),
])  # fmt: skip

NASTY = np.array([
    math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -5e-324, 1e-310, 0.0, -0.0, 1e6, -1e6, 9.9e5, 1e16,
    math.nextafter(1e6, 0.0), math.nextafter(-1e6, 0.0), math.pi, -math.pi, math.pi / 2, 1e-12, 1.0, -1.0,
])  # fmt: skip
INSTANTS = np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2**62, 10**18], np.int64)
THEMES = (
    "calm", "calm", "calm", "wild", "wild", "jumps", "garbage", "holes", "old", "blind", "clock", "late", "dead",
    "battery", "no position", "switch", "home", "borders",
)  # fmt: skip
Rng = np.random.Generator


def random_limits(rng: Rng) -> SafetyLimits:
    """Limits that a configuration may hold; some of zero, some far out."""
    while True:
        u: Callable[[float, float], float] = lambda a, b: float(rng.uniform(a, b))  # noqa: E731
        maybe: Callable[[float], float] = lambda v: v if rng.random() < 0.6 else 0.0  # noqa: E731
        low = u(-20.0, 120.0)
        values: dict[str, Any] = {
            "aileron_max": u(2, 60), "elevator_max": u(2, 60), "rudder_max": u(2, 60),
            "throttle_min": maybe(u(0, 0.4)), "throttle_max": u(0.5, 1.0),
            "surface_slew_per_s": u(0.2, 30), "throttle_slew_per_s": u(0.2, 30),
            "roll_max": u(20, 180), "pitch_max": u(10, 90), "pitch_min": -u(10, 90),
            "airspeed_min_mps": maybe(u(5, 15)), "airspeed_max_mps": maybe(u(22, 60)), "sink_max_mps": maybe(u(3, 20)),
            "altitude_min": low, "max_altitude_m": low + u(60, 600), "altitude_buffer_m": maybe(u(0, 20)),
            "max_range_m": u(100, 5000), "geofence_polygons": random_polygons(rng),
            "geofence_enabled": bool(rng.random() < 0.85), "fence_buffer_m": maybe(u(0, 60)),
            "battery_min_voltage": maybe(10.5), "kill_switch_enabled": bool(rng.random() < 0.8),
            "hold_last_ms": maybe(u(0, 300)), "stale_data_ms": u(1, 300), "blind_data_ms": u(300, 800),
            "terminate_after_s": maybe(u(0, 2)), "attitude_hysteresis_deg": maybe(u(0, 9)),
            "altitude_hysteresis_m": maybe(u(0, 8)), "range_hysteresis_m": maybe(u(0, 30)),
            "airspeed_hysteresis_mps": maybe(u(0, 2)), "recovery_s": maybe(u(0, 1)), "return_after_s": maybe(u(0, 3)),
            "fallback_airspeed_mps": maybe(u(16, 22)), "fallback_bank_deg": u(5, 75),
            "fallback_roll_s": maybe(u(0.1, 3)), "fallback_pull_mps2": u(0.5, 8),
            "position_latency_ms": maybe(u(0, 400)), "command_latency_ms": maybe(u(0, 300)),
            "wind_max_mps": maybe(u(0, 20)),
        }  # fmt: skip
        try:
            return SafetyLimits(**values)
        except ConfigError:
            continue  # they contradict each other


def random_polygons(rng: Rng) -> tuple[tuple[tuple[float, float], ...], ...]:
    """None to two star-shaped polygons around home, either way round."""
    polygons: list[tuple[tuple[float, float], ...]] = []
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        n = int(rng.integers(3, 8))
        angles = rng.uniform(0, math.tau) + math.tau * (np.arange(n) + rng.uniform(-0.2, 0.2, n)) / n
        away = rng.uniform(150.0, 900.0, n)
        points = [(float(a * math.cos(t)), float(a * math.sin(t))) for a, t in zip(away, angles, strict=True)]
        polygons.append(tuple(points if rng.random() < 0.5 else points[::-1]))
    return tuple(polygons)


def random_gains(rng: Rng) -> AutopilotGains:
    """An airframe's gains, each scaled; some zero; rarely so large that the law overflows."""
    gains = airframe(str(rng.choice(list(AIRFRAMES)))).gains.to_json()
    scaled = {name: value * float(rng.lognormal(0.0, 0.4)) for name, value in gains.items()}
    for name in rng.choice(list(gains), 2):
        if name != "yaw_washout_s":
            scaled[name] = float(rng.choice([0.0, scaled[name], -scaled[name]]))
    if rng.random() < 0.08:
        scaled[str(rng.choice(["roll_p", "pitch_d", "energy_p", "climb_gain", "turn_pitch"]))] = 1.7e308
    return AutopilotGains(**scaled)


def random_contract(rng: Rng) -> Contract:
    """One of our contracts with another rate, other bounds and other travel."""
    task = {"name": str(rng.choice(["hsa", "attitude", "rate"]))}
    contract = make_contract(EnvironmentSettings.model_validate({"task": task}))
    box = contract.inputs[0]
    bounds = [
        replace(s, low=s.low * f, high=s.high * f) if rng.random() < 0.3 else s
        for s, f in zip(box.signals, rng.uniform(0.2, 1.5, len(box.signals)), strict=True)
    ]
    if rng.random() < 0.3:  # a velocity over ground that is not measured is outside of every bound
        bounds[0] = replace(bounds[0], name="north_mps", low=-math.inf, high=30.0)
    channels = tuple(
        replace(s, deflection_limit_rad=float(rng.uniform(0.1, 1.0)), command_neutral=float(rng.uniform(-0.2, 0.6)))
        for s in contract.output.signals
    )
    rate_hz = float(rng.choice([5.0, 10.0, 20.0, 50.0, 100.0]))
    output = replace(contract.output, signals=channels)
    return replace(contract, rate_hz=rate_hz, inputs=(replace(box, signals=tuple(bounds)),), output=output)


def smooth(rng: Rng, n: int, width: int) -> NDArray[np.float64]:
    """Random motion: `width` sums of three sines, mostly within -1 to 1, shape (n, width)."""
    t = np.arange(n)[:, None, None]
    periods, phases = rng.uniform(8.0, 250.0, (1, width, 3)), rng.uniform(0.0, math.tau, (1, width, 3))
    motion: NDArray[np.float64] = np.sin(math.tau * t / periods + phases).sum(axis=2) / 2.0
    return motion


def random_calls(rng: Rng, limits: SafetyLimits, rate_hz: float, n: int = FLIGHT) -> NDArray[Any]:
    """The calls of one flight, shape (n,) of `RECORD`."""
    r = np.zeros(n, RECORD)
    low, high = limits.altitude_min, limits.max_altitude_m
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    centre = np.array([0, 0.03, rng.uniform(-4, 4), 0, 0, 0, 19, middle, 0, 0, 0, 0, 0])
    span = np.array([
        math.radians(limits.roll_max), math.radians(limits.pitch_max), 4, 2, 1, 1, 15, half, 12, limits.max_range_m,
        limits.max_range_m, 30, 30,
    ])  # fmt: skip
    motion = smooth(rng, n, 13)
    share = np.full((n, 1), 0.15)
    r["setpoint"] = [middle, 19, 0, 0, 0, 0, 0, 0] + smooth(rng, n, 8) * [50, 6, 3, 1, 0.3, 1, 1, 1]
    r["proposed"] = [0, 0, 0, 0.5] + smooth(rng, n, 4) * rng.uniform(0.1, 1.5)
    r["battery_v"] = math.nan if rng.random() < 0.7 else 12.0
    period = round(1e9 / rate_hz)
    begin = int(rng.choice([0, 10**12, -(2**63), 2**63 - 1 - 2 * n * period]))
    now = begin + np.arange(n, dtype=np.int64) * period
    delay = np.full(n, int(rng.integers(0, 2)) * 10**6, np.int64)
    borders = np.cumsum(rng.integers(10, 90, n // 10))
    stretches = list(pairwise([0, *borders[borders < n - 10].tolist(), n]))
    for a, b in stretches:
        part, k = slice(a, b), b - a
        theme = str(rng.choice(THEMES))
        if theme == "wild":
            share[part] = rng.uniform(0.5, 1.4)
        elif theme == "jumps":
            share[part] = 1.3
            motion[part] = rng.uniform(-1, 1, (k, 13))
        elif theme == "old":
            borders_ns = [int(ms * 1e6) + d for ms in (limits.stale_data_ms, limits.blind_data_ms) for d in (-1, 0, 1)]
            delay[part] = rng.choice([rng.integers(-(10**9), 10**9, k), rng.choice(borders_ns, k)])
        elif theme == "blind":
            delay[part] = 900_000_000
        elif theme == "home":
            centre_n, centre_e = rng.uniform(-60, 60, 2)
            motion[part, 9], motion[part, 10] = centre_n / span[9] / 0.15, centre_e / span[10] / 0.15
    r["state"] = centre + motion * span * share
    r["now_ns"], r["time_ns"] = now, now - np.where(now >= -(2**63) + 10**9, delay, 0)
    for a, b in stretches:
        _spoil(rng, r[a:b], limits)
    if rng.random() < 0.5:  # ground velocity that nobody measures
        r["state"][int(rng.integers(n)) :, 11:] = math.nan
    if rng.random() < 0.1:  # nor position
        r["state"][:, 9] = math.nan
    return r


def _spoil(rng: Rng, part: NDArray[Any], limits: SafetyLimits) -> None:
    """Adversarial values in one stretch."""
    k, theme = len(part), str(rng.choice(THEMES))
    if theme in {"garbage", "holes"}:
        rows = np.arange(k) if theme == "garbage" else np.flatnonzero(rng.random(k) < 0.3)
        for name, width in (("state", 13), ("setpoint", 8), ("proposed", 4)):
            part[name][rows, rng.integers(0, width, len(rows))] = rng.choice(NASTY, len(rows))
            if name == "state" and theme == "holes":
                rows = rows[::3]
        part["battery_v"][rows] = rng.choice(NASTY, len(rows))
    elif theme == "clock":
        for name in ("now_ns", "time_ns"):
            rows = np.flatnonzero(rng.random(k) < 0.2)
            part[name][rows] = rng.choice(INSTANTS, len(rows))
    elif theme == "borders":
        _put_on_borders(rng, part, limits)
    elif theme == "late":
        part["policy"] = rng.random(k) < 0.5
    elif theme == "dead":
        part["policy"] = int(PolicyState.DEAD)
    elif theme == "battery":
        part["battery_v"] = 9.0 + 2.0 * (rng.random() < 0.3)
        part["state"][:, 9:11] *= rng.choice([0.1, 1.0])
    elif theme == "no position":
        part["state"][:, 9 + int(rng.integers(2))] = rng.choice(NASTY[[0, 1, 3, 10]])
    elif theme == "switch":
        rows = rng.integers(0, k, 6)
        part["what"][rows] = rng.choice([RESET, KILL, DISARM, ARM], 6)
        part["what"][-2:] = [DISARM, ARM]


def _put_on_borders(rng: Rng, part: NDArray[Any], limits: SafetyLimits) -> None:
    """Values that are a limit, to the last bit: is it kept or broken there?"""
    state, x = part["state"], limits
    slow, fast, sink = x.airspeed_min_mps or 19.0, x.airspeed_max_mps or 19.0, x.sink_max_mps or 0.0
    floor, ceiling = x.altitude_min + x.altitude_buffer_m, x.max_altitude_m - x.altitude_buffer_m
    borders: dict[int, list[float]] = {
        0: [0.0, math.radians(x.roll_max), -math.radians(x.roll_max)],
        1: [0.0, math.radians(x.pitch_max), math.radians(x.pitch_min)],
        6: [19.0, slow, slow + x.airspeed_hysteresis_mps, fast, fast - x.airspeed_hysteresis_mps],
        7: [floor, floor + x.altitude_hysteresis_m, ceiling, ceiling - x.altitude_hysteresis_m],
        8: [0.0, 0.0, -sink, -(sink - x.airspeed_hysteresis_mps)],
    }
    state[:, 3:6] = 0.0
    for column, values in borders.items():
        state[:, column] = np.where(rng.random(len(part)) < 0.5, values[0], rng.choice(values, len(part)))
    part["battery_v"] = rng.choice([x.battery_min_voltage, math.nan])
    old = np.arange(1, len(part), 3)  # a position as old as the limit allows
    state[old, 9] = math.nan
    part["time_ns"][old] = part["time_ns"][old - 1] + int(x.stale_data_ms * 1e6)
