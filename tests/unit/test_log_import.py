"""PX4 logs of several releases, made up, must come back as the flight they were made of."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.log_support import (
    BOOT_S,
    HOME,
    Truth,
    UlogFlight,
    UlogTopic,
    quaternion,
    small_ulog,
    ulog_message,
    wrap,
    write_ulog,
)

from sim2sky.errors import EXIT_USAGE, FlightLogError, NotSupportedError
from sim2sky.telemetry.flight_log import Episode, read_flight_log
from sim2sky.telemetry.importers import ulog
from sim2sky.telemetry.importers.import_log import import_log, read_foreign, record
from sim2sky.telemetry.importers.ulog_repair import repaired

SMALL = small_ulog()
STATES = ("north", "east", "altitude", "roll", "pitch", "yaw", "p", "q", "r", "airspeed")
TOLERANCES = {"north": 0.3, "east": 0.3, "altitude": 0.05, "airspeed": 0.05}


def imported(path: Path, tmp_path: Path) -> tuple[dict, list[Episode]]:
    out = tmp_path / "out.h5"
    import_log(path, out)
    log = read_flight_log(out)
    return {"metadata": log.metadata}, list(log.episodes)


def truth_of(episode: Episode, truth: Truth) -> dict[str, np.ndarray]:
    return truth.at(episode["time_s"] + episode.attrs["start_s"] - BOOT_S)


def assert_flight(episode: Episode, truth: Truth, *, skip: tuple[str, ...] = (), slack: float = 1.0) -> None:
    """Every state, control and setpoint is the truth's, but for a few ticks at the ends."""
    expected = truth_of(episode, truth)
    middle = slice(5, -5)
    for name in STATES:
        if name in skip:
            continue
        error = episode.column("states", name) - expected[name]
        error = wrap(error) if name in {"roll", "pitch", "yaw"} else error
        assert np.isfinite(error[middle]).all(), name
        assert np.abs(error[middle]).max() < slack * TOLERANCES.get(name, 0.01), name
    for name in ("aileron", "elevator", "rudder", "throttle"):
        if name not in skip:
            error = np.abs(episode.column("controls", name) - expected[name])[middle]
            assert error.max() < slack * 0.01, name
    for name in ("altitude", "airspeed", "heading", "roll", "pitch"):
        if f"set_{name}" not in skip:
            error = episode.column("setpoints", name) - expected[f"set_{name}"]
            error = wrap(error) if name == "heading" else error
            assert np.abs(error[middle]).max() < slack * 0.05, name


@pytest.mark.parametrize("release", [11, 12, 13, 14, 16])
def test_each_generation_of_px4_gives_back_its_flight(tmp_path, release):
    flight = UlogFlight(release=release)
    about, episodes = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    assert len(episodes) == 1
    assert_flight(episodes[0], flight.truth)
    metadata = about["metadata"]
    assert (metadata.source, metadata.rate_hz) == ("real", 100.0)
    assert metadata.config["vehicle"] == "fixed wing"
    assert f"1.{release}.0" in metadata.config["imported"]["firmware"]
    assert metadata.start_time == "2023-11-14T22:13:20+00:00"


def test_an_episode_is_where_it_was_armed_and_airborne(tmp_path):
    flight = UlogFlight()
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    truth = flight.truth
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + truth.takeoff_s, abs=0.02)
    assert episode["time_s"][-1] == pytest.approx(truth.landing_s - truth.takeoff_s, abs=0.02)
    assert episode.termination == "landed"
    assert episode.attrs["condition"] == "armed and airborne"
    assert not episode.success
    assert not episode.attrs["success_known"]
    assert episode["observations"].shape == (len(episode), 0)
    assert episode["actions"].shape == (len(episode), 0)
    assert "guard" not in episode
    modes = [e["mode"] for e in episode.events if e["event"] == "mode"]
    assert modes == ["AUTO_MISSION"]


def test_body_velocity_is_the_velocity_over_ground_turned_into_the_body(tmp_path):
    flight = UlogFlight()
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    c = truth_of(episode, flight.truth)
    for i in range(10, len(episode) - 10, 97):
        roll, pitch, yaw = c["roll"][i], c["pitch"][i], c["yaw"][i]
        rx = np.array([[1, 0, 0], [0, np.cos(roll), np.sin(roll)], [0, -np.sin(roll), np.cos(roll)]])
        ry = np.array([[np.cos(pitch), 0, -np.sin(pitch)], [0, 1, 0], [np.sin(pitch), 0, np.cos(pitch)]])
        rz = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        body = rx @ ry @ rz @ np.array([c["v_north"][i], c["v_east"][i], c["v_down"][i]])
        measured = [episode.column("states", n)[i] for n in "uvw"]
        assert measured == pytest.approx(body, abs=0.05)


