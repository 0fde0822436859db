"""States, commands, setpoints and episode boundaries as standard MAVLink messages, both ways.

The choice of messages is argued in docs/adr/0005-hil-protocol.md. What the wire rounds: attitude, rates and commands
to float32; position to 1e-7 degrees (11 mm); altitude to 1 mm; airspeed and ground velocity to 10 mm/s.
"""

from __future__ import annotations

import math
from typing import Any

from sim2sky.errors import LinkError
from sim2sky.runtime.frames import HOME, Geodetic, euler_to_quaternion, quaternion_to_euler
from sim2sky.runtime.link import mavlink
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import Command, Sample, Setpoint

__all__ = [
    "AGENT",
    "ATTITUDE_RECEIPT",
    "EPISODE_END",
    "EPISODE_START",
    "PLANT",
    "actuator_controls",
    "attitude_target",
    "autopilot_version",
    "command_from",
    "command_long",
    "decode_command_setpoint",
    "episode_end",
    "episode_start",
    "hil_sensor",
    "hil_state",
    "mode_from",
    "receipt_of",
    "sample_from",
    "seed_from",
    "setpoint_messages",
    "setpoint_parts",
    "trips_from",
    "versions_from",
]

PLANT = (1, mavlink.MAV_COMP_ID_AUTOPILOT1)
AGENT = (1, mavlink.MAV_COMP_ID_ONBOARD_COMPUTER)

EPISODE_START = mavlink.MAV_CMD_USER_1
EPISODE_END = mavlink.MAV_CMD_USER_2
SPEED = mavlink.MAV_CMD_DO_CHANGE_SPEED
ALTITUDE = mavlink.MAV_CMD_DO_CHANGE_ALTITUDE
HEADING = mavlink.MAV_CMD_GUIDED_CHANGE_HEADING
ATTITUDE_RECEIPT = -mavlink.MAVLINK_MSG_ID_ATTITUDE_TARGET  # no command has a negative number
TRIPS_SHIFT = 32
MODE_SHIFT = 8
MODE_MASK = 0xFF
LOCKSTEP_FLAG = 1  # HIL_ACTUATOR_CONTROLS.flags, bit 0: simulation using lockstep

_ARMED = mavlink.MAV_MODE_FLAG_SAFETY_ARMED | mavlink.MAV_MODE_FLAG_HIL_ENABLED
_FALLBACK = _ARMED | mavlink.MAV_MODE_FLAG_STABILIZE_ENABLED
MODE_FLAGS = {
    **dict.fromkeys(Mode, _FALLBACK),
    Mode.POLICY: _ARMED | mavlink.MAV_MODE_FLAG_GUIDED_ENABLED,
    Mode.KILLED: mavlink.MAV_MODE_FLAG_HIL_ENABLED,
}

GRAVITY = 9.80665
_ALL_TRIPS = sum(Trip)
_INT16 = 32767
_ABSURD = 1e9
_PADDING = [0.0] * 12


def _usable(s: Sample) -> bool:
    values = (
        s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps,
        s.airspeed_mps, s.altitude_m, s.climb_rate_mps, s.north_m, s.east_m,
    )  # fmt: skip
    return all(abs(value) < _ABSURD for value in values)  # False for NaN


def _known(velocity_mps: float) -> float:
    return velocity_mps if abs(velocity_mps) < _ABSURD else 0.0


def _int16(value: float) -> int:
    return max(-_INT16, min(_INT16, round(value)))


