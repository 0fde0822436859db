"""Where PX4 keeps what, release by release (1.6 to 1.16), in our units and frames.

Source: PX4-Autopilot `msg/*.msg` of the releases named below.
"""

from __future__ import annotations

import numpy as np

from sim2sky.runtime.frames import Geodetic
from sim2sky.telemetry.importers.channels import Recording, euler_angles, north_east
from sim2sky.telemetry.importers.topics import FloatArray, ForeignLog, Topic

__all__ = ["NAV_STATES", "px4_recording"]

NAV_STATES = {
    0: "MANUAL", 1: "ALTCTL", 2: "POSCTL", 3: "AUTO_MISSION", 4: "AUTO_LOITER", 5: "AUTO_RTL", 10: "ACRO",
    12: "DESCEND", 13: "TERMINATION", 14: "OFFBOARD", 15: "STABILIZED", 17: "AUTO_TAKEOFF", 18: "AUTO_LAND",
    19: "AUTO_FOLLOW_TARGET", 20: "AUTO_PRECLAND", 21: "ORBIT", 22: "AUTO_VTOL_TAKEOFF",
}  # fmt: skip
"""`vehicle_status.nav_state`."""

_ARMED = 2  # vehicle_status.arming_state
_ROTARY_WING = 1  # vehicle_status.vehicle_type
_FIX_3D = 3
_SLOW_HZ = 5.0
_AIRSPEEDS = ("calibrated_airspeed_m_s", "equivalent_airspeed_m_s", "indicated_airspeed_m_s")


def px4_recording(log: ForeignLog) -> Recording:
    """All channels that a PX4 log has."""
    out = Recording()
    _attitude(log, out)
    home = _Home.of(log, out)
    _position(log, out, home)
    _airspeed(log, out)
    _controls(log, out)
    _attitude_setpoint(log, out)
    _guidance_setpoint(log, out, home)
    _state(log, out)
    return out


def _vector(topic: Topic | None, stem: str, count: int) -> list[FloatArray] | None:
    names = [f"{stem}[{i}]" for i in range(count)]
    return [topic[n] for n in names] if topic is not None and all(n in topic for n in names) else None


def _attitude(log: ForeignLog, out: Recording) -> None:
    attitude = log.find("vehicle_attitude")
    q = _vector(attitude, "q", 4)
    if q is not None:
        for name, angle in zip(("roll", "pitch", "yaw"), euler_angles(*q), strict=True):
            out.add(name, attitude, angle, origin="q")
    elif attitude is not None:  # before 1.5
        for name in ("roll", "pitch", "yaw"):
            out.add(name, attitude, attitude.first(name), origin=name)
    rates = log.find("vehicle_angular_velocity")  # from 1.10
    for topic, fields in (
        (rates, ("xyz[0]", "xyz[1]", "xyz[2]")),
        (rates, ("rollspeed", "pitchspeed", "yawspeed")),
        (attitude, ("rollspeed", "pitchspeed", "yawspeed")),
        (log.find("control_state"), ("roll_rate", "pitch_rate", "yaw_rate")),
        (log.find("sensor_combined"), ("gyro_rad[0]", "gyro_rad[1]", "gyro_rad[2]")),
    ):
        for name, source in zip("pqr", fields, strict=True):
            out.add(name, topic, None if topic is None else topic.first(source), origin=source)


class _Home:
    """Where altitudes and positions are counted from: home, else the estimator's origin."""

    def __init__(self, geodetic: Geodetic | None, local: tuple[float, float, float]) -> None:
        self.geodetic = geodetic
        self.local = local

    @classmethod
    def of(cls, log: ForeignLog, out: Recording) -> _Home:
        home, local = log.find("home_position"), log.find("vehicle_local_position")
        if home is not None and all(n in home for n in ("lat", "lon", "alt")):
            valid = home.first("valid_alt")
            known = np.flatnonzero((home["alt"] != 0.0) if valid is None else valid != 0)
            if len(known):
                i = known[-1]
                place = tuple(float(home[n][i]) if n in home else 0.0 for n in ("x", "y", "z"))
                return cls(Geodetic(*(float(home[n][i]) for n in ("lat", "lon", "alt"))), place)  # type: ignore[arg-type]
        if local is not None and "ref_alt" in local:
            known = np.flatnonzero(np.isfinite(local["ref_alt"]) & (local["ref_alt"] != 0.0))
            if len(known):
                i = known[-1]
                out.notes.append("no home position in the log: altitude and position count from the estimator's origin")
                return cls(Geodetic(*(float(local[n][i]) for n in ("ref_lat", "ref_lon", "ref_alt"))), (0.0, 0.0, 0.0))
        for gps in (log.find("vehicle_gps_position"), log.find("sensor_gps")):
            if gps is None or "fix_type" not in gps:
                continue
            known, place = np.flatnonzero(gps["fix_type"] >= _FIX_3D), _degrees(gps)
            if len(known) and place is not None:
                out.notes.append("neither home nor an origin in the log: position counts from the first GPS fix")
                return cls(Geodetic(*(float(c[known[0]]) for c in place)), (0.0, 0.0, 0.0))
        return cls(None, (0.0, 0.0, 0.0))


