"""The airframes: published coefficients, propulsion, actuators, limits. The JSBSim XML is generated from these tables.

Sources: Ultra Stick 25e: UAV Laboratories, University of Minnesota, OpenFlight `UltraStick25e_config.m` (MIT; wind
tunnel 2011). Aerosonde: Beard & McLain, *Small Unmanned Aircraft*, the newer simulation table. What is marked "assumed"
is ours.
Imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import AutopilotGains
from sim2sky.runtime.state import Command

__all__ = ["AIRFRAMES", "Airframe", "airframe", "stall_alpha_rad", "stall_drag"]

SEA_LEVEL_DENSITY_KGPM3 = 1.225
_DEG = math.pi / 180.0


@dataclass(frozen=True)
class Airframe:
    """One small fixed-wing aircraft. SI units; coefficients per radian, rates scaled b/2V and c/2V.

    Attributes:
        coefficients: aerodynamic derivatives by name (`CLa`: lift due to angle of attack, `Clda`: roll due to aileron).
        thrust_n: steady thrust in newton as a function of throttle (0..1) and airspeed in m/s.
        actuator_bandwidth_radps: 1 / time constant of the first-order surface actuator.
        trim: command that holds level flight at `cruise_airspeed_mps` (found by `plant.find_trim`, pinned by a test).
        trim_alpha_rad: angle of attack there.
    """

    name: str
    title: str
    source: str
    mass_kg: float
    ixx_kgm2: float
    iyy_kgm2: float
    izz_kgm2: float
    ixz_kgm2: float
    wing_area_m2: float
    wing_span_m: float
    chord_m: float
    oswald: float
    coefficients: Mapping[str, float]
    thrust_n: Callable[[float, float], float]
    surface_limit_rad: float
    surface_rate_limit_radps: float
    actuator_bandwidth_radps: float
    throttle_lag_s: float
    stall_airspeed_mps: float
    min_airspeed_mps: float
    cruise_airspeed_mps: float
    max_airspeed_mps: float
    start_airspeed_mps: tuple[float, float]
    trim: Command
    trim_alpha_rad: float
    gains: AutopilotGains


# Ultra Stick 25e -----------------------------------------------------------------------------------------------------

_ULTRASTICK = {
    "CL0": 0.1086, "CLa": 4.58, "CLq": 6.1639, "CLde": 0.0983,
    "CD0": 0.0434, "CLm": 0.23, "CDde": 0.0135, "CDda": 0.0302, "CDdr": 0.0303,
    "CYb": -0.4889, "CYp": -0.0375, "CYr": 0.15, "CYda": 0.0, "CYdr": 0.1913,
    "Clb": -0.0545, "Clp": -0.4496, "Clr": 0.1086, "Clda": 0.1646, "Cldr": 0.0115,
    "Cm0": -0.0278, "Cma": -0.7230, "Cmq": -13.5664, "Cmde": -0.8488,
    "Cnb": 0.0723, "Cnp": 0.1180, "Cnr": -0.1833, "Cnda": -0.0574, "Cndr": -0.1811,
}  # fmt: skip
"""Clda and Cnda carry the opposite of the published sign, so that positive aileron rolls right."""

_AEROSONDE = {
    "CL0": 0.23, "CLa": 5.61, "CLq": 7.95, "CLde": 0.13,
    "CD0": 0.043, "CLm": 0.0, "CDde": 0.0135, "CDda": 0.0, "CDdr": 0.0,
    "CYb": -0.98, "CYp": 0.0, "CYr": 0.0, "CYda": 0.075, "CYdr": 0.19,
    "Clb": -0.13, "Clp": -0.51, "Clr": 0.25, "Clda": 0.17, "Cldr": 0.0024,
    "Cm0": 0.0135, "Cma": -2.74, "Cmq": -38.21, "Cmde": -0.99,
    "Cnb": 0.073, "Cnp": -0.069, "Cnr": -0.095, "Cnda": -0.011, "Cndr": -0.069,
}  # fmt: skip


def _largest_root(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], low: float, high: float) -> float:
    """The largest sign change of `function` on a fine grid, refined linearly; `low` where there is none."""
    grid = np.linspace(low, high, 20001)
    values = function(grid)
    change = np.nonzero(np.diff(np.sign(values)))[0]
    if not len(change):
        return low
    i = change[-1]
    return float(grid[i] - values[i] * (grid[i + 1] - grid[i]) / (values[i + 1] - values[i]))


def _ultrastick_thrust(throttle: float, speed: float) -> float:
    """Steady thrust of the Power 25 motor with an APC 12x6E: shaft power against propeller power. N."""
    diameter = 0.3048
    shaft_power = max(174.46 * throttle**2 + 70.135 * throttle - 4.39, 0.0)
    if shaft_power == 0.0:
        return 0.0

    def advance(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(speed / (n * diameter), 0.66)

    def excess(n: NDArray[np.float64]) -> NDArray[np.float64]:
        cp = np.polyval([0.5054, -0.5304, 0.0412, 0.01664, 0.0223], advance(n))
        return cp * SEA_LEVEL_DENSITY_KGPM3 * n**3 * diameter**5 - shaft_power

    n = np.array([_largest_root(excess, 1.0, 400.0)])
    ct = np.polyval([-0.4314, 1.08, -0.896, 0.1089, 0.0604], advance(n))
    return float((ct * SEA_LEVEL_DENSITY_KGPM3 * n**2 * diameter**4)[0])


def _aerosonde_thrust(throttle: float, speed: float) -> float:
    """Steady thrust of the electric drive: motor torque against propeller torque (Beard & McLain, section 4.3). N."""
    diameter, kv_rpm, resistance, no_load, v_max = 0.508, 145.0, 0.042, 1.5, 44.4
    kq = 60.0 / (2.0 * math.pi * kv_rpm)
    volts = v_max * throttle

    def excess(n: NDArray[np.float64]) -> NDArray[np.float64]:
        advance = speed / (n * diameter)
        cq = np.polyval([-0.01664, 0.00497, 0.00523], advance)
        motor = kq * ((volts - kq * 2.0 * math.pi * n) / resistance - no_load)
        return cq * SEA_LEVEL_DENSITY_KGPM3 * n**2 * diameter**5 - motor

    n = _largest_root(excess, 1.0, 300.0)
    advance = speed / (n * diameter)
    if advance > 1.2:  # beyond the range of the polynomial: the propeller windmills; take no thrust and no drag
        return 0.0
    ct = float(np.polyval([-0.1079, -0.06044, 0.09357], advance))
    return ct * SEA_LEVEL_DENSITY_KGPM3 * n**2 * diameter**4


def stall_alpha_rad(alpha: float) -> float:
    """Effective angle of attack for lift and pitching moment beyond the linear range (assumed; symmetric). rad."""
    grid = np.array([0.0, 15.0, 18.0, 25.0, 45.0, 90.0]) * _DEG
    effective = np.array([0.0, 15.0, 14.55, 11.25, 12.0, 0.0]) * _DEG
    return float(math.copysign(np.interp(abs(alpha), grid, effective), alpha))


def stall_drag(alpha: float) -> float:
    """Extra drag coefficient beyond 15 degrees (assumed; a flat plate, made continuous at 15 degrees)."""
    return max(1.8 * (math.sin(alpha) ** 2 - math.sin(15.0 * _DEG) ** 2), 0.0)


AIRFRAMES: dict[str, Airframe] = {
    "ultrastick25e": Airframe(
        name="ultrastick25e",
        title="Ultra Stick 25e, 2 kg RC aircraft",
        source="UMN UAV Laboratories, OpenFlight UltraStick25e_config.m (MIT), wind tunnel 2011",
        mass_kg=1.959, ixx_kgm2=0.07151, iyy_kgm2=0.08636, izz_kgm2=0.15364, ixz_kgm2=0.014,
        wing_area_m2=0.3097, wing_span_m=1.27, chord_m=0.25, oswald=0.75,
        coefficients=_ULTRASTICK,
        thrust_n=_ultrastick_thrust,
        surface_limit_rad=25.0 * _DEG,
        surface_rate_limit_radps=150.0 * _DEG,
        actuator_bandwidth_radps=1.0 / 0.0199,
        throttle_lag_s=0.2,
        stall_airspeed_mps=8.9, min_airspeed_mps=11.0, cruise_airspeed_mps=18.0, max_airspeed_mps=30.0,
        start_airspeed_mps=(16.0, 21.0),
        trim=Command(0.0, 0.1657, 0.0, 0.622),
        trim_alpha_rad=2.66 * _DEG,
        gains=AutopilotGains(
            trim_elevator=0.1657, trim_throttle=0.622, trim_pitch_rad=2.66 * _DEG, trim_airspeed_mps=18.0,
        ),
    ),
    "aerosonde": Airframe(
        name="aerosonde",
        title="Aerosonde, 11 kg",
        source="Beard & McLain, Small Unmanned Aircraft, newer simulation table",
        mass_kg=11.0, ixx_kgm2=0.8244, iyy_kgm2=1.135, izz_kgm2=1.759, ixz_kgm2=0.1204,
        wing_area_m2=0.55, wing_span_m=2.8956, chord_m=0.18994, oswald=0.9,
        coefficients=_AEROSONDE,
        thrust_n=_aerosonde_thrust,
        surface_limit_rad=25.0 * _DEG,
        surface_rate_limit_radps=200.0 * _DEG,
        actuator_bandwidth_radps=1.0 / 0.05,
        throttle_lag_s=0.2,
        stall_airspeed_mps=15.0, min_airspeed_mps=17.0, cruise_airspeed_mps=25.0, max_airspeed_mps=42.0,
        start_airspeed_mps=(22.0, 29.0),
        trim=Command(0.0, 0.3117, 0.0, 0.778),
        trim_alpha_rad=3.10 * _DEG,
        gains=AutopilotGains(
            trim_elevator=0.3117, trim_throttle=0.778, trim_pitch_rad=3.10 * _DEG, trim_airspeed_mps=25.0,
            climb_gain=0.5, climb_limit_mps=4.0, energy_p=1.2, bank_gain=1.5, bank_limit_rad=0.85, pitch_p=1.2,
        ),
    ),
}  # fmt: skip


def airframe(name: str) -> Airframe:
    """The airframe of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in AIRFRAMES:
        raise ConfigError(f"unknown aircraft '{name}'", hint=f"known aircraft: {', '.join(AIRFRAMES)}")
    return AIRFRAMES[name]
