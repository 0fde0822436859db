"""Metrics of whole flights against flights whose metrics are known."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gap_support import CONTRACT, RATE_HZ, Synthetic, write_log

from sim2sky.analysis.flight_metrics import (
    METRICS,
    channel_metrics,
    environment_of,
    flights_of,
    metrics_of,
    task_of,
    tracked_channels,
)
from sim2sky.config import EnvironmentSettings
from sim2sky.config.environment import TaskSettings
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.flight_log import read_flight_log

TASK = TaskSettings()


def measured(path: Path, flights, *, planned_s: float = 20.0, **options):
    with read_flight_log(write_log(path, flights)) as log:
        return [metrics_of(f, TASK, planned_s, **options) for f in flights_of(log)]


def test_known_errors_in_tolerances_and_units(tmp_path: Path) -> None:
    (m,) = measured(tmp_path / "a.h5", [Synthetic(error=0.5, effort=0.25)])
    assert m.values["tracking_error"] == pytest.approx(0.5)
    assert m.values["altitude_error_m"] == pytest.approx(5.0)
    assert m.values["airspeed_error_mps"] == pytest.approx(1.0)
    assert m.values["heading_error_rad"] == pytest.approx(math.radians(5.0))  # across the cut at pi
    assert m.values["control_effort"] == pytest.approx(0.25)
    assert m.values["control_effort_without_trim"] == pytest.approx(0.0)
    assert m.values["control_activity"] == 0.0
    assert m.values["episode_length"] == pytest.approx(20.0)
    assert m.values["success"] == 1.0
    assert set(m.values) == {x.name for x in (*METRICS, *channel_metrics("hsa"))}


@pytest.mark.parametrize(("error", "success"), [(0.99, 1.0), (1.01, 0.0)])
def test_success_is_the_tolerance(tmp_path: Path, error: float, success: float) -> None:
    assert measured(tmp_path / "a.h5", [Synthetic(error=error)])[0].values["success"] == success


def test_a_judge_in_the_log_has_no_say(tmp_path: Path) -> None:
    """A real flight's log says only whether it ended as asked."""
    good, bad = measured(tmp_path / "a.h5", [Synthetic(0.2, success=False), Synthetic(1.5, success=True)])
    assert (good.values["success"], bad.values["success"]) == (1.0, 0.0)


def test_noise_of_single_samples_does_not_spoil_a_success(tmp_path: Path) -> None:
    arrays = Synthetic(error=0.4).arrays()
    rng = np.random.default_rng(0)
    arrays["states"][:, 13] += 1.0 * rng.standard_normal(len(arrays["time_s"]))  # half the tolerance
    assert measured(tmp_path / "a.h5", [arrays])[0].values["success"] == 1.0
    arrays["states"][-40:, 13] += 3.0  # two seconds outside are no noise
    assert measured(tmp_path / "b.h5", [arrays])[0].values["success"] == 0.0


def test_a_flight_that_ends_early_fails_and_is_short(tmp_path: Path) -> None:
    early, earlier = measured(tmp_path / "a.h5", [Synthetic(duration_s=15.0), Synthetic(duration_s=6.0)])
    assert (early.values["success"], early.values["episode_length"]) == (0.0, pytest.approx(15.0))
    assert early.values["tracking_error"] == pytest.approx(0.1)
    assert math.isnan(earlier.values["tracking_error"])  # never came to its second half
    assert earlier.values["control_effort"] == pytest.approx(0.3)


def test_a_longer_flight_counts_up_to_its_planned_end(tmp_path: Path) -> None:
    arrays = Synthetic(duration_s=40.0).arrays()
    arrays["states"][500:, 14] = 0.0  # after 25 s
    (m,) = measured(tmp_path / "a.h5", [arrays])
    assert m.values["success"] == 1.0
    assert m.values["tracking_error"] == pytest.approx(0.1)
    assert m.values["episode_length"] == 20.0
    assert m.duration_s == pytest.approx(40.0)


def test_control_effort_with_and_without_trim(tmp_path: Path) -> None:
    arrays = Synthetic().arrays()
    arrays["controls"][:] = 0.4 + 0.1 * np.sign(np.sin(np.arange(400) + 0.5))[:, None]
    (m,) = measured(tmp_path / "a.h5", [arrays])
    assert m.values["control_effort"] == pytest.approx(0.4, abs=2e-3)
    assert m.values["control_effort_without_trim"] == pytest.approx(0.1, abs=2e-3)
    assert m.values["control_activity"] > 1.0


def test_what_follows_an_event_does_not_count(tmp_path: Path) -> None:
    arrays = Synthetic().arrays()
    arrays["states"][300:, 14] = 0.0  # fell from the sky after 15 s
    whole, cut, before = (
        measured(tmp_path / f"{i}.h5", [arrays], event_s=t)[0].values for i, t in enumerate((None, 15.0, 5.0))
    )
    assert (whole["success"], whole["tracking_error"] > 5.0) == (0.0, True)
    assert math.isnan(cut["success"])
    assert math.isnan(cut["episode_length"])
    assert cut["tracking_error"] == pytest.approx(0.1)
    assert cut["control_effort"] == pytest.approx(0.3)
    assert math.isnan(before["tracking_error"])


def test_gaps_in_an_imported_log(tmp_path: Path) -> None:
    arrays = Synthetic(error=0.3).arrays()
    arrays["states"][220:260] = np.nan
    arrays["controls"][50:70] = np.nan
    holes = Synthetic(error=0.3).arrays()
    holes["states"][310:, 1:] = np.nan  # nearly the whole hold
    a, b = measured(tmp_path / "a.h5", [arrays, holes])
    assert a.values["success"] == 1.0
    assert a.values["tracking_error"] == pytest.approx(0.3)
    assert a.values["control_effort"] == pytest.approx(0.3)
    assert math.isnan(b.values["success"])