def hil_state(sample: Sample, time_usec: int, *, home: Geodetic = HOME) -> Any:
    """HIL_STATE_QUATERNION with the measured state.

    A sample that is not finite, or absurd (beyond 1e9), is sent with a quaternion and rates of NaN: no integer field
    could say so.

    Args:
        sample: the measured state; its own time is not sent.
        time_usec: sequence and time of the exchange.
        home: where the sample's position is counted from.
    """
    s = sample
    if not _usable(s):
        nan = math.nan
        return mavlink.MAVLink_hil_state_quaternion_message(
            time_usec, [nan] * 4, nan, nan, nan, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        )
    latitude, longitude = home.to_degrees_e7(s.north_m, s.east_m)
    airspeed = max(0, min(65535, round(s.airspeed_mps * 100.0)))
    q = euler_to_quaternion(s.roll_rad, s.pitch_rad, s.yaw_rad)
    x, y, z = _specific_force_mg(s)
    return mavlink.MAVLink_hil_state_quaternion_message(
        time_usec,
        q,
        s.p_radps,
        s.q_radps,
        s.r_radps,
        max(-(2**31), min(2**31 - 1, latitude)),
        max(-(2**31), min(2**31 - 1, longitude)),
        max(-(2**31), min(2**31 - 1, round((home.altitude_m + s.altitude_m) * 1000.0))),
        _int16(_known(s.north_mps) * 100.0),
        _int16(_known(s.east_mps) * 100.0),
        _int16(-s.climb_rate_mps * 100.0),
        airspeed,
        airspeed,
        x,
        y,
        z,
    )


def _specific_force_mg(s: Sample) -> tuple[int, int, int]:
    """Gravity as an accelerometer at rest would feel it, and the turn's part of it: V x rates. Milli-g."""
    v = s.airspeed_mps / GRAVITY * 1000.0
    sin_pitch, cos_pitch = math.sin(s.pitch_rad), math.cos(s.pitch_rad)
    return (
        _int16(1000.0 * sin_pitch),
        _int16(v * s.r_radps - 1000.0 * cos_pitch * math.sin(s.roll_rad)),
        _int16(-v * s.q_radps - 1000.0 * cos_pitch * math.cos(s.roll_rad)),
    )


def hil_sensor(sample: Sample, time_usec: int, *, home: Geodetic = HOME) -> Any:
    """HIL_SENSOR: gyroscopes, accelerometers, static and pitot pressure of the same measurement, for autopilots that
    estimate the state themselves. There is no magnetometer, and `fields_updated` says so.

    Standard atmosphere: ICAO Doc 7488, troposphere. A sample that is not finite updates no field.
    """
    s = sample
    if not _usable(s) or not -10000.0 < home.altitude_m + s.altitude_m < 11000.0:
        return mavlink.MAVLink_hil_sensor_message(time_usec, *(0.0,) * 13, fields_updated=0)
    altitude = home.altitude_m + s.altitude_m
    temperature_k = 288.15 - 0.0065 * altitude
    pressure_hpa = 1013.25 * (temperature_k / 288.15) ** 5.255877
    dynamic_hpa = (
        0.5 * 1.225 * min(max(s.airspeed_mps, 0.0), 1000.0) ** 2 / 100.0
    )  # calibrated airspeed: sea-level density
    x, y, z = (value * GRAVITY / 1000.0 for value in _specific_force_mg(s))
    accelerometer, gyroscope, pressures, thermometer = 0b111, 0b111 << 3, 0b111 << 9, 1 << 12
    return mavlink.MAVLink_hil_sensor_message(
        time_usec,
        x,
        y,
        z,
        s.p_radps,
        s.q_radps,
        s.r_radps,
        0.0,
        0.0,
        0.0,
        pressure_hpa,
        dynamic_hpa,
        altitude,
        temperature_k - 273.15,
        accelerometer | gyroscope | pressures | thermometer,
    )


def sample_from(message: Any, time_ns: int, *, home: Geodetic = HOME) -> Sample:
    """The state in a HIL_STATE_QUATERNION; `time_ns` is its time on the receiver's clock."""
    m = message
    roll, pitch, yaw = quaternion_to_euler(m.attitude_quaternion)
    north, east = home.to_metres(m.lat, m.lon)
    return Sample(
        time_ns,
        roll,
        pitch,
        yaw,
        m.rollspeed,
        m.pitchspeed,
        m.yawspeed,
        m.ind_airspeed * 0.01,
        m.alt * 0.001 - home.altitude_m,
        -m.vz * 0.01,
        north,
        east,
        m.vx * 0.01,
        m.vy * 0.01,
    )


