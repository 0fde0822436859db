"""One JSBSim aircraft: initial state, parameters and air in, commands step by step, true state out.

A fresh `FGFDMExec` per reset, because a re-used one drifts: the same seed gives the same trajectory bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jsbsim
import numpy as np
from scipy.optimize import root

from sim2sky.environments.airframe_xml import AIRCRAFT_PATH, POINT_MASS_ARM_M
from sim2sky.environments.airframes import Airframe
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.runtime.state import CHANNELS, Command, Sample

__all__ = ["FT", "INSTANT_RADPS", "SURFACES", "Air", "InitialState", "JsbsimPlant", "PlantParameters", "find_trim"]

FT = 0.3048
SURFACES = CHANNELS[:3]
KG_TO_LB = 2.2046226218
INSTANT_RADPS = 1e9


@dataclass(frozen=True)
class InitialState:
    """Where and how an episode starts: no body rates, no sideslip, `alpha_rad` between path and nose.

    `north_m` and `east_m` are from home.
    """

    altitude_m: float = 150.0
    airspeed_mps: float = 18.0
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    yaw_rad: float = 0.0
    alpha_rad: float = 0.0
    north_m: float = 0.0
    east_m: float = 0.0


@dataclass(frozen=True)
class Air:
    """Steady wind as the velocity of the air (towards north, east), and Dryden turbulence by its wind at 20 ft."""

    wind_north_mps: float = 0.0
    wind_east_mps: float = 0.0
    turbulence_w20_mps: float = 0.0


@dataclass(frozen=True)
class PlantParameters:
    """Differences from the nominal airframe; the defaults are the nominal airframe.

    Attributes:
        coefficient_scale: factor by coefficient name; a missing name means 1.
        elevator_offset: added to the elevator command (rigging error), of full travel.
        command_scale, command_offset: of a surface's command by its name; a missing name means 1 and 0.
        command_swap: two surfaces whose commands are exchanged, before they are scaled.
    """

    mass_offset_kg: float = 0.0
    cg_offset_m: float = 0.0
    inertia_scale: float = 1.0
    coefficient_scale: Mapping[str, float] = field(default_factory=dict[str, float])
    thrust_scale: float = 1.0
    actuator_bandwidth_scale: float = 1.0
    actuator_rate_scale: float = 1.0
    elevator_offset: float = 0.0
    command_scale: Mapping[str, float] = field(default_factory=dict[str, float])
    command_offset: Mapping[str, float] = field(default_factory=dict[str, float])
    command_swap: tuple[str, str] | None = None

    def surface_map(self) -> tuple[tuple[int, float, float], ...]:
        """For aileron, elevator, rudder: index of the command it gets, its factor, what is added.

        Raises:
            ConfigError: it names no surface.
        """
        named = {*self.command_scale, *self.command_offset, *(self.command_swap or ())}
        if unknown := sorted(named - set(SURFACES)):
            raise ConfigError(f"there is no surface '{unknown[0]}'", hint=", ".join(SURFACES))
        source = list(range(len(SURFACES)))
        if self.command_swap is not None:
            a, b = (SURFACES.index(name) for name in self.command_swap)
            source[a], source[b] = source[b], source[a]
        offsets = {"elevator": self.elevator_offset}
        return tuple(
            (
                source[i],
                self.command_scale.get(name, 1.0),
                self.command_offset.get(name, 0.0) + offsets.get(name, 0.0),
            )
            for i, name in enumerate(SURFACES)
        )


class JsbsimPlant:
    """A flying airframe.

    Args:
        airframe: which.
        physics_hz: integration rate.

    Attributes:
        beta_rad: function giving the true sideslip; there after the first `reset`.
    """

    def __init__(self, airframe: Airframe, physics_hz: float) -> None:
        self.airframe = airframe
        self.dt_s = 1.0 / physics_hz
        self._map: tuple[tuple[int, float, float], ...] | None = None
        self._elevator_offset = 0.0
        self._start = (0.0, 0.0)
        self._thrust_scale = 1.0

    def reset(self, initial: InitialState, parameters: PlantParameters, air: Air, command: Command, seed: int) -> None:
        """Load a fresh aircraft, settle its actuators at `command`, and start the air.

        Args:
            initial: state at time 0.
            parameters: of this aircraft.
            air: wind and turbulence.
            command: actuator command held before time 0.
            seed: of JSBSim's turbulence, 0..2**31-1.
        """
        jsbsim.FGJSBBase().debug_lvl = 0
        fdm = jsbsim.FGFDMExec(str(AIRCRAFT_PATH))
        fdm.set_debug_level(0)
        fdm.set_dt(self.dt_s)  # before loading: filters read it then
        path = str(AIRCRAFT_PATH)
        if not fdm.load_model_with_paths(self.airframe.name, path, path, path, False):
            raise Sim2SkyError(f"JSBSim cannot load the airframe '{self.airframe.name}'", hint="reinstall sim2sky")
        self._fdm = fdm
        self._bind()
        self._set_parameters(parameters)

        self._start = (initial.north_m, initial.east_m)
        speed = initial.airspeed_mps
        gamma = initial.pitch_rad - initial.alpha_rad * math.cos(initial.roll_rad)
        horizontal = speed * math.cos(gamma)
        track = initial.yaw_rad - math.atan2(math.sin(initial.alpha_rad) * math.sin(initial.roll_rad), 1.0)
        fdm["ic/h-sl-ft"] = initial.altitude_m / FT
        fdm["ic/phi-rad"] = initial.roll_rad
        fdm["ic/theta-rad"] = initial.pitch_rad
        fdm["ic/psi-true-rad"] = initial.yaw_rad
        # Ground velocity = air velocity + wind; the wind itself is set after run_ic(), which would zero it.
        fdm["ic/vn-fps"] = (horizontal * math.cos(track) + air.wind_north_mps) / FT
        fdm["ic/ve-fps"] = (horizontal * math.sin(track) + air.wind_east_mps) / FT
        fdm["ic/vd-fps"] = -speed * math.sin(gamma) / FT
        if not fdm.run_ic():
            raise Sim2SkyError("JSBSim refused the initial conditions")
        fdm["atmosphere/wind-north-fps"] = air.wind_north_mps / FT
        fdm["atmosphere/wind-east-fps"] = air.wind_east_mps / FT
        if air.turbulence_w20_mps > 0.0:
            fdm["simulation/randomseed"] = seed
            fdm["atmosphere/randomseed"] = seed
            fdm["atmosphere/turb-type"] = 3  # Dryden after MIL-F-8785C
            fdm["atmosphere/turbulence/milspec/windspeed_at_20ft_AGL-fps"] = air.turbulence_w20_mps / FT
            fdm["atmosphere/turbulence/milspec/severity"] = 3
        self._settle(command, parameters)

    def _bind(self) -> None:
        manager = self._fdm.get_property_manager()

        def node(name: str) -> jsbsim.FGPropertyNode:
            found = manager.get_node(name)
            if found is None:
                raise Sim2SkyError(f"the airframe has no property '{name}'")
            return found

        self._set_aileron = node("fcs/aileron-cmd-norm").set_double_value
        self._set_elevator = node("fcs/elevator-cmd-norm").set_double_value
        self._set_rudder = node("fcs/rudder-cmd-norm").set_double_value
        self._set_throttle = node("fcs/throttle-cmd-norm").set_double_value
        self._roll = node("attitude/phi-rad").get_double_value
        self._pitch = node("attitude/theta-rad").get_double_value
        self._yaw = node("attitude/psi-rad").get_double_value
        self._p = node("velocities/p-rad_sec").get_double_value
        self._q = node("velocities/q-rad_sec").get_double_value
        self._r = node("velocities/r-rad_sec").get_double_value
        self._vc = node("velocities/vc-fps").get_double_value
        self._h = node("position/h-sl-ft").get_double_value
        self._hdot = node("velocities/h-dot-fps").get_double_value
        self._north = node("position/from-start-neu-n-ft").get_double_value
        self._east = node("position/from-start-neu-e-ft").get_double_value
        self._v_north = node("velocities/v-north-fps").get_double_value
        self._v_east = node("velocities/v-east-fps").get_double_value
        self._uvw = [node(f"velocities/{axis}-fps").get_double_value for axis in "uvw"]
        self.beta_rad = node("aero/beta-rad").get_double_value
        self._time = node("simulation/sim-time-sec").get_double_value

    def _set_parameters(self, parameters: PlantParameters) -> None:
        fdm, a = self._fdm, self.airframe
        for name, scale in parameters.coefficient_scale.items():
            if name not in a.coefficients:
                raise Sim2SkyError(f"the airframe '{a.name}' has no coefficient '{name}'")
            fdm[f"aero/coef/{name}"] = a.coefficients[name] * scale
        fdm["propulsion/thrust-scale"] = self._thrust_scale = parameters.thrust_scale
        self._elevator_offset = parameters.elevator_offset
        plain = not (parameters.command_scale or parameters.command_offset or parameters.command_swap)
        self._map = None if plain else parameters.surface_map()
        # Mass, CG and inertia change through point masses: one at the reference point, a pair on each axis.
        mass = a.mass_kg + parameters.mass_offset_kg
        arm = POINT_MASS_ARM_M
        ixx, iyy, izz = (
            (parameters.inertia_scale - 1.0) * value / arm**2 for value in (a.ixx_kgm2, a.iyy_kgm2, a.izz_kgm2)
        )
        on_x, on_y, on_z = (iyy + izz - ixx) / 2.0, (ixx + izz - iyy) / 2.0, (ixx + iyy - izz) / 2.0
        lever = parameters.cg_offset_m * mass / (2.0 * arm)  # antisymmetric pair on x: moves the CG, adds no mass
        weights_kg = [
            parameters.mass_offset_kg - on_x - on_y - on_z,
            on_x / 2.0 - lever,  # 0.3 m aft
            on_x / 2.0 + lever,  # 0.3 m forward
            on_y / 2.0,
            on_y / 2.0,
            on_z / 2.0,
            on_z / 2.0,
        ]
        for i, weight in enumerate(weights_kg):
            fdm[f"inertia/pointmass-weight-lbs[{i}]"] = weight * KG_TO_LB

    def scale_thrust(self, factor: float) -> None:
        """From now on the motor gives `factor` of what it gave at the start of the flight."""
        self._fdm["propulsion/thrust-scale"] = self._thrust_scale * factor

    def _settle(self, command: Command, parameters: PlantParameters) -> None:
        """Bring the actuators to `command` with the aircraft's motion suspended, then give them their dynamics."""
        fdm, a = self._fdm, self.airframe
        for name in ("actuator-bandwidth-radps", "actuator-rate-radps", "motor-bandwidth-radps"):
            fdm[f"fcs/{name}"] = INSTANT_RADPS
        self.command(command)
        fdm.suspend_integration()
        fdm.run()
        fdm.run()
        fdm.resume_integration()
        fdm["fcs/actuator-bandwidth-radps"] = a.actuator_bandwidth_radps * parameters.actuator_bandwidth_scale
        fdm["fcs/actuator-rate-radps"] = a.surface_rate_limit_radps * parameters.actuator_rate_scale
        fdm["fcs/motor-bandwidth-radps"] = 1.0 / a.throttle_lag_s

    def command(self, command: Command) -> None:
        """Set the actuator command. JSBSim's elevator and rudder are positive trailing edge down and left."""
        aileron, elevator, rudder, throttle = command
        if self._map is not None:
            aileron, elevator, rudder = (command[i] * scale + offset for i, scale, offset in self._map)
            elevator -= self._elevator_offset  # the map has it already
        self._set_aileron(aileron)
        self._set_elevator(-(elevator + self._elevator_offset))
        self._set_rudder(-rudder)
        self._set_throttle(throttle)

    def run(self, steps: int) -> None:
        """Advance by so many physics steps."""
        run = self._fdm.run
        for _ in range(steps):
            run()

    def sample(self, time_ns: int) -> Sample:
        """The true state as a `Sample`."""
        return Sample(
            time_ns,
            self._roll(),
            self._pitch(),
            self._yaw(),
            self._p(),
            self._q(),
            self._r(),
            self._vc() * FT,
            self._h() * FT,
            self._hdot() * FT,
            self._start[0] + self._north() * FT,
            self._start[1] + self._east() * FT,
            self._v_north() * FT,
            self._v_east() * FT,
        )

    def state_row(self) -> tuple[float, ...]:
        """The flight log's 16 columns: time, NED position, body velocity, Euler angles, rates, airspeed, altitude."""
        u, v, w = (get() * FT for get in self._uvw)
        altitude = self._h() * FT
        return (
            self._time(),
            self._start[0] + self._north() * FT,
            self._start[1] + self._east() * FT,
            -altitude,
            u,
            v,
            w,
            self._roll(),
            self._pitch(),
            self._yaw(),
            self._p(),
            self._q(),
            self._r(),
            self._vc() * FT,
            altitude,
            0.0,
        )

    def get(self, name: str) -> float:
        """Any JSBSim property, for analysis and tests.

        Raises:
            Sim2SkyError: there is none of that name (JSBSim itself would silently make one).
        """
        found = self._fdm.get_property_manager().get_node(name)
        if found is None:
            raise Sim2SkyError(f"the airframe has no property '{name}'")
        return found.get_double_value()


