"""Where a telemetry log keeps what, in our units and frames, for ArduPilot and PX4.

Sources: MAVLink `common.xml`; ArduPlane `GCS_Mavlink.cpp`.
"""

from __future__ import annotations

import numpy as np

from sim2sky.runtime.autopilots import PX4
from sim2sky.runtime.frames import Geodetic
from sim2sky.telemetry.importers.ardupilot import PLANE_MODES, follows, servo_commands
from sim2sky.telemetry.importers.channels import Recording, euler_angles, north_east
from sim2sky.telemetry.importers.topics import FloatArray, ForeignLog, Topic, last_before

__all__ = ["mavlink_modes", "mavlink_recording"]

_ARMED, _ACTIVE, _IN_AIR, _FIX_3D = 128, 4, 2, 3
_STALE = "not followed in this mode"
_SURFACES = ("aileron", "elevator", "rudder", "throttle")


def mavlink_modes(log: ForeignLog) -> dict[int, str]:
    """Names of custom modes."""
    return {number: name for name, number in PX4.modes.items()} if log.autopilot == "PX4" else PLANE_MODES


def mavlink_recording(log: ForeignLog) -> Recording:
    """All channels that a telemetry log has."""
    out = Recording()
    _attitude(log, out)
    home = _home(log, out)
    _position(log, out, home)
    _controls(log, out)
    _state(log, out)
    _setpoints(log, out)
    return out


def _scaled(topic: Topic | None, name: str, factor: float) -> FloatArray | None:
    return None if topic is None or name not in topic else factor * topic[name]


def _attitude(log: ForeignLog, out: Recording) -> None:
    angles, turned = log.find("ATTITUDE"), log.find("ATTITUDE_QUATERNION")
    if turned is not None and (angles is None or len(turned) > 2 * len(angles)):
        values = euler_angles(*(turned[n] for n in ("q1", "q2", "q3", "q4")))
        for name, angle in zip(("roll", "pitch", "yaw"), values, strict=True):
            out.add(name, turned, angle, origin="q")
    for name in ("roll", "pitch", "yaw"):
        out.add(name, angles, _scaled(angles, name, 1.0), origin=name)
    for topic in (angles, turned):
        for name, source in (("p", "rollspeed"), ("q", "pitchspeed"), ("r", "yawspeed")):
            out.add(name, topic, _scaled(topic, source, 1.0), origin=source)


def _home(log: ForeignLog, out: Recording) -> Geodetic | None:
    home, gps = log.find("HOME_POSITION"), log.find("GPS_RAW_INT")
    if home is not None:
        return _place(home, ("latitude", "longitude", "altitude"), -1)
    if gps is not None:
        known = np.flatnonzero(gps["fix_type"] >= _FIX_3D)
        if len(known):
            out.notes.append("no home position in the log: position counts from the first GPS fix")
            return _place(gps, ("lat", "lon", "alt"), int(known[0]))
    return None


def _place(topic: Topic, names: tuple[str, str, str], row: int) -> Geodetic:
    latitude, longitude, altitude = (float(topic[name][row]) for name in names)
    return Geodetic(latitude * 1e-7, longitude * 1e-7, altitude * 1e-3)


def _position(log: ForeignLog, out: Recording, home: Geodetic | None) -> None:
    position, local, hud = log.find("GLOBAL_POSITION_INT"), log.find("LOCAL_POSITION_NED"), log.find("VFR_HUD")
    gps = log.find("GPS_RAW_INT")
    if position is not None:
        known = (position["lat"] != 0.0) | (position["lon"] != 0.0)
        if gps is not None:
            fix = (gps["fix_type"] >= _FIX_3D).astype(float)
            known &= last_before(gps.time_s, fix, position.time_s) > 0.0
        if home is not None:
            north, east = north_east(home, position["lat"] * 1e-7, position["lon"] * 1e-7)
            for name, values in (("north", north), ("east", east)):
                out.add(name, position, values, origin="lat, lon", valid=known, reason="before the GPS fix")
        height = position["relative_alt"] * 1e-3
        out.add("altitude", position, height, origin="relative_alt", valid=known, reason="before the GPS fix")
        for name, source in (("v_north", "vx"), ("v_east", "vy"), ("v_down", "vz")):
            velocity = 0.01 * position[source]
            out.add(name, position, velocity, origin=source, valid=known, reason="before the GPS fix")
    for name, source in (("v_north", "vx"), ("v_east", "vy"), ("v_down", "vz"), ("north", "x"), ("east", "y")):
        out.add(name, local, _scaled(local, source, 1.0), origin=source)
    if hud is not None:
        out.add("airspeed", hud, hud["airspeed"], origin="airspeed")
        if home is not None:
            out.add("altitude", hud, hud["alt"] - home.altitude_m, origin="alt")