def actuator_controls(command: Command, time_usec: int, mode: int, trips: int = 0, *, lockstep: bool) -> Any:
    """HIL_ACTUATOR_CONTROLS: aileron, elevator, rudder, throttle in the first four controls, who commands in `mode`
    and, exactly, in bits 8 to 15 of `flags`; the guard's trip bits in the upper half of `flags`.
    """
    flags = (LOCKSTEP_FLAG if lockstep else 0) | mode << MODE_SHIFT | trips << TRIPS_SHIFT
    return mavlink.MAVLink_hil_actuator_controls_message(
        time_usec, [*command, *_PADDING], MODE_FLAGS[Mode(mode)], flags
    )


def command_from(message: Any) -> Command:
    """The command in a HIL_ACTUATOR_CONTROLS.

    Raises:
        LinkError: a control is not finite, or beyond full travel.
    """
    command = Command(*message.controls[:4])
    if not all(math.isfinite(v) and -1.0 <= v <= 1.0 for v in command) or command.throttle < 0.0:
        raise LinkError(f"the flight agent sent an impossible command {command}")
    return command


def trips_from(message: Any) -> Trip:
    """The guard's trip bits in a HIL_ACTUATOR_CONTROLS; unknown bits of a newer agent are dropped."""
    return Trip(message.flags >> TRIPS_SHIFT & _ALL_TRIPS)


def mode_from(message: Any) -> Mode:
    """Who commanded, from a HIL_ACTUATOR_CONTROLS.

    Raises:
        LinkError: no mode we know.
    """
    number = message.flags >> MODE_SHIFT & MODE_MASK
    try:
        return Mode(number)
    except ValueError:
        raise LinkError(f"the flight agent says it flies in mode {number}, which does not exist") from None


def command_long(command: int, *parameters: float, confirmation: int = 0) -> Any:
    """COMMAND_LONG to the flight agent; parameters left out are 0."""
    values = [*parameters, *(0.0,) * (7 - len(parameters))]
    return mavlink.MAVLink_command_long_message(*AGENT, command, confirmation, *values)


def setpoint_messages(setpoint: Setpoint, time_boot_ms: int) -> dict[int, Any]:
    """The whole setpoint, by the number that its receipt carries.

    Airspeed, altitude above home and heading are commands, answered by COMMAND_ACK; attitude and rates are one attitude
    target, answered by ATTITUDE_TARGET.
    """
    s = setpoint
    return {
        SPEED: command_long(SPEED, mavlink.SPEED_TYPE_AIRSPEED, s.airspeed_mps, -1.0),
        ALTITUDE: command_long(ALTITUDE, s.altitude_m, mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT),
        HEADING: command_long(HEADING, mavlink.HEADING_TYPE_HEADING, math.degrees(s.heading_rad)),
        ATTITUDE_RECEIPT: mavlink.MAVLink_set_attitude_target_message(
            time_boot_ms,
            *AGENT,
            mavlink.ATTITUDE_TARGET_TYPEMASK_THROTTLE_IGNORE,
            euler_to_quaternion(s.roll_rad, s.pitch_rad, 0.0),
            s.p_radps,
            s.q_radps,
            s.r_radps,
            0.0,
        ),
    }


def setpoint_parts(setpoint: Setpoint) -> dict[int, tuple[float, ...]]:
    """The values behind each of `setpoint_messages`, to see which of them changed."""
    s = setpoint
    return {
        SPEED: (s.airspeed_mps,),
        ALTITUDE: (s.altitude_m,),
        HEADING: (s.heading_rad,),
        ATTITUDE_RECEIPT: (s.roll_rad, s.pitch_rad, s.p_radps, s.q_radps, s.r_radps),
    }


