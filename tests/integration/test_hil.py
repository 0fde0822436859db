"""Two real processes on a real link: outcomes, logs, loss, death, silence, real time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.flight_support import agent_command, agent_environment, linear_network, make_bundle, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.layers import Clip, Dense, Network
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome, fly_episode
from sim2sky.environments.tasks import make_contract
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ConfigError, LinkError
from sim2sky.hil.hil_test import compare_logs, compare_with_simulation, run_hil
from sim2sky.hil.plant import Plant
from sim2sky.runtime.assembly import make_agent
from sim2sky.runtime.clock import RealClock
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import mavlink, open_link
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import Command, Sample
from sim2sky.telemetry.flight_log import read_flight_log

ENV = agent_environment()
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings())


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Other tests' worker pools may live on in this process; ours must leave nothing of its own."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def agents_child() -> psutil.Process:
    """The flight agent that `run_hil` started."""
    (child,) = (c for c in psutil.Process().children() if "sim2sky.runtime.main" in " ".join(c.cmdline()))
    return child


def simulate(bundle: Bundle, env: EnvironmentSettings, seeds: list[int]) -> list[EpisodeOutcome]:
    agent, vehicle = make_agent(bundle), SimVehicle(env)
    outcomes = []
    for seed in seeds:
        agent.reset()
        outcomes.append(fly_episode(vehicle, lambda s, t, now: agent.tick(s, t, now).command, seed))
    return outcomes


@pytest.mark.parametrize("link", ["udp", "tcp"])
def test_lockstep_reproduces_the_simulation_and_both_sides_log(bundle: Bundle, link: str, tmp_path: Path) -> None:
    env = settings()
    seen: list[int] = []
    result = run_hil(
        agent_command(bundle),
        env,
        SEEDS,
        link=link,  # type: ignore[arg-type]
        log_dir=tmp_path,
        environment=ENV,
        agent_name="hand",
        bundle_digest=bundle.digest,
        progress=lambda episode, outcome: seen.append(outcome.seed),
    )
    agreement = compare_with_simulation(result.outcomes, simulate(bundle, env, SEEDS))
    assert agreement.agrees and agreement.same_duration == 3 and result.success_rate == 1.0
    assert agreement.tracking_rmse_difference["altitude_rmse_m"] < 0.05
    assert agreement.tracking_rmse_difference["heading_rmse_rad"] < 1e-3
    assert seen == SEEDS and bundle.digest.startswith(result.identity.bundle_digest)
    assert result.exchange_us["n"] == 3 * env.ticks and 0 < result.exchange_us["median"] <= result.exchange_us["p99"]
    assert result.plant_log is not None and result.agent_log is not None
    with read_flight_log(result.plant_log) as plant, read_flight_log(result.agent_log) as agent:
        assert plant.metadata.source == agent.metadata.source == "hil"
        assert agent.metadata.bundle_digest == bundle.digest and agent.metadata.contract_hash == bundle.contract.hash
        for there, here in zip(plant.episodes, agent.episodes, strict=True):
            assert there.attrs["seed"] == here.attrs["seed"] and there.success == here.success
            assert here.termination == "completed" and len(here) == len(there) == env.ticks
            assert here.columns("observations") == bundle.contract.observation_names
            timing = here["timing"]
            assert (timing[:, 0] <= timing[:, 1]).all() and (timing[:, 1] <= timing[:, 2]).all()
        # What the agent sent is what the plant flew, to float32.
        assert max(compare_logs(plant, agent, dataset="controls").values()) < 1e-6
        assert max(compare_logs(plant, agent, dataset="setpoints").values()) < 1e-4


@pytest.mark.parametrize("task", ["attitude", "rate"])
def test_setpoints_of_the_other_tasks_travel_too(task: str, tmp_path: Path) -> None:
    """In the rate task the setpoint changes at every tick."""
    env = settings(name=task, duration_s=6.0, hold_s=1.0)
    bundle = make_bundle(tmp_path / "b", env)
    result = run_hil(agent_command(bundle), env, [5], log_dir=tmp_path, environment=ENV)
    assert compare_with_simulation(result.outcomes, simulate(bundle, env, [5])).agrees
    assert result.plant_log is not None and result.agent_log is not None
    with read_flight_log(result.plant_log) as plant, read_flight_log(result.agent_log) as agent:
        assert max(compare_logs(plant, agent, dataset="setpoints").values()) < 1e-4


def test_an_agent_that_flies_away_fails_in_hil_as_in_simulation(tmp_path: Path) -> None:
    """Negative control: reversed elevator and throttle; with wide limits the guard lets it."""
    env = settings()
    good = linear_network(make_contract(env))
    dense, clip = good.layers
    assert isinstance(dense, Dense) and isinstance(clip, Clip)
    bad = Network(good.inputs, (Dense(-dense.weight, -dense.bias), clip))
    wide = SafetyLimits(roll_max=180.0, pitch_max=90.0, pitch_min=-90.0, altitude_min=0.0, geofence_enabled=False)
    bundle = make_bundle(tmp_path / "b", env, network=bad, limits=wide)
    result = run_hil(agent_command(bundle), env, [1, 2], environment=ENV)
    assert result.success_rate == 0.0
    assert compare_with_simulation(result.outcomes, simulate(bundle, env, [1, 2])).same_success == 2


def test_the_guard_takes_over_behind_the_link_and_the_plant_counts_it(tmp_path: Path) -> None:
    env = settings()
    bundle = make_bundle(tmp_path / "b", env, limits=SafetyLimits(roll_max=20.0))
    result = run_hil(agent_command(bundle), env, [11], log_dir=tmp_path, environment=ENV)
    assert result.agent_log is not None
    with read_flight_log(result.agent_log) as log:
        guard = log.episodes[0]["guard"]
        events = log.episodes[0].events
    first = int(np.argmax(guard[:, 0] != Mode.POLICY))
    assert events[0]["tick"] == first and events[0]["mode"] == guard[first, 0] and "attitude" in events[0]["reasons"]
    assert abs(events[0]["state"]["roll_rad"]) > np.radians(19.0)
    assert (guard[:, 0] == Mode.HOLD).any()
    assert result.outcomes[0].interventions == int((guard != 0).any(axis=1).sum()) > 0
    assert result.plant_log is not None
    with read_flight_log(result.plant_log) as log:
        assert (log.episodes[0]["guard"] == guard).all()


def test_real_time_runs_at_the_control_rate(bundle: Bundle, tmp_path: Path) -> None:
    env = settings(duration_s=2.0, hold_s=0.5)
    begun = time.monotonic()
    result = run_hil(agent_command(bundle), env, [3], log_dir=tmp_path, realtime=True, environment=ENV)
    assert time.monotonic() - begun >= 2.0
    assert result.ticks == 40 and result.missed <= 4
    assert result.outcomes[0].termination == "completed"
    assert result.agent_log is not None
    with read_flight_log(result.agent_log) as log:
        received = log.episodes[0].column("timing", "receive")
        assert abs(float(received[-1] - received[0]) * 1e-9 - 1.95) < 0.2


class Lossy:
    """A link that loses, doubles and delays datagrams, the same ones at every run."""

    def __init__(self, link: object, every: int) -> None:
        self._link, self._every, self._count = link, every, 0

    def send(self, *messages: object) -> None:
        self._count += 1
        if self._count % self._every == 0:
            return
        self._link.send(*messages)  # type: ignore[attr-defined]
        if self._count % self._every == 1:
            self._link.send(*messages)  # type: ignore[attr-defined]

    def receive(self, timeout_s: float) -> list[object]:
        got = self._link.receive(timeout_s)  # type: ignore[attr-defined]
        self._count += 1
        return [] if self._count % (self._every + 3) == 0 else got * 2

    def close(self) -> None:
        self._link.close()  # type: ignore[attr-defined]


def test_lost_and_doubled_datagrams_change_nothing_in_lockstep(bundle: Bundle) -> None:
    env = settings(duration_s=5.0, hold_s=1.0)
    system, component = 1, 1
    with open_link("udpin:127.0.0.1:0", system=system, component=component) as link:
        command = [*agent_command(bundle), "--link", f"udp:127.0.0.1:{link.port}"]
        with subprocess.Popen(command, env=ENV) as process:
            plant = Plant(SimVehicle(env), Lossy(link, 17), RealClock(), retry_s=0.01, timeout_s=5.0)
            plant.connect()
            outcomes = [plant.fly(0, 7), plant.fly(1, 8)]
            plant.shutdown()
            assert process.wait(10) == 0
    assert plant.statistics.retransmissions > 5
    assert compare_with_simulation(outcomes, simulate(bundle, env, [7, 8])).agrees
    assert [o.action_rate for o in outcomes] == pytest.approx(
        [o.action_rate for o in simulate(bundle, env, [7, 8])], rel=1e-2
    )


@pytest.mark.parametrize("link", ["udp", "tcp"])
def test_an_agent_killed_in_flight_is_a_plain_error_and_finished_episodes_survive(
    bundle: Bundle, link: str, tmp_path: Path
) -> None:
    def kill(episode: int, outcome: EpisodeOutcome) -> None:
        if episode == 1:
            threading.Timer(0.02, os.kill, (agents_child().pid, signal.SIGKILL)).start()

    with pytest.raises(LinkError, match=r"in episode \d.*code -9") as caught:
        run_hil(
            agent_command(bundle),
            settings(),
            list(range(30)),
            link=link,  # type: ignore[arg-type]
            log_dir=tmp_path,
            progress=kill,
            environment=ENV,
            timeout_s=1.0,
        )
    assert "\n" not in caught.value.message
    for name in ("hil_plant.h5", "hil_agent.h5"):
        with read_flight_log(tmp_path / name) as log:
            assert len(log) >= 2 and log.episodes[0].success


def test_an_agent_that_hangs_is_given_up_in_bounded_time(bundle: Bundle, tmp_path: Path) -> None:
    def stop(episode: int, outcome: EpisodeOutcome) -> None:
        os.kill(agents_child().pid, signal.SIGSTOP)

    begun = time.monotonic()
    with pytest.raises(LinkError, match="does not answer in episode 1"):
        run_hil(agent_command(bundle), settings(), [1, 2], progress=stop, environment=ENV, timeout_s=0.5)
    assert time.monotonic() - begun < 12.0


def test_an_agent_that_cannot_start_says_why(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no bundle at"):
        run_hil(agent_command(tmp_path / "none"), settings(), [1], log_dir=tmp_path, environment=ENV)
    with pytest.raises(LinkError, match="cannot start the flight agent"):
        run_hil([str(tmp_path / "nothing")], settings(), [1])
    with pytest.raises(LinkError, match="no flight agent came"):
        run_hil([sys.executable, "-c", "import time; time.sleep(30)"], settings(), [1], connect_timeout_s=0.3)


def test_the_wrong_bundle_and_the_wrong_rate_are_refused(bundle: Bundle) -> None:
    with pytest.raises(LinkError, match="flies bundle"):
        run_hil(agent_command(bundle), settings(), [1], bundle_digest="0" * 64, environment=ENV)
    slow = EnvironmentSettings(rate_hz=10.0)
    with pytest.raises(LinkError, match="refused command") as caught:
        run_hil(agent_command(bundle), slow, [1], environment=ENV)
    assert "10 Hz" in caught.value.hint


def policy_processes() -> list[psutil.Process]:
    """Of the flight agent that `run_hil` started: one, or none in the moment after a death."""
    return [c for c in agents_child().children() if "sim2sky.runtime.policy_worker" in " ".join(c.cmdline())]


def test_a_policy_killed_in_flight_does_not_end_the_episode_and_the_next_one_flies_with_a_new_process(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Killed at some moment of each episode but the first and the last; at least one of them falls into the flight."""
    pids: list[int] = []
    timers: list[threading.Timer] = []
    n = 8

    def kill(episode: int, outcome: EpisodeOutcome) -> None:
        for timer in timers:
            timer.join()  # one that has not struck in its episode must not strike in the last one
        for child in policy_processes():
            pids.append(child.pid)
            if episode < n - 2:
                timers.append(threading.Timer(0.02 + 0.01 * episode, child.kill))
                timers[-1].start()

    result = run_hil(
        agent_command(bundle), settings(), list(range(n)), log_dir=tmp_path, progress=kill, environment=ENV
    )
    interventions = [outcome.interventions for outcome in result.outcomes]
    assert len(interventions) == n and interventions[0] == interventions[-1] == 0
    struck = next(k for k, count in enumerate(interventions) if count > 0)
    assert result.agent_log is not None
    with read_flight_log(result.agent_log) as log:
        guard = log.episodes[struck]["guard"][:, 0]
        assert all(episode.termination != "abandoned" for episode in log.episodes)
    assert (guard >= Mode.HOLD).any() and len(set(pids)) > 1
    assert "the policy process was started again" in (tmp_path / "hil_agent.txt").read_text()


