"""A fleet over a real OpenSSH server: one run, a table, targets that fail alone, going on where each stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.deploy_support import linear_agent
from tests.ssh_support import SshServer, free_port, make_venv, wait_for

from sim2sky.cli_fleet import table_text
from sim2sky.config.deployment import DeploymentSettings, OptimizationSettings, TargetSettings, ThresholdSettings
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.fleet import FleetSettings, FleetTarget
from sim2sky.config.loader import dump_yaml
from sim2sky.config.safety import SafetySettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment import deploy_fleet as module
from sim2sky.deployment.deploy_agent import deploy
from sim2sky.deployment.deploy_fleet import FleetResult, TargetOutcome, deploy_fleet
from sim2sky.deployment.deploy_plan import DeployPlan
from sim2sky.errors import ConfigError, TargetError

SRC = Path(module.__file__).resolve().parents[2]
EASY = EnvironmentSettings.model_validate(
    {"task": {"duration_s": 5.0, "hold_s": 0.5, "altitude_step_m": 4.0, "heading_step_deg": 10.0}}
)
SETTINGS = DeploymentSettings(
    optimization=OptimizationSettings(quantize=False),
    validation=ThresholdSettings(sim_validation_episodes=20, hil_validation_episodes=2),
    target=TargetSettings(platform="generic_linux"),
    safety=SafetySettings(extends="default"),
)
VALIDATION = ValidationSettings(strict=False, workers=1, latency_samples=300, environment=EASY)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear_agent(tmp_path_factory.mktemp("agents") / "linear")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One virtual environment for all targets of this file."""
    folder = tmp_path_factory.mktemp("venv")
    make_venv(folder)
    return folder / "venv"


@pytest.fixture
def plan(agent: Path, tmp_path: Path) -> DeployPlan:
    return DeployPlan("linear", agent, tmp_path / "out", SETTINGS, VALIDATION)


@pytest.fixture
def targets(laptop: SshServer, venv: Path, tmp_path: Path) -> Callable[[int], list[FleetTarget]]:
    def make(count: int) -> list[FleetTarget]:
        made = []
        for number in range(count):
            root = tmp_path / "targets" / f"t{number:02d}"
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "venv").exists():
                (root / "venv").symlink_to(venv)
            made.append(FleetTarget(url=laptop.url(root), name=f"t{number:02d}"))
        return made

    return make


@pytest.fixture(autouse=True)
def no_process_is_left(laptop: SshServer) -> Iterator[None]:
    """Neither here nor over there; connections may take a moment to end."""
    before = set(psutil.Process().children(recursive=True))
    yield

    def left() -> bool:
        children = set(psutil.Process().children(recursive=True)) - before
        return any("multiprocessing.spawn" in " ".join(c.cmdline()) for c in children if c.is_running())

    wait_for(lambda: not left(), "the targets' processes to end")
    wait_for(lambda: not any("sim2sky" in c for c in laptop.commands()), "the agents to end")


def by_name(result: FleetResult) -> dict[str, TargetOutcome]:
    return {t.name: t for t in result.targets}


@pytest.mark.slow
def test_two_good_and_three_broken_targets(
    plan: DeployPlan, targets: Callable[[int], list[FleetTarget]], laptop: SshServer, tmp_path: Path
) -> None:
    strangers = tmp_path / "strangers"
    strangers.write_text("")
    good = targets(2)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    broken = [
        FleetTarget(url=f"ssh://pi@127.0.0.1:{free_port()}/opt/x", name="off"),
        FleetTarget(url=laptop.url("/opt/x"), name="stranger", known_hosts=strangers),
        FleetTarget(url=laptop.url(tmp_path / "taken"), name="taken"),
    ]
    lines: list[str] = []
    result = deploy_fleet(plan, FleetSettings(targets=(broken[0], *good, *broken[1:])), say=lines.append)
    found = by_name(result)
    assert result.outcome == "fail"
    assert [t.name for t in result.targets] == ["off", "t00", "t01", "stranger", "taken"]
    assert {n: t.outcome for n, t in found.items()} == {
        "off": "fail", "t00": "pass", "t01": "pass", "stranger": "fail", "taken": "fail"
    }  # fmt: skip
    assert "connection refused" in found["off"].reason
    assert "host key is unknown" in found["stranger"].reason
    assert "ssh-keyscan" in found["stranger"].hint
    assert "thesis.tex" in found["taken"].reason
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["thesis.tex"]
    for target in good:
        t, root, out = found[target.name], tmp_path / "targets" / target.name, plan.output / "targets" / target.name
        assert t.step == 6
        assert (root / "current").readlink().name == t.release
        assert t.p99_ms is not None
        assert t.p99_ms > 0
        assert "2/2" in t.hil
        assert json.loads((out / "report.json").read_text())["verdict"] == "pass"
        assert (out / "hil" / "hil_agent.h5").is_file()
    assert sum(line.startswith("[1/6]") for line in lines) == 1
    assert sum(line.startswith("t00: [4/6]") for line in lines) == 1
    text = table_text(result)
    assert "2 of 5 targets passed all six steps" in text
    assert "✗ off (ssh://pi@127.0.0.1:" in text

    # The same command again: the good ones keep what they have, one of the broken ones was repaired.
    (tmp_path / "taken" / "thesis.tex").unlink()
    (tmp_path / "taken" / "venv").symlink_to((tmp_path / "targets" / "t00" / "venv").resolve())
    lines.clear()
    again = deploy_fleet(plan, FleetSettings(targets=(*good, broken[2])), say=lines.append)
    assert again.outcome == "pass"
    assert by_name(again)["t00"].release == found["t00"].release
    assert sum("is there already" in line for line in lines) == 2
    assert sum("unchanged since the last run" in line for line in lines) == 3 + 2