def _controls(log: ForeignLog, out: Recording) -> None:
    targets = log.find("ACTUATOR_CONTROL_TARGET")
    if targets is not None:
        first = targets["group_mlx"] == 0
        for i, name in enumerate(_SURFACES):
            values = targets[f"controls[{i}]"]
            out.add(name, targets, values, origin=f"controls[{i}]", valid=first, reason="another group")
    hil = log.find("HIL_ACTUATOR_CONTROLS")
    for i, name in enumerate(_SURFACES):
        out.add(name, hil, _scaled(hil, f"controls[{i}]", 1.0), origin=f"controls[{i}]")
    servos = log.find("SERVO_OUTPUT_RAW")
    if servos is None:
        return
    first = servos["port"] == 0
    widths = {n: servos[f"servo{n}_raw"] for n in range(1, 17) if f"servo{n}_raw" in servos}
    commands = servo_commands(log.parameters, widths) if log.autopilot == "ArduPilot" else {}
    for name, (number, values) in commands.items():
        valid = first & (widths[number] > 0)
        out.add(name, servos, values, origin=f"servo{number}_raw", valid=valid, reason="no pulse")
    if not commands and "aileron" not in out:
        out.notes.append(
            "pulse widths are there, but not what they mean: the log lacks SERVOn_FUNCTION, MIN, TRIM and MAX"
        )


def _state(log: ForeignLog, out: Recording) -> None:
    beat, extended = log.find("HEARTBEAT"), log.find("EXTENDED_SYS_STATE")
    if beat is not None:
        out.add("mode", beat, beat["custom_mode"], origin="custom_mode")
        out.add("armed", beat, (beat["base_mode"].astype(int) & _ARMED > 0).astype(float), origin="base_mode")
    if extended is not None and (extended["landed_state"] > 0).any():
        known = extended["landed_state"] > 0
        flying = (extended["landed_state"] >= _IN_AIR).astype(float)
        out.add("airborne", extended, flying, origin="landed_state", valid=known)
    if beat is not None and log.autopilot == "ArduPilot":  # ACTIVE is "flying" there, "armed" with PX4
        out.add("airborne", beat, (beat["system_status"] == _ACTIVE).astype(float), origin="system_status")
    for topic in log.topics:
        if topic.name == "NAMED_VALUE_FLOAT":
            ours = np.array([bytes(n).split(b"\0")[0] == b"s2s_engage" for n in topic.fields["name"]], bool)
            if ours.any():
                chosen = Topic(topic.name, topic.instance, topic.time_s[ours], {"value": topic["value"][ours]})
                out.add("engaged", chosen, (chosen["value"] > 0).astype(float), origin="s2s_engage")


def _setpoints(log: ForeignLog, out: Recording) -> None:
    target, navigation = log.find("ATTITUDE_TARGET"), log.find("NAV_CONTROLLER_OUTPUT")
    if target is not None:
        ignored = target["type_mask"].astype(int) & 128 > 0
        roll, pitch, _ = euler_angles(*(target[f"q[{i}]"] for i in range(4)))
        for name, values in (("set_roll", roll), ("set_pitch", pitch)):
            out.add(name, target, values, origin="q", valid=~ignored, reason="ignored by its mask")
    if navigation is None:
        return
    beat = log.find("HEARTBEAT") if log.autopilot == "ArduPilot" else None
    attitude = follows(beat, navigation.time_s, guidance=False)
    guidance = follows(beat, navigation.time_s, guidance=True)
    for name, source, valid in (
        ("set_roll", "nav_roll", attitude),
        ("set_pitch", "nav_pitch", attitude),
        ("set_heading", "nav_bearing", guidance),
    ):
        values = np.radians(navigation[source])
        if out.add(name, navigation, values, origin=source, valid=valid, reason=_STALE) and name == "set_heading":
            out.notes.append("the heading setpoint is a course over ground")
    # Altitude and airspeed are told as errors; ArduPlane's airspeed error is in cm/s (its pull request 7933).
    scale = 0.01 if log.autopilot == "ArduPilot" else 1.0
    for name, measured, source, factor in (
        ("set_altitude", "altitude", "alt_error", 1.0),
        ("set_airspeed", "airspeed", "aspd_error", scale),
    ):
        if measured in out and source in navigation:
            channel = out[measured]
            now = np.interp(navigation.time_s, channel.time_s, channel.values, left=np.nan, right=np.nan)
            values = now + factor * navigation[source]
            out.add(name, navigation, values, origin=source, valid=guidance, reason=_STALE)
