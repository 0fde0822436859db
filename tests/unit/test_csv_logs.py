"""Folders of CSV files with a mapping, in MAVROS's axes and in ours, and mappings that are wrong."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from tests.log_support import Truth, quaternion, wrap

from sim2sky.config import log_mapping
from sim2sky.config.loader import parse_settings
from sim2sky.config.log_mapping import LogMapping
from sim2sky.errors import ConfigError, FlightLogError
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.telemetry.importers.import_log import import_log, read_foreign

TRUTH = Truth()
START_NS = 1_700_000_000_000_000_000
MAPPING = """\
source: real
vehicle: fixed wing
files:
  - file: imu.csv
    time: "%time"
    time_unit: ns
    axes: enu_flu
    quaternion: [field.orientation.w, field.orientation.x, field.orientation.y, field.orientation.z]
    channels:
      p: field.angular_velocity.x
      q: field.angular_velocity.y
      r: field.angular_velocity.z
  - file: pose.csv
    time: "%time"
    time_unit: ns
    channels:
      east: x
      north: y
      altitude: z
      v_down: {column: vz, scale: -1}
  - file: hud.csv
    time: "%time"
    time_unit: ns
    channels: {airspeed: airspeed}
  - file: rcout.csv
    time: "%time"
    time_unit: ns
    channels:
      aileron: {column: ch0, scale: 0.0025, offset: -3.75}
      throttle: {column: ch2, scale: 0.00125, offset: -1.375}
  - file: state.csv
    time: "%time"
    time_unit: ns
    channels: {armed: armed, airborne: airborne}
