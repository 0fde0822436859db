"""The classical autopilot: total-energy longitudinal control, cascaded bank control, yaw damping.

It is the baseline every agent is compared with, and the fallback law of the safety monitor on the aircraft.
Total energy control after A. A. Lambregts, "Vertical flight path and speed control autopilot design using total energy
principles" (AIAA 83-2239); the cascade is that of Beard & McLain, *Small Unmanned Aircraft*, chapter 6.
Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from sim2sky.errors import ConfigError
from sim2sky.runtime.real import cos, sin_cos, tan, wrap_angle
from sim2sky.runtime.state import Command, Sample, Setpoint

__all__ = ["Autopilot", "AutopilotGains"]

GRAVITY_MPS2 = 9.80665
SLOW = 0.85  # share of the airspeed setpoint below which path gives way to airspeed at full throttle


@dataclass(frozen=True)
class AutopilotGains:
    """Gains and limits, tuned per airframe (`environments/airframes.py`). Commands in units of `Command`.

    Attributes:
        trim_elevator, trim_throttle, trim_pitch_rad, trim_airspeed_mps: level flight at cruise.
        climb_gain: altitude error to climb rate, 1/s; climb_limit_mps bounds it.
        speed_gain: airspeed error to longitudinal acceleration, 1/s; accel_limit_mps2 bounds it.
        energy_p, energy_i: specific energy-rate error (in g) to throttle.
        balance_p, balance_i: energy-distribution error (in g) to pitch, rad.
        bank_gain: heading error to bank angle; bank_limit_rad bounds it.
        roll_p, roll_d: bank error to aileron. pitch_p, pitch_i, pitch_d: pitch error to elevator.
        turn_pitch: extra pitch command in a turn, rad per (load factor - 1).
        yaw_damper, yaw_washout_s: yaw rate to rudder through a washout.
        throttle_p, throttle_i: airspeed error to throttle (attitude task).
        p_feedforward: aileron that a roll rate takes, s/rad; rate_p, rate_i: body-rate errors to surfaces (rate task).
    """

    trim_elevator: float = 0.0
    trim_throttle: float = 0.6
    trim_pitch_rad: float = 0.05
    trim_airspeed_mps: float = 18.0
    climb_gain: float = 0.4
    climb_limit_mps: float = 3.0
    speed_gain: float = 0.5
    accel_limit_mps2: float = 2.0
    energy_p: float = 0.8
    energy_i: float = 0.6
    balance_p: float = 0.4
    balance_i: float = 0.3
    bank_gain: float = 1.2
    bank_limit_rad: float = 0.7
    pitch_limit_rad: float = 0.35
    roll_p: float = 0.5
    roll_d: float = 0.06
    pitch_p: float = 0.9
    pitch_i: float = 0.6
    pitch_d: float = 0.12
    turn_pitch: float = 0.08
    yaw_damper: float = 0.1
    yaw_washout_s: float = 1.0
    throttle_p: float = 0.08
    throttle_i: float = 0.04
    p_feedforward: float = 0.2
    rate_p: float = 0.2
    rate_i: float = 1.0

    def to_json(self) -> dict[str, float]:
        """As a JSON-compatible mapping."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> AutopilotGains:
        """Inverse of `to_json`.

        Raises:
            ConfigError: a gain is missing, unknown or not a finite number.
        """
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ConfigError(f"autopilot gains do not match: {sorted(set(data) ^ names)}")
        values = {name: float(value) for name, value in data.items()}
        if not all(math.isfinite(v) for v in values.values()):
            raise ConfigError("an autopilot gain is not finite")
        return cls(**values)