def test_swapped_controls_would_be_noticed(tmp_path):
    """Negative control of the comparison above."""
    flight = UlogFlight()
    topic = flight.topics["actuator_controls_0"]
    name, kind, values = topic.fields[0]
    topic.fields = [(name, kind, values[:, [1, 0, *range(2, 8)]])]
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    with pytest.raises(AssertionError, match="aileron"):
        assert_flight(episode, flight.truth)


def test_a_gap_in_a_topic_stays_a_gap(tmp_path):
    flight = UlogFlight()
    topic = flight.topics["airspeed_validated"]
    keep = (topic.time_s < 15.0) | (topic.time_s > 18.0)
    topic.time_s = topic.time_s[keep]
    topic.fields = [(n, k, v[keep]) for n, k, v in topic.fields]
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    t = episode["time_s"] + episode.attrs["start_s"] - BOOT_S
    airspeed = episode.column("states", "airspeed")
    assert np.isnan(airspeed[(t > 15.01) & (t < 17.9)]).all()
    assert np.isfinite(airspeed[(t < 14.8) | (t > 18.2)]).all()
    assert np.isfinite(episode.column("states", "roll")).all()


def test_outliers_are_marked_and_not_averaged_in(tmp_path):
    flight = UlogFlight()
    topic = flight.topics["airspeed_validated"]
    (name, kind, values), second = topic.fields
    values = values.copy()
    values[100:104], values[200] = -3.0, 90.0
    topic.fields = [(name, kind, values), second]
    position = flight.topics["vehicle_local_position"]
    fields = {n: (n, k, v.copy()) for n, k, v in position.fields}
    fields["z"][2][900] = -9000.0
    fields["x"][2][:400], fields["xy_valid"][2][:400] = 1e4, 0  # before the fix
    position.fields = list(fields.values())
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    marked = json.loads(episode.attrs["marked"])
    assert marked["airspeed"] == {"negative": 4, "jump": 1}
    assert marked["altitude"] == {"jump": 1}
    assert marked["north"] == {"no position estimate": 400}
    assert np.nanmin(episode.column("states", "airspeed")) > 16.0
    assert np.nanmax(episode.column("states", "airspeed")) < 20.0
    assert np.nanmax(np.abs(episode.column("states", "north"))) < 61.0
    assert np.nanmax(episode.column("states", "altitude")) < 106.0
    assert np.isnan(episode.column("states", "north")[:10]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"info": {"ver_hw": "PX4_SITL"}}, "PX4_SITL"),
        ({"parameters": {"SYS_HITL": 1}}, "SYS_HITL"),
    ],
)
def test_a_log_that_says_it_is_a_simulation_is_never_real(tmp_path, change, said):
    about, _ = imported(UlogFlight().write(tmp_path / "a.ulg", **change), tmp_path)
    assert about["metadata"].source == "sim"
    assert said in about["metadata"].config["imported"]["simulated"]


def test_hil_state_and_ground_truth_are_signs_of_simulation_too(tmp_path):
    flight = UlogFlight()
    flight.topics["vehicle_attitude_groundtruth"] = UlogTopic(
        "vehicle_attitude_groundtruth", np.array([1.0]), [("q", "float[4]", np.array([[1.0, 0, 0, 0]]))]
    )
    assert "groundtruth" in read_foreign(flight.write(tmp_path / "a.ulg")).simulated
    flight = UlogFlight()
    status = flight.topics["vehicle_status"]
    status.fields = [(n, k, np.ones_like(v) if n == "hil_state" else v) for n, k, v in status.fields]
    assert "hil_state" in read_foreign(flight.write(tmp_path / "b.ulg")).simulated