def receipt_of(message: Any) -> int | None:
    """Which of `setpoint_messages` or which command a message from the agent acknowledges; None where it does not."""
    number = message.get_msgId()
    if number == mavlink.MAVLINK_MSG_ID_COMMAND_ACK and message.result == mavlink.MAV_RESULT_ACCEPTED:
        return int(message.command)
    return ATTITUDE_RECEIPT if number == mavlink.MAVLINK_MSG_ID_ATTITUDE_TARGET else None


def attitude_target(request: Any) -> Any:
    """ATTITUDE_TARGET that repeats a SET_ATTITUDE_TARGET: the agent's receipt."""
    r = request
    return mavlink.MAVLink_attitude_target_message(
        r.time_boot_ms, r.type_mask, r.q, r.body_roll_rate, r.body_pitch_rate, r.body_yaw_rate, r.thrust
    )


def decode_command_setpoint(message: Any) -> dict[str, float] | None:
    """Fields of `Setpoint` that a COMMAND_LONG or SET_ATTITUDE_TARGET sets; None where none, or not finite."""
    values: dict[str, float]
    if message.get_msgId() == mavlink.MAVLINK_MSG_ID_SET_ATTITUDE_TARGET:
        roll, pitch, _ = quaternion_to_euler(message.q)
        values = {
            "roll_rad": roll,
            "pitch_rad": pitch,
            "p_radps": message.body_roll_rate,
            "q_radps": message.body_pitch_rate,
            "r_radps": message.body_yaw_rate,
        }
    elif message.command == SPEED and message.param1 == mavlink.SPEED_TYPE_AIRSPEED:
        values = {"airspeed_mps": message.param2}
    elif message.command == ALTITUDE and message.param2 == mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT:
        values = {"altitude_m": message.param1}
    elif message.command == HEADING and message.param1 == mavlink.HEADING_TYPE_HEADING:
        values = {"heading_rad": math.radians(message.param2)}
    else:
        return None
    return values if all(map(math.isfinite, values.values())) else None


def episode_start(episode: int, seed: int, rate_hz: float) -> Any:
    """Command: a new episode begins at this control rate; reset.

    The seed travels in four parts of 16 bits, exact in float32; it only labels the agent's log.
    """
    parts = [float(seed >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    return command_long(EPISODE_START, float(episode), *parts, rate_hz)


def seed_from(message: Any) -> int:
    """The seed in an `episode_start`."""
    parts = (message.param2, message.param3, message.param4, message.param5)
    return sum(int(part) << shift for part, shift in zip(parts, (0, 16, 32, 48), strict=True))


def episode_end(episode: int, *, success: bool, termination: str) -> list[Any]:
    """Text and command: the episode is over. The text is cut to the 50 bytes of a STATUSTEXT."""
    text = termination.encode("ascii", "replace")[:50]
    return [
        mavlink.MAVLink_statustext_message(mavlink.MAV_SEVERITY_INFO, text),
        command_long(EPISODE_END, float(episode), 1.0 if success else 0.0),
    ]


def autopilot_version(bundle_digest: str, contract_hash: str) -> Any:
    """AUTOPILOT_VERSION with the first 8 bytes of bundle digest and contract hash as custom versions."""
    flight, middleware = (list(bytes.fromhex(text[:16].ljust(16, "0"))) for text in (bundle_digest, contract_hash))
    capabilities = mavlink.MAV_PROTOCOL_CAPABILITY_MAVLINK2 | mavlink.MAV_PROTOCOL_CAPABILITY_SET_ATTITUDE_TARGET
    return mavlink.MAVLink_autopilot_version_message(
        capabilities, 0, 0, 0, 0, flight, middleware, [0] * 8, 0, 0, int(bundle_digest[:16] or "0", 16)
    )


def versions_from(message: Any) -> tuple[str, str]:
    """First 16 hex digits of bundle digest and contract hash in an AUTOPILOT_VERSION."""
    return bytes(message.flight_custom_version).hex(), bytes(message.middleware_custom_version).hex()
