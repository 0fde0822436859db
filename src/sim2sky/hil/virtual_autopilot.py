"""A virtual autopilot: JSBSim flown in real time behind MAVLink, as ArduPlane or PX4 behave towards a companion.

It is for tests and demonstrations, and says so itself: its heartbeat carries the HIL flag, so that no log of such a
flight can be labelled real. `python -m sim2sky.hil.virtual_autopilot udpin:127.0.0.1:14550 --kind px4` runs one.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from sim2sky.config.environment import SensorSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import Scenario, sensor_sigma
from sim2sky.environments.jsbsim_plant import Air, InitialState, JsbsimPlant, PlantParameters
from sim2sky.errors import Sim2SkyError
from sim2sky.hil import virtual_telemetry
from sim2sky.hil.virtual_telemetry import View
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.autopilots import ARDUPILOT, PX4, AutopilotKind
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.link import MavlinkLink, mavlink, open_link
from sim2sky.runtime.state import Command, Sample, Setpoint

__all__ = ["PARAMETERS", "VirtualAutopilot", "main"]

_S = 1_000_000_000
PHYSICS_HZ = 120.0
CONTROL_HZ = 60.0
MAX_CATCH_UP_S = 0.5  # a machine that stood still for longer has lost real time anyhow
SYSTEM = 1
_SIGMA = sensor_sigma(SensorSettings())
PARAMETERS: dict[str, dict[str, float]] = {
    "ArduPilot": {
        "SYSID_MYGCS": 1.0, "RC_OVERRIDE_TIME": 0.5, "RC_OPTIONS": 32.0,
        "RCMAP_ROLL": 1.0, "RCMAP_PITCH": 2.0, "RCMAP_THROTTLE": 3.0, "RCMAP_YAW": 4.0,
        **{f"RC{n}_{what}": value for n in range(1, 5)
           for what, value in (("MIN", 1100.0), ("MAX", 1900.0), ("TRIM", 1500.0), ("REVERSED", 0.0))},
    },
    "PX4": {
        "COM_RC_IN_MODE": 1.0, "COM_RC_LOSS_T": 0.5, "FW_MAN_R_SC": 1.0, "FW_MAN_P_SC": 1.0, "FW_MAN_Y_SC": 1.0,
    },
}  # fmt: skip
"""Parameters of an autopilot that is set up to be commanded."""


class VirtualAutopilot:
    """One simulated aircraft with its autopilot.

    Args:
        link: to the companion computer.
        clock: real, or a test's own.
        kind: which autopilot it plays.
        aircraft: airframe.
        air: wind and turbulence.
        noise: of the state estimate, in shares of `SensorSettings`.
        seed: of noise and turbulence.
        scenario: instead of the last three, and another aircraft than the data sheet's: parameters, delays (in steps of
            `PHYSICS_HZ`), air and sensors.

    Attributes:
        parameters: may be changed before a companion connects.
        receiver_us: the pilot's transmitter, 16 channels.
        answering: whether it reads and sends anything (a cut cable).
        moving: whether the outputs follow the commands (the safety switch).
        received: messages of other components that it would pass on to ground stations, newest last.
    """

    def __init__(
        self,
        link: MavlinkLink,
        clock: Clock,
        *,
        kind: AutopilotKind = ARDUPILOT,
        aircraft: str = "ultrastick25e",
        air: Air | None = None,
        noise: float = 0.0,
        seed: int = 0,
        scenario: Scenario | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self.kind = kind
        self.airframe = airframe(aircraft)
        self.parameters = dict(PARAMETERS[kind.name])
        self.receiver_us = [1500, 1500, 1100, 1500, *(1100,) * 12]
        self.battery_v = 12.1
        self.answering = True
        self.moving = True
        self.armed = True
        self.received: deque[Any] = deque(maxlen=2000)
        parameters, air = PlantParameters(), air or Air()
        self._sigma, self._bias = [noise * value for value in _SIGMA], (0.0,) * len(_SIGMA)
        action_delay = observation_delay = 0
        if scenario is not None:
            parameters, air, seed = scenario.parameters, scenario.air, scenario.turbulence_seed
            self._sigma, self._bias = list(scenario.sensor_sigma), scenario.sensor_bias
            action_delay, observation_delay = scenario.action_delay_substeps, scenario.observation_delay_substeps
        self._rng = random.Random(seed)  # noqa: S311 - sensor noise
        self._plant = JsbsimPlant(self.airframe, PHYSICS_HZ)
        a = self.airframe
        alpha = a.trim_alpha_rad
        initial = InitialState(150.0, a.cruise_airspeed_mps, pitch_rad=alpha, alpha_rad=alpha)
        self._plant.reset(initial, parameters, air, a.trim, seed)
        self._law = Autopilot(a.gains, 1.0 / CONTROL_HZ)
        self.command = a.trim
        self._commands = deque([a.trim] * (action_delay + 1), maxlen=action_delay + 1)
        self._seen = deque([self.truth()], maxlen=observation_delay + 1)
        self._sticks: tuple[int, Sequence[int]] | None = None  # when, and eight overridden pulse widths
        self._manual_control: tuple[int, Command] | None = None
        self._steps = 0
        self._start_ns = clock.now_ns()
        self.restart()
        self.set_mode("LOITER")

    def restart(self) -> None:
        """The autopilot (not the aircraft) starts again: its clock, and what it was asked to send, are gone."""
        self._boot_ns = self._clock.now_ns() - _S
        self._intervals: dict[int, int] = {mavlink.MAVLINK_MSG_ID_HEARTBEAT: _S}
        self._next: dict[int, int] = {}

    def set_mode(self, name: str) -> None:
        """Change the flight mode, as the pilot's switch or a failsafe would."""
        self.mode = name
        truth = self.truth()
        self._target = Setpoint(truth.altitude_m, self.airframe.cruise_airspeed_mps, truth.yaw_rad)
        self._law.reset()

    def truth(self) -> Sample:
        """The aircraft's true state."""
        return self._plant.sample(self._clock.now_ns())

    # One step --------------------------------------------------------------------------------------------------------

    def step(self, wait_s: float = 0.0) -> None:
        """Take in what came, fly up to now, send what is due."""
        messages = self._link.receive(wait_s)
        now = self._clock.now_ns()
        if self.answering:
            for message in messages:
                self._handle(message, now)
        self._fly(now)
        if self.answering:
            self._send_due(now)

    def _fly(self, now: int) -> None:
        wanted = int((now - self._start_ns) / _S * PHYSICS_HZ)
        limit = int(MAX_CATCH_UP_S * PHYSICS_HZ)
        if wanted - self._steps > limit:
            self._start_ns += int((wanted - self._steps - limit) / PHYSICS_HZ * _S)
            wanted = self._steps + limit
        per_control = int(PHYSICS_HZ / CONTROL_HZ)
        while self._steps + per_control <= wanted:
            command = self._control(now)
            if self.moving:
                self.command = command
            for _ in range(per_control):
                self._commands.append(self.command)
                self._plant.command(self._commands[0])
                self._plant.run(1)
                self._seen.append(self.truth())
            self._steps += per_control

    def _control(self, now: int) -> Command:
        truth = self.truth()
        if self.mode == "MANUAL":
            return self._manual(now)
        s, target = truth, self._target
        heading = target.heading_rad
        if self.mode == "LOITER":
            heading = s.yaw_rad + 0.4  # a circle to the right
        elif self.mode == "RTL":
            heading = math.atan2(-s.east_m, -s.north_m)
        return self._law.command(s, Setpoint(target.altitude_m, target.airspeed_mps, heading))

    def _manual(self, now: int) -> Command:
        if self.kind is PX4:
            fresh = self._manual_control
            if fresh is not None and now - fresh[0] <= self.parameters["COM_RC_LOSS_T"] * _S:
                return fresh[1]
            self.set_mode("RTL")
            return self.command
        p, widths = self.parameters, self.sticks_us(now)
        roll, pitch, yaw = (_normal(p, int(p[name]), widths) for name in ("RCMAP_ROLL", "RCMAP_PITCH", "RCMAP_YAW"))
        throttle = int(p["RCMAP_THROTTLE"])
        low, high = p[f"RC{throttle}_MIN"], p[f"RC{throttle}_MAX"]
        share = (min(max(widths[throttle - 1], low), high) - low) / (high - low)
        return Command(roll, pitch, yaw, 1.0 - share if p[f"RC{throttle}_REVERSED"] else share)

    def sticks_us(self, now: int) -> list[int]:
        """Pulse widths of all channels as the autopilot uses them: the receiver's, where nothing overrides them."""
        widths = list(self.receiver_us)
        if self._sticks is not None and now - self._sticks[0] <= self.parameters["RC_OVERRIDE_TIME"] * _S:
            for i, value in enumerate(self._sticks[1]):
                if value:
                    widths[i] = value
        return widths

    # Messages --------------------------------------------------------------------------------------------------------

    def _handle(self, m: Any, now: int) -> None:
        number = m.get_msgId()
        if number == mavlink.MAVLINK_MSG_ID_RC_CHANNELS_OVERRIDE:
            self._override(m, now)
        elif number == mavlink.MAVLINK_MSG_ID_MANUAL_CONTROL and m.target == SYSTEM:
            if self.kind is PX4:  # x is positive forward, which is nose down; z is 0 to 1000
                self._manual_control = (now, Command(m.y * 1e-3, -m.x * 1e-3, m.r * 1e-3, m.z * 1e-3))
            elif m.get_srcSystem() == self.parameters["SYSID_MYGCS"]:
                self._ardupilot_manual_control(m, now)
        elif number == mavlink.MAVLINK_MSG_ID_COMMAND_LONG and m.target_system == SYSTEM:
            result = self._command(m)
            ack = mavlink.MAVLink_command_ack_message(m.command, result, 0, 0, m.get_srcSystem(), m.get_srcComponent())
            self._link.send(ack)
        elif number == mavlink.MAVLINK_MSG_ID_PARAM_REQUEST_READ:
            self._parameter(m.param_id.rstrip("\x00"))
        elif number == mavlink.MAVLINK_MSG_ID_TIMESYNC and m.tc1 == 0:
            self._link.send(mavlink.MAVLink_timesync_message(now - self._boot_ns, m.ts1))
        else:
            self.received.append(m)

    def _override(self, m: Any, now: int) -> None:
        """ArduPilot: from its ground station only; 65535 leaves a channel alone, 0 gives it back to the receiver."""
        if self.kind is PX4 or m.get_srcSystem() != self.parameters["SYSID_MYGCS"] or m.target_system != SYSTEM:
            return
        widths = list(self._sticks[1]) if self._sticks is not None else [0] * 8
        for i in range(8):
            value = getattr(m, f"chan{i + 1}_raw")
            if value != 65535:
                widths[i] = value
        self._sticks = (now, widths)

    def _ardupilot_manual_control(self, m: Any, now: int) -> None:
        """`GCS_MAVLINK_Plane::handle_manual_control_axes`: pitch reversed, throttle from 0."""
        p, widths = self.parameters, [0] * 8
        axes = (("ROLL", m.y, 1000), ("PITCH", -m.x, 1000), ("THROTTLE", m.z, 0), ("YAW", m.r, 1000))
        for name, value, offset in axes:
            n = int(p[f"RCMAP_{name}"])
            low, high = p[f"RC{n}_MIN"], p[f"RC{n}_MAX"]
            widths[n - 1] = int(low + (high - low) * (value + offset) / (1000 + offset))
        self._sticks = (now, widths)

    def _command(self, m: Any) -> int:
        accepted, denied = mavlink.MAV_RESULT_ACCEPTED, mavlink.MAV_RESULT_DENIED
        if m.command == mavlink.MAV_CMD_SET_MESSAGE_INTERVAL:
            number = int(m.param1)
            if (
                number != mavlink.MAVLINK_MSG_ID_HEARTBEAT and number not in virtual_telemetry.NUMBERS
            ) or m.param2 < 1000.0:
                return denied
            self._intervals[number] = int(m.param2 * 1000.0)
            return accepted
        if m.command == mavlink.MAV_CMD_REQUEST_MESSAGE and m.param1 == mavlink.MAVLINK_MSG_ID_HOME_POSITION:
            self._link.send(virtual_telemetry.home_position())
            return accepted
        if m.command == mavlink.MAV_CMD_DO_SET_MODE:
            custom = int(m.param2) if self.kind is ARDUPILOT else int(m.param2) << 16 | int(m.param3) << 24
            name = self.kind.mode_name(custom)
            if name not in self.kind.modes:
                return denied
            self.set_mode(name)
            return accepted
        if m.command == mavlink.MAV_CMD_COMPONENT_ARM_DISARM:
            self.armed = m.param1 == 1.0
            return accepted
        return mavlink.MAV_RESULT_UNSUPPORTED

    def _parameter(self, name: str) -> None:
        """PARAM_VALUE; ArduPilot says nothing to a name it does not have. PX4's integers travel as bytes in a float."""
        if name not in self.parameters:
            return
        value, number = self.parameters[name], mavlink.MAV_PARAM_TYPE_REAL32
        if name == "COM_RC_IN_MODE":
            number = mavlink.MAV_PARAM_TYPE_INT32
            value = struct.unpack("<f", struct.pack("<i", int(value)))[0]
        self._link.send(mavlink.MAVLink_param_value_message(name.encode(), value, number, len(self.parameters), 0))

    def _view(self, now: int) -> View:
        boot_ms = max(now - self._boot_ns, 0) // 1_000_000 & 0xFFFFFFFF
        return View(self._estimate(), boot_ms, self.command, self.sticks_us(now), self.battery_v)

    def _estimate(self) -> Sample:
        """What its sensors say: late, biased, with white noise."""
        s, gauss = self._seen[0], self._rng.gauss
        roll, pitch, yaw, p, q, r, airspeed, altitude, climb_rate = (
            bias + gauss(0.0, sigma) for bias, sigma in zip(self._bias, self._sigma, strict=True)
        )
        return Sample(
            s.time_ns, s.roll_rad + roll, s.pitch_rad + pitch, s.yaw_rad + yaw, s.p_radps + p, s.q_radps + q,
            s.r_radps + r, max(s.airspeed_mps + airspeed, 0.0), s.altitude_m + altitude,
            s.climb_rate_mps + climb_rate, s.north_m, s.east_m, s.north_mps, s.east_mps,
        )  # fmt: skip

    def _send_due(self, now: int) -> None:
        out: list[Any] = []
        view: View | None = None
        for number, interval in self._intervals.items():
            if now < self._next.get(number, 0):
                continue
            self._next[number] = max(self._next.get(number, now) + interval, now)
            if number == mavlink.MAVLINK_MSG_ID_HEARTBEAT:
                out.append(self._heartbeat())
                continue
            view = view or self._view(now)
            out.append(virtual_telemetry.build(number, view))
        if out:
            self._link.send(*out)

    def _heartbeat(self) -> Any:
        ardupilot, px4 = mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA, mavlink.MAV_AUTOPILOT_PX4
        armed = mavlink.MAV_MODE_FLAG_SAFETY_ARMED if self.armed else 0
        return mavlink.MAVLink_heartbeat_message(
            mavlink.MAV_TYPE_FIXED_WING,
            ardupilot if self.kind is ARDUPILOT else px4,
            mavlink.MAV_MODE_FLAG_HIL_ENABLED | mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | armed,
            self.kind.modes[self.mode],
            mavlink.MAV_STATE_ACTIVE,
            3,
        )


