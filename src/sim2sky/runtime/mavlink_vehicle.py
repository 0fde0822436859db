"""An aircraft flown by ArduPilot or PX4, commanded over MAVLink through its MANUAL mode.

Control is taken and given back by mode changes. Whoever changes the mode meanwhile (the pilot's switch, a failsafe) has
control from then on: stick overrides are released at once and never sent again until control is asked for anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim2sky.errors import ConfigError, LinkError, NotSupportedError
from sim2sky.runtime.actuation import Actuation, actuation_for, setup_problems
from sim2sky.runtime.announcements import Announcer
from sim2sky.runtime.autopilots import PX4, AutopilotKind, identify, is_autopilot, parameter_value
from sim2sky.runtime.clock import Clock
from sim2sky.runtime.link import MavlinkLink, mavlink
from sim2sky.runtime.mavlink_requests import Requests, acknowledgement, request_in, unused
from sim2sky.runtime.mavlink_state import STATE_MESSAGES, Telemetry
from sim2sky.runtime.messages import decode_command_setpoint
from sim2sky.runtime.output_watch import OutputWatch
from sim2sky.runtime.state import Command
from sim2sky.runtime.vehicle import Asked, Control, Reading, Request, Status

__all__ = ["COMPONENT", "WANTED", "MavlinkVehicle"]

COMPONENT = mavlink.MAV_COMP_ID_ONBOARD_COMPUTER
WANTED = (
    *STATE_MESSAGES,
    mavlink.MAVLINK_MSG_ID_HEARTBEAT,
    mavlink.MAVLINK_MSG_ID_TIMESYNC,
    mavlink.MAVLINK_MSG_ID_PARAM_VALUE,
    mavlink.MAVLINK_MSG_ID_COMMAND_ACK,
    mavlink.MAVLINK_MSG_ID_COMMAND_LONG,
)
"""Messages a vehicle reads."""

_S = 1_000_000_000
TIMESYNC_NS = _S
TAKE_OVER_NS = 2 * _S  # the mode must have changed by then
HAND_BACK_NS = 3 * _S
SETTLING_NS = _S  # a heartbeat that was under way when the mode changed may still name the old one
RELEASES = 3
MAX_STATIONS = 8
MODE_CHANGE = mavlink.MAV_CMD_DO_SET_MODE
INTERVAL = mavlink.MAV_CMD_SET_MESSAGE_INTERVAL


class MavlinkVehicle:
    """One ArduPilot or PX4 fixed-wing aircraft.

    Args:
        link: to the autopilot, wanting `WANTED`.
        clock: of the flight.
        rate_hz: control rate: how often state is asked for.
        hand_back_to: `LOITER` or `RTL`.

    Attributes:
        kind: the autopilot's family, there after `connect`.
        telemetry: what it says.
    """

    def __init__(self, link: MavlinkLink, clock: Clock, rate_hz: float, *, hand_back_to: str = "LOITER") -> None:
        self._link = link
        self._clock = clock
        self._rate_hz = rate_hz
        self._hand_back_to = hand_back_to
        self._address: tuple[int, int] | None = None
        self.kind: AutopilotKind | None = None
        self.telemetry = Telemetry()
        self.virtual = False
        self.reading = Reading()
        self._mode: int | None = None
        self._armed: bool | None = None
        self._parameters: dict[str, float] = {}
        self._actuation: Actuation | None = None
        self._pending = Requests()
        self._announcer = Announcer()
        self._asked: list[Asked] = []
        self._stations: set[tuple[int, int]] = set()
        self._timesync_ns = -TIMESYNC_NS
        self._since_ns = 0  # when control was last asked for, got or given back
        self._releases = 0
        self._restarts = 0
        self._outputs = OutputWatch()

    @property
    def name(self) -> str:
        """See `Vehicle`."""
        system = self._address[0] if self._address else "?"
        return f"{'virtual ' if self.virtual else ''}{self.kind.name if self.kind else 'autopilot'} (system {system})"

    def _peer(self) -> tuple[AutopilotKind, tuple[int, int]]:
        if self.kind is None or self._address is None:
            raise LinkError(f"{self._link.address}: no autopilot has been heard yet")
        return self.kind, self._address

    # Connecting ------------------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> None:
        """See `Vehicle`."""
        deadline = self._clock.now_ns() + int(timeout_s * _S)
        self._wait(lambda: self.kind is not None, deadline)
        if self.kind is None:
            raise self._silence(timeout_s)
        kind, address = self._peer()
        self._ask_for_everything()
        names = kind.required
        self._wait(lambda: self._complete() and all(name in self._parameters for name in names), deadline)
        absent = [name for name in names if name not in self._parameters]
        if absent:
            raise LinkError(
                f"{self.name} does not say its parameters {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
                hint="is the link slow or lossy, or the firmware very old?",
            )
        problems = setup_problems(kind, self._parameters, address[0])
        if problems:
            raise ConfigError(
                f"{self.name} is not set up to be commanded: " + "; ".join(problem for problem, _ in problems),
                hint="set these parameters: " + ", ".join(remedy for _, remedy in problems),
            )
        self._actuation = actuation_for(kind, self._parameters, *address)
        if missing := self.telemetry.missing:
            raise LinkError(
                f"{self.name} does not send {', '.join(missing)}",
                hint="home is set once there is a GPS fix; airspeed comes in VFR_HUD",
            )

    def _complete(self) -> bool:
        """Nothing more is to come that would change how it is commanded."""
        return not self.telemetry.missing and len(self._pending) == 0

    def _wait(self, condition: Callable[[], bool], deadline_ns: int) -> None:
        while not condition() and (remaining := deadline_ns - self._clock.now_ns()) > 0:
            self.receive(min(remaining / _S, 0.05))

    def _silence(self, timeout_s: float) -> LinkError:
        s, where = self._link.statistics, self._link.address
        if s.frames_in:
            return LinkError(
                f"{where}: MAVLink comes, but no autopilot's heartbeat", hint="is this the autopilot's link?"
            )
        if s.refused:
            return LinkError(
                f"{where}: {s.refused} messages came without a good signature", hint="is the key the autopilot's own?"
            )
        if s.version1:
            return LinkError(
                f"{where}: the autopilot speaks MAVLink 1", hint="ArduPilot: SERIALn_PROTOCOL 2; PX4: MAV_PROTO_VER 2"
            )
        if s.bytes_in:
            return LinkError(
                f"{where}: {s.bytes_in} bytes came in {timeout_s:g} s, but no MAVLink",
                hint="is the baud rate right? ArduPilot: SERIALn_BAUD, PX4: SER_TELn_BAUD",
            )
        return LinkError(
            f"{where}: nothing came in {timeout_s:g} s", hint="is the autopilot powered, and this its MAVLink port?"
        )

    def _ask_for_everything(self) -> None:
        kind, address = self._peer()
        rate = self._rate_hz
        rates = {
            mavlink.MAVLINK_MSG_ID_ATTITUDE: 2.0 * rate,
            mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT: rate,
            mavlink.MAVLINK_MSG_ID_VFR_HUD: rate,
            mavlink.MAVLINK_MSG_ID_RC_CHANNELS: 10.0,
            mavlink.MAVLINK_MSG_ID_HEARTBEAT: 4.0,  # it names the mode: the pilot's switch must be seen soon
            mavlink.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW: 4.0,
            mavlink.MAVLINK_MSG_ID_SYS_STATUS: 1.0,
        }
        if kind is PX4:
            rates[mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED] = rate
        for number, hz in rates.items():
            self._command(INTERVAL, number, round(1e6 / hz))
        self._command(mavlink.MAV_CMD_REQUEST_MESSAGE, mavlink.MAVLINK_MSG_ID_HOME_POSITION)
        for name in (*kind.required, *kind.optional):
            if name not in self._parameters:
                request = mavlink.MAVLink_param_request_read_message(*address, name.encode(), -1)
                self._pending.ask(name, request)

    def _command(self, command: int, *parameters: float) -> None:
        values = [*parameters, *(0.0,) * (7 - len(parameters))]
        self._pending.ask(command, mavlink.MAVLink_command_long_message(*self._peer()[1], command, 0, *values))

    # Receiving -------------------------------------------------------------------------------------------------------

    def receive(self, timeout_s: float) -> None:
        """See `Vehicle`."""
        self.reading.problem = ""
        for message in self._link.receive(timeout_s):
            self._handle(message, self._clock.now_ns())
        now = self._clock.now_ns()
        self._watch_control(now)
        out = [*self._announcer.due(now), *self._pending.due(now)]
        if self._address is not None and now - self._timesync_ns >= TIMESYNC_NS:
            self._timesync_ns = now
            out.append(mavlink.MAVLink_timesync_message(0, now))
        if self._releases and self._actuation is not None:
            self._releases -= 1
            if (release := self._actuation.release()) is not None:
                out.append(release)
        if out:
            self._link.send(*out)
        self.reading.sample = self.telemetry.sample()
        self.reading.battery_v = self.telemetry.battery_v
        self.reading.rc_us = self.telemetry.rc_us(now)

    def _handle(self, m: Any, now: int) -> None:
        number, sender = m.get_msgId(), (m.get_srcSystem(), m.get_srcComponent())
        if number == mavlink.MAVLINK_MSG_ID_HEARTBEAT:
            self._heartbeat(m, sender, now)
        elif number == mavlink.MAVLINK_MSG_ID_COMMAND_LONG:
            self._request(m, sender)
        elif sender != self._address:
            return
        elif number == mavlink.MAVLINK_MSG_ID_TIMESYNC:
            if m.tc1 == 0:
                self._link.send(mavlink.MAVLink_timesync_message(now, m.ts1))
            else:
                self.telemetry.timesync(m.ts1, m.tc1, now)
                self._watch_restart()
        elif number == mavlink.MAVLINK_MSG_ID_PARAM_VALUE and self.kind is not None:
            name, value = parameter_value(self.kind, m)
            if self._pending.answered(name):
                self._parameters[name] = value
        elif number == mavlink.MAVLINK_MSG_ID_COMMAND_ACK:
            self._acknowledged(m, now)
        else:
            self.telemetry.take(m, now)
            self._watch_outputs(number, now)
            self._watch_restart()

    def _watch_restart(self) -> None:
        if self.telemetry.sender.restarts > self._restarts:
            self._restarts = self.telemetry.sender.restarts
            self._lose("the autopilot was restarted: its clock went back")
            self._ask_for_everything()

    def _heartbeat(self, m: Any, sender: tuple[int, int], now: int) -> None:
        if m.type == mavlink.MAV_TYPE_GCS and len(self._stations) < MAX_STATIONS:
            self._stations.add(sender)
        if not is_autopilot(m) or (self._address is not None and sender != self._address):
            return
        try:
            kind = identify(m)
        except NotSupportedError as error:
            if self.kind is None:
                raise
            self._lose(f"another autopilot answers now: {error.message}")
            return
        if self.kind is None:
            self.kind, self._address = kind, sender
            self._link.introduce(sender[0], COMPONENT)
            self.telemetry.local = kind is PX4
        elif kind is not self.kind:
            self._lose(f"another autopilot answers now: {kind.name}")
            return
        self.virtual = bool(m.base_mode & mavlink.MAV_MODE_FLAG_HIL_ENABLED)
        self.reading.mode = kind.mode_name(m.custom_mode)
        self._arming(bool(m.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED))
        self._mode = m.custom_mode
        self._mode_heard(now)

    def _arming(self, armed: bool) -> None:
        if self._armed is not None and armed != self._armed:
            self._asked.append(Asked(Request.ARM if armed else Request.DISARM))
        self._armed = armed

    def _request(self, m: Any, sender: tuple[int, int]) -> None:
        """A command for us, from the autopilot or a ground station that has said that it is one."""
        ours = (self._address[0], COMPONENT) if self._address else None
        if (m.target_system, m.target_component) != ours or (sender != self._address and sender not in self._stations):
            return
        answer_to = (*sender, m.command)
        if (setpoint := decode_command_setpoint(m)) is not None and unused(m, 4):
            self._asked.append(Asked(Request.FOLLOW, answer_to, setpoint))
        elif (request := request_in(m)) is not None:
            self._asked.append(Asked(request, answer_to))
        else:
            self._link.send(acknowledgement(m.command, mavlink.MAV_RESULT_UNSUPPORTED, *sender))

    def requests(self) -> list[Asked]:
        """See `Vehicle`."""
        asked, self._asked = self._asked, []
        return asked

    def answer(self, asked: Asked, *, accepted: bool) -> None:
        """See `Vehicle`."""
        if asked.answer_to is not None:
            system, component, command = asked.answer_to
            result = mavlink.MAV_RESULT_ACCEPTED if accepted else mavlink.MAV_RESULT_DENIED
            self._link.send(acknowledgement(command, result, system, component))

    # Control ---------------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """See `Vehicle`."""
        self._change_mode("MANUAL", Control.ASKED)
        self._releases = 0

    def hand_back(self) -> None:
        """See `Vehicle`."""
        if self.reading.control in {Control.ASKED, Control.OURS}:
            self._change_mode(self._hand_back_to, Control.RETURNING)

    def let_go(self) -> None:
        """See `Vehicle`."""
        if self.reading.control is not Control.THEIRS:
            self._return()

    def _change_mode(self, name: str, control: Control) -> None:
        kind, address = self._peer()
        self._pending.forget(MODE_CHANGE)
        self._pending.ask(MODE_CHANGE, kind.set_mode(name, address))
        self.reading.control, self._since_ns = control, self._clock.now_ns()
        self._outputs.reset()

    def _acknowledged(self, m: Any, now: int) -> None:
        if not self._pending.answered(m.command) or m.command != MODE_CHANGE:
            return
        accepted = m.result == mavlink.MAV_RESULT_ACCEPTED
        if self.reading.control is Control.ASKED:
            if accepted:
                self.reading.control, self._since_ns = Control.OURS, now
            else:
                self._lose(f"the autopilot refused MANUAL mode (result {m.result})")
        elif self.reading.control is Control.RETURNING and accepted:
            self._return()

    def _mode_heard(self, now: int) -> None:
        manual = self._mode == self._peer()[0].modes["MANUAL"]
        control = self.reading.control
        if control is Control.ASKED and manual:
            self._pending.forget(MODE_CHANGE)
            self.reading.control, self._since_ns = Control.OURS, now
        elif control is Control.OURS and not manual and now - self._since_ns > SETTLING_NS:
            self._lose(f"the pilot or a failsafe chose {self.reading.mode}")
        elif control is Control.RETURNING and not manual:
            self._return()

    def _watch_control(self, now: int) -> None:
        waited = now - self._since_ns
        if self.reading.control is Control.ASKED and waited > TAKE_OVER_NS:
            self._lose("the autopilot did not change to MANUAL mode")
        elif self.reading.control is Control.RETURNING and waited > HAND_BACK_NS:
            self._lose(f"the autopilot did not change to {self._hand_back_to}: the sticks are the pilot's")

    def _watch_outputs(self, number: int, now: int) -> None:
        if number != mavlink.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW or self.reading.control is not Control.OURS:
            return
        if self._outputs.put_out(self.telemetry.servo_us, now):
            self._lose("the autopilot's outputs do not follow our commands: is its safety switch on?")

    def _return(self) -> None:
        self._pending.forget(MODE_CHANGE)
        self.reading.control, self._releases = Control.THEIRS, RELEASES

    def _lose(self, problem: str) -> None:
        """Control is theirs, whatever we wanted."""
        self.reading.problem = problem
        if self.reading.control is not Control.THEIRS:
            self._return()

    def send(self, command: Command) -> None:
        """See `Vehicle`. Nothing is sent while control is theirs."""
        if self._actuation is not None and self.reading.control is not Control.THEIRS:
            self._link.send(self._actuation.message(command))
            self._outputs.commanded(command, self._clock.now_ns())

    def announce(self, status: Status, text: str = "") -> None:
        """See `Vehicle`; sent with the next `receive`."""
        self._announcer.update(status, text)

    def close(self) -> None:
        """See `Vehicle`."""
        self._link.close()
