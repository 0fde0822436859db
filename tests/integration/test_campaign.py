"""Campaigns: the same outcomes in the same order on one worker, on processes, on a cluster, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.deploy_support import contract, flying_bundle, make_bundle

from sim2sky.agent.bundle import Bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import BundleError, ConfigError, LinkError, NotSupportedError, Sim2SkyError
from sim2sky.validation import campaign
from sim2sky.validation.campaign import Progress, campaign_hash, campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob, collect_observations, environment_for

SRC = Path(campaign.__file__).resolve().parents[2]
ROOT = SRC.parent
SHORT = EnvironmentSettings.model_validate({"task": {"duration_s": 4.0, "hold_s": 1.0}})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return flying_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def job(bundle: Bundle) -> FlightJob:
    return FlightJob.of(bundle, SHORT)


@pytest.fixture(scope="module")
def alone(job: FlightJob) -> list[EpisodeOutcome]:
    return fly_campaign(job, campaign_seeds(3, 12), workers=1)


def test_seeds_follow_from_one_and_do_not_depend_on_how_many() -> None:
    assert campaign_seeds(1, 50) == campaign_seeds(1, 100)[:50]
    assert len({*campaign_seeds(1, 100), *campaign_seeds(2, 100), *campaign_seeds(1, 100, stream=1)}) == 300
    assert all(0 <= seed < 2**63 for seed in campaign_seeds(0, 100))


def test_processes_give_what_one_worker_gives(job: FlightJob, alone: list[EpisodeOutcome]) -> None:
    assert [o.seed for o in alone] == campaign_seeds(3, 12)
    assert fly_campaign(job, campaign_seeds(3, 12), workers=2) == alone


def test_an_episode_depends_on_its_seed_alone(job: FlightJob, alone: list[EpisodeOutcome]) -> None:
    seeds = campaign_seeds(3, 12)
    assert fly_campaign(job, seeds[::-1], workers=1) == alone[::-1]
    assert fly_campaign(job, seeds[5:6], workers=1) == alone[5:6]


def test_progress_carries_the_running_interval(job: FlightJob) -> None:
    seen: list[Progress] = []
    fly_campaign(job, campaign_seeds(3, 3), workers=1, progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(p.interval.low <= p.successes / p.done <= p.interval.high for p in seen)


def test_finished_episodes_are_not_flown_again(job: FlightJob, alone: list[EpisodeOutcome], tmp_path: Path) -> None:
    seeds = campaign_seeds(3, 12)
    fly_campaign(job, seeds[:7], workers=1, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes()
    assert lines.count(b"\n") == 7
    path.write_bytes(lines[:-20])  # a torn line, as a power cut leaves it
    seen: list[Progress] = []
    assert fly_campaign(job, seeds, workers=1, folder=tmp_path, progress=seen.append) == alone
    assert seen[0].done == 6
    assert path.read_bytes().count(b"\n") == 12
    assert fly_campaign(job, seeds, workers=1, folder=tmp_path) == alone


def test_a_kept_outcome_is_what_is_reported(job: FlightJob, tmp_path: Path) -> None:
    """Negative control: the file is really used; a changed line comes back changed."""
    seeds = campaign_seeds(3, 2)
    fly_campaign(job, seeds, workers=1, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    first, *rest = path.read_text().splitlines()
    changed = {**json.loads(first), "termination": "written by hand"}
    path.write_text("\n".join([json.dumps(changed), *rest]) + "\n")
    assert fly_campaign(job, seeds, workers=1, folder=tmp_path)[0].termination == "written by hand"


KILLED = """
import os, signal, sys
from pathlib import Path
from sim2sky.agent.bundle import open_bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.validation.campaign import campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob
job = FlightJob.of(open_bundle(Path(sys.argv[1])), EnvironmentSettings.model_validate_json(sys.argv[3]))
def progress(p):
    if p.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
