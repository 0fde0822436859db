"""The six steps on a real agent: what they print and leave, resuming, and everything that can stop them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.deploy_support import linear_agent, local_target

from sim2sky.agent.bundle import open_bundle
from sim2sky.config.deployment import DeploymentSettings, OptimizationSettings, ThresholdSettings
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.safety import SafetySettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment import deploy_agent
from sim2sky.deployment.deploy_agent import deploy
from sim2sky.deployment.deploy_plan import DeployPlan, DeployResult
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.errors import AgentError, ConfigError, LinkError, NotSupportedError, Sim2SkyError, TargetError

SRC = Path(deploy_agent.__file__).resolve().parents[2]
EASY = EnvironmentSettings.model_validate(
    {"task": {"duration_s": 5.0, "hold_s": 0.5, "altitude_step_m": 4.0, "heading_step_deg": 10.0}}
)
SETTINGS = DeploymentSettings(
    optimization=OptimizationSettings(paired_episodes=20),
    validation=ThresholdSettings(sim_validation_episodes=20, hil_validation_episodes=4),
    safety=SafetySettings(extends="default"),
)
VALIDATION = ValidationSettings(strict=False, workers=1, latency_samples=300, environment=EASY)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear_agent(tmp_path_factory.mktemp("agents") / "linear")


@pytest.fixture
def plan(agent: Path, tmp_path: Path) -> DeployPlan:
    settings = SETTINGS.model_copy(update={"optimization": OptimizationSettings(quantize=False)})
    return DeployPlan("linear", agent, tmp_path / "out", settings, VALIDATION)


@pytest.fixture(scope="module")
def deployed(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DeployPlan, DeployResult, list[str]]:
    plan = DeployPlan("linear", agent, tmp_path_factory.mktemp("deployed") / "out", SETTINGS, VALIDATION)
    lines: list[str] = []
    return plan, deploy(plan, say=lines.append), lines


def target_of(plan: DeployPlan) -> ReleaseTarget:
    return local_target(plan.output / "target")


def at_step(number: int, action: Callable[[], None]) -> Callable[[str], None]:
    """A listener that acts when a step is announced."""

    def say(line: str) -> None:
        if line.startswith(f"[{number}/6]"):
            action()

    return say


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_six_lines_and_the_closing_text(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> None:
    _, result, lines = deployed
    assert result.outcome == "pass"
    assert [line for line in lines if line.startswith("[")] == [
        "[1/6] Exporting model to ONNX...",
        "[2/6] Optimizing model (quantization)...",
        "[3/6] Running validation checks...",
        "[4/6] Copying model to target hardware...",
        "[5/6] Testing inference on target...",
        "[6/6] Running HIL validation...",
    ]
    rule = "=" * 41
    assert lines[0] == lines[4] == rule
    assert lines[1] == "Deploying Agent: linear"
    assert lines[2].startswith("Model: ")
    assert lines[3].startswith("Target: local:")
    assert lines[-9:] == [
        rule,
        "✓ Deployment complete!",
        rule,
        "",
        "Next steps:",
        "1. Bench test (actuators without aircraft)",
        "2. Ground test (powered on, no takeoff)",
        "3. Tethered flight test",
        "4. Free flight test (supervised)",
    ]


def test_everything_it_says_it_wrote_is_there(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> None:
    plan, result, _ = deployed
    assert {p.name for p in result.written} >= {
        "export",
        "optimization.txt",
        "campaigns",
        "target",
        "hil",
        "report.txt",
    }
    assert all(p.exists() for p in result.written)
    assert result.bundle is not None
    bundle = open_bundle(result.bundle)
    assert bundle.provenance["opset"] == 11
    assert bundle.profile == "jetson_nano"
    assert set(bundle.golden().kind) >= {"rollout", "corner", "saturating", "out_of_range"}
    safety = bundle.safety()
    assert safety is not None
    assert {"aileron_max", "kill_switch_enabled", "fallback"} <= set(safety)
    report = json.loads((plan.output / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert [c["name"] for c in report["checks"]][3] == "HIL Performance"
    text = (plan.output / "report.txt").read_text()
    assert "DEPLOYMENT VALIDATION REPORT" in text
    onnx, native = report["runtimes"]  # measured on the target, where the C was compiled
    assert (onnx["runtime"], native["runtime"][:2]) == ("onnxruntime", "C,")
    assert onnx["flies"] is not native["flies"] and native["golden_max_error"] <= 1e-5
    assert f"Runtimes on the target\nruntime {' ' * 13}golden error" in text and native["why"] in text
    log = (plan.output / "deploy.log").read_text()
    assert "step 1 wrote" in log
    assert log.rstrip().endswith("complete")
    assert str(target_of(plan).active()).startswith(bundle.digest[:16])


def test_fp32_stays_where_it_wins_and_the_table_says_so(
    deployed: tuple[DeployPlan, DeployResult, list[str]],
) -> None:
    plan, result, lines = deployed
    table = (plan.output / "optimization.txt").read_text()
    assert "fp32 stays" in table
    assert "20/20" in table or "19/20" in table
    assert any("dynamic_int8" in line for line in lines)
    assert result.bundle == plan.output / "export"


def test_a_second_call_does_nothing_twice(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> None:
    plan, first, _ = deployed
    lines: list[str] = []
    start = time.monotonic()
    result = deploy(plan, say=lines.append)
    assert time.monotonic() - start < 3.0
    assert sum("unchanged since the last run" in line for line in lines) == 4
    assert any("is there already" in line for line in lines)
    assert [r.to_json() for r in result.results if r.name != "x"] == [r.to_json() for r in first.results]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_interrupted_at_any_step_it_goes_on(plan: DeployPlan, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy(plan, say=at_step(step, interrupt))
    assert f"step {step} interrupted" in (plan.output / "deploy.log").read_text()
    lines: list[str] = []
    assert deploy(plan, say=lines.append).outcome == "pass"
    kept = sum("unchanged since the last run" in line for line in lines)
    assert kept == min(step - 1, 3)


@pytest.mark.parametrize("name", ["Simulation Performance", "HIL Performance"])
def test_interrupted_among_the_episodes_it_goes_on(plan: DeployPlan, name: str) -> None:
    def progress(check: str, p: object) -> None:
        if check == name and p.done == (5 if name[0] == "S" else 2):  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(plan, progress=progress)
    told: list[str] = []
    assert deploy(plan, progress=lambda check, _: told.append(check)).outcome == "pass"
    if name == "Simulation Performance":
        assert told.count(name) == 20 - 5 + 1  # one message says what was there already


def test_a_changed_input_is_noticed(plan: DeployPlan, agent: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy(plan, say=at_step(3, interrupt))
    lines: list[str] = []
    gentler = plan.settings.model_copy(update={"safety": SafetySettings(extends="default", roll_max=60)})
    with pytest.raises(KeyboardInterrupt):
        deploy(replace(plan, settings=gentler), say=lambda s: (lines.append(s), at_step(3, interrupt)(s)))  # type: ignore[func-returns-value]
    assert not any("unchanged" in line for line in lines)


def test_a_damaged_intermediate_result_is_made_again(plan: DeployPlan) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy(plan, say=at_step(2, interrupt))
    (plan.output / "export" / "policy.onnx").write_bytes(b"damaged")
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        deploy(plan, say=lambda s: (lines.append(s), at_step(3, interrupt)(s)))  # type: ignore[func-returns-value]
    assert not any("unchanged" in line for line in lines)
    open_bundle(plan.output / "export")


# What may go wrong ----------------------------------------------------------------------------------------------------


def test_failed_validation_stops_before_the_target(plan: DeployPlan, tmp_path: Path) -> None:
    weak = linear_agent(tmp_path / "weak", scale=0.02)
    hard = VALIDATION.model_copy(update={"environment": EnvironmentSettings()})
    plan = DeployPlan("weak", weak, tmp_path / "out", plan.settings, hard)
    lines: list[str] = []
    result = deploy(plan, say=lines.append)
    assert (result.outcome, result.step) == ("fail", 3)
    assert lines[-1] == "✗ Validation failed. Aborting deployment."
    assert not (plan.output / "target").exists()
    assert json.loads((plan.output / "report.json").read_text())["verdict"] == "fail"
    assert any("nothing to optimize: switched off" in line for line in lines)


def test_inconclusive_hil_is_no_pass_and_goes_back(
    deployed: tuple[DeployPlan, DeployResult, list[str]], plan: DeployPlan
) -> None:
    old, _, _ = deployed
    where = f"local:{old.output / 'target'}"
    before = local_target(old.output / "target").active()
    strict = plan.validation.model_copy(update={"strict": True})
    gentler = plan.settings.model_copy(update={"safety": SafetySettings(extends="default", roll_max=65)})
    lines: list[str] = []
    result = deploy(replace(plan, validation=strict, settings=gentler, target=where), say=lines.append)
    assert (result.outcome, result.step) == ("inconclusive", 6)
    assert lines[-1] == "✗ HIL validation inconclusive. Aborting deployment."
    assert any("? INCONCLUSIVE - MORE EPISODES NEEDED" in line for line in lines)
    assert local_target(old.output / "target").active() == before
    assert not any("Deployment complete" in line for line in lines)


def test_a_target_that_dies_in_step_4(plan: DeployPlan) -> None:
    def die() -> None:
        (plan.output / "target").write_text("the disk went away")

    with pytest.raises(TargetError, match=r"Not a directory|File exists"):
        deploy(plan, say=at_step(4, die))
    (plan.output / "target").unlink()
    assert deploy(plan).outcome == "pass"


def test_a_target_that_loses_the_copy_before_step_5(plan: DeployPlan) -> None:
    def lose() -> None:
        (copied,) = (plan.output / "target" / "incoming").iterdir()
        (copied / "bundle" / "policy.onnx").unlink()

    with pytest.raises(TargetError, match=r"policy\.onnx did not arrive"):
        deploy(plan, say=at_step(5, lose))
    assert target_of(plan).active() is None
    assert deploy(plan).outcome == "pass"


def flight_agents() -> Iterator[int]:
    """Our own children that are flight agents."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"sim2sky.runtime.main" in (folder / "cmdline").read_bytes():
                yield int(folder.name)


