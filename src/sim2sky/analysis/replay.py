"""Replay: logged commands through the simulated aircraft, from logged states, and how far the two come apart.

The error over a horizon is open loop: nothing corrects the replay once it has started. Wind needs no place in it: a
replay flies in the air that the aircraft flew in, and only the path over ground would tell (`wind.estimate_wind`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.wind import Wind
from sim2sky.analysis.windows import CHANNELS, UNITS, Windows, cut_windows
from sim2sky.config.environment import COEFFICIENTS, EnvironmentSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.jsbsim_plant import PlantParameters
from sim2sky.environments.replay_plant import STATE, ReplayPlant, density_ratio
from sim2sky.errors import ConfigError, NotSupportedError

__all__ = ["CHANNELS", "HORIZONS_S", "UNITS", "Model", "ReplayError", "Replayer", "one_airframe", "replay_errors"]

Array = NDArray[np.float64]
HORIZONS_S = (0.1, 0.5, 1.0, 5.0)
_IN_START = {name: STATE.index(name) for name in CHANNELS if name in STATE}


@dataclass(frozen=True)
class Model:
    """An aircraft as the replay flies it.

    Attributes:
        parameters: of the plant.
        action_delay_s: between a logged state and the moment the command that answers it acts; any fraction of a tick.
            Delays of sensors and of actuation cannot be told apart in a log and are one here.
        sensor_bias: what a sensor adds, by channel.
        wind: of each flight by its name, where somebody has estimated it; the replay itself does not need it.
    """

    parameters: PlantParameters = field(default_factory=PlantParameters)
    action_delay_s: float = 0.0
    sensor_bias: Mapping[str, float] = field(default_factory=dict[str, float])
    wind: Mapping[str, Wind] = field(default_factory=dict[str, Wind])

    @classmethod
    def of(cls, environment: EnvironmentSettings) -> Model:
        """The aircraft in the middle of an environment's ranges."""
        r, d = environment.randomization, environment.disturbances

        def middle(bounds: tuple[float, float]) -> float:
            return 0.5 * (bounds[0] + bounds[1])

        return cls(
            PlantParameters(
                mass_offset_kg=middle(r.mass_offset_kg),
                cg_offset_m=middle(r.cg_offset_m),
                inertia_scale=middle(r.inertia_scale),
                coefficient_scale={
                    name: middle(r.coefficient_scales.get(name, r.coefficient_scale)) for name in COEFFICIENTS
                },
                thrust_scale=middle(r.thrust_scale),
                actuator_bandwidth_scale=middle(r.actuator_bandwidth_scale),
                actuator_rate_scale=middle(r.actuator_rate_scale),
                elevator_offset=middle(r.elevator_offset),
                command_scale={name: middle(value) for name, value in r.command_scale.items()},
                command_offset={name: middle(value) for name, value in r.command_offset.items()},
                command_swap=r.command_swap,
            ),
            action_delay_s=middle(d.action_delay_s) + middle(d.observation_delay_s),
            sensor_bias={name: middle(value) for name, value in d.sensors.offsets.items()},
        )