def _normal(p: dict[str, float], n: int, widths: Sequence[int]) -> float:
    """ArduPilot's `RC_Channel::norm_input()`."""
    trim, width = p[f"RC{n}_TRIM"], widths[n - 1]
    span = trim - p[f"RC{n}_MIN"] if width < trim else p[f"RC{n}_MAX"] - trim
    sign = -1.0 if p[f"RC{n}_REVERSED"] else 1.0
    return min(max(sign * (width - trim) / span, -1.0), 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a virtual autopilot until it is interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sim2sky.hil.virtual_autopilot", description="A virtual autopilot.")
    parser.add_argument("link", help="udpin:HOST:PORT, tcpin:HOST:PORT or serial:DEVICE:BAUD")
    parser.add_argument("--kind", choices=("ardupilot", "px4"), default="ardupilot")
    parser.add_argument("--aircraft", default="ultrastick25e")
    parser.add_argument("--wind", type=float, default=0.0, help="steady wind to the east, m/s")
    parser.add_argument("--noise", type=float, default=1.0, help="of the state estimate, in shares of the usual")
    options = parser.parse_args(arguments)
    kind = PX4 if options.kind == "px4" else ARDUPILOT
    try:
        with open_link(options.link, system=SYSTEM, component=mavlink.MAV_COMP_ID_AUTOPILOT1) as link:
            air = Air(wind_east_mps=options.wind)
            autopilot = VirtualAutopilot(
                link, RealClock(), kind=kind, aircraft=options.aircraft, air=air, noise=options.noise
            )
            sys.stdout.write(f"virtual {kind.name} on {link.address}\n")
            sys.stdout.flush()
            while True:
                autopilot.step(0.004)
    except Sim2SkyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
