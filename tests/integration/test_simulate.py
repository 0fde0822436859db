"""`simulate`: a log as the flight agent's own, in the conditions it was told, complete or not there at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.flight_support import agent_command, agent_environment, make_bundle, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.cli import run
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.hidden_aircraft import hidden_aircraft, single_cause
from sim2sky.errors import ConfigError, FlightLogError
from sim2sky.hil.hil_test import compare_logs, run_hil
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.validation.flight import FlightJob, Flyer
from sim2sky.validation.simulate import simulate

SHORT = settings(duration_s=4.0, hold_s=1.0)
SEEDS = [21, 22, 23]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", SHORT)


def job_of(bundle: Bundle, environment: EnvironmentSettings = SHORT) -> FlightJob:
    return FlightJob.of(bundle, environment)


def test_it_is_the_log_that_the_flight_agent_writes_in_a_process_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    """... tick for tick, table for table: only the wire's rounding and the clock differ."""
    hidden = hidden_aircraft(5, SHORT)  # delays, noise and bias included
    outcomes = simulate(job_of(bundle, hidden), SEEDS, tmp_path / "sim.h5")
    result = run_hil(
        agent_command(bundle), hidden, SEEDS, agent_log=tmp_path / "agent.h5", environment=agent_environment()
    )
    assert [o.success for o in result.outcomes] == [o.success for o in outcomes]
    with read_flight_log(tmp_path / "sim.h5") as sim, read_flight_log(tmp_path / "agent.h5") as agent:
        assert sim.metadata.agent == agent.metadata.agent == "hand"
        assert sim.metadata.bundle_digest == agent.metadata.bundle_digest == bundle.digest
        assert sim.metadata.contract_hash == agent.metadata.contract_hash
        assert sim.metadata.rate_hz == agent.metadata.rate_hz == 20.0
        for name in ("vehicle", "task"):
            assert sim.metadata.config[name] == agent.metadata.config[name]
        for ours, theirs in zip(sim.episodes, agent.episodes, strict=True):
            assert set(ours.datasets) == set(theirs.datasets)
            assert len(ours) == len(theirs) == SHORT.ticks
            assert set(ours.attrs) == set(theirs.attrs)
            for name in ("success", "termination", "seed", "flight", "trip_ticks", "dropped_ticks"):
                assert ours.attrs[name] == theirs.attrs[name]
            for table in ours.datasets:
                assert ours.columns(table) == theirs.columns(table)
                assert ours.units(table) == theirs.units(table)
                assert ours[table].dtype == theirs[table].dtype
            np.testing.assert_allclose(ours["time_s"], theirs["time_s"], atol=1e-6)
            assert not ours["timing"].any()
        for table, tolerance in (("states", 0.05), ("controls", 0.02), ("setpoints", 1e-4)):
            worst = compare_logs(sim, agent, dataset=table)
            assert max(worst.values()) < tolerance, (table, worst)


@pytest.mark.parametrize("task", ["hsa", "attitude", "rate"])
@pytest.mark.parametrize("aircraft", ["ultrastick25e", "aerosonde"])
def test_every_task_of_every_aircraft(task: str, aircraft: str, tmp_path: Path) -> None:
    env = EnvironmentSettings.model_validate(
        {"aircraft": aircraft, "task": {"name": task, "duration_s": 3, "hold_s": 1}}
    )
    job = job_of(make_bundle(tmp_path / "bundle", env), hidden_aircraft(3, env))
    (outcome,) = simulate(job, [1], tmp_path / "sim.h5")
    with read_flight_log(tmp_path / "sim.h5") as log:
        assert (log.metadata.config["vehicle"], log.metadata.config["task"]) == (aircraft, task)
        assert len(log.episodes[0]) == 60 and log.episodes[0].termination == outcome.termination == "completed"
        moving = np.ptp(log.episodes[0]["setpoints"], axis=0)[5:] > 0.0
        assert moving.all() if task == "rate" else not moving.any()


def test_the_states_are_what_was_measured_not_the_truth(bundle: Bundle, tmp_path: Path) -> None:
    biased = single_cause("sensor bias", 1, SHORT)
    ((name, (bias, _)),) = biased.disturbances.sensors.offsets.items()
    column = {"airspeed_mps": "airspeed", "altitude_m": "altitude"}.get(name, name.split("_")[0])
    for env, path in ((SHORT, "plain.h5"), (biased, "biased.h5")):
        simulate(job_of(bundle, env), SEEDS[:1], tmp_path / path)
    with read_flight_log(tmp_path / "plain.h5") as plain, read_flight_log(tmp_path / "biased.h5") as other:
        first = [log.episodes[0].column("states", column)[0] for log in (plain, other)]
    assert first[1] - first[0] == pytest.approx(bias, abs=1e-9)