@pytest.mark.slow
def test_a_process_that_is_killed_hurts_no_other(plan: DeployPlan, targets: Callable[[int], list[FleetTarget]]) -> None:
    fleet = FleetSettings(targets=tuple(targets(2)), parallel=2)

    def say(line: str) -> None:
        if line.startswith("t00: [6/6]"):
            (victim,) = (p for p in module.multiprocessing.active_children() if p.name == "t00")
            victim.kill()

    found = by_name(deploy_fleet(plan, fleet, say=say))
    assert (found["t00"].outcome, found["t01"].outcome) == ("fail", "pass")
    assert "ended with code -9" in found["t00"].reason
    again = deploy_fleet(plan, fleet)
    assert again.outcome == "pass"


def test_an_agent_that_fails_its_checks_reaches_no_target(
    plan: DeployPlan, targets: Callable[[int], list[FleetTarget]], tmp_path: Path
) -> None:
    poor = replace(plan, model_path=linear_agent(tmp_path / "poor", scale=-1.0))
    result = deploy_fleet(poor, FleetSettings(targets=tuple(targets(1))))
    assert result.outcome == "fail"
    assert result.targets == []
    assert [p.name for p in (tmp_path / "targets" / "t00").iterdir()] == ["venv"]


@pytest.mark.parametrize("url", ["ssh://pi:secret@nano/opt/x", "nano", "ssh://nano"])
def test_a_malformed_address_stops_everything_at_once(plan: DeployPlan, url: str) -> None:
    with pytest.raises(ConfigError):
        deploy_fleet(plan, FleetSettings(targets=(FleetTarget(url=url, name="x"),)))
    assert not plan.output.exists()


def test_a_single_target_that_is_off_is_told_before_the_campaign(plan: DeployPlan, laptop: SshServer) -> None:
    with pytest.raises(TargetError, match="connection refused"):
        deploy(replace(plan, target=f"ssh://pi@127.0.0.1:{free_port()}/opt/x"))
    assert not (plan.output / "export").exists()


def command(plan: DeployPlan, fleet: FleetSettings, folder: Path, *more: str) -> list[str]:
    """The command line of a plan and a fleet."""
    files = {"deployment": plan.settings, "validation": plan.validation, "fleet": fleet}
    for name, settings in files.items():
        text = dump_yaml(settings).replace("\n", "\n  ")
        (folder / f"{name}.yaml").write_text(f"{name}:\n  {text}")
    files_given = ["--config", "deployment.yaml", "--validation", "validation.yaml", "--targets", "fleet.yaml"]
    given = [plan.name, str(plan.model_path), *files_given, "-o", str(plan.output)]
    return [sys.executable, "-m", "sim2sky", "deploy", *given, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_ctrl_c_ends_every_target_and_the_next_run_goes_on(
    plan: DeployPlan, targets: Callable[[int], list[FleetTarget]], tmp_path: Path
) -> None:
    argv = command(plan, FleetSettings(targets=tuple(targets(2)), parallel=2), tmp_path)
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if "[6/6]" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    assert process.wait(60) == 130, seen
    reader.join()
    err = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert "Traceback" not in err
    assert "goes on" in err
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 targets passed" in done.stdout


def test_a_target_and_a_fleet_exclude_each_other(plan: DeployPlan, tmp_path: Path) -> None:
    argv = command(plan, FleetSettings(targets=(FleetTarget(url="local:x", name="x"),)), tmp_path)
    argv.insert(6, "local:y")
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


@pytest.mark.slow
def test_twenty_targets_in_one_run(
    plan: DeployPlan, targets: Callable[[int], list[FleetTarget]], laptop: SshServer, tmp_path: Path
) -> None:
    strangers = tmp_path / "strangers"
    shutil.copy(laptop.home / ".ssh" / "known_hosts", strangers)
    strangers.write_text(strangers.read_text().replace(f":{laptop.port} ", ":1 "))
    fleet = [
        *targets(18),
        FleetTarget(url=laptop.url(tmp_path / "targets" / "t18"), name="t18", known_hosts=strangers),
        FleetTarget(url=f"ssh://pi@127.0.0.1:{free_port()}/opt/x", name="t19"),
    ]
    argv = command(plan, FleetSettings(targets=tuple(fleet)), tmp_path, "--json")
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    verdicts = {t["name"]: t for t in json.loads(done.stdout)["targets"]}
    assert [n for n, t in verdicts.items() if t["outcome"] == "pass"] == [f"t{i:02d}" for i in range(18)], done.stderr
    assert "host key is unknown" in verdicts["t18"]["reason"]
    assert "connection refused" in verdicts["t19"]["reason"]
    assert "18 of 20 targets passed all six steps" in done.stderr
    assert not (tmp_path / "targets" / "t18").exists()
