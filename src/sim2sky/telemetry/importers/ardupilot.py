"""Where ArduPilot's dataflash logs (3.5 to 4.7) keep what, in our units and frames.

Sources: ArduPlane `Log.cpp`, `AP_Logger/LogStructure.h`, `AP_TECS.cpp`, `mode.h`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim2sky.runtime.autopilots import ARDUPILOT
from sim2sky.runtime.frames import Geodetic
from sim2sky.telemetry.importers.channels import Recording, north_east
from sim2sky.telemetry.importers.topics import FloatArray, ForeignLog, Topic, last_before

__all__ = ["PLANE_MODES", "ardupilot_recording", "follows", "servo_commands"]

PLANE_MODES = {number: name for name, number in ARDUPILOT.modes.items()} | {
    17: "QSTABILIZE", 18: "QHOVER", 19: "QLOITER", 20: "QLAND", 21: "QRTL", 22: "QAUTOTUNE", 23: "QACRO",
    25: "LOITER_ALT_QLAND", 26: "AUTOLAND",
}  # fmt: skip
_FREE = (0, 4, 16)  # MANUAL, ACRO, INITIALISING: the logged attitude demand is the attitude itself, or stale
_GUIDED = (1, 6, 7, 10, 11, 12, 13, 14, 15, 21, 24, 25, 26)  # modes with automatic throttle
_FULL_SURFACE = 4500.0  # SERVO_MAX
_FUNCTIONS = {"aileron": 4, "elevator": 19, "rudder": 21, "throttle": 70}  # SERVOn_FUNCTION
_HOME = 1  # ORGN.Type
_FIX_3D = 3
_SENSOR = 1  # CTUN.AsT
_ARM, _DISARM, _LANDED, _NOT_LANDED = 10, 11, 18, 28  # EV.Id


def ardupilot_recording(log: ForeignLog) -> Recording:
    """All channels that a dataflash log has."""
    out = Recording()
    plane = log.vehicle in {"fixed wing", "vtol", ""}
    mode = _mode(log, out)
    _attitude(log, out)
    _position(log, out)
    _airspeed(log, out)
    if plane:
        _controls(log, out)
        _setpoints(log, out, mode)
    else:
        out.notes.append(f"a {log.vehicle}: it has no aileron, elevator and rudder")
        _attitude_setpoint(log, out, None)
    _state(log, out)
    return out


def _degrees(topic: Topic | None, name: str) -> FloatArray | None:
    return None if topic is None or name not in topic else np.radians(topic[name])


def _mode(log: ForeignLog, out: Recording) -> Topic | None:
    mode = log.find("MODE")
    if mode is not None:
        out.add("mode", mode, mode.first("ModeNum", "Mode"), origin="ModeNum")
    return mode


def _attitude(log: ForeignLog, out: Recording) -> None:
    attitude = log.find("ATT")
    for name, source in (("roll", "Roll"), ("pitch", "Pitch"), ("yaw", "Yaw")):
        out.add(name, attitude, _degrees(attitude, source), origin=source)
    gyro = log.find("IMU")
    for name, source in (("p", "GyrX"), ("q", "GyrY"), ("r", "GyrZ")):
        if out.add(name, gyro, None if gyro is None else gyro.first(source), origin=source) and name == "p":
            out.notes.append("body rates are the first gyroscope's, its bias not taken off")


def _home(log: ForeignLog, out: Recording) -> Geodetic | None:
    origin, gps = log.find("ORGN", instance=_HOME) or log.find("ORGN"), log.find("GPS")
    if origin is not None and {"Lat", "Lng", "Alt"} <= set(origin.fields):
        kind = origin.first("Type")
        known = np.flatnonzero(((kind == _HOME) if kind is not None else True) & (origin["Lat"] != 0.0))
        if len(known):
            return Geodetic(*(float(origin[n][known[-1]]) for n in ("Lat", "Lng", "Alt")))
    if gps is not None and {"Lat", "Lng", "Alt", "Status"} <= set(gps.fields):
        known = np.flatnonzero(gps["Status"] >= _FIX_3D)
        if len(known):
            out.notes.append("no home position in the log: position counts from the first GPS fix")
            return Geodetic(*(float(gps[n][known[0]]) for n in ("Lat", "Lng", "Alt")))
    return None


def _position(log: ForeignLog, out: Recording) -> None:
    home, gps, pos = _home(log, out), log.find("GPS"), log.find("POS")
    fix = None if gps is None or "Status" not in gps else gps["Status"] >= _FIX_3D
    relative = None if pos is None else pos.first("RelHomeAlt", "RelAlt")
    out.add("altitude", pos, relative, origin="RelHomeAlt")
    if home is not None:
        for topic in (pos, gps):
            if topic is not None and {"Lat", "Lng", "Alt"} <= set(topic.fields):
                valid = (topic["Lat"] != 0.0) | (topic["Lng"] != 0.0)
                if fix is not None and gps is not None:
                    valid &= last_before(gps.time_s, fix.astype(float), topic.time_s) > 0.0
                north, east = north_east(home, topic["Lat"], topic["Lng"])
                altitude = topic["Alt"] - home.altitude_m
                for name, values in (("north", north), ("east", east), ("altitude", altitude)):
                    out.add(name, topic, values, origin="Lat, Lng, Alt", valid=valid, reason="before the GPS fix")
    filters = ("XKF1", "NKF1", "EKF1") if log.parameters.get("AHRS_EKF_TYPE", 3.0) != 2.0 else ("NKF1", "XKF1", "EKF1")
    estimate = log.find(*filters)
    for name, source in (("v_north", "VN"), ("v_east", "VE"), ("v_down", "VD")):
        out.add(name, estimate, None if estimate is None else estimate.first(source), origin=source)
    if gps is not None and {"Spd", "GCrs"} <= set(gps.fields):
        course = np.radians(gps["GCrs"])
        for name, values in (
            ("v_north", gps["Spd"] * np.cos(course)),
            ("v_east", gps["Spd"] * np.sin(course)),
            ("v_down", gps.first("VZ")),
        ):
            out.add(name, gps, values, origin="Spd, GCrs, VZ", valid=fix, reason="before the GPS fix")


def _airspeed(log: ForeignLog, out: Recording) -> None:
    sensor, tuning = log.find("ARSP"), log.find("CTUN")
    if sensor is not None and "Airspeed" in sensor:
        healthy = sensor["H"] != 0 if "H" in sensor else None
        out.add("airspeed", sensor, sensor["Airspeed"], origin="Airspeed", valid=healthy, reason="sensor unhealthy")
    if tuning is not None and (name := next((n for n in ("As", "Aspd") if n in tuning), None)):
        measured = "AsT" in tuning and bool((tuning["AsT"] == _SENSOR).any())
        if out.add("airspeed", tuning, tuning[name], origin=name) and not measured:
            out.notes.append("the airspeed is the autopilot's estimate, not a measurement")


def _controls(log: ForeignLog, out: Recording) -> None:
    demand = log.find("AETR")
    if demand is not None:
        for name, source in (("aileron", "Ail"), ("elevator", "Elev"), ("rudder", "Rudd")):
            out.add(name, demand, None if source not in demand else demand[source] / _FULL_SURFACE, origin=source)
        out.add("throttle", demand, None if "Thr" not in demand else demand["Thr"] / 100.0, origin="Thr")
    servos = log.find("RCOU")
    if servos is not None:
        widths = {n: servos[name] for n in range(1, 17) if (name := f"C{n}") in servos or (name := f"Ch{n}") in servos}
        for name, (number, values) in servo_commands(log.parameters, widths).items():
            out.add(name, servos, values, origin=f"C{number}", valid=widths[number] > 0, reason="no pulse")


def servo_commands(
    parameters: Mapping[str, float], widths_us: Mapping[int, FloatArray]
) -> dict[str, tuple[int, FloatArray]]:
    """Commands that pulse widths stand for, by ArduPilot's SERVOn_FUNCTION, MIN, TRIM, MAX and REVERSED; a surface
    without all of these is left out, as are mixed ones (elevons, V-tail).

    Returns:
        Output number and values, by name of the control.
    """
    found: dict[str, tuple[int, FloatArray]] = {}
    for number, width in widths_us.items():
        function = parameters.get(f"SERVO{number}_FUNCTION")
        name = next((n for n, f in _FUNCTIONS.items() if f == function), None)
        low, trim, high = (parameters.get(f"SERVO{number}_{what}") for what in ("MIN", "TRIM", "MAX"))
        if name is None or name in found or low is None or trim is None or high is None or not low < high:
            continue
        sign = -1.0 if parameters.get(f"SERVO{number}_REVERSED", 0.0) > 0 else 1.0
        if name == "throttle":
            share = (width - low) / (high - low)
            found[name] = (number, share if sign > 0 else 1.0 - share)
        elif low < trim < high:
            up = width >= trim
            found[name] = (number, sign * np.where(up, (width - trim) / (high - trim), (width - trim) / (trim - low)))
    return found


def follows(mode: Topic | None, at: FloatArray, *, guidance: bool) -> NDArray[np.bool_] | None:
    """Where the setpoint is one that ArduPlane follows in its mode: attitude outside MANUAL and ACRO; altitude,
    airspeed and course (`guidance`) with automatic throttle. None where the mode is not known."""
    numbers = None if mode is None else mode.first("ModeNum", "Mode", "custom_mode")
    if mode is None or numbers is None:
        return None
    now = last_before(mode.time_s, numbers, at)
    return np.isin(now, _GUIDED) if guidance else ~np.isin(now, _FREE)


_NOT_FOLLOWED = "not followed in this mode"


def _attitude_setpoint(log: ForeignLog, out: Recording, mode: Topic | None) -> None:
    attitude = log.find("ATT")
    if attitude is not None:
        valid = follows(mode, attitude.time_s, guidance=False)
        for name, source in (("set_roll", "DesRoll"), ("set_pitch", "DesPitch")):
            out.add(name, attitude, _degrees(attitude, source), origin=source, valid=valid, reason=_NOT_FOLLOWED)
    tuning = log.find("CTUN")  # before 3.8
    if tuning is not None:
        valid = follows(mode, tuning.time_s, guidance=False)
        for name, source in (("set_roll", "NavRoll"), ("set_pitch", "NavPitch")):
            out.add(name, tuning, _degrees(tuning, source), origin=source, valid=valid, reason=_NOT_FOLLOWED)


def _setpoints(log: ForeignLog, out: Recording, mode: Topic | None) -> None:
    _attitude_setpoint(log, out, mode)
    tecs, navigation = log.find("TECS"), log.find("NTUN")
    if tecs is not None:
        valid = follows(mode, tecs.time_s, guidance=True)
        name = next((n for n in ("hin", "hdem") if n in tecs), "")
        out.add("set_altitude", tecs, tecs.first(name), origin=name, valid=valid, reason=_NOT_FOLLOWED)
    if navigation is not None:
        valid = follows(mode, navigation.time_s, guidance=True)
        for name, source in (("set_airspeed", "TAsp"), ("set_altitude", "TAT")):
            out.add(name, navigation, navigation.first(source), origin=source, valid=valid, reason=_NOT_FOLLOWED)
        bearing = _degrees(navigation, "NavBrg")
        if out.add("set_heading", navigation, bearing, origin="NavBrg", valid=valid, reason=_NOT_FOLLOWED):
            out.notes.append("the heading setpoint is a course over ground: ArduPlane has no other")
    for name, source in (("set_p", "PIDR"), ("set_q", "PIDP"), ("set_r", "PIDY")):
        loop = log.find(source)
        if loop is not None:
            valid = follows(mode, loop.time_s, guidance=False)
            out.add(name, loop, _degrees(loop, "Tar"), origin="Tar", valid=valid, reason=_NOT_FOLLOWED)
    if tecs is not None and "spdem" in tecs and "set_airspeed" not in out:
        valid = follows(mode, tecs.time_s, guidance=True)
        tuning = log.find("CTUN")
        ratio = 1.0
        if tuning is not None and "E2T" in tuning:
            ratio = float(np.median(tuning["E2T"]))
        else:
            out.notes.append("the airspeed setpoint is a true airspeed: nothing turns it into a calibrated one")
        out.add("set_airspeed", tecs, tecs["spdem"] / ratio, origin="spdem", valid=valid, reason=_NOT_FOLLOWED)


def _state(log: ForeignLog, out: Recording) -> None:
    status, arm, event = log.find("STAT"), log.find("ARM"), log.find("EV")
    if status is not None:
        out.add("armed", status, status.first("Armed"), origin="Armed")
        out.add("airborne", status, status.first("isFlying"), origin="isFlying")
    if arm is not None:
        out.add("armed", arm, arm.first("ArmState"), origin="ArmState")
    if event is not None and "Id" in event:
        for name, on, off in (("armed", _ARM, _DISARM), ("airborne", _NOT_LANDED, _LANDED)):
            about = np.isin(event["Id"], (on, off))
            if about.any():
                chosen = Topic(event.name, 0, event.time_s[about], {"Id": event["Id"][about]})
                out.add(name, chosen, (chosen["Id"] == on).astype(float), origin="Id")