def _valid(topic: Topic, name: str) -> np.ndarray | None:
    return topic[name] != 0 if name in topic else None


def _position(log: ForeignLog, out: Recording, home: _Home) -> None:
    local = log.find("vehicle_local_position")
    if local is not None:
        reason = "no position estimate"
        for name, source, flag, sign, zero in (
            ("north", "x", "xy_valid", 1.0, home.local[0]),
            ("east", "y", "xy_valid", 1.0, home.local[1]),
            ("altitude", "z", "z_valid", -1.0, home.local[2]),
            ("v_north", "vx", "v_xy_valid", 1.0, 0.0),
            ("v_east", "vy", "v_xy_valid", 1.0, 0.0),
            ("v_down", "vz", "v_z_valid", 1.0, 0.0),
        ):
            if source in local:
                values = sign * (local[source] - zero)
                out.add(name, local, values, origin=source, valid=_valid(local, flag), reason=reason)
    _geodetic(out, log.find("vehicle_global_position"), home, reason="no position estimate")
    for gps in (log.find("vehicle_gps_position"), log.find("sensor_gps")):
        fix = None if gps is None or "fix_type" not in gps else gps["fix_type"] >= _FIX_3D
        _geodetic(out, gps, home, valid=fix, reason="before the GPS fix")
        if gps is not None:
            for name, source in (("v_north", "vel_n_m_s"), ("v_east", "vel_e_m_s"), ("v_down", "vel_d_m_s")):
                out.add(name, gps, gps.first(source), origin=source, valid=fix, reason="before the GPS fix")