def find_trim(
    airframe: Airframe, airspeed_mps: float, *, parameters: PlantParameters | None = None, altitude_m: float = 150.0
) -> tuple[Command, float]:
    """Wings-level, level-flight trim: the command and the angle of attack at which no acceleration is left.

    JSBSim's own trim moves the trim tabs and wants an engine; three unknowns and three accelerations need neither.

    Raises:
        Sim2SkyError: there is no such trim within the actuators' travel.
    """
    plant = JsbsimPlant(airframe, 120.0)
    chosen = parameters or PlantParameters()

    def accelerations(x: np.ndarray) -> list[float]:
        alpha, elevator, throttle = (float(v) for v in x)
        initial = InitialState(altitude_m, airspeed_mps, 0.0, alpha, 0.0, alpha)
        plant.reset(initial, chosen, Air(), Command(0.0, elevator, 0.0, throttle), 0)
        return [plant.get(f"accelerations/{name}") for name in ("udot-ft_sec2", "wdot-ft_sec2", "qdot-rad_sec2")]

    guess = [airframe.trim_alpha_rad, airframe.trim.elevator, airframe.trim.throttle]
    found = root(accelerations, guess, tol=1e-9)
    alpha, elevator, throttle = (float(v) for v in found.x)
    if not found.success or abs(elevator) > 1.0 or not 0.0 <= throttle <= 1.0:
        raise Sim2SkyError(f"'{airframe.name}' has no level trim at {airspeed_mps} m/s")
    return Command(0.0, elevator, 0.0, throttle), alpha
