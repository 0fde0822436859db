"""ArduPilot's two kinds of log, made up, must come back as the flight they were made of, and agree with pymavlink."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from pymavlink import mavutil
from pymavlink.dialects.v20 import ardupilotmega as mavlink
from tests.ardupilot_logs import PARAMETERS, DataflashFlight, Message, TlogFlight
from tests.log_support import BOOT_S, Truth, wrap
from tests.unit.test_log_import import assert_flight, imported, truth_of

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.telemetry.importers.import_log import import_log, read_foreign, record


def messages_of(path: Path) -> dict[str, list]:
    """By pymavlink."""
    found: dict[str, list] = {}
    with contextlib.closing(mavutil.mavlink_connection(str(path))) as reader:
        while (m := reader.recv_msg()) is not None:
            if path.suffix == ".bin" or m.get_srcSystem() == 1:
                found.setdefault(m.get_type(), []).append(m)
        if path.suffix == ".bin":
            reader.filehandle.close()
    return found


def test_a_dataflash_log_gives_back_its_flight(tmp_path):
    flight = DataflashFlight()
    about, (episode,) = imported(flight.write(tmp_path / "a.bin"), tmp_path)
    assert_flight(episode, flight.truth, skip=("set_roll", "set_pitch", "set_altitude", "set_airspeed", "set_heading"))
    c, t = truth_of(episode, flight.truth), episode["time_s"]
    auto = (t > 1.5) & (t < t[-1] - 0.2)  # FBWA, then AUTO: guidance has setpoints in the second only
    for name in ("altitude", "airspeed", "heading"):
        assert np.isnan(episode.column("setpoints", name)[t < 0.8]).all(), name
        error = episode.column("setpoints", name) - c[f"set_{name}"]
        assert np.abs(wrap(error) if name == "heading" else error)[auto].max() < 0.05, name
    for name in ("roll", "pitch"):
        assert np.abs(episode.column("setpoints", name) - c[f"set_{name}"])[5:-5].max() < 0.02, name
    m = about["metadata"]
    assert (m.source, m.rate_hz, m.config["vehicle"]) == ("real", 50.0, "fixed wing")
    assert m.config["imported"]["firmware"] == "ArduPlane V4.5.7 (2a3dc4b7)"
    assert m.start_time == "2023-11-14T22:13:20+00:00"
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + flight.truth.takeoff_s, abs=0.21)
    assert [e["mode"] for e in episode.events if e["event"] == "mode"] == ["FBWA", "AUTO"]


def test_the_first_of_two_gyroscopes_is_taken(tmp_path):
    """In `DataflashFlight` the second one shows 0.3 of the rate; without FMTU the column's name says which it is."""
    flight = DataflashFlight()
    recording, _ = record(read_foreign(flight.write(tmp_path / "a.bin")))
    t = recording["p"].time_s - BOOT_S
    assert np.abs(recording["p"].values - flight.truth.at(t)["p"]).max() < 1e-3
    data = (tmp_path / "a.bin").read_bytes().replace(b"FMTU", b"FMTX")
    (tmp_path / "b.bin").write_bytes(data)
    again, _ = record(read_foreign(tmp_path / "b.bin"))
    assert np.array_equal(again["p"].values, recording["p"].values)


def test_pulse_widths_do_where_commands_are_not_logged(tmp_path):
    flight = DataflashFlight()
    del flight.messages["AETR"]
    out = tmp_path / "out.h5"
    import_log(flight.write(tmp_path / "a.bin"), out)
    with read_flight_log(out) as log:
        (episode,) = log.episodes
        c = truth_of(episode, flight.truth)
        for name in ("aileron", "elevator", "rudder", "throttle"):
            assert np.abs(episode.column("controls", name) - c[name])[5:-5].max() < 0.02, name
    flight.parameters = {k: v for k, v in PARAMETERS.items() if k != "SERVO2_TRIM"}
    recording, _ = record(read_foreign(flight.write(tmp_path / "b.bin")))
    assert "elevator" not in recording
    assert "aileron" in recording


@pytest.mark.parametrize("sign", ["SIM", "parameter", "board"])
def test_a_simulated_dataflash_log_is_never_real(tmp_path, sign):
    flight = DataflashFlight()
    t = np.array([0.0])
    if sign == "SIM":
        flight.messages["SIM"] = Message("SIM", "cc", ["Roll", "Pitch"], t, ([0.0], [0.0]))
    elif sign == "board":
        flight.messages["VER"] = Message("VER", "B", ["BT"], t, ([3],))
    else:
        flight.parameters = {**PARAMETERS, "SIM_RATE_HZ": 1200}
    about, _ = imported(flight.write(tmp_path / "a.bin"), tmp_path)
    assert about["metadata"].source == "sim"
    assert about["metadata"].config["imported"]["simulated"]