def test_metadata_says_what_was_flown_and_the_same_seeds_give_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    seen: list[int] = []
    outcomes = simulate(job_of(bundle), SEEDS, a, progress=lambda number, _: seen.append(number))
    simulate(job_of(bundle), SEEDS, b)
    assert seen == [0, 1, 2]
    assert outcomes == [Flyer(job_of(bundle)).fly(seed) for seed in SEEDS]
    with read_flight_log(a) as one, read_flight_log(b) as two:
        assert one.metadata == two.metadata
        assert one.metadata.source == "sim"
        flown = EnvironmentSettings.model_validate(one.metadata.config["environment"])
        assert flown == job_of(bundle).environment
        assert [e.seed for e in one.episodes] == SEEDS
        for left, right in zip(one.episodes, two.episodes, strict=True):
            for table in left.datasets:
                np.testing.assert_array_equal(left[table], right[table])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_stand_in_for_another_aircraft_does_not_say_what_it_is(bundle: Bundle, tmp_path: Path) -> None:
    notes = {"virtual_aircraft": {"seed": 5}}
    simulate(job_of(bundle, hidden_aircraft(5, SHORT)), SEEDS[:1], tmp_path / "v.h5", source="virtual", notes=notes)
    with read_flight_log(tmp_path / "v.h5") as log:
        assert log.metadata.source == "virtual"
        assert log.metadata.config == {"vehicle": "ultrastick25e", "task": "hsa", **notes}
    with pytest.raises(ConfigError, match="cannot be labelled real"):
        simulate(job_of(bundle), SEEDS, tmp_path / "r.h5", source="real")


def test_trips_of_the_guard_are_in_the_log_as_in_flight(bundle: Bundle, tmp_path: Path) -> None:
    """A rudder and aileron that are exchanged: the guard has to step in, and the log says when and why."""
    swapped = SHORT.model_dump()
    swapped["randomization"]["command_scale"] = {"aileron": (-1.0, -1.0)}
    (outcome,) = simulate(job_of(bundle, EnvironmentSettings.model_validate(swapped)), [3], tmp_path / "s.h5")
    assert not outcome.success
    with read_flight_log(tmp_path / "s.h5") as log:
        episode = log.episodes[0]
        assert episode.termination == outcome.termination != "completed"
        assert episode.events
        assert (episode.column("guard", "trips") != 0).sum() > 0
        assert sum(json.loads(episode.attrs["trip_ticks"]).values()) > 0


def test_interrupted_it_leaves_nothing_and_keeps_what_was_there(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "sim.h5"
    path.write_bytes(b"an older log")

    def interrupt(number: int, _: object) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(job_of(bundle), SEEDS, path, overwrite=True, progress=interrupt)
    assert path.read_bytes() == b"an older log"
    assert [p.name for p in tmp_path.iterdir()] == ["sim.h5"]


def test_what_cannot_be_written_is_refused_before_anything_flies(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "there.h5").touch()
    with pytest.raises(FlightLogError, match="already exists"):
        simulate(job_of(bundle), SEEDS, tmp_path / "there.h5")
    with pytest.raises(FlightLogError, match="there is no folder"):
        simulate(job_of(bundle), SEEDS, tmp_path / "nowhere" / "log.h5")
    with pytest.raises(ConfigError, match="at least one seed"):
        simulate(job_of(bundle), [], tmp_path / "log.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["there.h5"]


def test_another_bundle_than_the_job_was_made_for_does_not_fly(bundle: Bundle, tmp_path: Path) -> None:
    from sim2sky.errors import BundleError

    with pytest.raises(BundleError):
        simulate(replace(job_of(bundle), digest="0" * 64), SEEDS, tmp_path / "log.h5")
    assert not list(tmp_path.iterdir())


YAML = "validation:\n  environment:\n    task: {duration_s: 3, hold_s: 1}\n"


def test_the_command(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, patch, log = tmp_path / "v.yaml", tmp_path / "patch.yaml", tmp_path / "sim.h5"
    config.write_text(YAML)
    patch.write_text("aircraft: ultrastick25e\nrandomization:\n  thrust_scale: [0.8, 0.8]\n")
    words = ["simulate", str(bundle.path), "--log", str(log), "--episodes", "2", "--config", str(config)]
    assert run([*words, "--randomization", str(patch), "--seed", "9"]) == 0
    printed = capsys.readouterr().out
    assert "simulation of hand, ultrastick25e, hsa" in printed
    assert "2 simulated flights" in printed and "labelled sim" in printed
    with read_flight_log(log) as written:
        assert len(written) == 2
        assert written.metadata.config["environment"]["randomization"]["thrust_scale"] == [0.8, 0.8]
        assert written.metadata.config["environment"]["task"]["duration_s"] == 3.0
        first = written.episodes[0].seed
    assert run(words) == 2
    assert "already exists" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0  # the configuration's own seed and parameters
    with read_flight_log(log) as written:
        assert written.episodes[0].seed != first
        assert written.metadata.config["environment"]["randomization"]["thrust_scale"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--episodes", "0"], "--episodes must be 1 or above"),
        (["--randomization", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_the_commands_misuse(
    bundle: Bundle, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", str(bundle.path), "--log", str(tmp_path / "s.h5"), *words]) == 2
    assert said in capsys.readouterr().err
    assert run(["simulate", str(tmp_path / "none"), "--log", str(tmp_path / "s.h5")]) != 0
    assert "no bundle" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_patch_for_another_aircraft_is_refused(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = tmp_path / "patch.yaml"
    patch.write_text("aircraft: aerosonde\nrandomization:\n  thrust_scale: [0.8, 0.8]\n")
    log = tmp_path / "s.h5"
    assert run(["simulate", str(bundle.path), "--log", str(log), "--randomization", str(patch)]) == 2
    assert "aerosonde" in capsys.readouterr().err
    assert not log.exists()
