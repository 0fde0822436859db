"""The virtual aircraft: flown by an installed agent in a process of its own, its log virtual, its parameters secret."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from benchmarks import virtual_aircraft
from hypothesis import given
from hypothesis import strategies as st
from tests.deploy_support import deliver, flying_bundle
from tests.flight_support import agent_environment, make_bundle, settings
from tests.link_support import wait_for
from tests.ssh_support import SshServer, make_venv

from sim2sky.agent.bundle import Bundle
from sim2sky.cli import run
from sim2sky.config.loader import load_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.deployment.targets import open_target, temporary_target
from sim2sky.environments.hidden_aircraft import hidden_aircraft, nominal_aircraft
from sim2sky.errors import LinkError
from sim2sky.hil.hil_test import compare_logs
from sim2sky.hil.virtual_aircraft import flight_seeds, fly_virtual_aircraft, installed_agent
from sim2sky.runtime.excitation import Excitation, Sine
from sim2sky.runtime.main import main
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.simulate import simulate

SHORT = nominal_aircraft(settings(duration_s=4.0, hold_s=1.0))
YAML = "validation:\n  environment:\n    task: {duration_s: 4, hold_s: 1}\n"
SEED = 5
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", SHORT)


@pytest.fixture(scope="module")
def releasable(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return flying_bundle(tmp_path_factory.mktemp("releasable") / "linear")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "v.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """None of ours; the server that stands for the Internet keeps its own."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    assert [p for p in left if "sim2sky" in command_line(p)] == []


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def numbers(tree: Any) -> set[float]:
    """All numbers in a tree that are not round."""
    if isinstance(tree, dict):
        return set().union(*map(numbers, tree.values())) if tree else set()
    if isinstance(tree, (list, tuple)):
        return set().union(*map(numbers, tree)) if tree else set()
    return {float(tree)} if isinstance(tree, float) and len(repr(tree)) > 8 else set()


def secrets_of(seed: int) -> tuple[set[float], set[str]]:
    """The hidden values, and the names of what they are."""
    patch = RandomizationPatch.between(SHORT, hidden_aircraft(seed, SHORT))
    values = numbers(patch.randomization) | numbers(patch.disturbances)
    names = {*patch.randomization, *patch.disturbances, *patch.randomization["coefficient_scales"], "noise_scale"}
    return values, names