fly_campaign(job, campaign_seeds(3, 12), workers=1, folder=Path(sys.argv[2]), progress=progress)
"""


def test_killed_in_the_middle_it_goes_on(
    bundle: Bundle, job: FlightJob, alone: list[EpisodeOutcome], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle.path), str(tmp_path), SHORT.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    seen: list[Progress] = []
    assert fly_campaign(job, campaign_seeds(3, 12), workers=1, folder=tmp_path, progress=seen.append) == alone
    assert seen[0].done == 5


def test_other_conditions_are_another_campaign(bundle: Bundle, job: FlightJob, tmp_path: Path) -> None:
    windy = SHORT.model_copy(update={"disturbances": SHORT.disturbances.model_copy(update={"wind_mps": (8.0, 9.0)})})
    other = FlightJob.of(bundle, windy)
    worse = FlightJob.of(flying_bundle(tmp_path / "w", scale=0.9), SHORT)
    assert len({campaign_hash(j) for j in (job, other, worse)}) == 3
    moved = FlightJob(str(tmp_path), job.digest, job.environment, job.safety)
    assert campaign_hash(moved) == campaign_hash(job)


def test_a_worse_policy_scores_worse(tmp_path: Path) -> None:
    """Negative control of the whole chain: a policy that hardly steers does not succeed."""
    weak = FlightJob.of(flying_bundle(tmp_path / "weak", scale=0.02), EnvironmentSettings())
    assert sum(o.success for o in fly_campaign(weak, campaign_seeds(3, 10), workers=1)) <= 3


def test_a_bundle_that_changed_is_refused_on_every_worker(tmp_path: Path) -> None:
    bundle = flying_bundle(tmp_path / "b")
    job = FlightJob.of(bundle, SHORT)
    path = bundle.path / "policy.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for workers in (1, 2):
        with pytest.raises(Sim2SkyError, match="differs from its manifest"):
            fly_campaign(job, campaign_seeds(3, 4), workers=workers)


def test_an_agent_without_a_vehicle_is_not_supported(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="its contract names no vehicle"):
        FlightJob.of(make_bundle(tmp_path / "b"), SHORT)


def test_a_bundle_without_limits_needs_them_from_elsewhere(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", vehicle="ultrastick25e")
    with pytest.raises(BundleError, match="no safety limits"):
        FlightJob.of(bundle, SHORT)
    safety = FlightJob.of(bundle, SHORT, {"roll_max": 50.0, "airspeed_max_mps": 28.0}).safety
    gains = AIRFRAMES["ultrastick25e"].gains.to_json()  # a fallback law is never missing, nor what it can do
    assert safety["fallback"] == gains and safety["fallback_bank_deg"] == 38
    assert safety["roll_max"] == 50.0 and safety["airspeed_max_mps"] == 28.0  # what is asked for wins


@pytest.mark.parametrize("rate", [10.0, 20.0, 25.0, 50.0, 7.0])
def test_conditions_take_vehicle_task_and_rate_from_the_contract(rate: float) -> None:
    from dataclasses import replace

    settings = environment_for(replace(contract("aerosonde"), rate_hz=rate), EnvironmentSettings())
    assert (settings.aircraft, settings.task.name, settings.rate_hz) == ("aerosonde", "hsa", rate)
    assert settings.physics_hz >= 60
    assert settings.physics_hz % rate == pytest.approx(0.0)


def test_observations_of_flights_are_collected_in_order(job: FlightJob) -> None:
    seen = collect_observations(job, campaign_seeds(3, 2))
    assert seen["observation"].shape == (160, 24)
    assert seen["episode_start"].nonzero()[0].tolist() == [0, 80]


def test_seeds_must_differ_and_folders_be_writable(job: FlightJob, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must differ"):
        fly_campaign(job, [1, 1])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep the campaign"):
        fly_campaign(job, [1], workers=1, folder=tmp_path / "file" / "deeper")
    (tmp_path / f"campaign-{campaign_hash(job)[:24]}.jsonl").write_text("not json\n")
    with pytest.raises(ConfigError, match="is not a campaign's file"):
        fly_campaign(job, [1], workers=1, folder=tmp_path)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "dask://nowhere", "127.0.0.1:8786"])
def test_senseless_cluster_addresses_are_refused(job: FlightJob, address: str) -> None:
    with pytest.raises(ConfigError, match="is no cluster"):
        fly_campaign(job, [1], cluster=address)


def test_a_cluster_that_does_not_answer_is_a_plain_error(job: FlightJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(LinkError, match="no Dask scheduler answers"):
        fly_campaign(job, [1], cluster="dask://127.0.0.1:9")


@pytest.mark.slow
def test_a_dask_cluster_gives_what_one_worker_gives(
    bundle: Bundle, job: FlightJob, alone: list[EpisodeOutcome], tmp_path: Path
) -> None:
    """A scheduler and two workers as processes on loopback; the workers see neither our folder nor our variables."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": f"{SRC}:{ROOT}", "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"log{len(started)}").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
            env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        started.append(process)
        return process

    try:
        address = tmp_path / "scheduler.json"
        start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address)
        )
        deadline = time.monotonic() + 40
        while not address.exists() or not address.read_text().strip().endswith("}"):
            assert time.monotonic() < deadline, (tmp_path / "log0").read_text()
            time.sleep(0.1)
        where = json.loads(address.read_text())["address"]
        for i in range(2):
            start("dask_worker", where, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1",
                  "--local-directory", str(tmp_path / f"w{i}"))  # fmt: skip
        seen: list[Progress] = []
        kept = tmp_path / "kept"
        cluster = where.replace("tcp://", "dask://")
        while True:
            try:
                got = fly_campaign(job, campaign_seeds(3, 12), cluster=cluster, folder=kept, progress=seen.append)
                break
            except LinkError as error:  # the workers have not reported yet
                assert "no workers" in error.message
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert got == alone
        assert len(seen) == 12
        assert fly_campaign(job, campaign_seeds(3, 12), workers=1, folder=kept) == alone  # resumed from what it kept
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