def test_engaged_by_our_agent_is_what_counts_where_the_log_shows_it(tmp_path):
    flight = UlogFlight()
    t = flight.truth.times(2.0)
    key = np.zeros((len(t), 10), np.uint8)
    key[:] = np.frombuffer(b"s2s_engage", np.uint8)
    key[1::2] = np.frombuffer(b"s2s_guard\0", np.uint8)
    value = np.where(np.arange(len(t)) % 2 == 0, (t >= 10.0) & (t < 25.0), 7.0)
    flight.topics["debug_key_value"] = UlogTopic(
        "debug_key_value", t, [("key", "char[10]", key), ("value", "float", value)]
    )
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    assert episode.attrs["condition"] == "engaged and armed and airborne"
    assert episode.termination == "disengaged"
    assert episode.attrs["start_s"] == pytest.approx(BOOT_S + 10.0, abs=0.02)
    assert episode["time_s"][-1] == pytest.approx(15.0, abs=0.02)


@pytest.mark.parametrize(
    ("topic", "field", "value", "reason"),
    [
        ("actuator_armed", "armed", 0, "never armed"),
        ("vehicle_land_detected", "landed", 1, "never airborne"),
    ],
)
def test_a_log_on_the_ground_says_why_it_has_no_flight(tmp_path, topic, field, value, reason):
    flight = UlogFlight()
    t = flight.topics[topic]
    t.fields = [(n, k, np.full_like(v, value)) for n, k, v in t.fields]
    with pytest.raises(FlightLogError, match=reason):
        imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ulg"]


def test_a_hop_is_too_short_to_be_a_flight(tmp_path):
    flight = UlogFlight(Truth(takeoff_s=10.0, landing_s=11.0))
    with pytest.raises(FlightLogError, match=r"armed and airborne for 1\.00 s at most"):
        imported(flight.write(tmp_path / "a.ulg"), tmp_path)


def test_what_a_log_does_not_say_is_the_reason(tmp_path):
    flight = UlogFlight()
    del flight.topics["vehicle_land_detected"]
    with pytest.raises(FlightLogError, match="does not say when the aircraft was airborne"):
        imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    flight = UlogFlight()
    del flight.topics["vehicle_attitude"]
    with pytest.raises(FlightLogError, match="no attitude"):
        imported(flight.write(tmp_path / "b.ulg"), tmp_path)


def test_a_rotary_wing_has_no_surfaces(tmp_path):
    flight = UlogFlight()
    status = flight.topics["vehicle_status"]
    status.fields = [(n, k, np.ones_like(v) if n == "vehicle_type" else v) for n, k, v in status.fields]
    out = tmp_path / "out.h5"
    result = import_log(flight.write(tmp_path / "a.ulg", parameters={"MAV_TYPE": 2}), out)
    assert np.isnan(result.episodes[0].arrays["controls"]).all()
    assert any("rotary-wing" in note for note in result.notes)
    assert any(line.startswith("surface commands") for line in result.missing)


def test_a_vtol_gives_its_wing_s_controls(tmp_path):
    flight = UlogFlight()
    wing = flight.topics.pop("actuator_controls_0")
    hover = UlogTopic("actuator_controls_0", wing.time_s, [("control", "float[8]", np.zeros((len(wing.time_s), 8)))])
    wing.name = "actuator_controls_1"
    flight.topics |= {"actuator_controls_0": hover, "actuator_controls_1": wing}
    about, (episode,) = imported(flight.write(tmp_path / "a.ulg", parameters={"MAV_TYPE": 22}), tmp_path)
    assert_flight(episode, flight.truth)
    assert about["metadata"].config["vehicle"] == "vtol"


def test_without_home_altitude_counts_from_the_estimator_s_origin(tmp_path):
    flight = UlogFlight()
    del flight.topics["home_position"]
    position = flight.topics["vehicle_local_position"]
    n = len(position.time_s)
    position.fields = [
        *position.fields,
        ("ref_lat", "double", np.full(n, HOME.latitude_deg)),
        ("ref_lon", "double", np.full(n, HOME.longitude_deg)),
        ("ref_alt", "float", np.full(n, HOME.altitude_m + 7.0)),
    ]
    about, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    expected = truth_of(episode, flight.truth)["altitude"] - 7.0
    assert np.abs(episode.column("states", "altitude") - expected)[5:-5].max() < 0.05
    assert episode.column("setpoints", "altitude")[100] == pytest.approx(102.0 - 7.0)
    assert any("origin" in note for note in about["metadata"].config["imported"]["notes"])