def test_missing_setpoints_are_missing_metrics(tmp_path: Path) -> None:
    arrays = Synthetic().arrays()
    del arrays["setpoints"]
    (m,) = measured(tmp_path / "a.h5", [arrays])
    for name in ("success", "tracking_error", "altitude_error_m"):
        assert math.isnan(m.values[name])
    assert m.values["control_effort"] == pytest.approx(0.3)
    assert m.values["episode_length"] == pytest.approx(20.0)


def test_a_missing_channel_is_left_out_only_where_asked(tmp_path: Path) -> None:
    arrays = Synthetic(error=0.3).arrays()
    arrays["setpoints"][:, 1] = np.nan
    with read_flight_log(write_log(tmp_path / "a.h5", [arrays])) as log:
        flights = flights_of(log)
    channels = tracked_channels(flights, "hsa")
    assert channels == {"altitude_error_m", "heading_error_rad"}
    assert metrics_of(flights[0], TASK, 20.0, channels=channels).values["tracking_error"] == pytest.approx(0.3)
    assert metrics_of(flights[0], TASK, 20.0, channels=channels).values["success"] == 1.0
    assert math.isnan(metrics_of(flights[0], TASK, 20.0).values["tracking_error"])


def test_segments_are_one_flight(tmp_path: Path) -> None:
    whole = Synthetic(error=0.2, duration_s=30.0).arrays()
    first = {k: v[:300] for k, v in whole.items()}
    second = {k: v[300:] for k, v in whole.items()}
    path = tmp_path / "a.h5"
    write_log(path, [first, second, Synthetic()])
    with h5py.File(path, "r+") as file:
        file["episode_0000"].attrs["termination"] = "continued"
    with read_flight_log(path) as log:
        flights = flights_of(log)
    assert [len(f) for f in flights] == [600, 400]
    assert flights[0].duration_s == pytest.approx(30.0)
    assert flights[0].termination == "completed"
    assert [f.name for f in flights] == ["episode_0000", "episode_0002"]


def test_the_older_layout(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        states = np.zeros((200, 16))
        states[:, 0] = np.arange(200) / 10.0
        group = file.create_group("episode_0")
        group["states"] = states
        group["controls"] = np.full((200, 4), 0.5)
        group["actions"] = np.zeros((200, 4))
        group["observations"] = np.zeros((200, 25))
    with read_flight_log(path) as log:
        (flight,) = flights_of(log)
        assert task_of(log) is None
    assert flight.rate_hz == pytest.approx(10.0)
    values = metrics_of(flight, TASK, 20.0).values
    assert math.isnan(values["tracking_error"])
    assert values["control_effort"] == 0.5
    assert values["episode_length"] == pytest.approx(20.0)


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    with read_flight_log(write_log(tmp_path / "a.h5", [])) as log, pytest.raises(FlightLogError, match="no episodes"):
        flights_of(log)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"task": {"name": "rate", "duration_s": 7.0, "hold_s": 2.0}}, ("rate", 7.0)),
        ({"environment": {"task": {"name": "attitude"}}, "task": "hsa"}, ("attitude", 20.0)),
        ({"task": "attitude"}, ("attitude", 20.0)),
        ({}, ("hsa", 20.0)),  # the observations' columns
    ],
)
def test_where_the_task_is_found(tmp_path: Path, config: dict[str, object], expected: tuple[str, float]) -> None:
    assert "heading_error_rad" in CONTRACT.observation_names
    with read_flight_log(write_log(tmp_path / "a.h5", [Synthetic()], config=config)) as log:
        task = task_of(log)
    assert task is not None
    assert (task.name, task.duration_s) == expected


def test_a_task_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.h5", [Synthetic()], config={"task": "juggling"})
    with read_flight_log(path) as log, pytest.raises(FlightLogError, match="juggling"):
        task_of(log)


def test_the_environment_of_a_simulated_log(tmp_path: Path) -> None:
    settings = EnvironmentSettings.model_validate({"rate_hz": 40.0})
    config = {"environment": settings.model_dump(mode="json")}
    for name, stated, expected in (
        ("a", config, settings),
        ("b", settings.model_dump(mode="json"), settings),
        ("c", {}, None),
    ):
        with read_flight_log(write_log(tmp_path / f"{name}.h5", [Synthetic()], config=stated)) as log:
            assert environment_of(log) == expected


@given(st.floats(0.0, 0.9), st.integers(0, 1000))
def test_metrics_are_those_of_the_second_half(error: float, seed: int) -> None:
    """Whatever happens in the first half leaves the tracking error alone."""
    from sim2sky.analysis.flight_metrics import FlightData
    from sim2sky.telemetry.log_schema import COLUMNS

    arrays = Synthetic(error=error).arrays()
    rng = np.random.default_rng(seed)
    arrays["states"][:200, 1:] = rng.normal(size=(200, 15))
    states = {name: arrays["states"][:, i] for i, name in enumerate(COLUMNS["states"])}
    setpoints = {name: arrays["setpoints"][:, i] for i, name in enumerate(COLUMNS["setpoints"])}
    flight = FlightData("f", "", 0, RATE_HZ, arrays["time_s"], states, arrays["controls"], setpoints)
    assert metrics_of(flight, TASK, 20.0).values["tracking_error"] == pytest.approx(error, abs=1e-9)
