"""An aircraft that is started from any state of motion again and again: what replaying a flight log needs.

One `FGFDMExec` for all starts, which costs 20 microseconds instead of a millisecond. It flies in still air: a steady
wind moves the whole flight and changes nothing in it but the path over ground.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim2sky.environments.airframes import Airframe
from sim2sky.environments.jsbsim_plant import FT, INSTANT_RADPS, Air, InitialState, JsbsimPlant, PlantParameters
from sim2sky.runtime.state import CHANNELS

__all__ = ["OUTPUTS", "STATE", "ReplayPlant", "density_ratio"]

STATE = (
    "true_airspeed_mps", "alpha_rad", "beta_rad", "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps",
    "altitude_m",
)  # fmt: skip
"""A start: columns of `ReplayPlant.fly`'s `starts`."""
OUTPUTS = (
    "roll_rad", "pitch_rad", "yaw_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m", "north_mps",
    "east_mps", "climb_rate_mps",
)  # fmt: skip
"""What `ReplayPlant.fly` answers; yaw in 0..2 pi, airspeed calibrated, north and east through the air."""

FROZEN_RADPS = 1e-12


def density_ratio(altitude_m: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Air density over that at sea level (ISA troposphere); calibrated airspeed is true airspeed times its root."""
    return (1.0 - 2.25577e-5 * np.asarray(altitude_m, np.float64)) ** 4.2559


class ReplayPlant(JsbsimPlant):
    """The airframe in still air, started from any state.

    Args:
        airframe: which.
        physics_hz: integration rate.
    """

    def __init__(self, airframe: Airframe, physics_hz: float) -> None:
        super().__init__(airframe, physics_hz)
        self._load()

    def _load(self, parameters: PlantParameters | None = None) -> None:
        self.parameters = parameters or PlantParameters()
        super().reset(InitialState(), self.parameters, Air(), self.airframe.trim, 0)
        manager = self._fdm.get_property_manager()
        names = ["phi-rad", "theta-rad", "psi-true-rad", "p-rad_sec", "q-rad_sec", "r-rad_sec", "vn-fps", "ve-fps",
                 "vd-fps", "h-sl-ft"]  # fmt: skip
        nodes = [manager.get_node(f"ic/{name}") for name in names]
        self._initial = [node.set_double_value for node in nodes if node is not None]
        self._measure = (
            self._roll, self._pitch, self._yaw, self._p, self._q, self._r, self._vc, self._h, self._v_north,
            self._v_east, self._hdot,
        )  # fmt: skip

    def become(self, parameters: PlantParameters) -> None:
        """From the next `fly` on, an aircraft with these parameters."""
        every = dict.fromkeys(self.airframe.coefficients, 1.0) | dict(parameters.coefficient_scale)
        self.parameters = parameters
        for name, scale in every.items():
            self._fdm[f"aero/coef/{name}"] = self.airframe.coefficients[name] * scale
        self._set_parameters(parameters)

    def fly(
        self, starts: NDArray[np.float64], warm: NDArray[np.float64], commands: NDArray[np.float64], substeps: int
    ) -> NDArray[np.float64]:
        """Fly from each start.

        Args:
            starts: (w, 10) states, columns `STATE`.
            warm: (w, n, 4) commands of the physics steps before the start, for the actuators.
            commands: (w, ticks * substeps, 4) commands of the physics steps.
            substeps: physics steps per tick.

        Returns:
            (w, ticks + 1, 11), columns `OUTPUTS`, the first row at the start. NaN from where JSBSim gave up.
        """
        ticks = commands.shape[1] // substeps
        mapped_warm, mapped = self._mapped(warm), self._mapped(commands)
        positions, settled = self._actuators(mapped_warm)
        velocities = _ground_velocity(starts)
        answer = np.full((len(starts), ticks + 1, len(OUTPUTS)), np.nan)
        for i in range(len(starts)):
            initial = [*starts[i, 3:9].tolist(), *(velocities[i] / FT).tolist(), float(starts[i, 9]) / FT]
            try:
                rows = self._fly(
                    initial,
                    (positions[i].tolist(), settled[i].tolist(), mapped_warm[i, -1].tolist()),
                    mapped[i].tolist(),
                    substeps,
                )
            except RuntimeError:
                self._load(self.parameters)
                continue
            answer[i] = rows
            if not np.isfinite(answer[i, -1]).all():  # an aircraft that holds a NaN never loses it
                self._load(self.parameters)
        answer[~np.isfinite(answer).all(axis=2)] = np.nan
        answer[:, :, 6:] *= FT
        return answer

    def _fly(
        self,
        initial: list[float],
        before: tuple[list[float], ...],
        commands: list[list[float]],
        substeps: int,
    ) -> list[list[float]]:
        fdm, measure, run, send = self._fdm, self._measure, self._fdm.run, self._send
        for setter, value in zip(self._initial, initial, strict=True):
            setter(value)
        bandwidth, rate, motor = self._dynamics
        a, p = self.airframe, self.parameters
        positions, settled, last = before
        fdm.suspend_integration()
        # An actuator is a lag and then a rate limit, and both have a state. At 2 / dt the bilinear lag is the mean of
        # two inputs: two steps settle it, whatever it did before.
        bandwidth(2.0 / self.dt_s)
        motor(2.0 / self.dt_s)
        rate(INSTANT_RADPS)
        send(positions)
        run()
        run()
        rate(FROZEN_RADPS)
        send(settled)
        run()
        run()
        bandwidth(a.actuator_bandwidth_radps * p.actuator_bandwidth_scale)
        motor(1.0 / a.throttle_lag_s)
        fdm.resume_integration()
        send(last)
        fdm.run_ic()  # advances the lags by two steps
        rate(a.surface_rate_limit_radps * p.actuator_rate_scale)
        rows = [[get() for get in measure]]
        for step, command in enumerate(commands, 1):
            if command != last:
                send(command)
                last = command
            run()
            if not step % substeps:
                rows.append([get() for get in measure])
        return rows

    def _bind(self) -> None:
        super()._bind()
        manager = self._fdm.get_property_manager()
        names = ("actuator-bandwidth-radps", "actuator-rate-radps", "motor-bandwidth-radps")
        nodes = [manager.get_node(f"fcs/{name}") for name in names]
        self._dynamics = [node.set_double_value for node in nodes if node is not None]

    def _mapped(self, commands: NDArray[np.float64]) -> NDArray[np.float64]:
        """`command` for whole arrays: from our commands to what JSBSim's properties get."""
        mapped = np.empty_like(commands)
        for i, (source, scale, offset) in enumerate(self.parameters.surface_map()):
            mapped[..., i] = (commands[..., source] * scale + offset) * (1.0 if CHANNELS[i] == "aileron" else -1.0)
        mapped[..., 3] = commands[..., 3]
        return mapped

    def _send(self, mapped: list[float]) -> None:
        """Set what JSBSim's properties get, already mapped."""
        self._set_aileron(mapped[0])
        self._set_elevator(mapped[1])
        self._set_rudder(mapped[2])
        self._set_throttle(mapped[3])

    def _actuators(self, mapped: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The actuators after (w, n, 4) commands, the first one held before: their positions (w, 4), normalised, and
        where a lag must rest (w, 4) so that `run_ic`, with the last command, brings it where it is.

        As in JSBSim: a lag, which is the bilinear transform of 1 / (s / bandwidth + 1), and then the rate limit.
        """
        a, p = self.airframe, self.parameters
        surfaces = a.actuator_bandwidth_radps * p.actuator_bandwidth_scale
        x = self.dt_s * np.array([surfaces, surfaces, surfaces, 1.0 / a.throttle_lag_s])
        gain, pole = x / (2.0 + x), (2.0 - x) / (2.0 + x)
        rate = a.surface_rate_limit_radps * p.actuator_rate_scale / a.surface_limit_rad
        largest = self.dt_s * np.array([rate, rate, rate, np.inf])
        clipped = np.clip(mapped, [-1.0, -1.0, -1.0, 0.0], 1.0)
        before = lag = position = clipped[:, 0]
        for step in range(1, clipped.shape[1]):
            command = clipped[:, step]
            lag = gain * (command + before) + pole * lag
            position = position + np.clip(lag - position, -largest, largest)
            before = command
        return position, (lag - gain * (2.0 + pole) * before) / (pole * (gain + pole))


def _ground_velocity(starts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Velocity through the air, north, east and down, of (w, 10) starts: (w, 3), m/s."""
    speed, alpha, beta, roll, pitch, yaw = starts[:, :6].T
    u, v, w = speed * np.cos(alpha) * np.cos(beta), speed * np.sin(beta), speed * np.sin(alpha) * np.cos(beta)
    # roll
    v, w = v * np.cos(roll) - w * np.sin(roll), v * np.sin(roll) + w * np.cos(roll)
    # pitch
    u, w = u * np.cos(pitch) + w * np.sin(pitch), w * np.cos(pitch) - u * np.sin(pitch)
    # yaw
    return np.column_stack([u * np.cos(yaw) - v * np.sin(yaw), u * np.sin(yaw) + v * np.cos(yaw), w])
