"""What identification can find: each parameter's unit, prior, plausible bounds, and what its interval is measured by.

Only ratios show in a flight: all forces over the mass, all moments over the inertia. The inertia is therefore taken to
be that of the data sheet, and the moment coefficients are relative to it; mass and centre of gravity are what somebody
has weighed and balanced, or have a prior as wide as a builder's care.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.replay import Model
from sim2sky.config.environment import COEFFICIENTS
from sim2sky.environments.airframes import Airframe
from sim2sky.environments.jsbsim_plant import PlantParameters
from sim2sky.errors import ConfigError
from sim2sky.runtime.state import CHANNELS

__all__ = ["CHANNEL_OF", "LARGEST_INTERVAL", "MAX_DELAY_S", "Parameter", "model_of", "parameters_of"]

LARGEST_INTERVAL = 0.25
"""Half of the 95 % interval over the reference: what is wider stays at its prior."""
MAX_DELAY_S = 0.4
CHANNEL_OF = {"aileron_offset": "aileron", "elevator_offset": "elevator", "rudder_offset": "rudder"}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        prior, std: mean and standard deviation before any flight.
        low, high: what is plausible; estimates and patches stay within.
        reference: of the relative width; for a scale 1, for the others what they are compared with.
        step: of finite differences.
        channels: one of these must move for it to show, the one that tells most first.
    """

    name: str
    unit: str
    prior: float
    std: float
    low: float
    high: float
    reference: float
    step: float
    channels: tuple[str, ...]


def parameters_of(
    airframe: Airframe, rate_hz: float, known: Mapping[str, tuple[float, float]] | None = None
) -> tuple[Parameter, ...]:
    """All parameters of an airframe.

    Args:
        airframe: which.
        rate_hz: of the flights; a control period is what a delay is compared with.
        known: mean and standard deviation, by name, of what has been measured otherwise (weighed, balanced).

    Raises:
        ConfigError: `known` names no parameter, or a standard deviation is not above 0.
    """
    mass, chord = airframe.mass_kg, airframe.chord_m
    surfaces, pitch = CHANNELS[:3], ("elevator",)
    period = max(0.06, 1.0 / rate_hz)
    found = [
        Parameter("action_delay_s", "s", 0.06, 0.06, 0.0, MAX_DELAY_S, period, 0.004, surfaces),
        Parameter("actuator_bandwidth_scale", "1", 1.0, 0.3, 0.1, 2.0, 1.0, 0.03, surfaces),
        Parameter("actuator_rate_scale", "1", 1.0, 0.3, 0.1, 2.0, 1.0, 0.03, surfaces),
        Parameter("thrust_scale", "1", 1.0, 0.2, 0.2, 2.0, 1.0, 0.03, ("throttle",)),
        Parameter("mass_offset_kg", "kg", 0.0, 0.08 * mass, -0.3 * mass, 0.6 * mass, mass, 0.01 * mass, pitch),
        Parameter("cg_offset_m", "m", 0.0, 0.04 * chord, -0.15 * chord, 0.15 * chord, 0.1 * chord, 0.01 * chord, pitch),
        *(Parameter(name, "of travel", 0.0, 0.05, -0.4, 0.4, 0.2, 0.02, _moving(name)) for name in CHANNEL_OF),
        *(
            Parameter(name, "1", 1.0, 0.35 if name == "CD0" else 0.25, 0.1, 3.0, 1.0, 0.05, _moving(name))
            for name in COEFFICIENTS
            if airframe.coefficients.get(name, 0.0)
        ),
    ]
    given = dict(known or {})
    names = [p.name for p in found]
    for name, (mean, std) in given.items():
        if name not in names:
            raise ConfigError(f"there is no parameter '{name}'", hint=", ".join(names))
        if not (std > 0.0 and np.isfinite([mean, std]).all()):
            raise ConfigError(f"what is known of {name} needs a standard deviation above 0")
    return tuple(replace(p, prior=given[p.name][0], std=given[p.name][1]) if p.name in given else p for p in found)


def _moving(name: str) -> tuple[str, ...]:
    """Channels that make an offset or a coefficient show."""
    if name.startswith(("CL", "Cm", "elevator")) or name == "CDde":
        return ("elevator",)
    if name == "CD0":
        return ("throttle", "elevator")
    return ("aileron", "rudder") if name.endswith("da") or name in {"Clp", "aileron_offset"} else ("rudder", "aileron")


def model_of(parameters: Sequence[Parameter], values: NDArray[np.float64]) -> Model:
    """The aircraft with these values, within what is plausible."""
    v = {p.name: float(np.clip(x, p.low, p.high)) for p, x in zip(parameters, values, strict=True)}
    plant = PlantParameters(
        mass_offset_kg=v["mass_offset_kg"],
        cg_offset_m=v["cg_offset_m"],
        thrust_scale=v["thrust_scale"],
        actuator_bandwidth_scale=v["actuator_bandwidth_scale"],
        actuator_rate_scale=v["actuator_rate_scale"],
        elevator_offset=v["elevator_offset"],
        command_offset={CHANNEL_OF[name]: v[name] for name in ("aileron_offset", "rudder_offset")},
        coefficient_scale={name: v[name] for name in COEFFICIENTS if name in v},
    )
    return Model(plant, action_delay_s=v["action_delay_s"])