def test_a_global_position_does_where_there_is_no_local_one(tmp_path):
    flight = UlogFlight()
    t = flight.topics.pop("vehicle_local_position").time_s
    c = flight.truth.at(t)
    degrees = np.array([HOME.to_degrees_e7(n, e) for n, e in zip(c["north"], c["east"], strict=True)]) * 1e-7
    flight.topics["vehicle_global_position"] = UlogTopic(
        "vehicle_global_position",
        t,
        [
            ("lat", "double", degrees[:, 0]),
            ("lon", "double", degrees[:, 1]),
            ("alt", "float", c["altitude"] + HOME.altitude_m),
        ],
    )
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    assert_flight(episode, flight.truth)


def test_the_duration_is_that_of_the_data(tmp_path):
    """A mission loaded long before, and a message stamped long after, do not stretch it."""
    flight = UlogFlight()
    for name, when in (("mission", 1100.0), ("geofence", -9.9)):
        flight.topics[name] = UlogTopic(name, np.array([when]), [("count", "uint16_t", np.array([1]))])
    log = read_foreign(flight.write(tmp_path / "a.ulg"))
    assert log.duration_s == pytest.approx(flight.truth.duration_s, abs=0.1)


def test_appended_sections_and_nested_types_are_read(tmp_path):
    key = b"char[4] hello"
    extra = ulog_message("M", b"\0" + bytes([len(key)]) + key + b"wxyz")
    flight = UlogFlight()
    path = flight.write(tmp_path / "a.ulg", appended=extra)
    _, (episode,) = imported(path, tmp_path)
    assert_flight(episode, flight.truth)


def test_unknown_topics_and_messages_do_not_matter(tmp_path):
    flight = UlogFlight()
    t = flight.truth.times(10.0)
    flight.topics["brand_new_topic"] = UlogTopic("brand_new_topic", t, [("x", "int16_t[3]", np.zeros((len(t), 3)))])
    path = flight.write(tmp_path / "a.ulg", texts=[(6.0, "hello"), (39.0, "bye")], dropouts=[(20.0, 250)])
    path.write_bytes(path.read_bytes() + ulog_message("Z", b"from the future"))
    _, (episode,) = imported(path, tmp_path)
    assert_flight(episode, flight.truth)
    assert [e["text"] for e in episode.events if e["event"] == "text"] == ["hello"]
    assert [e["length_s"] for e in episode.events if e["event"] == "dropout"] == [0.25]


def test_a_format_bomb_is_refused_quickly(tmp_path):
    """A type that holds 60,000 of a type that holds 60,000 bytes, and one that holds itself."""
    for name, text in (("a", "a:uint64_t timestamp;b[60000] x;"), ("loop", "loop:uint64_t timestamp;loop x;")):
        data = b"ULog\x01\x12\x35\x01" + struct.pack("<Q", 1)
        data += ulog_message("F", text.encode()) + ulog_message("F", b"b:uint8_t[60000] y;")
        data += ulog_message("A", struct.pack("<BH", 0, 0) + name.encode())
        path = tmp_path / f"{name}.ulg"
        path.write_bytes(data + ulog_message("D", struct.pack("<HQ", 0, 5) + bytes(50)))
        with pytest.raises(FlightLogError, match="no flight"):
            import_log(path, tmp_path / "out.h5")


def test_a_file_that_is_mostly_zeros_ends(tmp_path):
    """A card filled in advance: pyulog alone would go through it byte by byte."""
    path = UlogFlight().write(tmp_path / "a.ulg")
    path.write_bytes(path.read_bytes() + bytes(3_000_000))
    log = read_foreign(path)
    assert log.duration_s == pytest.approx(40.0, abs=0.1)
    assert log.damage


def test_nothing_is_printed_about_damage(tmp_path, capsys):
    data = bytearray(UlogFlight().write(tmp_path / "a.ulg").read_bytes())
    data[3000:3100] = b"\xff" * 100
    (tmp_path / "a.ulg").write_bytes(bytes(data))
    read_foreign(tmp_path / "a.ulg")
    assert capsys.readouterr().out == ""


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    path = UlogFlight().write(tmp_path / "a.ulg")
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(FlightLogError, match="already exists") as caught:
        import_log(path, tmp_path / "out.h5")
    assert caught.value.exit_code == EXIT_USAGE
    with pytest.raises(FlightLogError, match="cannot write"):
        import_log(path, tmp_path / "missing" / "out.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ulg", "out.h5"]
    assert (tmp_path / "out.h5").read_text() == "mine"


