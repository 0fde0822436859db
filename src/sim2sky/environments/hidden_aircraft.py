"""Aircraft whose parameters only a seed knows: stand-ins for real hardware (many differences), or test cases of gap
analysis (exactly one).

What comes out is an environment like any other: what belongs to the aircraft has a range of one value, so that it is
the same in every flight; start, setpoint, direction of the wind and turbulence are drawn per flight as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sim2sky.config.environment import (
    CALIBRATED_BIAS,
    COEFFICIENTS,
    EnvironmentSettings,
    RandomizationSettings,
    Surface,
)
from sim2sky.environments.airframes import Airframe, airframe
from sim2sky.errors import ConfigError

__all__ = ["CAUSES", "hidden_aircraft", "nominal_aircraft", "single_cause"]

CAUSES = (
    "delay", "actuator", "thrust", "drag", "mass", "cg", "inertia", "aerodynamics", "sensor bias", "sensor noise",
    "trim", "action map", "wind",
)  # fmt: skip
"""What a gap can come from, and what `single_cause` can make."""

_STREAM = 0x48494444  # keeps these draws apart from those of the episodes
_SURFACES: tuple[Surface, ...] = ("aileron", "elevator", "rudder")
_CONTROL = frozenset({"CLde", "CYda", "CYdr", "Clda", "Cldr", "Cmde", "Cnda", "Cndr", "CDde", "CDda", "CDdr"})
_GROUPS = (
    ("Clb", "Clp", "Clr", "Clda"),
    ("CLa", "Cma", "Cmq", "Cmde"),
    ("CYb", "Cnb", "Cnr", "Cndr"),
)
Tree = dict[str, Any]


def nominal_aircraft(base: EnvironmentSettings) -> EnvironmentSettings:
    """The aircraft of the data sheet in the air of `base`: nothing randomised, no transport delay."""
    air = base.disturbances.model_copy(update={"action_delay_s": (0.0, 0.0), "observation_delay_s": (0.0, 0.0)})
    return base.model_copy(update={"randomization": RandomizationSettings(), "disturbances": air})


def hidden_aircraft(seed: int, base: EnvironmentSettings) -> EnvironmentSettings:
    """The virtual aircraft of a seed.

    Mass, CG, every aerodynamic coefficient, thrust, actuators, the control surfaces' rigging, delays, noise, biases and
    the wind of its site differ from the data sheet; inertia and turbulence stay as in `base`.

    Args:
        seed: 0 or above.
        base: aircraft, task, rates, and what is not drawn.

    Raises:
        ConfigError: a negative seed.
    """
    rng, plane = _generator(seed), airframe(base.aircraft)

    def uniform(low: float, high: float) -> float:
        return float(low + (high - low) * rng.random())

    def spread(sigma: float, mean: float = 1.0) -> float:
        return mean + sigma * float(np.clip(rng.standard_normal(), -2.0, 2.0))

    randomization: Tree = {
        "mass_offset_kg": _fixed(uniform(-0.025, 0.2) * plane.mass_kg),
        "cg_offset_m": _fixed(uniform(-0.06, 0.06) * plane.chord_m),
        "thrust_scale": _fixed(uniform(0.75, 1.05)),
        "actuator_bandwidth_scale": _fixed(uniform(0.45, 1.0)),
        "actuator_rate_scale": _fixed(uniform(0.45, 1.0)),
        "coefficient_scales": {name: _fixed(spread(0.2 if name in _CONTROL else 0.13)) for name in COEFFICIENTS},
        "command_offset": {name: _fixed(0.03 * spread(1.0, mean=0.0)) for name in _SURFACES},  # under a degree each
    }
    randomization["coefficient_scales"]["CD0"] = _fixed(spread(0.15, mean=1.2))  # antennas, gaps, a worn skin
    calm = uniform(0.0, 4.0)
    disturbances: Tree = {
        "action_delay_s": _fixed(uniform(0.02, 0.14)),
        "observation_delay_s": _fixed(uniform(0.0, 0.06)),
        "wind_mps": (calm, calm + uniform(2.0, 5.0)),
        "sensors": {
            "noise_scale": _fixed(uniform(0.7, 2.5)),
            "offsets": {name: _fixed(uniform(-limit, limit)) for name, limit in CALIBRATED_BIAS.items()},
        },
    }
    return _changed(base, randomization, disturbances)


def single_cause(cause: str, seed: int, base: EnvironmentSettings) -> EnvironmentSettings:
    """`base` with exactly one thing different, by an amount and in a direction that the seed decides.

    Args:
        cause: one of `CAUSES`.
        seed: 0 or above.
        base: what it differs from.

    Raises:
        ConfigError: no such cause, or a negative seed.
    """
    if cause not in _MAKERS:
        raise ConfigError(f"there is no cause '{cause}'", hint=f"one of: {', '.join(CAUSES)}")
    rng = np.random.default_rng([_STREAM, CAUSES.index(cause) + 1, _checked(seed)])
    return _changed(base, *_MAKERS[cause](_Draw(rng, base, airframe(base.aircraft))))


class _Draw:
    """Random changes of one base."""

    def __init__(self, rng: np.random.Generator, base: EnvironmentSettings, plane: Airframe) -> None:
        self.base, self.plane, self._rng = base, plane, rng

    def between(self, low: float, high: float) -> float:
        return float(low + (high - low) * self._rng.random())

    def either(self) -> bool:
        return bool(self._rng.random() < 0.5)

    def signed(self, low: float, high: float) -> float:
        return self.between(low, high) * (1.0 if self.either() else -1.0)

    def choose(self, n: int) -> int:
        return int(self._rng.integers(n))


Change = tuple[Tree, Tree]


def _delay(d: _Draw) -> Change:
    return {}, {"action_delay_s": _shift(d.base.disturbances.action_delay_s, d.between(0.08, 0.2))}


def _actuator(d: _Draw) -> Change:
    """A slower servo; every second one is also weaker, which only shows where the rate limit is reached."""
    r = d.base.randomization
    bandwidth, rate = d.between(0.3, 0.6), d.between(0.3, 0.6) if d.either() else 1.0
    return {
        "actuator_bandwidth_scale": _scale(r.actuator_bandwidth_scale, bandwidth),
        "actuator_rate_scale": _scale(r.actuator_rate_scale, rate),
    }, {}


def _thrust(d: _Draw) -> Change:
    factor = d.between(0.65, 0.85) if d.either() else d.between(1.15, 1.25)
    return {"thrust_scale": _scale(d.base.randomization.thrust_scale, factor)}, {}


def _coefficients(d: _Draw, factors: Mapping[str, float]) -> Change:
    r = d.base.randomization
    scales = {name: _scale(r.coefficient_scales.get(name, r.coefficient_scale), by) for name, by in factors.items()}
    return {"coefficient_scales": {**r.coefficient_scales, **scales}}, {}


def _drag(d: _Draw) -> Change:
    return _coefficients(d, {"CD0": d.between(1.4, 2.0)})


def _mass(d: _Draw) -> Change:
    extra_kg = d.between(0.15, 0.3) * d.plane.mass_kg
    return {"mass_offset_kg": _shift(d.base.randomization.mass_offset_kg, extra_kg)}, {}


def _cg(d: _Draw) -> Change:
    by_m = d.signed(0.08, 0.12) * d.plane.chord_m
    return {"cg_offset_m": _shift(d.base.randomization.cg_offset_m, by_m)}, {}


def _inertia(d: _Draw) -> Change:
    factor = d.between(0.55, 0.65) if d.either() else d.between(1.4, 1.6)
    return {"inertia_scale": _scale(d.base.randomization.inertia_scale, factor)}, {}


def _aerodynamics(d: _Draw) -> Change:
    group = _GROUPS[d.choose(len(_GROUPS))]
    return _coefficients(d, {name: float(np.exp(d.signed(0.25, 0.5))) for name in group})


def _sensor_bias(d: _Draw) -> Change:
    """Three to five times what a calibrated sensor may have."""
    sensors = d.base.disturbances.sensors
    name = tuple(CALIBRATED_BIAS)[d.choose(len(CALIBRATED_BIAS))]
    by = d.signed(3.0, 5.0) * CALIBRATED_BIAS[name]
    offsets = {**sensors.offsets, name: _shift(sensors.offsets.get(name, (0.0, 0.0)), by)}
    return {}, {"sensors": {"offsets": offsets}}


def _sensor_noise(d: _Draw) -> Change:
    factor = d.between(3.0, 5.0)
    return {}, {"sensors": {"noise_scale": _scale(d.base.disturbances.sensors.noise_scale, factor)}}


def _trim(d: _Draw) -> Change:
    before = d.base.randomization.command_offset
    name = _SURFACES[d.choose(3)]
    offset = _shift(before.get(name, (0.0, 0.0)), d.signed(0.08, 0.15))
    return {"command_offset": {**before, name: offset}}, {}


def _action_map(d: _Draw) -> Change:
    kind, which = d.choose(3), d.choose(3)
    if kind == 2:
        pair = tuple(name for i, name in enumerate(_SURFACES) if i != which)
        return {"command_swap": pair}, {}
    before, name = d.base.randomization.command_scale, _SURFACES[which]
    factor = -1.0 if kind == 1 else d.between(0.4, 0.6)
    return {"command_scale": {**before, name: _scale(before.get(name, (1.0, 1.0)), factor)}}, {}


def _wind(d: _Draw) -> Change:
    speed = d.between(8.0, 12.0)
    return {}, {"wind_mps": _fixed(speed)}


_MAKERS: dict[str, Callable[[_Draw], Change]] = dict(
    zip(
        CAUSES,
        (
            _delay, _actuator, _thrust, _drag, _mass, _cg, _inertia, _aerodynamics, _sensor_bias, _sensor_noise, _trim,
            _action_map, _wind,
        ),
        strict=True,
    )
)  # fmt: skip


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([_STREAM, 0, _checked(seed)])


def _checked(seed: int) -> int:
    if seed < 0:
        raise ConfigError(f"the seed of an aircraft must be 0 or above, not {seed}")
    return seed


def _fixed(value: float) -> tuple[float, float]:
    return value, value


def _shift(bounds: tuple[float, float], by: float) -> tuple[float, float]:
    return bounds[0] + by, bounds[1] + by


def _scale(bounds: tuple[float, float], by: float) -> tuple[float, float]:
    low, high = sorted((bounds[0] * by, bounds[1] * by))
    return low, high


def _changed(base: EnvironmentSettings, randomization: Tree, disturbances: Tree) -> EnvironmentSettings:
    """`base` with other values; one level below `sensors` is merged, everything else replaced."""
    data = base.model_dump()
    data["randomization"] |= randomization
    sensors = data["disturbances"]["sensors"] | disturbances.pop("sensors", {})
    data["disturbances"] |= {**disturbances, "sensors": sensors}
    return EnvironmentSettings.model_validate(data)
