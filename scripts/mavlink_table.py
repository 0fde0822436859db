"""Generates firmware/core/mavlink_table.h from the message tables of pymavlink; prints it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["MAVLINK20"] = "1"

from pymavlink.dialects.v20 import common as mavlink

MESSAGES = (
    "HEARTBEAT", "SYS_STATUS", "SYSTEM_TIME", "PARAM_REQUEST_READ", "PARAM_VALUE", "ATTITUDE", "ATTITUDE_QUATERNION",
    "LOCAL_POSITION_NED", "GLOBAL_POSITION_INT", "SERVO_OUTPUT_RAW", "RC_CHANNELS", "MANUAL_CONTROL",
    "RC_CHANNELS_OVERRIDE", "VFR_HUD", "COMMAND_LONG", "COMMAND_ACK", "SET_ATTITUDE_TARGET", "ATTITUDE_TARGET",
    "HIL_ACTUATOR_CONTROLS", "HIL_SENSOR", "TIMESYNC", "HIL_STATE_QUATERNION", "AUTOPILOT_VERSION", "HOME_POSITION",
    "NAMED_VALUE_FLOAT", "STATUSTEXT",
)  # fmt: skip
"""What the core packs and reads; of all others it knows the checksum only, to skip them."""

CONSTANTS = (
    "MAV_TYPE_FIXED_WING", "MAV_TYPE_GCS", "MAV_TYPE_ONBOARD_CONTROLLER", "MAV_TYPE_GIMBAL", "MAV_TYPE_ADSB",
    "MAV_TYPE_CAMERA", "MAV_TYPE_ANTENNA_TRACKER", "MAV_AUTOPILOT_ARDUPILOTMEGA", "MAV_AUTOPILOT_INVALID",
    "MAV_AUTOPILOT_PX4", "MAV_SEVERITY_NOTICE", "MAV_CMD_NAV_GUIDED_ENABLE", "MAV_CMD_DO_SET_MODE",
    "MAV_CMD_SET_MESSAGE_INTERVAL", "MAV_STATE_STANDBY", "MAV_STATE_ACTIVE",
    "MAV_MODE_FLAG_CUSTOM_MODE_ENABLED", "MAV_MODE_FLAG_GUIDED_ENABLED", "MAV_MODE_FLAG_STABILIZE_ENABLED",
    "MAV_MODE_FLAG_HIL_ENABLED", "MAV_MODE_FLAG_SAFETY_ARMED", "MAV_COMP_ID_AUTOPILOT1",
    "MAV_COMP_ID_ONBOARD_COMPUTER", "MAV_CMD_DO_CHANGE_SPEED", "MAV_CMD_DO_CHANGE_ALTITUDE",
    "MAV_CMD_DO_FLIGHTTERMINATION", "MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN", "MAV_CMD_COMPONENT_ARM_DISARM",
    "MAV_CMD_REQUEST_MESSAGE", "MAV_CMD_USER_1", "MAV_CMD_USER_2", "MAV_CMD_GUIDED_CHANGE_HEADING",
    "MAV_RESULT_ACCEPTED", "MAV_RESULT_DENIED", "MAV_RESULT_UNSUPPORTED", "MAV_RESULT_FAILED",
    "MAV_RESULT_IN_PROGRESS", "SPEED_TYPE_AIRSPEED", "HEADING_TYPE_HEADING", "MAV_FRAME_GLOBAL_RELATIVE_ALT",
    "MAV_PROTOCOL_CAPABILITY_MAVLINK2", "MAV_PROTOCOL_CAPABILITY_SET_ATTITUDE_TARGET",
)  # fmt: skip

SIZES = {"char": 1, "float": 4, "double": 8}
COLUMNS = 120


def fields(message: Any) -> Iterator[tuple[str, str, int, int]]:
    """Name, C type, offset in bytes and number of elements, in wire order."""
    types = dict(zip(message.fieldnames, message.fieldtypes, strict=True))
    offset = 0
    for place, name in enumerate(message.ordered_fieldnames):
        kind, count = types[name], max(message.array_lengths[place], 1)
        yield name, kind, offset, count
        offset += count * (SIZES.get(kind) or int(kind.strip("uint_")) // 8)


def header() -> str:
    """The whole header."""
    known = sorted(mavlink.mavlink_map.items())
    out = [
        "/* MAVLink 2 messages: numbers, checksum seeds, sizes and places of fields, as pymavlink has them.",
        " * Written by scripts/mavlink_table.py; do not edit. */",
        "#ifndef SIM2SKY_MAVLINK_TABLE_H",
        "#define SIM2SKY_MAVLINK_TABLE_H",
        "",
        "/* S2S_MAV_<MESSAGE>: its number. ..._SIZE: bytes of its payload. ..._<FIELD>: where it begins there. */",
    ]
    for name in MESSAGES:
        number = int(getattr(mavlink, f"MAVLINK_MSG_ID_{name}"))
        message = mavlink.mavlink_map[number]
        entries = [f"S2S_MAV_{name} = {number},", f"S2S_MAV_{name}_SIZE = {message.unpacker.size},"]
        for field, kind, offset, count in fields(message):
            elements = f"[{count}]" if count > 1 else ""
            entries.append(f"S2S_MAV_{name}_{field.upper()} = {offset} /* {kind}{elements} */,")
        out += ["enum {", *_filled(entries), "};"]
    out += ["", "enum {", *_filled([f"S2S_{name} = {int(getattr(mavlink, name))}," for name in CONSTANTS]), "};", ""]
    out += ["/* Of the messages above: number, bytes of the payload. */", "#define S2S_MAV_SIZES \\"]
    out += _filled([f"{{S2S_MAV_{name}, S2S_MAV_{name}_SIZE}}," for name in MESSAGES], " \\")
    out += ["", "/* Of all messages of the dialect `common`: number, checksum seed; in the order of the numbers. */"]
    out += [f"enum {{ S2S_MAV_KNOWN = {len(known)} }};", "#define S2S_MAV_SEEDS \\"]
    out += _filled([f"{{{number}, {message.crc_extra}}}," for number, message in known], " \\")
    return "\n".join([*out, "", "#endif", ""])


def _filled(entries: list[str], end: str = "") -> list[str]:
    """Indented lines as full as they may be."""
    lines = ["   "]
    for entry in entries:
        if len(lines[-1]) + 1 + len(entry) + len(end) > COLUMNS:
            lines.append("   ")
        lines[-1] += f" {entry}"
    return [line + end for line in lines]


if __name__ == "__main__":
    sys.stdout.write(header())