def test_an_episode_does_not_begin_when_the_policy_cannot_come_back(tmp_path: Path) -> None:
    """The policy process is killed and the bundle's file damaged on disk meanwhile: the guard alone must not begin."""
    bundle = make_bundle(tmp_path / "b", settings())

    def damage(episode: int, outcome: EpisodeOutcome) -> None:
        model = bundle.path / "policy.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"x")
        (child,) = policy_processes()
        child.kill()
        deadline = time.monotonic() + 20.0
        while child.status() != psutil.STATUS_ZOMBIE or child.num_threads() > 1:  # its last thread has ended, too
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with pytest.raises(LinkError, match=r"in episode 1.*the policy process does not run") as caught:
        run_hil(agent_command(bundle), settings(), [1, 2], log_dir=tmp_path, progress=damage, environment=ENV)
    assert "its own output says more" in caught.value.hint
    assert "sha256" in (tmp_path / "hil_agent.txt").read_text()


def test_ctrl_c_ends_the_agent_too(bundle: Bundle) -> None:
    def interrupt(episode: int, outcome: EpisodeOutcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_hil(agent_command(bundle), settings(), [1, 2], progress=interrupt, environment=ENV)


def test_misuse_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        run_hil(agent_command(bundle), settings(), [])
    with pytest.raises(ConfigError, match="unknown HIL link"):
        run_hil(agent_command(bundle), settings(), [1], link="serial")  # type: ignore[arg-type]


def agent_alone(bundle: Bundle, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*agent_command(bundle), *arguments]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=30, check=False)