def _degrees(topic: Topic) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Latitude and longitude in degrees, altitude above mean sea level in m; (n,) each."""
    names = (("lat", "latitude_deg"), ("lon", "longitude_deg"), ("alt", "altitude_msl_m"))
    latitude, longitude, altitude = (topic.first(*n) for n in names)
    if latitude is None or longitude is None or altitude is None:
        return None
    if np.abs(latitude).max(initial=0.0) > 90.0:  # 1e-7 degrees, mm: GPS messages before 1.14
        return latitude * 1e-7, longitude * 1e-7, altitude * 1e-3
    return latitude, longitude, altitude


def _geodetic(
    out: Recording, topic: Topic | None, home: _Home, *, reason: str, valid: np.ndarray | None = None
) -> None:
    if topic is None or home.geodetic is None:
        return
    place = _degrees(topic)
    if place is None:
        return
    latitude, longitude, altitude = place
    known = (latitude != 0.0) | (longitude != 0.0)
    valid = known if valid is None else valid & known
    north, east = north_east(home.geodetic, latitude, longitude)
    for name, values in (("north", north), ("east", east), ("altitude", altitude - home.geodetic.altitude_m)):
        out.add(name, topic, values, valid=valid, reason=reason)


def _airspeed(log: ForeignLog, out: Recording) -> None:
    chosen, sensor = log.find("airspeed_validated"), log.find("airspeed")
    if chosen is not None and sensor is not None and 1.0 / chosen.period_s < _SLOW_HZ:
        chosen = None  # logged at 1 Hz by default
    for topic, names in ((chosen, _AIRSPEEDS), (sensor, ("indicated_airspeed_m_s",))):
        for name in names:
            if topic is not None and name in topic:
                out.add("airspeed", topic, topic[name], origin=name)
    control = log.find("control_state")  # before 1.8
    if control is not None and "airspeed_valid" in control:
        out.add("airspeed", control, control.first("airspeed"), origin="airspeed", valid=control["airspeed_valid"] != 0)


def _true_over_calibrated(log: ForeignLog) -> float:
    """Median ratio of true to calibrated airspeed in this log; NaN where it has not both."""
    for topic in (log.find("airspeed_validated"), log.find("airspeed")):
        if topic is None or "true_airspeed_m_s" not in topic:
            continue
        calibrated = topic.first(*_AIRSPEEDS)
        if calibrated is not None:
            flying = (calibrated > 5.0) & (topic["true_airspeed_m_s"] > 5.0)
            if flying.any():
                return float(np.median(topic["true_airspeed_m_s"][flying] / calibrated[flying]))
    return np.nan


def _controls(log: ForeignLog, out: Recording) -> None:
    status = log.find("vehicle_status")
    rotary = None if status is None else status.first("is_rotary_wing")
    if status is not None and "vehicle_type" in status:
        rotary = (status["vehicle_type"] == _ROTARY_WING).astype(float)
    says_vtol = None if status is None else status.first("is_vtol")
    vtol = log.vehicle == "vtol" or (says_vtol is not None and bool(says_vtol.any()))
    if not vtol and rotary is not None and rotary.all():
        out.notes.append("a rotary-wing aircraft: it has no aileron, elevator and rudder")
        return
    if vtol:
        out.notes.append("a VTOL: controls are those of its fixed-wing controllers, also while it hovers")
    # Up to 1.13 controls in one topic per group, then torque and thrust; the second instance is a VTOL's wing.
    old = log.find("actuator_controls_1" if vtol else "actuator_controls_0")
    if old is not None:
        for i, name in enumerate(("aileron", "elevator", "rudder", "throttle")):
            out.add(name, old, old.first(f"control[{i}]"), origin=f"control[{i}]")
    torque = log.find("vehicle_torque_setpoint", instance=int(vtol))
    thrust = log.find("vehicle_thrust_setpoint", instance=int(vtol))
    for i, name in enumerate(("aileron", "elevator", "rudder")):
        out.add(name, torque, None if torque is None else torque.first(f"xyz[{i}]"), origin=f"xyz[{i}]")
    out.add("throttle", thrust, None if thrust is None else thrust.first("xyz[0]"), origin="xyz[0]")


def _attitude_setpoint(log: ForeignLog, out: Recording) -> None:
    attitude = log.find("vehicle_attitude_setpoint")
    if attitude is not None and "roll_body" in attitude:
        out.add("set_roll", attitude, attitude["roll_body"], origin="roll_body")
        out.add("set_pitch", attitude, attitude.first("pitch_body"), origin="pitch_body")
    elif (q := _vector(attitude, "q_d", 4)) is not None:  # from 1.16
        roll, pitch, _ = euler_angles(*q)
        out.add("set_roll", attitude, roll, origin="q_d")
        out.add("set_pitch", attitude, pitch, origin="q_d")
    rates = log.find("vehicle_rates_setpoint")
    for name, source in (("set_p", "roll"), ("set_q", "pitch"), ("set_r", "yaw")):
        out.add(name, rates, None if rates is None else rates.first(source), origin=source)


def _guidance_setpoint(log: ForeignLog, out: Recording, home: _Home) -> None:
    tecs, triplet = log.find("tecs_status"), log.find("position_setpoint_triplet")
    along = log.find("fixed_wing_longitudinal_setpoint")  # from 1.16
    ground = np.nan if home.geodetic is None else home.geodetic.altitude_m
    for topic, names in (
        (along, ("altitude",)),
        (tecs, ("altitude_sp", "altitude_reference", "altitudeSp", "alt_sp")),
        (triplet, ("current.alt",)),
    ):
        for name in names:
            if topic is not None and name in topic:
                valid = _valid(topic, "current.valid") if topic is triplet else None
                out.add("set_altitude", topic, topic[name] - ground, origin=name, valid=valid)
    if along is not None:
        out.add("set_airspeed", along, along.first("equivalent_airspeed"), origin="equivalent_airspeed")
    if tecs is not None:
        out.add("set_airspeed", tecs, tecs.first("equivalent_airspeed_sp"), origin="equivalent_airspeed_sp")
        ratio = _true_over_calibrated(log)
        for name in ("true_airspeed_sp", "airspeed_sp", "airspeedSp"):
            if name in tecs and "set_airspeed" not in out:
                if not np.isfinite(ratio):
                    out.notes.append("the airspeed setpoint is a true airspeed: nothing turns it into a calibrated one")
                    ratio = 1.0
                out.add("set_airspeed", tecs, tecs[name] / ratio, origin=name)
    for name, source in (
        ("fixed_wing_lateral_setpoint", "course"),
        ("npfg_status", "bearing"),
        ("position_controller_status", "nav_bearing"),
        ("fw_pos_ctrl_status", "nav_bearing"),
    ):
        topic = log.find(name)
        if topic is not None and out.add("set_heading", topic, topic.first(source), origin=source):
            out.notes.append("the heading setpoint is a course over ground: PX4 has no other")


def _state(log: ForeignLog, out: Recording) -> None:
    status, armed = log.find("vehicle_status"), log.find("actuator_armed")
    mode, landed = log.find("vehicle_control_mode"), log.find("vehicle_land_detected")
    if status is not None and "nav_state" in status:
        out.add("mode", status, status["nav_state"], origin="nav_state")
    if armed is not None:
        out.add("armed", armed, armed.first("armed"), origin="armed")
    if status is not None and "arming_state" in status:
        out.add("armed", status, (status["arming_state"] == _ARMED).astype(float), origin="arming_state")
    if mode is not None:
        out.add("armed", mode, mode.first("flag_armed"), origin="flag_armed")
    if landed is not None and "landed" in landed:
        out.add("airborne", landed, (landed["landed"] == 0).astype(float), origin="landed")
    for topic in log.instances("debug_key_value"):  # what a NAMED_VALUE_FLOAT becomes
        key = _vector(topic, "key", 10)
        if key is None:
            continue
        names = ["".join(chr(int(c)) for c in row if c > 0) for row in np.stack(key, axis=1)]
        ours = np.array([name == "s2s_engage" for name in names])
        if ours.any():
            chosen = Topic(topic.name, topic.instance, topic.time_s[ours], {"value": topic["value"][ours]})
            out.add("engaged", chosen, (chosen["value"] > 0).astype(float), origin="s2s_engage")