def _limit(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class Autopilot:
    """Flies a task's setpoint. Deterministic; knows no clock beyond its fixed step; total: no state makes it raise.

    The law of `hsa` has its twin in firmware/core/autopilot.c, equal to the last bit.

    Args:
        gains: tuned for the airframe.
        dt_s: control period.
        task: `hsa` (heading, airspeed, altitude), `attitude` (roll, pitch, airspeed) or `rate` (p, q, r).

    Raises:
        ConfigError: an unknown task, or a washout without a time constant.
    """

    def __init__(self, gains: AutopilotGains, dt_s: float, task: str = "hsa") -> None:
        laws = {"hsa": self._heading_speed_altitude, "attitude": self._attitude_task, "rate": self._rate_task}
        if task not in laws:
            raise ConfigError(f"the autopilot does not fly the task '{task}'", hint=f"it flies {', '.join(laws)}")
        if not gains.yaw_washout_s > 0.0:
            raise ConfigError(f"the autopilot's yaw_washout_s must be above 0 s, got {gains.yaw_washout_s}")
        self.gains = gains
        self._law = laws[task]
        self._dt = dt_s
        self.reset()

    def reset(self) -> None:
        """Clear all integrators and filters."""
        self._throttle_integral = 0.0
        self._balance_integral = 0.0
        self._pitch_integral = 0.0
        self._washout = 0.0
        self._rate_integrals = [0.0, 0.0, 0.0]
        self._airspeed: float | None = None
        self._acceleration = 0.0

    def command(self, sample: Sample, setpoint: Setpoint) -> Command:
        """One step of the task."""
        return self._law(sample, setpoint)

    def _attitude_task(self, sample: Sample, setpoint: Setpoint) -> Command:
        g = self.gains
        error = setpoint.airspeed_mps - sample.airspeed_mps
        raw = g.trim_throttle + g.throttle_p * error + self._throttle_integral
        # Climbing costs thrust; the pitch setpoint says how much before the airspeed does.
        raw += setpoint.pitch_rad - g.trim_pitch_rad
        throttle = _limit(raw, 0.0, 1.0)
        if throttle == raw or (raw - throttle) * error < 0.0:
            self._throttle_integral = _limit(self._throttle_integral + g.throttle_i * error * self._dt, -0.6, 0.6)
        return self.attitude(sample, setpoint.roll_rad, setpoint.pitch_rad, throttle)

    def _rate_task(self, sample: Sample, setpoint: Setpoint) -> Command:
        g = self.gains
        schedule = self._schedule(sample)
        wanted = (setpoint.p_radps, setpoint.q_radps, setpoint.r_radps)
        measured = (sample.p_radps, sample.q_radps, sample.r_radps)
        base = (g.p_feedforward * setpoint.p_radps, g.trim_elevator, 0.0)
        surfaces: list[float] = []
        for i, (target, rate) in enumerate(zip(wanted, measured, strict=True)):
            error = target - rate
            raw = schedule * (base[i] + g.rate_p * error) + self._rate_integrals[i]
            surface = _limit(raw, -1.0, 1.0)
            if surface == raw or (raw - surface) * error < 0.0:
                self._rate_integrals[i] = _limit(self._rate_integrals[i] + g.rate_i * error * self._dt, -0.5, 0.5)
            surfaces.append(surface)
        aileron, elevator, rudder = surfaces
        return Command(aileron, elevator, rudder, g.trim_throttle)

    def _schedule(self, sample: Sample) -> float:
        """Surface effectiveness grows with dynamic pressure: gains go with its inverse, within reason."""
        ratio = self.gains.trim_airspeed_mps / max(sample.airspeed_mps, 1.0)
        return _limit(ratio * ratio, 0.5, 2.0)

    def _heading_speed_altitude(self, sample: Sample, setpoint: Setpoint) -> Command:
        g = self.gains
        pitch_command, throttle = self._energy(sample, setpoint)
        bank_command = _limit(
            g.bank_gain * wrap_angle(setpoint.heading_rad - sample.yaw_rad), -g.bank_limit_rad, g.bank_limit_rad
        )
        return self.attitude(sample, bank_command, pitch_command, throttle)

    def _energy(self, sample: Sample, setpoint: Setpoint) -> tuple[float, float]:
        """Total energy control: throttle serves the sum of the energy rates, pitch their difference."""
        g, dt = self.gains, self._dt
        speed = max(sample.airspeed_mps, 1.0)
        if self._airspeed is None:
            self._airspeed = speed
        # Airspeed through a first-order observer of 0.5 s: its innovation is the acceleration.
        innovation = (speed - self._airspeed) / 0.5
        self._airspeed += innovation * dt
        self._acceleration = innovation
        climb_wanted = _limit(
            g.climb_gain * (setpoint.altitude_m - sample.altitude_m), -g.climb_limit_mps, g.climb_limit_mps
        )
        accel_wanted = _limit(
            g.speed_gain * (setpoint.airspeed_mps - self._airspeed), -g.accel_limit_mps2, g.accel_limit_mps2
        )
        gamma_wanted, accel_g_wanted = climb_wanted / speed, accel_wanted / GRAVITY_MPS2
        gamma, accel_g = sample.climb_rate_mps / speed, self._acceleration / GRAVITY_MPS2
        total_error = (gamma_wanted - gamma) + (accel_g_wanted - accel_g)

        bank_load = 1.0 / max(cos(sample.roll_rad), 0.3) - 1.0
        throttle_raw = (
            g.trim_throttle
            + g.energy_p * total_error
            + g.energy_p * (gamma_wanted + accel_g_wanted)
            + self._throttle_integral
            + 0.3 * bank_load
        )
        throttle = _limit(throttle_raw, 0.0, 1.0)
        if throttle == throttle_raw or (throttle_raw - throttle) * total_error < 0.0:
            self._throttle_integral = _limit(self._throttle_integral + g.energy_i * total_error * dt, -0.6, 0.6)
        if throttle_raw > 1.0 and self._airspeed < SLOW * setpoint.airspeed_mps:
            # More is asked than the motor has, and it tells: airspeed first, the path gets what is left. Otherwise a
            # dead motor ends in a stall at a well-held altitude. A climb at full throttle alone is no such case.
            gamma_wanted = min(gamma_wanted, gamma + accel_g - accel_g_wanted)
        balance_error = (gamma_wanted - gamma) - (accel_g_wanted - accel_g)
        pitch_raw = (
            g.trim_pitch_rad
            + gamma_wanted
            + g.balance_p * balance_error
            + self._balance_integral
            + g.turn_pitch * bank_load
        )
        pitch = _limit(pitch_raw, -g.pitch_limit_rad, g.pitch_limit_rad)
        if pitch == pitch_raw or (pitch_raw - pitch) * balance_error < 0.0:
            self._balance_integral = _limit(self._balance_integral + g.balance_i * balance_error * dt, -0.3, 0.3)
        return pitch, throttle

    def attitude(self, sample: Sample, bank_rad: float, pitch_rad: float, throttle: float) -> Command:
        """Inner loops: hold a bank and a pitch angle with a given throttle."""
        g, dt = self.gains, self._dt
        schedule = self._schedule(sample)
        aileron = schedule * (g.roll_p * wrap_angle(bank_rad - sample.roll_rad) - g.roll_d * sample.p_radps)

        pitch_error = pitch_rad - sample.pitch_rad
        sin_roll, cos_roll = sin_cos(sample.roll_rad)
        cos_pitch = cos(sample.pitch_rad)
        # In a steady turn the body pitches at g/V * tan(phi) * sin(phi); damping must not fight it.
        turn_rate = GRAVITY_MPS2 / max(sample.airspeed_mps, 1.0) * tan(_limit(sample.roll_rad, -1.2, 1.2))
        q_turn = turn_rate * sin_roll * cos_pitch
        elevator_raw = (
            g.trim_elevator * schedule
            + schedule * (g.pitch_p * pitch_error - g.pitch_d * (sample.q_radps - q_turn))
            + self._pitch_integral
        )
        elevator = _limit(elevator_raw, -1.0, 1.0)
        if elevator == elevator_raw or (elevator_raw - elevator) * pitch_error < 0.0:
            self._pitch_integral = _limit(self._pitch_integral + g.pitch_i * pitch_error * dt, -0.4, 0.4)

        # Yaw damper on what is not the turn itself.
        r_excess = sample.r_radps - turn_rate * cos_roll * cos_pitch
        self._washout += (r_excess - self._washout) * dt / g.yaw_washout_s
        rudder = -schedule * g.yaw_damper * (r_excess - self._washout)
        return Command(_limit(aileron, -1.0, 1.0), elevator, _limit(rudder, -1.0, 1.0), _limit(throttle, 0.0, 1.0))
