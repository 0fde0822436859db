"""A flight of the simulated aircraft under the classical autopilot, as it would have been logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sim2sky.analysis.flights import Flight
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import Scenario, draw_scenario
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.state import Command, Setpoint

__all__ = ["Excite", "level_start", "rehearse"]

_COLUMNS = (
    "time_s", "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m",
    "climb_rate_mps", "north_m", "east_m",
)  # fmt: skip
Excite = Callable[[Command, float], Command]
"""Command and time since the start in s to the command with an excitation added, within the actuators' limits."""


def level_start(settings: EnvironmentSettings, seed: int) -> Scenario:
    """The scenario of a seed, but begun in trimmed level flight with the setpoint to stay there."""
    a = airframe(settings.aircraft)
    drawn = draw_scenario(settings, a, seed)
    speed, yaw, altitude = a.cruise_airspeed_mps, drawn.initial.yaw_rad, drawn.initial.altitude_m
    return replace(
        drawn,
        initial=replace(
            drawn.initial,
            airspeed_mps=speed,
            roll_rad=0.0,
            pitch_rad=a.trim_alpha_rad,
            alpha_rad=a.trim_alpha_rad,
        ),
        setpoint=Setpoint(altitude_m=altitude, airspeed_mps=speed, heading_rad=yaw, pitch_rad=a.trim_alpha_rad),
    )


def rehearse(
    settings: EnvironmentSettings, start: Scenario | int, *, excite: Excite | None = None, name: str = "rehearsal"
) -> Flight:
    """Fly one episode and return what was measured.

    Args:
        settings: aircraft, task, disturbances, randomisation.
        start: the scenario, or the seed it is drawn from.
        excite: added to the autopilot's commands.
        name: of the flight.
    """
    vehicle = SimVehicle(settings)
    scenario = start if isinstance(start, Scenario) else draw_scenario(settings, vehicle.airframe, start)
    pilot = Autopilot(vehicle.airframe.gains, 1.0 / settings.rate_hz, settings.task.name)
    sample = vehicle.start(scenario)
    rows: list[tuple[float, ...]] = []
    while not vehicle.done:
        t = vehicle.setpoint
        command = pilot.command(sample, t)
        if excite is not None:
            command = excite(command, vehicle.time_s)
        s = sample
        rows.append((
            vehicle.time_s, s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps,
            s.altitude_m, s.climb_rate_mps, s.north_m, s.east_m, *command, t.altitude_m, t.airspeed_mps, t.heading_rad,
            t.roll_rad, t.pitch_rad, t.p_radps, t.q_radps, t.r_radps,
        ))  # fmt: skip
        sample = vehicle.step(command)
    table = np.array(rows)
    columns = dict(zip(_COLUMNS, table.T, strict=False))
    return Flight(
        name=name,
        airframe=settings.aircraft,
        rate_hz=settings.rate_hz,
        source="sim",
        **columns,
        controls=table[:, 12:16],
        setpoints=table[:, 16:],
        mode=np.zeros(len(table)),
        config={"vehicle": settings.aircraft, "task": settings.task.name},
    )
