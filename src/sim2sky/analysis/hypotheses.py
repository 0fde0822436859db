"""What may differ between two aircraft: the parameters attribution can move, and the causes they make up.

A parameter is a number that is 0 in the aircraft as simulated; `trial` makes the replay's model of any set of values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.replay import Model
from sim2sky.analysis.windows import CHANNELS, LONGEST_DELAY_S, Windows
from sim2sky.config.environment import COEFFICIENTS, SENSORS
from sim2sky.environments.jsbsim_plant import SURFACES
from sim2sky.environments.replay_plant import STATE

__all__ = ["HYPOTHESES", "NORMAL_BIAS", "PARAMETERS", "Hypothesis", "Parameter", "Trial", "trial"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One number that may differ.

    Attributes:
        name: key in `Cause.parameters`; what comes before the dot is a mapping of settings, after it its key.
        unit: of the reported value; "1" for factors.
        step: by which the replay is differentiated, in internal coordinates.
        width: prior standard deviation, in internal coordinates: how large such differences tend to be.
        kind: "add": the coordinate is the value; "log": the value is a factor exp(x); "factor": the value is 1 + x.
    """

    name: str
    unit: str
    step: float
    width: float
    kind: str = "add"

    def value(self, x: float) -> float:
        """The reported value of an internal coordinate."""
        if self.kind == "log":
            return math.exp(x)
        return 1.0 + x if self.kind == "factor" else x


NORMAL_BIAS: dict[str, float] = {
    "roll_rad": 0.01, "pitch_rad": 0.01, "yaw_rad": 0.02, "p_radps": 0.02, "q_radps": 0.02, "r_radps": 0.02,
    "airspeed_mps": 0.3, "altitude_m": 0.5, "climb_rate_mps": 0.2,
}  # fmt: skip
"""Bias that a sensor may have from flight to flight without anything being wrong (half width of a uniform draw)."""
_BIAS_STEP = 1.5
_BIAS_WIDTH = 6.0
_LEAST_AIRSPEED_MPS = 5.0


def _parameters() -> dict[str, Parameter]:
    table = [
        Parameter("action_delay_s", "s", 0.04, 0.1),
        Parameter("actuator_bandwidth_scale", "1", -0.5, 0.6, "log"),
        Parameter("actuator_rate_scale", "1", -0.5, 0.6, "log"),
        Parameter("thrust_scale", "1", 0.15, 0.2, "log"),
        Parameter("mass_offset_kg", "kg", 0.2, 0.4),
        Parameter("cg_offset_m", "m", 0.01, 0.025),
        Parameter("inertia_scale", "1", 0.3, 0.4, "log"),
        *(Parameter(f"coefficient_scales.{c}", "1", 0.2, 0.7 if c == "CD0" else 0.35, "factor") for c in COEFFICIENTS),
        *(Parameter(f"command_offset.{s}", "1", 0.05, 0.1) for s in SURFACES),
        *(Parameter(f"command_scale.{s}", "1", -0.3, 1.0, "factor") for s in SURFACES),
        *(Parameter(f"command_swap.{a}.{b}", "1", 0.3, 1.0) for a, b in combinations(SURFACES, 2)),
        *(
            Parameter(f"offsets.{name}", name.rsplit("_", 1)[1], _BIAS_STEP * size, _BIAS_WIDTH * size)
            for name, size in NORMAL_BIAS.items()
        ),
    ]
    return {p.name: p for p in table}


PARAMETERS: dict[str, Parameter] = _parameters()


@dataclass(frozen=True)
class Hypothesis:
    """One way in which a cause can show: the parameters that are free in it, all others being as simulated."""

    cause: str
    parameters: tuple[str, ...]

    @property
    def width(self) -> Array:
        """(p,) prior standard deviations."""
        return np.array([PARAMETERS[name].width for name in self.parameters])


def _scales(*names: str) -> tuple[str, ...]:
    return tuple(f"coefficient_scales.{name}" for name in names)


HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis("delay", ("action_delay_s",)),
    Hypothesis("actuator", ("actuator_bandwidth_scale",)),
    Hypothesis("actuator", ("actuator_bandwidth_scale", "actuator_rate_scale")),
    Hypothesis("thrust", ("thrust_scale",)),
    Hypothesis("drag", _scales("CD0")),
    Hypothesis("mass", ("mass_offset_kg",)),
    Hypothesis("cg", ("cg_offset_m",)),
    Hypothesis("inertia", ("inertia_scale",)),
    Hypothesis("aerodynamics", _scales("Clb", "Clp", "Clr", "Clda", "Cldr")),
    Hypothesis("aerodynamics", _scales("CL0", "CLa", "CLq", "CLde", "Cm0", "Cma", "Cmq", "Cmde")),
    Hypothesis("aerodynamics", _scales("CYb", "CYp", "CYr", "CYdr", "Cnb", "Cnp", "Cnr", "Cnda", "Cndr")),
    Hypothesis("aerodynamics", _scales(*COEFFICIENTS)),
    *(Hypothesis("sensor bias", (f"offsets.{name}",)) for name in SENSORS if name != "altitude_m"),
    *(Hypothesis("trim", (f"command_offset.{name}",)) for name in SURFACES),
    *(Hypothesis("action map", (f"command_scale.{name}",)) for name in SURFACES),
    *(Hypothesis("action map", (f"command_swap.{a}.{b}",)) for a, b in combinations(SURFACES, 2)),
)
"""What the replay can tell apart; noise and wind are judged from the logs themselves.

An altitude that is off by a constant is not among them: nothing else in a log measures altitude, and no aircraft flies
differently for it."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Arguments of `Replayer.predict`, and what the sensors add to it: (8,), channels as in `CHANNELS`."""

    windows: Windows
    model: Model
    starts: Array


