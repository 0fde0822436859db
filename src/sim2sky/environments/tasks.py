"""The tasks: what the policy sees, what it is paid for, when it has left the envelope, what counts as success."""

from __future__ import annotations

import math
from collections.abc import Callable

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output
from sim2sky.config import EnvironmentSettings
from sim2sky.config.environment import TaskSettings
from sim2sky.environments.airframes import Airframe, airframe
from sim2sky.runtime.observation import HISTORY, bank_reference, climb_rate_reference, signal
from sim2sky.runtime.real import wrap_angle
from sim2sky.runtime.state import CHANNELS, Sample, Setpoint

__all__ = [
    "envelope_violation",
    "make_contract",
    "reward_function",
    "tolerances",
    "tracking_errors",
    "within_tolerance",
]

SURFACE_AUTHORITY = 0.6  # of full travel around trim: what the policy's range stands for

_BODY = ("roll_rad", "pitch_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "climb_rate_mps")
_OBSERVED: dict[str, tuple[str, ...]] = {
    "hsa": (
        "altitude_error_m",
        "airspeed_error_mps",
        "heading_error_rad",
        "climb_rate_error_mps",
        "bank_error_rad",
        *_BODY,
    ),
    "attitude": ("roll_error_rad", "pitch_error_rad", "airspeed_error_mps", *_BODY),
    "rate": ("p_error_radps", "q_error_radps", "r_error_radps", *_BODY),
}


def make_contract(settings: EnvironmentSettings) -> Contract:
    """Contract of an agent trained in `AircraftEnv(settings)`.

    The observation names the task's errors, the body state and the last three actions; the action is the trim command
    plus or minus 60 % of the surfaces' travel, and the whole throttle range.
    """
    a = airframe(settings.aircraft)
    names = [*_OBSERVED[settings.task.name]]
    names += [f"previous_{channel}_{age}" for age in range(1, HISTORY + 1) for channel in CHANNELS]
    actions = []
    for channel, trim in zip(CHANNELS, a.trim, strict=True):
        if channel == "throttle":
            actions.append(ActionSignal(channel, "1", -1.0, 1.0, 0.0, trim, 1.0))
        else:
            low, high = max(trim - SURFACE_AUTHORITY, -1.0), min(trim + SURFACE_AUTHORITY, 1.0)
            actions.append(ActionSignal(channel, "1", -1.0, 1.0, low, trim, high, a.surface_limit_rad))
    observation = Input("observation", "box", (len(names),), "float32", tuple(signal(n) for n in names))
    return Contract(a.name, settings.task.name, settings.rate_hz, (observation,), Output("continuous", tuple(actions)))


def tracking_errors(task: str, state: Sample, setpoint: Setpoint) -> tuple[float, float, float]:
    """Errors of the task's three channels: (m, m/s, rad), (rad, rad, m/s) or (rad/s, rad/s, rad/s)."""
    match task:
        case "hsa":
            return (
                setpoint.altitude_m - state.altitude_m,
                setpoint.airspeed_mps - state.airspeed_mps,
                wrap_angle(setpoint.heading_rad - state.yaw_rad),
            )
        case "attitude":
            return (
                wrap_angle(setpoint.roll_rad - state.roll_rad),
                setpoint.pitch_rad - state.pitch_rad,
                setpoint.airspeed_mps - state.airspeed_mps,
            )
        case _:
            return (
                setpoint.p_radps - state.p_radps,
                setpoint.q_radps - state.q_radps,
                setpoint.r_radps - state.r_radps,
            )


def tolerances(task: TaskSettings) -> tuple[float, float, float]:
    """Success tolerances of the three channels, in the units of `tracking_errors`."""
    match task.name:
        case "hsa":
            return (task.altitude_tolerance_m, task.airspeed_tolerance_mps, math.radians(task.heading_tolerance_deg))
        case "attitude":
            return (
                math.radians(task.roll_tolerance_deg),
                math.radians(task.pitch_tolerance_deg),
                2.0 * task.airspeed_tolerance_mps,
            )
        case "rate":
            rate = math.radians(task.rate_tolerance_degps)
            return (rate, rate, rate)


def within_tolerance(task: TaskSettings) -> Callable[[Sample, Setpoint], bool]:
    """A test of the true state against the setpoint."""
    a, b, c = tolerances(task)
    name = task.name

    def inside(state: Sample, setpoint: Setpoint) -> bool:
        e = tracking_errors(name, state, setpoint)
        return abs(e[0]) <= a and abs(e[1]) <= b and abs(e[2]) <= c

    return inside


def envelope_violation(a: Airframe, state: Sample) -> str:
    """Why the true state has left the envelope, or an empty string."""
    if not math.isfinite(state.roll_rad + state.pitch_rad + state.airspeed_mps + state.altitude_m):
        return "envelope: state is not finite"
    if abs(state.roll_rad) > 1.4:
        return "envelope: bank angle beyond 80 degrees"
    if abs(state.pitch_rad) > 0.9:
        return "envelope: pitch angle beyond 52 degrees"
    if state.airspeed_mps < 0.9 * a.stall_airspeed_mps:
        return "envelope: airspeed below stall"
    if state.airspeed_mps > 1.1 * a.max_airspeed_mps:
        return "envelope: airspeed above the limit"
    if state.altitude_m < 20.0:
        return "envelope: altitude below 20 m"
    return ""


Reward = Callable[[Sample, Setpoint, float, float], float]


def reward_function(task: str) -> Reward:
    """Reward of one tick from true state, setpoint, sum of absolute action changes and sideslip; at most 1.

    Leaving the envelope costs 20 on top; the caller adds that.
    """
    if task == "hsa":
        pi, tau = math.pi, 2.0 * math.pi

        def hsa(s: Sample, t: Setpoint, activity: float, beta: float) -> float:
            # Conditional expressions instead of min() and wrap_angle() written out: this runs on every training step.
            altitude_error = t.altitude_m - s.altitude_m
            heading_error = (t.heading_rad - s.yaw_rad + pi) % tau - pi
            climb = abs(climb_rate_reference(altitude_error) - s.climb_rate_mps)
            speed = abs(t.airspeed_mps - s.airspeed_mps)
            bank = abs(bank_reference(heading_error) - s.roll_rad)
            altitude, heading, slip = abs(altitude_error), abs(heading_error), abs(beta)
            return (
                1.0
                - (0.0875 * climb if climb < 4.0 else 0.35)
                - (0.0625 * speed if speed < 4.0 else 0.25)
                - (0.3125 * bank if bank < 0.8 else 0.25)
                - (0.0025 * altitude if altitude < 20.0 else 0.05)
                - (0.05 * heading if heading < 1.0 else 0.05)
                - (0.15 * activity if activity < 2.0 else 0.3)
                - (0.25 * slip if slip < 0.2 else 0.05)
            )

        return hsa
    if task == "attitude":

        def attitude(s: Sample, t: Setpoint, activity: float, beta: float) -> float:
            return (
                1.0
                - 0.4 * min(abs(wrap_angle(t.roll_rad - s.roll_rad)) / 0.6, 1.0)
                - 0.3 * min(abs(t.pitch_rad - s.pitch_rad) / 0.3, 1.0)
                - 0.2 * min(abs(t.airspeed_mps - s.airspeed_mps) / 4.0, 1.0)
                - 0.15 * min(activity, 2.0)
                - 0.05 * min(abs(beta) / 0.2, 1.0)
            )

        return attitude

    def rate(s: Sample, t: Setpoint, activity: float, beta: float) -> float:
        return (
            1.0
            - 0.4 * min(abs(t.p_radps - s.p_radps), 1.0)
            - 0.3 * min(abs(t.q_radps - s.q_radps) / 0.6, 1.0)
            - 0.15 * min(abs(t.r_radps - s.r_radps) / 0.6, 1.0)
            - 0.1 * min(activity, 2.0)
            - 0.05 * min(abs(beta) / 0.2, 1.0)
        )

    return rate
