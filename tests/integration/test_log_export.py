"""`sim2sky log`: exports are read back with the other formats' own readers, and compared with the log."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from tests.flight_support import sample
from tests.recorder_support import CONTRACT, METADATA, fly, record, wait_for

from sim2sky import cli
from sim2sky.errors import MissingExtraError
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.frames import HOME
from sim2sky.runtime.ladder import Mode, Trip
from sim2sky.runtime.recorder import Recorder, state_row
from sim2sky.runtime.state import Command, Setpoint
from sim2sky.telemetry.flight_log import EpisodeData, FlightLogWriter, LogMetadata, read_flight_log
from sim2sky.telemetry.log_files import parts_of
from sim2sky.telemetry.log_report import summarise, trips_of, write_csv
from sim2sky.telemetry.mcap_export import export_mcap, pose_enu

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two flights; in the second the guard takes over for ticks 10 to 14 and there is a NaN."""
    path = tmp_path_factory.mktemp("log") / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    observation = np.zeros(len(CONTRACT.observation_names), np.float32)
    for seed, ticks in ((5, 40), (6, 20)):
        recorder.begin(seed)
        for k in range(ticks):
            bad = seed == 6 and 10 <= k < 15
            mode, trips = (Mode.HOLD, Trip.ATTITUDE | Trip.SURFACE_LIMIT) if bad else (Mode.POLICY, Trip(0))
            tick = Tick(Command(0.1, -0.2, 0.3, 0.4), np.zeros(4, np.float32), observation, int(mode), int(trips))
            roll = math.nan if seed == 6 and k == 3 else 0.1
            row = state_row(
                sample(north_m=10.0 * k, east_m=5.0, altitude_m=100.0 + k, roll_rad=roll, yaw_rad=0.5), k / 20
            )
            recorder.record(row, Setpoint(altitude_m=150.0), tick, (k, k, k), 1.0)
        recorder.end(success=seed == 5, termination="completed" if seed == 5 else "altitude")
    recorder.close()
    assert recorder.problem == ""
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


Messages = dict[str, list[tuple[int, dict[str, Any]]]]
Schemas = dict[str, tuple[str, str, dict[str, Any]]]