class Replayer:
    """Flies windows of flights under a model.

    Args:
        name: of the airframe.
        physics_hz: integration rate, a multiple of the flights' rate.

    Raises:
        ConfigError: an unknown airframe.
    """

    def __init__(self, name: str, physics_hz: float = 120.0) -> None:
        self.airframe = airframe(name)
        self.physics_hz = physics_hz
        self._plant = ReplayPlant(self.airframe, physics_hz)

    def predict(
        self, windows: Windows, model: Model, starts: Array | None = None, *, added: Array | None = None
    ) -> Array:
        """What the sensors would have said.

        Args:
            windows: whose commands are flown.
            model: of the aircraft.
            starts: (w, 10) true states to start from, columns `STATE`; by default the measured ones without the
                model's sensor bias.
            added: (steps, 4) to the commands of the physics steps, past the delay: a disturbance.

        Returns:
            (w, ticks + 1, 8), columns `CHANNELS`, yaw near the measured one; NaN where the replay left the atmosphere.

        Raises:
            NotSupportedError: the flights' rate does not divide the integration rate.
        """
        substeps = self.physics_hz / windows.rate_hz
        if abs(substeps - round(substeps)) > 1e-6:
            raise NotSupportedError(
                f"replaying samples of {windows.rate_hz:g} Hz at {self.physics_hz:g} Hz",
                hint="the physics rate must be a multiple of the flights' rate",
            )
        bias = np.array([model.sensor_bias.get(name, 0.0) for name in CHANNELS])
        if starts is None:
            starts = windows.starts.copy()
            for i, name in enumerate(CHANNELS):
                if name in _IN_START:
                    starts[:, _IN_START[name]] -= bias[i]
            starts[:, 0] -= bias[CHANNELS.index("airspeed_mps")] / np.sqrt(density_ratio(starts[:, -1]))
        warm, commands = windows.effective_commands(model.action_delay_s, self.physics_hz)
        if added is not None:
            commands = commands + added
        self._plant.become(model.parameters)
        flown = self._plant.fly(starts, warm, commands, round(substeps))[:, :, : len(CHANNELS)] + bias
        yaw = np.nan_to_num(windows.measured[:, :, 2])
        flown[:, :, 2] = yaw + (flown[:, :, 2] - yaw + np.pi) % (2.0 * np.pi) - np.pi
        return flown


@dataclass(frozen=True, eq=False)
class ReplayError:
    """Open-loop error after one horizon.

    Attributes:
        horizon_s: after so long.
        rms: root mean square by channel.
        per_flight: (flights, 8) root mean square by flight and channel; NaN for a flight without a window.
        windows: replayed; lost: of these, the replay left the atmosphere (not in the mean).
    """

    horizon_s: float
    rms: Mapping[str, float]
    per_flight: Array
    windows: int
    lost: int


def one_airframe(flights: Sequence[Flight], given: str = "") -> str:
    """The airframe of all these flights.

    Raises:
        ConfigError: no flights, several airframes, or the logs do not say and nobody else does.
    """
    names = {flight.airframe for flight in flights} - {""}
    if given and names - {given}:
        raise ConfigError(f"the flights are of {', '.join(sorted(names))}, not of '{given}'")
    if len(names) > 1:
        raise ConfigError(f"these are flights of several airframes: {', '.join(sorted(names))}")
    if not flights:
        raise ConfigError("there are no flights", hint="name a log with at least one episode")
    if not (name := given or next(iter(names), "")):
        raise ConfigError("the logs do not say which aircraft flew", hint="name it: --aircraft NAME")
    return name


def replay_errors(
    flights: Sequence[Flight],
    model: Model,
    horizons_s: Sequence[float] = HORIZONS_S,
    *,
    replayer: Replayer | None = None,
) -> tuple[ReplayError, ...]:
    """Open-loop error of a model over several horizons; a horizon longer than every flight is left out.

    Args:
        flights: of one airframe and rate, best ones from which the model does not come.
        model: of the aircraft.
        horizons_s: after how long.
        replayer: to reuse; made from the flights' airframe by default.

    Raises:
        ConfigError: not flights of one airframe and rate.
    """
    replayer = replayer or Replayer(one_airframe(flights))
    answers: list[ReplayError] = []
    for horizon in horizons_s:
        try:
            windows = cut_windows(flights, horizon, every_s=max(0.5 * horizon, 0.5))
        except NotSupportedError:
            continue
        error = (replayer.predict(windows, model) - windows.measured)[:, -1]
        finite = np.asarray(np.isfinite(error).all(axis=1))
        square = np.where(finite[:, None], error, 0.0) ** 2
        index = windows.flight.astype(int)
        counts = np.bincount(index, weights=finite, minlength=len(flights))
        sums = np.column_stack([np.bincount(index, weights=column, minlength=len(flights)) for column in square.T])
        with np.errstate(invalid="ignore", divide="ignore"):
            per_flight = np.sqrt(sums / counts[:, None])
            rms = np.sqrt(sums.sum(axis=0) / counts.sum())
        lost = int(len(windows) - finite.sum())
        answers.append(
            ReplayError(horizon, dict(zip(CHANNELS, rms.tolist(), strict=True)), per_flight, len(windows), lost)
        )
    return tuple(answers)
