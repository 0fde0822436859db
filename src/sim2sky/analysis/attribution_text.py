"""What attribution says of a cause: a sentence with numbers and units, settings to change, and what to fly when the
data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim2sky.analysis.hypotheses import PARAMETERS
from sim2sky.analysis.log_evidence import LogEvidence
from sim2sky.analysis.replay_fit import Fit
from sim2sky.errors import Sim2SkyError

__all__ = ["SEVERAL", "advice_for", "describe", "reported"]

SEVERAL = (
    "no single cause explains half of the difference, so several things differ: sim2sky identify fits all parameters "
    "together, best on an excited flight (sim2sky excite)"
)
"""Advice where many things differ at once."""
_LABELS = {
    "action_delay_s": "action delay",
    "actuator_bandwidth_scale": "actuator bandwidth",
    "actuator_rate_scale": "actuator rate limit",
    "thrust_scale": "thrust",
    "mass_offset_kg": "mass",
    "cg_offset_m": "centre of gravity",
    "inertia_scale": "moments of inertia",
}
WHOLE = 0.15  # as much of an exchange is measured as a whole one
_FAST = frozenset({"delay", "actuator", "inertia", "aerodynamics", "action map"})
_SLOW = frozenset({"thrust", "drag", "mass", "aerodynamics", "trim", "cg"})
_DIGITS = {"s": 3, "m": 3, "rad": 3, "radps": 3, "mps": 2, "kg": 2, "1": 2}
_UNITS = {"radps": "rad/s", "mps": "m/s", "1": ""}


def describe(found: Fit | LogEvidence, cause: str = "") -> str:
    """The change, without its share of the difference."""
    if isinstance(found, LogEvidence):
        low, high = found.shift - 1.96 * found.std, found.shift + 1.96 * found.std
        if cause == "sensor noise":
            return f"sensor noise x{math.exp(found.shift):.2f} ({math.exp(low):.2f}..{math.exp(high):.2f})"
        return f"wind of {found.before + found.shift:.1f} m/s instead of {found.before:.1f} m/s"
    shown = sorted(found.values, key=lambda name: -abs(found.values[name] / PARAMETERS[name].width))
    parts = [_one(name, found.values[name], found.std[name]) for name in shown[:4]]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(parts) + more


def _one(name: str, x: float, std: float) -> str:
    parameter = PARAMETERS[name]
    value, low, high = (parameter.value(v) for v in (x, x - 1.96 * std, x + 1.96 * std))
    if name.startswith("command_swap."):
        _, a, b = name.split(".")
        return (
            f"{a} and {b} exchanged" if abs(value - 1.0) < WHOLE else f"{100.0 * value:.0f} % of {a} and {b} exchanged"
        )
    label = _label(name)
    digits, unit = _DIGITS[parameter.unit], _UNITS.get(parameter.unit, parameter.unit)
    if parameter.kind != "add":
        wrong_way = " (moves the wrong way)" if name.startswith("command_scale") and value < -0.3 else ""
        return f"{label} x{value:.2f} ({low:.2f}..{high:.2f}){wrong_way}"
    unit = f" {unit}" if unit else ""
    return f"{label} {value:+.{digits}f}{unit} ({low:.{digits}f}..{high:.{digits}f})"


def _label(name: str) -> str:
    kind, _, key = name.partition(".")
    match kind:
        case "coefficient_scales":
            return "drag coefficient CD0" if key == "CD0" else key
        case "command_offset":
            return f"{key} offset"
        case "command_scale":
            return f"{key} travel"
        case "offsets":
            return f"{key.rsplit('_', 1)[0].replace('_', ' ')} bias"
        case _:
            return _LABELS[name]


def reported(found: Fit | LogEvidence, cause: str = "") -> dict[str, float]:
    """Settings to change, relative to how the simulator flew."""
    if isinstance(found, LogEvidence):
        if cause == "sensor noise":
            return {"noise_scale": math.exp(found.shift)}
        return {"wind_mps": found.before + found.shift}
    return {name: PARAMETERS[name].value(x) for name, x in found.values.items()}


def advice_for(causes: Sequence[str]) -> str:
    """What to fly so that these causes can be told apart.

    Raises:
        Sim2SkyError: no causes.
    """
    if not causes:
        raise Sim2SkyError("no causes to tell apart")
    pair = set(causes)
    between = " and ".join(causes)
    if pair <= _FAST:
        return (
            f"{between} look alike in these flights: fly doublets or a multisine on aileron, elevator and rudder "
            "(sim2sky excite)"
        )
    if pair <= _SLOW:
        return (
            f"{between} look alike at one speed: hold level flight at three airspeeds, climb at full throttle and glide"
        )
    if pair & {"sensor bias", "wind"}:
        return f"{between} look alike on one heading: fly a full circle at constant airspeed, twice"
    return f"{between} explain these flights about equally well: fly more flights (sim2sky excite plans one)"