def test_a_plant_that_never_speaks_or_falls_silent_ends_the_agent(bundle: Bundle, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        link = f"udp:127.0.0.1:{deaf.getsockname()[1]}"
        result = agent_alone(bundle, "--link", link, "--connect-timeout", "0.3")
        assert result.returncode == 1 and "the plant never spoke" in result.stderr and "Traceback" not in result.stderr
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link_in:

        def speak_once() -> None:
            link_in.receive(10.0)
            link_in.send(mavlink.MAVLink_heartbeat_message(1, 0, 0, 0, 4, 3))

        speaker = threading.Thread(target=speak_once)
        speaker.start()
        result = agent_alone(bundle, "--link", f"udp:127.0.0.1:{link_in.port}", "--peer-timeout", "0.3")
        speaker.join()
    assert result.returncode == 1 and "fell silent" in result.stderr


def test_misuse_of_the_agent_process_is_a_plain_error(bundle: Bundle, tmp_path: Path) -> None:
    result = agent_alone(bundle, "--link", "carrier-pigeon:home:1")
    assert result.returncode == 2 and "unknown kind 'carrier-pigeon'" in result.stderr
    assert agent_alone(bundle).returncode == 2
    existing = tmp_path / "log.h5"
    existing.write_text("x")
    result = agent_alone(bundle, "--link", "udpin:127.0.0.1:0", "--log", str(existing))
    assert result.returncode == 2 and "already exists" in result.stderr and existing.read_text() == "x"


def test_a_bundle_whose_policy_answers_wrongly_does_not_fly(tmp_path: Path) -> None:
    """Swapped channels with golden vectors of the right policy: refused before a link is opened."""
    env = settings()
    good = linear_network(make_contract(env))
    dense = good.layers[0]
    assert isinstance(dense, Dense)
    swapped = Network(good.inputs, (Dense(dense.weight[[1, 0, 2, 3]], dense.bias), *good.layers[1:]))
    bundle = make_bundle(tmp_path / "b", env, network=swapped, golden_of=good)
    result = agent_alone(bundle, "--link", "udpin:127.0.0.1:0")
    assert result.returncode == 1 and "differs from its golden vectors" in result.stderr


class InterruptsAt(SimVehicle):
    """Does something at its so-many-th step, in the middle of an episode however fast the machine is."""

    def __init__(self, env: EnvironmentSettings, at: int, action: Callable[[], None]) -> None:
        super().__init__(env)
        self._at, self._action = at, action

    def step(self, command: Command) -> Sample:
        self._at -= 1
        if self._at == 0:
            self._action()
        return super().step(command)


def test_a_terminated_agent_keeps_its_interrupted_episode(bundle: Bundle, tmp_path: Path) -> None:
    env = settings()
    log = tmp_path / "agent.h5"
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        command = [*agent_command(bundle), "--link", f"udp:127.0.0.1:{link.port}", "--log", str(log)]
        with subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL) as process:
            plant = Plant(SimVehicle(env), link, RealClock(), timeout_s=0.5, alive=lambda: str(process.poll() or ""))
            plant.connect()
            plant.fly(0, 1)
            threading.Timer(0.03, process.send_signal, (signal.SIGINT,)).start()
            with pytest.raises(LinkError):
                for episode in range(1, 50):
                    plant.fly(episode, episode)
            assert process.wait(10) == 130
    with read_flight_log(log) as read:
        assert (
            len(read) == 2
            and read.episodes[0].termination == "completed"
            and read.episodes[-1].termination == "interrupted"
        )