def test_a_target_that_dies_in_step_6_goes_back(plan: DeployPlan) -> None:
    def progress(check: str, p: object) -> None:
        if check == "HIL Performance" and p.done == 2:  # type: ignore[attr-defined]
            for pid in flight_agents():
                os.kill(pid, signal.SIGKILL)

    lines: list[str] = []
    with pytest.raises(LinkError):
        deploy(plan, progress=progress, say=lines.append)
    assert any("active on the target: nothing" in line for line in lines)
    assert target_of(plan).active() is None
    assert list(flight_agents()) == []
    assert deploy(plan).outcome == "pass"


def test_a_release_that_was_tampered_with_on_the_target_is_installed_again(plan: DeployPlan) -> None:
    assert deploy(plan).outcome == "pass"
    (plan.output / "target" / "current" / "bundle" / "policy.onnx").write_bytes(b"tampered")
    with pytest.raises(TargetError, match=r"policy\.onnx"):
        deploy(plan)
    assert deploy(plan).outcome == "pass"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_path": Path("nowhere.zip")}, AgentError, "nowhere.zip"),
        ({"name": "../evil"}, ConfigError, "agent name '../evil'"),
        ({"target": "serial:/dev/ttyACM0"}, NotSupportedError, "not supported: serial targets"),
        ({"target": "ssh://jetson:secret@nano/opt/x"}, ConfigError, "holds a password"),
        ({"target": "ssh://jetson@nano"}, ConfigError, "does not name a folder"),
        ({"vecnormalize": Path("no.pkl")}, Sim2SkyError, "no.pkl"),
        ({"contract": Path("no.json")}, Sim2SkyError, "no.json"),
    ],
)
def test_wrong_arguments_are_plain_errors(
    plan: DeployPlan, change: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        deploy(replace(plan, **change))  # type: ignore[arg-type]
    assert not (plan.output / "export").exists()


def test_a_truncated_zip_leaves_no_bundle(plan: DeployPlan, agent: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.zip"
    short.write_bytes(agent.read_bytes()[:-500])
    with pytest.raises(AgentError):
        deploy(replace(plan, model_path=short))
    assert not (plan.output / "export").exists()


def test_spaces_that_do_not_match_the_contract_are_refused(plan: DeployPlan, agent: Path, tmp_path: Path) -> None:
    contract = json.loads(agent.with_name("contract.json").read_text())
    contract["inputs"][0]["signals"].pop()
    contract["inputs"][0]["shape"] = [23]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(contract))
    with pytest.raises(Sim2SkyError, match="does not fit the agent's spaces"):
        deploy(replace(plan, contract=other))


def test_a_normaliser_that_the_run_names_but_nobody_supplies(plan: DeployPlan, tmp_path: Path) -> None:
    agent = linear_agent(tmp_path / "normalised")
    (agent.parent / "config.yaml").write_text("algorithm: PPO\nnormalize: true\n")
    with pytest.raises(AgentError, match="normaliser"):
        deploy(replace(plan, model_path=agent))


def test_a_microcontroller_wants_a_target_of_its_own(plan: DeployPlan) -> None:
    target = plan.settings.target.model_copy(update={"platform": "teensy"})
    with pytest.raises(NotSupportedError, match="teensy"):
        deploy(replace(plan, settings=plan.settings.model_copy(update={"target": target})))


def test_an_output_folder_that_cannot_be_written(plan: DeployPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write") as caught:
        deploy(replace(plan, output=tmp_path / "file" / "out"))
    assert "--output" in caught.value.hint


def test_two_deployments_into_one_folder_are_refused(plan: DeployPlan) -> None:
    def again() -> None:
        with pytest.raises(TargetError, match="another deployment is running"):
            deploy(plan)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(plan, say=at_step(1, again))


def test_a_damaged_record_is_a_plain_error(plan: DeployPlan) -> None:
    plan.output.mkdir()
    (plan.output / "deploy.json").write_text("{")
    with pytest.raises(ConfigError, match=r"deploy\.json is damaged"):
        deploy(plan)


@pytest.mark.slow
def test_ctrl_c_on_the_real_command_then_again(agent: Path, tmp_path: Path) -> None:
    """SIGINT to the process during the simulation campaign; the second call keeps what the first finished."""
    out = tmp_path / "out"
    config = tmp_path / "validation.yaml"
    config.write_text("validation:\n  workers: 2\n  strict: false\n  latency_samples: 300\n")
    deployment = tmp_path / "deployment.yaml"
    deployment.write_text(
        "deployment:\n  optimization:\n    quantize: false\n  validation:\n    sim_validation_episodes: 100\n"
        "    hil_validation_episodes: 4\n  safety:\n    extends: default\n"
    )
    script = Path(SRC).parent / "scripts" / "deploy_agent.sh"
    command = [str(script), "linear", str(agent), "", "--output", str(out), "--config", str(deployment)]
    command += ["--validation", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYTHON": sys.executable}
    log = (tmp_path / "stdout").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not any((out / "campaigns").glob("*.jsonl")) or not _lines(out):
        assert process.poll() is None, (tmp_path / "stdout").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    assert process.wait(20) == 130
    text = (tmp_path / "stdout").read_text()
    assert "the same command goes on" in text
    assert "Traceback" not in text
    flown = _lines(out)
    assert 0 < flown < 100
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("unchanged since the last run") == 2
    assert "✓ Deployment complete!" in done.stdout
    assert _lines(out) == 100
    log.close()


def _lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "campaigns").glob("*.jsonl"))