def trial(base: Model, windows: Windows, values: Mapping[str, float]) -> Trial:
    """The replay of `windows` by an aircraft that differs from `base`.

    Args:
        base: the aircraft as simulated.
        windows: what is replayed.
        values: internal coordinates by parameter name; a missing one is 0.
    """
    v = {name: PARAMETERS[name].value(x) for name, x in values.items()}
    p = base.parameters

    def factors(prefix: str, before: Mapping[str, float]) -> dict[str, float]:
        own = {name[len(prefix) + 1 :]: value for name, value in v.items() if name.startswith(prefix + ".")}
        return {**before, **{name: before.get(name, 1.0) * value for name, value in own.items()}}

    offsets = dict(p.command_offset)
    for name, value in v.items():
        if name.startswith("command_offset."):
            surface = name.split(".")[1]
            offsets[surface] = offsets.get(surface, 0.0) + value
    parameters = replace(
        p,
        mass_offset_kg=p.mass_offset_kg + v.get("mass_offset_kg", 0.0),
        cg_offset_m=p.cg_offset_m + v.get("cg_offset_m", 0.0),
        inertia_scale=p.inertia_scale * v.get("inertia_scale", 1.0),
        thrust_scale=p.thrust_scale * v.get("thrust_scale", 1.0),
        actuator_bandwidth_scale=p.actuator_bandwidth_scale * v.get("actuator_bandwidth_scale", 1.0),
        actuator_rate_scale=p.actuator_rate_scale * v.get("actuator_rate_scale", 1.0),
        coefficient_scale=factors("coefficient_scales", p.coefficient_scale),
        command_offset=offsets,
    )
    delay = min(max(base.action_delay_s + v.get("action_delay_s", 0.0), 0.0), LONGEST_DELAY_S)
    bias = {name: value for key, value in v.items() if key.startswith("offsets.") for name in [key.split(".")[1]]}
    total = {name: base.sensor_bias.get(name, 0.0) + bias.get(name, 0.0) for name in {*base.sensor_bias, *bias}}
    model = Model(parameters, delay, total)
    return Trial(_mixed(windows, v), model, _true_starts(windows, base.sensor_bias, bias))


def _mixed(windows: Windows, values: Mapping[str, float]) -> Windows:
    """The commands that reach the surfaces: scaled, and a share of two surfaces' commands exchanged."""
    used = {name: value for name, value in values.items() if name.startswith(("command_scale.", "command_swap."))}
    if not used:
        return windows
    given, controls = windows.controls, windows.controls.copy()
    for name, value in used.items():
        kind, *surfaces = name.split(".")
        i, j = SURFACES.index(surfaces[0]), SURFACES.index(surfaces[-1])
        if kind == "command_scale":
            controls[..., i] += (value - 1.0) * given[..., i]
        else:
            controls[..., i] += value * (given[..., j] - given[..., i])
            controls[..., j] += value * (given[..., i] - given[..., j])
    return replace(windows, controls=controls)


def _true_starts(windows: Windows, known: Mapping[str, float], bias: Mapping[str, float]) -> Array:
    """The measured starts without the sensors' biases; angle of attack and sideslip, which are not measured but follow
    from the path and the attitude, are moved along."""
    starts = windows.starts.copy()
    for name in CHANNELS:
        if name in STATE:
            starts[:, STATE.index(name)] -= known.get(name, 0.0) + bias.get(name, 0.0)
    speed = np.maximum(starts[:, 0], _LEAST_AIRSPEED_MPS)
    starts[:, 0] -= known.get("airspeed_mps", 0.0) + bias.get("airspeed_mps", 0.0)
    if bias.keys() & {"pitch_rad", "climb_rate_mps", "yaw_rad"}:
        roll = starts[:, STATE.index("roll_rad")]
        nose_up = bias.get("pitch_rad", 0.0) - bias.get("climb_rate_mps", 0.0) / speed
        starts[:, STATE.index("alpha_rad")] -= nose_up * np.cos(roll)
        starts[:, STATE.index("beta_rad")] += nose_up * np.sin(roll)
    return starts