def test_position_before_the_fix_is_marked(tmp_path):
    flight = DataflashFlight()
    gps = flight.messages["GPS"]
    values = list(gps.values)
    values[1] = np.where(gps.time_s < 12.0, 1, 3)
    gps.values = values
    _, (episode,) = imported(flight.write(tmp_path / "a.bin"), tmp_path)
    assert json.loads(episode.attrs["marked"])["north"] == {"before the GPS fix": pytest.approx(300, abs=2)}
    t = episode["time_s"] + episode.attrs["start_s"] - BOOT_S
    north = episode.column("states", "north")
    assert np.isnan(north[t < 11.9]).all()
    assert np.isfinite(north[(t > 12.3)][:-5]).all()


def test_manual_mode_has_no_attitude_setpoint(tmp_path):
    flight = DataflashFlight()
    flight.messages["MODE"].values = ([0, 0], [0, 0], [0, 0])
    _, (episode,) = imported(flight.write(tmp_path / "a.bin"), tmp_path)
    assert np.isnan(episode["setpoints"]).all()


def test_a_copter_has_no_surfaces_and_its_events_say_when_it_flew(tmp_path):
    flight = DataflashFlight(firmware="ArduCopter V4.4.0 (abc)")
    for name in ("STAT", "AETR", "TECS", "NTUN"):
        del flight.messages[name]
    times = np.array([3.0, 5.0, 35.0, 37.0])
    flight.messages["EV"] = Message("EV", "B", ["Id"], times, ([10, 28, 18, 11],))
    about, (episode,) = imported(flight.write(tmp_path / "a.bin"), tmp_path)
    assert about["metadata"].config["vehicle"] == "multirotor"
    assert np.isnan(episode["controls"]).all()
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + 5.0)
    assert episode.termination == "landed"


def test_old_logs_count_milliseconds(tmp_path):
    flight = DataflashFlight()
    path = flight.write(tmp_path / "a.bin")
    recording, _ = record(read_foreign(path))
    (tmp_path / "old.bin").write_bytes(path.read_bytes().replace(b"TimeUS", b"TimeMS"))
    old = read_foreign(tmp_path / "old.bin")
    topic = old.find("ATT")
    assert topic is not None
    assert topic.time_s[0] == pytest.approx(1e3 * recording["roll"].time_s[0])


def test_our_dataflash_reader_agrees_with_pymavlink(tmp_path):
    path = DataflashFlight().write(tmp_path / "a.bin")
    log = read_foreign(path)
    theirs = messages_of(path)
    for name, fields in (("ATT", ("Roll", "Yaw")), ("POS", ("Lat", "Alt")), ("GPS", ("GMS", "Alt", "Status"))):
        topic = log.find(name)
        assert topic is not None
        assert topic.time_s == pytest.approx([m.TimeUS * 1e-6 for m in theirs[name]])
        for f in fields:
            assert topic[f] == pytest.approx([getattr(m, f) for m in theirs[name]]), (name, f)
    assert log.parameters == pytest.approx({m.Name: m.Value for m in theirs["PARM"]})


def test_a_message_that_only_looks_like_one_in_damage_is_not_taken(tmp_path):
    """A header within a damaged stretch counts only if another message follows it."""
    flight = DataflashFlight()
    data = bytearray(flight.write(tmp_path / "a.bin").read_bytes())
    middle = data.index(b"\xa3\x95", len(data) // 2)
    data[middle : middle + 40] = b"\xff" * 8 + b"\xa3\x95\x01" + b"\xff" * 29
    (tmp_path / "a.bin").write_bytes(bytes(data))
    log = read_foreign(tmp_path / "a.bin")
    assert any("bytes are damaged" in line for line in log.damage)
    attitude = log.find("ATT")
    assert attitude is not None
    assert np.abs(attitude["Pitch"]).max() < 20.0


@pytest.mark.parametrize("version1", [False, True])
def test_a_tlog_gives_back_its_flight(tmp_path, version1):
    flight = TlogFlight(version1=version1)
    about, (episode,) = imported(flight.write(tmp_path / "a.tlog"), tmp_path)
    late = ("aileron", "elevator", "rudder", "throttle", "airspeed", "set_heading", "set_altitude", "set_airspeed")
    assert_flight(episode, flight.truth, skip=late)
    # Messages without a time of their own come 20 to 60 ms late, by an unknown amount.
    c = truth_of(episode, flight.truth)
    for name in ("aileron", "elevator", "rudder", "throttle"):
        assert np.abs(episode.column("controls", name) - c[name])[5:-5].max() < 0.04, name
    assert np.abs(episode.column("states", "airspeed") - c["airspeed"])[5:-5].max() < 0.1
    for name, within in (("heading", np.radians(3.0)), ("altitude", 0.2), ("airspeed", 0.1)):
        assert np.abs(wrap(episode.column("setpoints", name) - c[f"set_{name}"]))[5:-5].max() < within, name
    m = about["metadata"]
    assert (m.source, m.rate_hz, m.config["vehicle"]) == ("real", 25.0, "fixed wing")
    assert m.config["imported"]["firmware"] == "ArduPlane V4.5.7 (2a3dc4b7)"
    assert m.start_time == "2023-11-14T22:13:20+00:00"
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + flight.truth.takeoff_s, abs=0.1)