"""


def table(path: Path, times: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    rows = [",".join(["%time", *columns])]
    stamps = START_NS + np.round(times * 1e9).astype(np.int64)
    rows += [",".join([str(t), *(str(v[i]) for v in columns.values())]) for i, t in enumerate(stamps)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As MAVROS tells it: forward, left, up against east, north, up."""
    path = tmp_path / "flight"
    path.mkdir()
    t = TRUTH.times(50.0)
    c = TRUTH.at(t)
    q = quaternion(c["roll"], -c["pitch"], np.pi / 2 - c["yaw"])
    imu = {f"field.orientation.{n}": q[:, i] for i, n in enumerate("wxyz")}
    imu |= {f"field.angular_velocity.{n}": s * c[r] for n, s, r in (("x", 1, "p"), ("y", -1, "q"), ("z", -1, "r"))}
    table(path / "imu.csv", t, imu)
    t = TRUTH.times(20.0)
    c = TRUTH.at(t)
    table(path / "pose.csv", t, {"x": c["east"], "y": c["north"], "z": c["altitude"], "vz": -c["v_down"]})
    table(path / "hud.csv", t, {"airspeed": c["airspeed"]})
    table(path / "rcout.csv", t, {"ch0": 1500 + 400 * c["aileron"], "ch2": 1100 + 800 * c["throttle"]})
    t = TRUTH.times(1.0)
    c = TRUTH.at(t)
    table(path / "state.csv", t, {n: np.where(c[n] > 0, "True", "False") for n in ("armed", "airborne")})
    (path / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    return path


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "mapping.yaml").read_text(encoding="utf-8")
    assert old in text
    (folder / "mapping.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_folder_gives_back_its_flight(folder, tmp_path):
    out = tmp_path / "out.h5"
    result = import_log(folder, out)
    with read_flight_log(out) as log:
        assert (log.metadata.source, log.metadata.rate_hz) == ("real", 50.0)
        assert log.metadata.config["imported"]["format"] == "CSV folder"
        (episode,) = log.episodes
        c = TRUTH.at(episode["time_s"] + episode.attrs["start_s"] - START_NS * 1e-9)
        for name in ("roll", "pitch", "yaw", "p", "q", "r", "north", "east", "altitude", "airspeed"):
            error = wrap(episode.column("states", name) - c[name])
            assert np.abs(error)[5:-5].max() < 0.02, name
        for name in ("aileron", "throttle"):
            assert np.abs(episode.column("controls", name) - c[name])[5:-5].max() < 0.02, name
        assert np.isnan(episode.column("controls", "rudder")).all()
        assert episode.termination == "landed"
    assert [line.split(":")[0] for line in result.missing] == ["surface commands (elevator)", "setpoints", "success"]


def test_in_our_axes_the_same_numbers_mean_another_attitude(folder, tmp_path):
    """Negative control: forgetting the axes is noticed."""
    change(folder, "    axes: enu_flu\n", "")
    out = tmp_path / "out.h5"
    import_log(folder, out)
    with read_flight_log(out) as log:
        (episode,) = log.episodes
        c = TRUTH.at(episode["time_s"] + episode.attrs["start_s"] - START_NS * 1e-9)
        assert np.abs(episode.column("states", "pitch") - c["pitch"]).max() > 0.1


def test_always_stands_in_for_columns(folder, tmp_path):
    change(folder, "vehicle: fixed wing\n", "vehicle: fixed wing\nalways: [armed, airborne]\n")
    change(folder, "    channels: {armed: armed, airborne: airborne}\n", "")
    result = import_log(folder, tmp_path / "out.h5")
    assert len(result.episodes[0].arrays["time_s"]) == pytest.approx(2000, abs=2)
    assert result.episodes[0].termination == "end of the log"


def test_without_either_there_is_no_flight(folder, tmp_path):
    change(folder, "    channels: {armed: armed, airborne: airborne}\n", "")
    with pytest.raises(FlightLogError, match="does not say when the aircraft was armed"):
        import_log(folder, tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source: real", "source: virtual", r"mapping\.yaml:1: source"),
        ("vehicle:", "vehicel:", r"mapping\.yaml:2: unknown key 'vehicel'; did you mean 'vehicle'"),
        ("      p: field", "      roll: field", r"mapping\.yaml:4: .*roll given twice|roll given twice"),
        ("      east: x", "      east: xx", r"mapping\.yaml:17: pose\.csv has no column 'xx'; it has: %time, x, y"),
        ("file: hud.csv", "file: hood.csv", r"mapping\.yaml:21: there is no file"),
        ("time_unit: ns", "time_unit: days", r"mapping\.yaml:6: files\.0\.time_unit"),
        ("      r: field", "      yaw_rate: field", r"mapping\.yaml:12: "),
        ("files:", "files: [", r"mapping\.yaml:.*not valid YAML"),
    ],
)
def test_a_wrong_mapping_is_named_with_its_line(folder, old, new, said):
    change(folder, old, new)
    with pytest.raises(ConfigError, match=said):
        read_foreign(folder)


def test_a_missing_mapping_is_said(folder, tmp_path):
    (folder / "mapping.yaml").rename(tmp_path / "m.yaml")
    with pytest.raises(ConfigError, match="no mapping file"):
        read_foreign(folder)
    assert read_foreign(folder, tmp_path / "m.yaml").topics


def test_rows_that_cannot_be_read_are_counted(folder):
    path = folder / "hud.csv"
    lines = path.read_text().splitlines()
    lines[10] = "nonsense,1.0"
    lines[20] = lines[20].split(",")[0]
    lines[30] = lines[30].split(",")[0] + ",broken"
    path.write_text("\n".join(lines) + "\n\0\n")
    log = read_foreign(folder)
    assert log.damage == ["hud.csv: 2 rows could not be read"]
    topic = log.find("hud.csv")
    assert topic is not None
    assert np.isnan(topic["airspeed"]).sum() == 1


@pytest.mark.parametrize("where", ["docs", "module"])
def test_the_documented_mappings_are_valid(where):
    if where == "docs":
        text = (Path(__file__).resolve().parents[2] / "docs/log-import.md").read_text(encoding="utf-8")
        text = text.split("```yaml\n")[1].split("```")[0]
    else:
        text = textwrap.dedent((log_mapping.__doc__ or "").split("\n\n", 1)[1])
    mapping = parse_settings(text, LogMapping, source=where)
    assert {f.file for f in mapping.files} == {"mavros-imu-data.csv", "mavros-rc-out.csv"}
    assert mapping.files[1].channels["aileron"].scale == 0.0025