def read_mcap(path: Path) -> tuple[Messages, Schemas, dict[str, str]]:
    """Messages and schemas by topic, and the metadata, with all checksums checked."""
    messages: Messages = {}
    schemas: Schemas = {}
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        for schema, channel, message in reader.iter_messages():
            assert schema is not None and channel.message_encoding == "json"
            schemas[channel.topic] = (schema.name, schema.encoding, json.loads(schema.data))
            messages.setdefault(channel.topic, []).append((message.log_time, json.loads(message.data)))
        (metadata,) = reader.iter_metadata()
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == sum(map(len, messages.values()))
    return messages, schemas, metadata.metadata


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON schema as our schemas use."""
    kind = schema["type"]
    if kind == "object":
        properties = schema["properties"]
        return isinstance(value, dict) and all(k in properties and fits(v, properties[k]) for k, v in value.items())
    if kind == "array":
        return schema["minItems"] <= len(value) <= schema["maxItems"] and all(fits(v, schema["items"]) for v in value)
    types = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if not isinstance(value, types[kind]) or (kind != "boolean" and isinstance(value, bool)):
        return False
    return kind not in {"integer", "number"} or schema.get("minimum", -math.inf) <= value <= schema.get(
        "maximum", math.inf
    )


def test_the_schema_check_can_fail() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}}
    assert fits({"a": 1}, schema)
    assert not any(fits(v, schema) for v in ({"a": -1}, {"a": 1.5}, {"b": 1}, {"a": True}, []))


def test_mcap_holds_the_whole_log_and_its_own_reader_reads_it(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.mcap"
    with read_flight_log(log) as read:
        count = export_mcap(read, out)
        tables = {name: [e[name].reshape(len(e), -1) for e in read.episodes] for name in read.episodes[0].datasets}
        columns = {name: read.episodes[0].columns(name) for name in tables}
    messages, schemas, metadata = read_mcap(out)
    assert sum(map(len, messages.values())) == count and [p.name for p in tmp_path.iterdir()] == ["f.mcap"]
    assert metadata["agent"] == "hawk" and json.loads(metadata["config"]) == {"a": [1, 2]}
    well_known = {"/pose": "foxglove.PoseInFrame", "/location": "foxglove.LocationFix", "/log": "foxglove.Log"}
    assert set(messages) == {*well_known, "/episode", *(f"/{name}" for name in tables)}
    for topic, (name, encoding, schema) in schemas.items():
        assert encoding == "jsonschema" and name == schema["title"] == well_known.get(topic, name)
        assert schema["type"] == "object"
        for time_ns, message in messages[topic]:
            assert fits(message, schema), (topic, message)
            assert message["timestamp"] == {"sec": time_ns // 10**9, "nsec": time_ns % 10**9}
    for name, episodes in tables.items():
        rows = np.concatenate(episodes)
        got = messages[f"/{name}"]
        assert len(got) == len(rows) == 60
        for row, (_, message) in zip(rows, got, strict=True):
            finite = {c: v for c, v in zip(columns[name], row.tolist(), strict=True) if math.isfinite(v)}
            assert {k: v for k, v in message.items() if k != "timestamp"} == finite
    # The first flight begins at the start time, the second a second after its end.
    times = [t for t, _ in messages["/states"]]
    assert times[0] == START_NS and times[39] == START_NS + round(1.95e9) and times[40] == times[39] + 10**9
    assert times == sorted(times)


def test_pose_location_and_log_lines_say_what_happened(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.mcap"
    with read_flight_log(log) as read:
        export_mcap(read, out)
    messages, _, _ = read_mcap(out)
    pose = messages["/pose"][7][1]
    assert pose["frame_id"] == "home" and pose["pose"]["position"] == {"x": 5.0, "y": 70.0, "z": 107.0}
    assert len(messages["/pose"]) == len(messages["/location"]) == 59  # the one with the NaN has no pose
    fix = messages["/location"][7][1]
    north, east = HOME.to_metres(round(fix["latitude"] * 1e7), round(fix["longitude"] * 1e7))
    assert (north, east) == pytest.approx((70.0, 5.0), abs=0.02) and fix["altitude"] == HOME.altitude_m + 107.0
    lines = [(m["level"], m["message"]) for _, m in messages["/log"]]
    assert lines == [
        (2, "episode_0000, seed 5"), (2, "episode_0000 ended: completed"), (2, "episode_0001, seed 6"),
        (3, "attitude -> HOLD"), (2, "all clear -> POLICY"), (2, "episode_0001 ended: altitude"),
    ]  # fmt: skip
    assert messages["/episode"][1][1]["success"] is False and messages["/episode"][1][1]["ticks"] == 20


def test_a_real_flight_has_no_location_for_nobody_knows_its_home(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, LogMetadata("real", start_time="nonsense"), CONTRACT)
    fly(recorder, 5)
    recorder.close()
    with read_flight_log(path) as read:
        export_mcap(read, tmp_path / "f.mcap")
    messages, _, _ = read_mcap(tmp_path / "f.mcap")
    assert "/location" not in messages and messages["/states"][0][0] == 0


def rotation(q: dict[str, float]) -> np.ndarray:
    w, x, y, z = q["w"], q["x"], q["y"], q["z"]
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def euler_matrix(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Body to north-east-down, by elementary rotations."""
    c, s = np.cos, np.sin
    about_x = np.array([[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]])
    about_y = np.array([[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]])
    about_z = np.array([[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


ANGLE = st.floats(-3.1, 3.1)


@given(ANGLE, st.floats(-1.5, 1.5), ANGLE)
def test_attitude_in_the_other_axes_is_the_same_attitude(roll: float, pitch: float, yaw: float) -> None:
    """Against the change of axes written as matrices."""
    to_enu, to_flu = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]), np.diag([1, -1, -1])
    _, orientation = pose_enu(0, 0, 0, roll, pitch, yaw)
    assert np.allclose(rotation(orientation), to_enu @ euler_matrix(roll, pitch, yaw) @ to_flu, atol=1e-12)


def test_north_is_north_up_is_up_and_right_wing_down_is_right_wing_down() -> None:
    """The same in words: heading east, banked 30 degrees to the right."""
    position, orientation = pose_enu(3.0, 1.0, 2.0, math.radians(30), 0.0, math.radians(90))
    assert position == {"x": 1.0, "y": 3.0, "z": 2.0}
    nose, left, up = rotation(orientation).T
    assert np.allclose(nose, [1, 0, 0]) and up[2] == pytest.approx(math.cos(math.radians(30)))
    assert np.allclose(left, [0, math.cos(math.radians(30)), 0.5])  # the left wing points north and up


def test_segments_of_one_flight_are_one_flight_in_time(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    widths = {"states": 16, "controls": 4, "observations": len(CONTRACT.observation_names), "actions": 4}
    with FlightLogWriter(path, METADATA, CONTRACT) as writer:
        for segment in range(3):
            arrays = {name: np.zeros((10, width)) for name, width in widths.items()}
            arrays["states"][:, 0] = arrays["time_s"] = np.arange(10 * segment, 10 * segment + 10) / 20
            writer.write(EpisodeData(arrays, segment == 2, "continued", 1, extra={"segment": segment, "flight": 0}))
    with read_flight_log(path) as read:
        export_mcap(read, tmp_path / "f.mcap")
    times = [t for t, _ in read_mcap(tmp_path / "f.mcap")[0]["/states"]]
    assert times == [START_NS + 50_000_000 * k for k in range(30)]


def test_csv_has_a_row_per_tick_and_every_column(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.csv"
    with read_flight_log(log) as read, out.open("w"):
        assert write_csv(read, out) == 60
        episode = read.episodes[1]
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [r["episode"] for r in rows] == ["0000"] * 40 + ["0001"] * 20
        for name in episode.datasets:
            table = episode[name].reshape(len(episode), -1)
            for i, (column, unit) in enumerate(zip(episode.columns(name), episode.units(name), strict=True)):
                got = np.array([float(r[f"{name}.{column} [{unit}]"]) for r in rows[40:]])
                assert np.array_equal(got, table[:, i].astype(float), equal_nan=True), (name, column)


def test_trips_come_from_the_tables_with_reason_and_state(log: Path) -> None:
    with read_flight_log(log) as read:
        assert trips_of(read.episodes[0]) == []
        up, clear = trips_of(read.episodes[1])
        assert (up.row, up.reasons, up.mode, up.time_s) == (10, ("attitude",), "HOLD", 0.5)
        assert (clear.row, clear.reasons, clear.mode) == (15, (), "POLICY")
        assert up.state["north [m]"] == 100.0 and up.state["roll [rad]"] == pytest.approx(0.1)
        about = summarise(read.episodes[1])
        assert (about.guarded, about.ticks, about.duration_s) == (5, 20, 0.95) and not about.success


def test_the_command_shows_exports_and_recovers(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "log", "info", log)
    assert code == 0 and err == "" and "hawk" in out and "episode_0001" in out and "no success, altitude" in out
    data = json.loads(run(capsys, "log", "info", log, "--json")[1])
    assert data["rate_hz"] == 20.0 and [e["seed"] for e in data["episodes"]] == [5, 6] and "guard" in data["tables"]
    code, out, _ = run(capsys, "log", "trips", log)
    assert code == 0 and "attitude -> HOLD" in out and out.endswith("2 events in 60 ticks\n")
    data = json.loads(run(capsys, "log", "trips", log, "--json")[1])
    assert data["ticks"] == 60 and data["trips"][0]["reasons"] == ["attitude"]
    mcap, table = tmp_path / "f.mcap", tmp_path / "f.csv"
    code, out, _ = run(capsys, "log", "export", log, "--mcap", mcap, "--csv", table)
    assert code == 0 and f"{mcap}: " in out and f"{table}: 60 rows" in out
    assert len(read_mcap(mcap)[0]["/states"]) == 60
    assert run(capsys, "log", "recover", log)[:2] == (0, f"{log}: 2 episodes, 0 of them from journals\n")


def test_misuse_and_bad_files_are_plain_errors(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.h5"
    bad.write_text("no log")
    for arguments, code, message in [
        (("info", tmp_path / "none.h5"), 2, "no flight log"),
        (("trips", bad), 1, "not a readable flight log"),
        (("export", log), 2, "export to what?"),
        (("export", log, "--csv", log), 2, "is the log itself"),
        (("export", log, "--mcap", tmp_path / "none" / "f.mcap"), 1, "cannot write"),
        (("recover", tmp_path / "none.h5"), 2, "no flight log"),
    ]:
        got, out, err = run(capsys, "log", *arguments)
        assert (got, out) == (code, "") and message in err and "Traceback" not in err, arguments
    assert read_flight_log(log) is not None and sorted(p.name for p in tmp_path.iterdir()) == ["bad.h5"]


def test_without_mcap_the_extra_is_named(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with read_flight_log(log) as read, pytest.raises(MissingExtraError) as caught:
        export_mcap(read, tmp_path / "f.mcap")
    assert "sim2sky[logs]" in caught.value.hint and list(tmp_path.iterdir()) == []


def test_a_log_cut_off_by_a_kill_is_shown_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    fly(recorder, 30, 1)
    recorder.begin(2)
    for k in range(10):
        record(recorder, k, 2)

    def seen() -> list[int]:
        return [e["ticks"] for e in json.loads(run(capsys, "log", "info", path, "--json")[1])["episodes"]]

    wait_for(lambda: seen() == [30, 10], "both episodes")
    code, _, err = run(capsys, "log", "recover", path)
    assert code == 1 and "still being written" in err
    recorder.close()
    assert not parts_of(path).exists() and seen() == [30, 10]
