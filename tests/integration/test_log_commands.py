"""`sim2sky log import` and `log info`, as typed; MCAP there and back; the older layout; real logs where they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from mcap.writer import Writer
from tests.ardupilot_logs import DataflashFlight, TlogFlight
from tests.log_support import UlogFlight, UlogTopic

from sim2sky import cli
from sim2sky.errors import EXIT_FAIL, EXIT_PASS, EXIT_USAGE
from sim2sky.telemetry.flight_log import EpisodeData, FlightLogWriter, LogMetadata, read_flight_log
from sim2sky.telemetry.importers.import_log import import_log, read_foreign, record
from sim2sky.telemetry.importers.resample import resample
from sim2sky.telemetry.log_report import write_csv
from sim2sky.telemetry.mcap_export import export_mcap

HERE = Path(__file__).resolve().parents
REAL = next((p / "shared/data/logs" for p in HERE[3:5] if (p / "shared/data/logs").is_dir()), Path())
needs_real = pytest.mark.skipif(not (REAL / "sample_log_small.ulg").is_file(), reason="the real logs are not here")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("flight", "name"), [(UlogFlight, "a.ulg"), (DataflashFlight, "a.BIN"), (TlogFlight, "a.tlog")]
)
def test_import_and_info_of_every_format(tmp_path, capsys, flight, name):
    path = flight().write(tmp_path / name)
    out = tmp_path / "out.h5"
    code, text, _ = run(capsys, "log", "import", path, "-o", out)
    assert code == EXIT_PASS
    assert f"{out}: 1 episodes" in text
    assert "real, fixed wing" in text
    code, text, _ = run(capsys, "log", "info", path)
    assert code == EXIT_PASS
    for word in ("fixed wing", "real", "data", "dropouts", "flight      ", "success: the log does not say", "roll"):
        assert word in text
    code, text, _ = run(capsys, "log", "info", path, "--json")
    data = json.loads(text)
    assert data["duration_s"] == pytest.approx(40.0, abs=0.1)
    assert data["no_flight"] == ""
    rates = {t["name"]: t["rate_hz"] for t in data["topics"] if t["instance"] == 0}
    assert rates[{"a.ulg": "vehicle_attitude", "a.BIN": "ATT", "a.tlog": "ATTITUDE"}[name]] == pytest.approx(
        {"a.ulg": 100, "a.BIN": 50, "a.tlog": 25}[name], rel=0.01
    )
    code, text, _ = run(capsys, "log", "info", out)
    assert code == EXIT_PASS
    assert "for a gap analysis these are missing:\n  success" in text


def test_info_counts_gaps_dropouts_and_what_is_marked(tmp_path, capsys):
    flight = UlogFlight()
    topic = flight.topics["airspeed_validated"]
    keep = (topic.time_s < 15.0) | (topic.time_s > 18.0)
    topic.time_s = topic.time_s[keep]
    topic.fields = [(n, k, -v[keep]) for n, k, v in topic.fields]
    path = flight.write(tmp_path / "a.ulg", dropouts=[(20.0, 250), (30.0, 50)])
    _, text, _ = run(capsys, "log", "info", path, "--json")
    data = json.loads(text)
    assert (data["dropouts"], data["dropped_s"]) == (2, pytest.approx(0.3))
    row = next(t for t in data["topics"] if t["name"] == "airspeed_validated")
    assert (row["gaps"], row["longest_s"]) == (1, pytest.approx(3.1, abs=0.15))
    channel = next(c for c in data["channels"] if c["name"] == "airspeed")
    assert (channel["samples"], channel["marked"]) == (0, {"negative": int(keep.sum())})
    assert any(line.startswith("airspeed:") for line in data["missing"])


def test_misuse_and_failure_have_their_exit_codes(tmp_path, capsys):
    assert run(capsys, "log", "import", tmp_path / "none.ulg")[0] == EXIT_USAGE
    (tmp_path / "a.txt").write_text("x")
    code, _, err = run(capsys, "log", "import", tmp_path / "a.txt")
    assert (code, "not supported: the format" in err) == (EXIT_USAGE, True)
    ground = UlogFlight()
    armed = ground.topics["actuator_armed"]
    armed.fields = [("armed", "bool", np.zeros(len(armed.time_s)))]
    code, _, err = run(capsys, "log", "import", ground.write(tmp_path / "g.ulg"), "-o", tmp_path / "g.h5")
    assert (code, "never armed" in err) == (EXIT_FAIL, True)
    assert not (tmp_path / "g.h5").exists()
    code, text, _ = run(capsys, "log", "info", tmp_path / "g.ulg")
    assert (code, "no flight   the aircraft was never armed" in text) == (EXIT_PASS, True)
    assert run(capsys, "log", "info", tmp_path / "none.h5")[0] == EXIT_USAGE


def test_the_name_of_the_log_is_that_of_its_source(tmp_path, capsys, monkeypatch):
    path = UlogFlight().write(tmp_path / "flight_7.ulg")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(capsys, "log", "import", path)[0] == EXIT_PASS
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["flight_7.h5"]


@pytest.fixture
def own_log(tmp_path: Path) -> Path:
    """Two episodes, the second with a NaN."""
    path = tmp_path / "own.h5"
    rng = np.random.default_rng(0)
    with FlightLogWriter(
        path, LogMetadata("virtual", "hawk", "d", "c", 20.0, "2026-01-01T00:00:00Z", {"task": "x"})
    ) as w:
        for seed, n in ((3, 40), (4, 25)):
            states = rng.normal(size=(n, 16))
            states[:, 0] = np.arange(n) / 20
            if seed == 4:
                states[5, 7] = np.nan
            arrays = {
                "time_s": states[:, 0], "states": states, "observations": rng.normal(size=(n, 3)),
                "actions": rng.normal(size=(n, 4)), "controls": rng.normal(size=(n, 4)),
                "setpoints": rng.normal(size=(n, 8)), "rewards": rng.normal(size=n),
                "guard": rng.integers(0, 5, (n, 2)), "timing": rng.integers(0, 2**50, (n, 3)),
            }  # fmt: skip
            columns = {"observations": ("a", "b", "c"), "actions": ("k", "l", "m", "n")}
            w.write(EpisodeData(arrays, success=seed == 3, termination="completed", seed=seed, columns=columns))
    return path


def test_an_mcap_of_ours_comes_back_value_for_value(own_log, tmp_path, capsys):
    with read_flight_log(own_log) as log:
        export_mcap(log, tmp_path / "x.mcap")
    code, text, _ = run(capsys, "log", "import", tmp_path / "x.mcap", "-o", tmp_path / "back.h5")
    assert code == EXIT_PASS
    with read_flight_log(own_log) as log, read_flight_log(tmp_path / "back.h5") as back:
        assert back.metadata == log.metadata
        assert len(back) == 2
        for a, b in zip(log.episodes, back.episodes, strict=True):
            assert (a.success, a.termination, a.seed, a.datasets) == (b.success, b.termination, b.seed, b.datasets)
            for name in a.datasets:
                assert np.array_equal(a[name], b[name], equal_nan=True), name
                assert a.columns(name) == b.columns(name)
                assert a[name].dtype == b[name].dtype
    code, text, _ = run(capsys, "log", "info", tmp_path / "x.mcap")
    assert code == EXIT_PASS
    assert "virtual" in text


def test_a_torn_mcap_gives_what_stands_before_the_tear(own_log, tmp_path):
    with read_flight_log(own_log) as log:
        export_mcap(log, tmp_path / "x.mcap")
    data = (tmp_path / "x.mcap").read_bytes()
    (tmp_path / "torn.mcap").write_bytes(data[: len(data) // 2])
    try:
        result = import_log(tmp_path / "torn.mcap", tmp_path / "back.h5")
        assert result.episodes[-1].extra["recovered"]
    except Exception as error:  # a small file is one chunk: nothing of it can be read
        assert "torn.mcap holds no flight" in str(error)


def test_another_s_mcap_is_not_supported(tmp_path, capsys):
    path = tmp_path / "ros.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2", library="rosbag2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/chatter", "cdr", schema)
        writer.add_message(channel, 1, b"\0\1\0\0", 1)
        writer.finish()
    code, _, err = run(capsys, "log", "import", path, "-o", tmp_path / "x.h5")
    assert code == EXIT_USAGE
    assert "not supported: the MCAP file" in err
    assert "cdr" in err


def test_an_imported_log_can_be_exported_again(tmp_path, capsys):
    """Its observations and actions have no columns."""
    out = tmp_path / "out.h5"
    import_log(UlogFlight().write(tmp_path / "a.ulg"), out)
    with read_flight_log(out) as log:
        rows = write_csv(log, tmp_path / "x.csv")
        assert rows == len(log.episodes[0])
        export_mcap(log, tmp_path / "x.mcap")
    import_log(tmp_path / "x.mcap", tmp_path / "back.h5")
    with read_flight_log(out) as log, read_flight_log(tmp_path / "back.h5") as back:
        for name in ("states", "controls", "setpoints", "observations"):
            assert np.array_equal(log.episodes[0][name], back.episodes[0][name], equal_nan=True), name


def test_the_older_layout_is_read_and_told_what_it_lacks(tmp_path, capsys):
    """Bare arrays: no metadata, no names, no setpoints, timing or guard; `states` N x 16, padding last."""
    path = tmp_path / "old.h5"
    states = np.column_stack([np.arange(30) / 10, *np.random.default_rng(1).normal(size=(14, 30)), np.zeros(30)])
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["states"] = states
        group["observations"] = np.zeros((30, 5))
        group["actions"] = np.zeros((30, 4))
        group["controls"] = np.full((30, 4), 0.1)
        group["rewards"] = np.zeros(30)
        group.attrs["success"] = True
    with read_flight_log(path) as log:
        (episode,) = log.episodes
        assert np.array_equal(episode.column("states", "roll"), states[:, 7])
        assert np.array_equal(episode.column("states", "altitude"), states[:, 14])
        assert episode.columns("states")[-1] == "padding"
        assert episode.column("controls", "throttle")[0] == 0.1
        assert "setpoints" not in episode
        assert log.schema == 0
    code, text, _ = run(capsys, "log", "info", path)
    assert code == EXIT_PASS
    assert "setpoints: no tracking error at all" in text
    assert json.loads(run(capsys, "log", "info", path, "--json")[1])["missing"] == [
        "setpoints: no tracking error at all"
    ]


def test_a_log_with_nothing_missing_says_so(own_log, capsys):
    assert "for a gap analysis nothing is missing" in run(capsys, "log", "info", own_log)[1]


def test_an_unused_topic_of_strings_is_no_obstacle(tmp_path):
    flight = UlogFlight()
    t = flight.truth.times(1.0)
    flight.topics["names"] = UlogTopic("names", t, [("text", "char[8]", np.full((len(t), 8), 65, np.uint8))])
    assert len(import_log(flight.write(tmp_path / "a.ulg"), tmp_path / "o.h5").episodes) == 1


# --- real logs --------------------------------------------------------------------------------------------------------


@needs_real
def test_the_two_real_logs_of_one_flight_agree():
    """The same flight of ArduPlane (SITL), recorded on board and by a ground station."""
    board, station = (record(read_foreign(REAL / f"guided_attitude_manual.{s}"))[0] for s in ("BIN", "tlog"))
    t = np.arange(28.0, 66.0, 0.04)
    for name, within in (
        ("roll", 1e-3), ("pitch", 1e-3), ("yaw", 1e-3), ("p", 0.01), ("q", 0.01), ("r", 0.01), ("north", 0.05),
        ("east", 0.05), ("altitude", 0.02), ("v_north", 0.05), ("set_roll", 1e-3), ("set_pitch", 1e-3),
        ("set_altitude", 0.3), ("set_airspeed", 0.1),
    ):  # fmt: skip
        difference = resample(board[name], t) - resample(station[name], t)
        difference = (difference + np.pi) % (2 * np.pi) - np.pi if name == "yaw" else difference
        assert np.isfinite(difference).mean() > 0.7, name
        assert np.nanmedian(np.abs(difference)) < within, name


@needs_real
def test_the_real_plane_obeys_physics_and_its_setpoints(tmp_path):
    result = import_log(REAL / "guided_attitude_manual.BIN", tmp_path / "o.h5")
    arrays = result.episodes[0].arrays
    t, states = arrays["time_s"], arrays["states"]
    assert result.metadata.source == "sim"
    assert len(t) == pytest.approx(40.84 * 25, abs=3)
    assert np.isfinite(states).mean() > 0.99
    roll, pitch, p = states[:, 7], states[:, 8], states[:, 10]
    follows = np.isfinite(arrays["setpoints"][:, 3])
    assert np.corrcoef(roll[follows], arrays["setpoints"][follows, 3])[0, 1] > 0.9
    assert np.corrcoef(p, np.gradient(roll, t))[0, 1] > 0.95
    assert np.corrcoef(arrays["controls"][:, 0], np.gradient(p, t))[0, 1] > 0.4
    assert np.corrcoef(arrays["controls"][:, 1], np.gradient(states[:, 11], t))[0, 1] > 0.1
    assert np.nanmean(np.abs(states[:, 4] - states[:, 13])) < 3.0  # no wind: forward speed is the airspeed
    assert np.abs(pitch).max() < 0.6


@needs_real
@pytest.mark.parametrize(
    ("name", "vehicle", "source", "duration_s", "outcome"),
    [
        ("sample_appended_multiple.ulg", "quadrotor", "real", 9.8, "never armed"),
        ("sample_log_small.ulg", "vtol", "real", 6.5, r"1\.15 s at most"),
        ("sample_px4_events.ulg", "quadrotor", "sim", 31.1, ""),
        ("guided_attitude_manual.BIN", "fixed wing", "sim", 57.4, ""),
        ("guided_attitude_manual.tlog", "fixed wing", "sim", 65.3, ""),
    ],
)
def test_what_each_real_log_could_give(tmp_path, capsys, name, vehicle, source, duration_s, outcome):
    code, text, _ = run(capsys, "log", "info", REAL / name, "--json")
    data = json.loads(text)
    assert code == EXIT_PASS
    assert (data["vehicle"], data["source"]) == (vehicle, source)
    assert data["duration_s"] == pytest.approx(duration_s, abs=0.2)
    code, _, err = run(capsys, "log", "import", REAL / name, "-o", tmp_path / "o.h5")
    if outcome:
        assert code == EXIT_FAIL
        assert re.search(outcome, err)
    else:
        assert code == EXIT_PASS
        with read_flight_log(tmp_path / "o.h5") as log:
            assert log.metadata.source == source