def test_the_heartbeat_s_hil_flag_is_a_simulation(tmp_path):
    about, _ = imported(TlogFlight(base_mode=1 | 32).write(tmp_path / "a.tlog"), tmp_path)
    assert about["metadata"].source == "sim"


def test_our_own_agent_engaged_is_seen_in_a_tlog(tmp_path):
    flight = TlogFlight()
    for t in np.arange(0.0, 40.0, 0.5):
        value = float(8.0 <= t < 20.0)
        m = mavlink.MAVLink_named_value_float_message(round(t * 1e3), b"s2s_engage", value)
        flight.add(float(t), m, component=191)
    _, (episode,) = imported(flight.write(tmp_path / "a.tlog"), tmp_path)
    assert episode.attrs["condition"] == "engaged and armed and airborne"
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + 8.0, abs=0.1)
    assert episode["time_s"][-1] == pytest.approx(12.0, abs=0.15)


def test_frames_with_a_wrong_checksum_are_left_out(tmp_path):
    flight = TlogFlight()
    data = bytearray(flight.write(tmp_path / "a.tlog").read_bytes())
    clean = read_foreign(tmp_path / "a.tlog")
    at, hit = 0, 0
    while hit < 20:  # the first payload byte of an ATTITUDE
        at = data.index(b"\xfd", at + 300)
        if data[at + 7 : at + 10] == bytes((30, 0, 0)) and data[at + 1] == 28:
            data[at + 12] ^= 0x40
            hit += 1
    (tmp_path / "b.tlog").write_bytes(bytes(data))
    log = read_foreign(tmp_path / "b.tlog")
    assert log.damage == ["20 frames with a wrong checksum were left out"]
    whole, left = clean.find("ATTITUDE"), log.find("ATTITUDE")
    assert whole is not None
    assert left is not None
    assert len(left) == len(whole) - 20


def test_our_tlog_reader_agrees_with_pymavlink(tmp_path):
    path = TlogFlight().write(tmp_path / "a.tlog")
    log = read_foreign(path)
    theirs = messages_of(path)
    for name, fields in (("ATTITUDE", ("roll", "yawspeed")), ("GLOBAL_POSITION_INT", ("lat", "relative_alt", "vz"))):
        topic = log.find(name)
        assert topic is not None
        rows = sorted(theirs[name], key=lambda m: m.time_boot_ms)
        assert topic.time_s == pytest.approx([m.time_boot_ms * 1e-3 for m in rows])
        for f in fields:
            assert topic[f] == pytest.approx([getattr(m, f) for m in rows]), (name, f)


def test_a_restarted_autopilot_does_not_turn_the_clock_back(tmp_path):
    flight = TlogFlight()
    for i, (t, system, component, message) in enumerate(flight.frames):
        if t >= 20.0 and hasattr(message, "time_boot_ms"):
            message.time_boot_ms -= 29_000  # 20 s after logging began its clock stood at 30 s
            flight.frames[i] = (t, system, component, message)
    log = read_foreign(flight.write(tmp_path / "a.tlog"))
    attitude = log.find("ATTITUDE")
    assert attitude is not None
    assert len(attitude) == 1000
    assert attitude.dropped == 0
    assert np.diff(attitude.time_s).max() < 0.1


def test_a_tlog_without_an_autopilot_is_refused_by_name(tmp_path):
    flight = TlogFlight()
    flight.frames = [f for f in flight.frames if f[1] == 255]
    with pytest.raises(FlightLogError, match=r"a\.tlog is not a readable tlog: no heartbeat"):
        read_foreign(flight.write(tmp_path / "a.tlog"))


def test_a_tlog_on_the_ground_says_so(tmp_path):
    flight = TlogFlight(Truth(takeoff_s=100.0, landing_s=101.0))
    with pytest.raises(FlightLogError, match="never armed"):
        import_log(flight.write(tmp_path / "a.tlog"), tmp_path / "out.h5")