def test_other_files_are_not_supported_and_missing_ones_said(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(NotSupportedError, match=r"not supported: the format of .*x\.txt"):
        read_foreign(tmp_path / "x.txt")
    with pytest.raises(FlightLogError, match="cannot be read"):
        read_foreign(tmp_path / "none.ulg")


def test_the_attitude_setpoint_of_old_releases_is_not_taken_for_a_quaternion(tmp_path):
    """Before 1.16 q_d may be there and zero."""
    flight = UlogFlight(release=11)
    topic = flight.topics["vehicle_attitude_setpoint"]
    topic.fields = [(n, k, np.zeros_like(v) if n == "q_d" else v) for n, k, v in topic.fields]
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    assert_flight(episode, flight.truth)


def test_angles_cross_pi_without_a_sweep_through_zero(tmp_path):
    flight = UlogFlight()
    _, (episode,) = imported(flight.write(tmp_path / "a.ulg"), tmp_path)
    yaw = episode.column("states", "yaw")
    jumps = np.flatnonzero(np.abs(np.diff(yaw)) > 3.0)
    assert len(jumps) >= 1
    assert np.abs(yaw[jumps]).min() > 3.1


def test_where_each_channel_comes_from_is_written_down(tmp_path):
    _, (episode,) = imported(UlogFlight().write(tmp_path / "a.ulg"), tmp_path)
    channels = json.loads(episode.attrs["channels"])
    assert channels["roll"] == {"from": "vehicle_attitude.q", "rate_hz": 100.0, "method": "unwrapped, linear"}
    assert channels["aileron"]["method"] == "held"


def test_a_bare_minimum_of_topics_still_gives_a_flight(tmp_path):
    t = np.arange(0, 20, 0.02)
    one = np.ones_like(t)
    path = write_ulog(
        tmp_path / "a.ulg",
        [
            UlogTopic("vehicle_attitude", t, [("q", "float[4]", quaternion(0.1 * one, 0 * one, 0 * one))]),
            UlogTopic("vehicle_status", t[::50], [("arming_state", "uint8_t", 2 * one[::50])]),
            UlogTopic("vehicle_land_detected", t[:1], [("landed", "bool", 0 * one[:1])]),
        ],
    )
    result = import_log(path, tmp_path / "out.h5")
    assert result.episodes[0].termination == "end of the log"
    assert len(result.missing) == 8  # all but attitude
    recording, _ = record(read_foreign(path))
    assert set(recording.channels) == {"roll", "pitch", "yaw", "armed", "airborne"}


def test_a_whole_file_is_not_repaired(tmp_path):
    data = UlogFlight().write(tmp_path / "a.ulg", texts=[(3.0, "hello")]).read_bytes()
    assert repaired(data) == (data, 0)
    newer = data + ulog_message("Z", b"from the future") * 3 + ulog_message("S", b"\x2f\x73\x13\x20\x25\x0c\xbb\x12")
    assert repaired(newer) == (newer, 0)


@given(st.integers(0, 2**32), st.integers(1, 3000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_repairing_keeps_what_stands_before_and_after_the_damage(seed, size, insert):
    """Noise instead of, or between, messages costs itself and at most a few messages around it."""
    rng = random.Random(seed)
    at = rng.randrange(len(SMALL) // 3, len(SMALL) // 2)
    data = SMALL[:at] + rng.randbytes(size) + SMALL[at if insert else at + size :]
    clean, lost = repaired(data)
    assert len(clean) + lost == len(data)
    log = ulog.read_ulog(Path("x.ulg"), data)
    attitude = log.find("vehicle_attitude")
    assert attitude is not None
    assert attitude.time_s[-1] == pytest.approx(BOOT_S + 40.0, abs=0.05)
    kept = 1.0 - (0 if insert else size / len(SMALL))
    assert len(attitude) > kept * 2000 - 60


def test_a_damaged_ulog_of_noise_is_done_soon(tmp_path):
    """pyulog alone took 20 s for such a file of 300 kB."""
    rng = random.Random(0)
    data = SMALL[:20_000] + rng.randbytes(400_000)
    clean, lost = repaired(data)
    assert lost > 0 or clean == data
    assert ulog.read_ulog(Path("x.ulg"), data).topics