def test_the_agents_log_is_labelled_virtual_and_judged_by_what_the_aircraft_did(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "real.h5"
    seen: list[int] = []
    with installed_agent(str(bundle.path)) as agent:
        result = fly_virtual_aircraft(
            agent, SHORT, SEED, 3, log, start_time="2026-01-01T00:00:00", progress=lambda n, _: seen.append(n)
        )
    assert seen == [0, 1, 2]
    assert result.plant_log is None
    assert [p.name for p in tmp_path.iterdir()] == ["real.h5"]
    job = FlightJob.of(bundle, hidden_aircraft(SEED, SHORT))
    truth = simulate(job, flight_seeds(SEED, 3), tmp_path / "same.h5", source="virtual")
    assert [o.success for o in result.outcomes] == [o.success for o in truth]
    with read_flight_log(log) as flown, read_flight_log(tmp_path / "same.h5") as same:
        assert flown.metadata.source == "virtual"
        assert flown.metadata.agent == "hand" and flown.metadata.bundle_digest == bundle.digest
        assert flown.metadata.start_time == "2026-01-01T00:00:00"
        assert flown.metadata.config == {
            "vehicle": "ultrastick25e", "task": "hsa", "virtual_aircraft": {"seed": SEED},
        }  # fmt: skip
        assert [e.success for e in flown.episodes] == [o.success for o in result.outcomes]
        assert [e.seed for e in flown.episodes] == flight_seeds(SEED, 3)
        assert all(e["timing"].any() for e in flown.episodes)  # a process of its own, which took its time
        assert max(compare_logs(flown, same).values()) < 0.1


def test_the_hidden_parameters_are_nowhere_in_the_log(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "real.h5"
    with installed_agent(str(bundle.path)) as agent:
        fly_virtual_aircraft(agent, SHORT, SEED, 1, log)
    data = log.read_bytes()
    values, names = secrets_of(SEED)
    assert len(values) > 40
    found = [
        v for v in values if struct.pack("<d", v) in data or repr(v).encode() in data or f"{v:.6f}".encode() in data
    ]
    assert not found
    assert not [name for name in names if name.encode() in data]


def test_the_search_for_secrets_finds_them_where_they_are(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: the log of a simulation names its conditions."""
    log = tmp_path / "sim.h5"
    simulate(FlightJob.of(bundle, hidden_aircraft(SEED, SHORT)), [1], log)
    data = log.read_bytes()
    values, names = secrets_of(SEED)
    assert all(repr(v).encode() in data for v in values)
    assert all(name.encode() in data for name in names)


@given(st.integers(0, 2**63), st.integers(1, 30))
def test_flights_are_the_same_for_everybody_and_more_of_them_begin_alike(seed: int, n: int) -> None:
    seeds = flight_seeds(seed, n)
    assert seeds == flight_seeds(seed, n) == flight_seeds(seed, n + 5)[:n]
    assert len(set(seeds)) == n
    assert all(0 <= s < 2**63 for s in seeds)
    assert seeds != flight_seeds(seed + 1, n)


def test_the_command_flies_what_is_installed_on_a_local_target(
    releasable: Bundle, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, log = temporary_target(releasable, tmp_path), tmp_path / "real.h5"
    words = ["virtual-aircraft", "fly", target.name, "--seed", str(SEED), "--flights", "2", "--log", str(log)]
    assert run([*words, "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert f"virtual aircraft {SEED}: linear from local:" in printed
    assert "2 virtual flights" in printed and "labelled virtual" in printed and "real flight" not in printed
    before = log.read_bytes()
    assert run([*words, "--config", str(config)]) == 2
    assert "already exists" in capsys.readouterr().err and log.read_bytes() == before
    assert run([*words, "--config", str(config), "--overwrite"]) == 0
    with read_flight_log(log) as flown:
        assert len(flown) == 2 and flown.metadata.source == "virtual"
        assert flown.metadata.start_time


def test_it_flies_what_is_installed_behind_ssh_and_fetches_the_log(
    releasable: Bundle, laptop: SshServer, tmp_path: Path
) -> None:
    root, log = tmp_path / "controls", tmp_path / "real.h5"
    root.mkdir()
    make_venv(root)
    target = open_target(laptop.url(root))
    deliver(target, releasable)
    with installed_agent(laptop.url(root)) as agent:
        assert agent.tunnelled and agent.bundle.digest == releasable.digest
        result = fly_virtual_aircraft(agent, SHORT, SEED, 1, log)
    assert len(result.outcomes) == 1
    with read_flight_log(log) as flown:
        assert flown.metadata.source == "virtual" and len(flown.episodes[0]) == SHORT.ticks
    assert not list((root / "logs").glob("*"))  # nothing stays over there
    target.transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("where", "extra", "code", "words"),
    [
        ("local:{tmp}/nothing", [], 2, "nothing is installed"),
        ("{tmp}/nothing", [], 2, "no bundle"),
        ("pi@raspberrypi.local", [], 2, "is no target"),
        ("serial:/dev/ttyACM0", [], 2, "not supported"),
        ("{bundle}", ["--seed", "-1"], 2, "0 or above"),
        ("{bundle}", ["--flights", "0"], 2, "--flights must be 1 or above"),
        ("{bundle}", ["--log", "{tmp}/none/real.h5"], 2, "there is no folder"),
        ("{bundle}", ["--seed", "one"], 2, ""),
        ("{bundle}", ["--config", "{tmp}/none.yaml"], 2, "none.yaml"),
    ],
)
def test_misuse_is_a_plain_error_and_writes_nothing(
    bundle: Bundle, where: str, extra: list[str], code: int, words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def filled(text: str) -> str:
        return text.format(tmp=tmp_path, bundle=bundle.path)

    options = {"--seed": "5", "--log": f"{tmp_path}/real.h5", **dict([extra] if extra else [])}
    given = [filled(word) for pair in options.items() for word in pair]
    assert run(["virtual-aircraft", "fly", filled(where), *given]) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_flight_agent_cannot_be_told_that_its_flight_is_real(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--bundle", str(bundle.path), "--link", "udp:127.0.0.1:9", "--source", "real"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --source real" in capsys.readouterr().err


def test_an_agent_of_an_older_release_says_what_it_does_not_know(bundle: Bundle, tmp_path: Path) -> None:
    with installed_agent(str(bundle.path)) as agent:
        older = type(agent)(
            agent.name, bundle, [sys.executable, "-c", "import sys; sys.exit('unrecognized arguments')"]
        )
        with pytest.raises(LinkError, match="unrecognized arguments"):
            fly_virtual_aircraft(older, SHORT, SEED, 1, tmp_path / "real.h5")
    assert not list(tmp_path.iterdir())


# Excited -------------------------------------------------------------------------------------------------------------


def plan_for(aircraft: str, folder: Path, end_s: float = 6.0) -> Path:
    plan = Excitation(aircraft, (Sine("aileron", 0.1, 1.0, 1.0, 0.0, 0.0, end_s),))
    path = folder / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    return path


def test_a_planned_excitation_is_flown_and_makes_the_flight_as_long_as_the_plan(bundle: Bundle, tmp_path: Path) -> None:
    plan, quiet, excited = plan_for("ultrastick25e", tmp_path, 4.0), tmp_path / "quiet.h5", tmp_path / "excited.h5"
    with installed_agent(str(bundle.path)) as agent:
        fly_virtual_aircraft(agent, SHORT, SEED, 1, quiet)
        fly_virtual_aircraft(agent, SHORT, SEED, 1, excited, excitation=plan)
        fly_virtual_aircraft(
            agent, SHORT, SEED, 1, tmp_path / "long.h5", excitation=plan_for("ultrastick25e", tmp_path)
        )
    with read_flight_log(tmp_path / "long.h5") as log:
        assert len(log.episodes[0]) == 120  # 6 s at 20 Hz
    plan = plan_for("ultrastick25e", tmp_path, 4.0)
    with read_flight_log(quiet) as a, read_flight_log(excited) as b:
        assert len(a.episodes[0]) == len(b.episodes[0]) == 80
        assert b.metadata.source == "virtual"
        assert b.metadata.config["excitation"] == Excitation.load(plan).digest
        assert "excitation" not in a.metadata.config
        # The aircraft and its flight are the same: they differ by what was added, and by what came of it.
        np.testing.assert_array_equal(a.episodes[0]["setpoints"], b.episodes[0]["setpoints"])
        np.testing.assert_allclose(a.episodes[0]["states"][0], b.episodes[0]["states"][0], atol=1e-6)
        moved = np.abs(a.episodes[0].column("controls", "aileron") - b.episodes[0].column("controls", "aileron"))
        assert moved.max() > 0.05


def test_an_excitation_is_brought_to_a_target_behind_ssh(releasable: Bundle, laptop: SshServer, tmp_path: Path) -> None:
    root, log = tmp_path / "controls", tmp_path / "real.h5"
    root.mkdir()
    make_venv(root)
    target = open_target(laptop.url(root))
    deliver(target, releasable)
    plan = plan_for("ultrastick25e", tmp_path)
    with installed_agent(laptop.url(root)) as agent:
        fly_virtual_aircraft(agent, SHORT, SEED, 1, log, excitation=plan)
    with read_flight_log(log) as flown:
        assert flown.metadata.config["excitation"] == Excitation.load(plan).digest
    assert not list((root / "logs").glob("*"))
    target.transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "words"), [(lambda f: f / "none.json", "cannot read"), (lambda f: plan_for("aerosonde", f), "planned for")]
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_flies(
    bundle: Bundle, make: Callable[[Path], Path], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, log = make(tmp_path), tmp_path / "real.h5"
    given = ["virtual-aircraft", "fly", str(bundle.path), "--seed", "5", "--log", str(log), "--excitation", str(plan)]
    assert run(given) == 2
    assert words in capsys.readouterr().err
    assert not log.exists()


# Killed in the middle ------------------------------------------------------------------------------------------------


def start(bundle: Bundle, config: Path, log: Path) -> subprocess.Popen[str]:
    """A long run as a process, with at least one flight finished."""
    command = [sys.executable, "-m", "sim2sky", "virtual-aircraft", "fly", str(bundle.path), "--seed", str(SEED)]
    command += ["--flights", "100000", "--log", str(log), "--config", str(config)]
    process = subprocess.Popen(command, env=agent_environment(), stderr=subprocess.PIPE, text=True)
    finished = log.with_name(log.name + ".parts") / "episode_0000.h5"
    wait_for(lambda: finished.exists() or process.poll() is not None, "the first flight", PATIENCE_S)
    assert process.poll() is None, process.stderr and process.stderr.read()
    return process


def agents(log: Path) -> list[psutil.Process]:
    """Flight agents and recorders that write a log."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(log) in words and any("sim2sky.runtime" in word for word in words):
            found.append(process)
    return found


def check(log: Path) -> None:
    with read_flight_log(log) as flown:
        assert flown.metadata.source == "virtual"
        assert len(flown) >= 1
        first = flown.episodes[0]
        assert first.termination == "completed" and len(first) == SHORT.ticks
        assert all(np.isfinite(e["states"]).all() for e in flown.episodes)


def test_killed_the_flights_up_to_then_can_be_read_and_the_agent_ends(
    bundle: Bundle, config: Path, tmp_path: Path
) -> None:
    log = tmp_path / "real.h5"
    with start(bundle, config, log) as process:
        process.kill()
        process.wait(PATIENCE_S)
    check(log)  # at once, while the agent still waits for the aircraft that is gone
    wait_for(lambda: not agents(log), "the flight agent to end by itself", PATIENCE_S)
    check(log)


def test_interrupted_it_says_where_the_flights_are(bundle: Bundle, config: Path, tmp_path: Path) -> None:
    log = tmp_path / "real.h5"
    with start(bundle, config, log) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert process.stderr is not None
        assert f"{log} holds the virtual flights up to now" in process.stderr.read()
    wait_for(lambda: not agents(log), "the recorder to end", PATIENCE_S)
    check(log)


def test_an_agent_that_dies_fails_the_run_and_leaves_its_log(bundle: Bundle, config: Path, tmp_path: Path) -> None:
    log = tmp_path / "real.h5"
    with start(bundle, config, log) as process:
        (agent,) = (p for p in agents(log) if any("runtime.main" in word for word in p.cmdline()))
        agent.kill()
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        said = process.stderr.read()
    assert "its process ended with code -9" in said and "Traceback" not in said
    wait_for(lambda: not agents(log), "the recorder to end", PATIENCE_S)
    check(log)


# What it hides -------------------------------------------------------------------------------------------------------


def test_show_prints_the_truth_as_a_patch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "v.yaml"
    config.write_text("validation:\n  environment:\n    rate_hz: 20\n")
    assert run(["virtual-aircraft", "show", "--seed", "7", "--config", str(config)]) == 0
    (tmp_path / "truth.yaml").write_text(capsys.readouterr().out)
    patch = load_settings(tmp_path / "truth.yaml", RandomizationPatch)
    base = nominal_aircraft(settings())
    assert patch.apply(base) == hidden_aircraft(7, base)
    assert run(["virtual-aircraft", "show", "--seed", "-7"]) == 2
    assert "0 or above" in capsys.readouterr().err


def test_analysis_cannot_look_the_answer_up() -> None:
    from tests.unit.test_import_rule import ALL, imports

    secret = {f"sim2sky.environments.hidden_aircraft.{name}" for name in ("hidden_aircraft", "single_cause")}
    looked = {name for name, path in ALL if imports(path) & secret}
    assert "hil/virtual_aircraft" in looked  # the test sees who does
    assert not [name for name in looked if name.split("/")[0] in {"analysis", "report", "runtime", "telemetry"}]


# How far away it is --------------------------------------------------------------------------------------------------


def test_the_spread_is_measured_and_shows_a_worse_aircraft_as_worse(bundle: Bundle) -> None:
    simulated, *flown = (result for _, result in virtual_aircraft.spread(bundle, 3, 2, 0))
    assert len(flown) == 3
    assert len({result.tracking for result in flown}) == 3
    text = virtual_aircraft.summary(simulated, flown)
    assert text.startswith("3 aircraft") and "median" in text
    again = [result for _, result in virtual_aircraft.spread(bundle, 1, 2, 1)][1]
    assert again == flown[1]
    job = FlightJob.of(bundle, SHORT)
    crooked = SHORT.model_dump()
    crooked["randomization"]["command_offset"] = {"aileron": (0.3, 0.3)}
    plain = virtual_aircraft.fly(job, SHORT, [1, 2])
    assert virtual_aircraft.fly(job, type(SHORT).model_validate(crooked), [1, 2]).tracking > 1.2 * plain.tracking
