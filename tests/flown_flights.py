"""Flights of the simulated aircraft under the classical autopilot, as a flight computer would have logged them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim2sky.analysis.flights import Flight
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.episode import fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.autopilot import Autopilot

CHANNELS = (
    "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m", "climb_rate_mps",
    "north_m", "east_m",
)  # fmt: skip


def flown(settings: EnvironmentSettings, seeds: range, *, source: str = "sim", **config: Any) -> list[Flight]:
    """One flight per seed, with small sines on the surfaces: what an agent's own activity looks like."""
    vehicle = SimVehicle(settings)
    a = vehicle.airframe
    flights = []
    for seed in seeds:
        autopilot = Autopilot(a.gains, 1.0 / settings.rate_hz, settings.task.name)
        rng = np.random.default_rng([seed, 77])
        rows: list[list[float]] = []

        def pilot(sample, setpoint, now_ns, autopilot=autopilot, rng=rng):
            command = autopilot.command(sample, setpoint)
            shaken = np.array(command) + rng.normal(0.0, [0.06, 0.04, 0.06, 0.05])
            return type(command)(*np.clip(shaken, [-1.0, -1.0, -1.0, 0.0], 1.0).tolist())

        def log(sample, command, rows=rows):
            rows.append([*(getattr(sample, name) for name in CHANNELS), *command])

        fly_episode(vehicle, pilot, seed, on_tick=log)
        flights.append(as_flight(np.array(rows), settings, f"{source}/{seed}", source, config))
    return flights


def as_flight(table, settings, name, source, config) -> Flight:
    """A flight from rows of `CHANNELS` and the four commands."""
    n = len(table)
    return Flight(
        name=name,
        airframe=settings.aircraft,
        rate_hz=settings.rate_hz,
        source=source,
        time_s=np.arange(n) / settings.rate_hz,
        **{channel: table[:, i].copy() for i, channel in enumerate(CHANNELS)},
        controls=table[:, len(CHANNELS) :].copy(),
        setpoints=np.full((n, 8), np.nan),
        mode=np.zeros(n),
        config=config,
    )
