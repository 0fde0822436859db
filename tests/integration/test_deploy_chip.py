"""The six steps to a microcontroller: what is built, measured, reported and kept, and everything that stops them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.deploy_support import flying_bundle, linear_agent

from sim2sky import cli
from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config.deployment import DeploymentSettings, OptimizationSettings, ThresholdSettings
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.safety import SafetySettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment import firmware_config
from sim2sky.deployment.chip_target import BoardTarget, EmulatedTarget, open_chip
from sim2sky.deployment.deploy_agent import deploy
from sim2sky.deployment.deploy_plan import DeployPlan, DeployResult
from sim2sky.deployment.targets import open_target, temporary_target
from sim2sky.errors import (
    ConfigError,
    GoldenMismatchError,
    LinkError,
    NotSupportedError,
    Sim2SkyError,
    TargetError,
    ToolchainError,
)
from sim2sky.hil.chip import require_golden
from sim2sky.hil.qemu import EmulatedChip
from sim2sky.validation import hil_check
from sim2sky.validation.hil_check import fly_hil, fly_installed, fly_pil

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
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("agents")
    return {"linear": linear_agent(folder / "linear"), "softer": linear_agent(folder / "softer", scale=0.9)}


def plan_of(model: Path, output: Path, target: str) -> DeployPlan:
    return DeployPlan("linear", model, output, SETTINGS, VALIDATION, target=target)


@pytest.fixture(scope="module")
def deployed(
    agents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[DeployPlan, DeployResult, list[str]]:
    folder = tmp_path_factory.mktemp("deployed")
    plan = plan_of(agents["linear"], folder / "out", f"mcu:emulated:{folder / 'board'}")
    lines: list[str] = []
    return plan, deploy(plan, say=lines.append), lines


def board_of(plan: DeployPlan) -> EmulatedTarget:
    target = open_chip(plan.target)
    assert isinstance(target, EmulatedTarget)
    return target


# What a deployment gives


def test_six_steps_and_what_they_measured(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> None:
    _, result, lines = deployed
    assert result.outcome == "pass" and result.step == 6
    assert [line for line in lines if line.startswith("[")][-1] == "[6/6] Running HIL validation..."
    said = "\n".join(lines)
    assert re.search(r"flash: [\d,]+ of 8,126,464 bytes \(the Teensy 4.1\)", said)
    assert re.search(r"ram: [\d,]+ of 524,288 bytes, [\d,]+ of them the stack at its deepest", said)
    assert re.search(r"golden vectors: \d+, all to the last bit", said)
    steps = re.search(r"instructions: ([\d,]+) a control step \(at most ([\d,]+)\), ([\d,]+) of them the policy", said)
    assert steps is not None
    step, most, policy = (int(n.replace(",", "")) for n in steps.groups())
    assert 100 < policy < step <= most < 20_000
    assert f"estimate: {step / 600:.1f} us a control step" in said and "one instruction per cycle" in said
    assert result.bundle is not None
    bundle = open_bundle(result.bundle)
    assert bundle.profile == "teensy" and {"onnx", "c"} <= set(bundle.formats) and bundle.active == "onnx"


def test_int8_weights_are_what_is_checked_and_what_flies(
    agents: dict[str, Path], deployed: tuple[DeployPlan, DeployResult, list[str]], tmp_path: Path
) -> None:
    export = SETTINGS.model_export.model_copy(update={"c_weights": "int8"})
    plan = plan_of(agents["linear"], tmp_path / "out", f"mcu:emulated:{tmp_path / 'board'}")
    plan = replace(plan, settings=SETTINGS.model_copy(update={"model_export": export}))
    lines: list[str] = []
    result = deploy(plan, say=lines.append)
    assert result.outcome == "pass" and result.bundle is not None
    bundle = open_bundle(result.bundle)
    assert bundle.active == "c" and bundle.provenance["c_weights"] == "int8"
    checks = {c["name"]: c for c in json.loads((plan.output / "report.json").read_text(encoding="utf-8"))["checks"]}
    error = checks["Model Export"]["metrics"]["golden_max_error"]
    assert 1e-5 < error <= bundle.provenance["golden_tolerance"]  # of the int8 C, not of the ONNX file
    assert checks["HIL Performance"]["metrics"]["same_success_as_simulation"] == "4/4"
    floats = deployed[1].bundle
    assert floats is not None and open_bundle(floats).read("policy.c") != bundle.read("policy.c")


def test_int8_weights_are_refused_where_they_would_not_fly(agents: dict[str, Path], tmp_path: Path) -> None:
    export = SETTINGS.model_export.model_copy(update={"c_weights": "int8"})
    plan = plan_of(agents["linear"], tmp_path / "out", f"local:{tmp_path / 'target'}")
    with pytest.raises(NotSupportedError, match="c_weights: int8 on local:") as caught:
        deploy(replace(plan, settings=SETTINGS.model_copy(update={"model_export": export})))
    assert "mcu:emulated" in caught.value.hint and not (tmp_path / "target").exists()


def test_the_report_has_the_table(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> None:
    plan, _, _ = deployed
    report = (plan.output / "report.txt").read_text(encoding="utf-8")
    for key in ("flash:", "ram:", "instructions:", "estimate:", "exchange_us_median:"):
        assert key in report
    checks = json.loads((plan.output / "report.json").read_text(encoding="utf-8"))["checks"]
    hil = next(c for c in checks if c["name"] == "HIL Performance")
    assert hil["outcome"] == "pass" and hil["metrics"]["same_success_as_simulation"] == "4/4"


def test_the_chip_flies_the_episodes_of_the_local_target_alike(
    deployed: tuple[DeployPlan, DeployResult, list[str]], tmp_path: Path
) -> None:
    plan, result, _ = deployed
    assert result.bundle is not None
    bundle = open_bundle(result.bundle)
    validation = SETTINGS.validation_settings(VALIDATION)
    chip = fly_pil(bundle, validation, board_of(plan))
    local = fly_hil(bundle, validation, temporary_target(bundle, tmp_path))
    assert [(o.seed, o.success, o.termination) for o in chip.outcomes] == [
        (o.seed, o.success, o.termination) for o in local.outcomes
    ]


def test_what_is_installed_can_be_asked_tested_and_flown_again(
    deployed: tuple[DeployPlan, DeployResult, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan, result, _ = deployed
    assert result.bundle is not None
    digest = open_bundle(result.bundle).digest
    target = board_of(plan)
    status = target.status()
    assert status["problems"] == [] and status["previous"] is None
    assert status["active"] == target.active() == status["firmware"]["firmware"]
    assert target.bundle().digest == digest == status["firmware"]["bundle_digest"]
    with target.run() as link:
        require_golden(link, target.bundle())

    def run(*arguments: str) -> str:
        assert cli.run(list(arguments)) == 0
        return capsys.readouterr().out

    assert f"bundle_digest: {digest}" in run("target", "status", plan.target)
    assert json.loads(run("target", "status", plan.target, "--json"))["verdict"] == "pass"
    assert f"PASS - bundle {digest[:12]}" in run("test-inference", plan.target)
    assert json.loads(run("test-inference", plan.target, "--json"))["different"] == 0
    config = tmp_path / "validation.yaml"
    task = "{duration_s: 5.0, hold_s: 0.5, altitude_step_m: 4.0, heading_step_deg: 10.0}"
    config.write_text(f"validation:\n  strict: false\n  environment:\n    task: {task}\n")
    flown = json.loads(run("hil", plan.target, "--episodes", "2", "--config", str(config), "--json"))
    assert flown["name"] == "HIL Performance" and flown["metrics"]["exchange_us_median"] > 0.0


# Two slots


def test_two_slots_rollback_and_a_firmware_that_changed(tmp_path: Path) -> None:
    target = EmulatedTarget("mcu:emulated", tmp_path / "board")
    assert target.active() is None
    with pytest.raises(TargetError, match="nothing is installed"), target.run():
        pass
    names = []
    for i, scale in enumerate((1.0, 0.9)):
        image = target.stage(flying_bundle(tmp_path / f"bundle{i}", scale=scale))
        assert target.active() == (names[-1] if names else None)  # staging changes nothing
        with target.staged() as link:
            require_golden(link, open_bundle(tmp_path / f"bundle{i}"))
        names.append(target.activate(image, {"note": i}))
    assert target.active() == names[1] != names[0] and target.status()["previous"] == names[0]
    assert target.rollback() == {"release": names[0], "left": names[1]}
    assert target.bundle().digest == open_bundle(tmp_path / "bundle0").digest
    assert target.rollback() == {"release": names[1], "left": names[0]}
    assert target.revert() == names[0] and target.status()["previous"] is None
    with pytest.raises(TargetError, match="no previous firmware"):
        target.rollback()
    firmware = target.folder / "active" / "firmware.elf"
    data = bytearray(firmware.read_bytes())
    data[len(data) // 2] ^= 1
    firmware.write_bytes(data)
    assert "has changed since its test" in target.status()["problems"][0]
    with pytest.raises(TargetError, match="has changed since its test"), target.run():
        pass
    assert target.revert() is None and target.active() is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bundle = flying_bundle(tmp_path / "bundle")
    with pytest.raises(TargetError, match="cannot write"):
        EmulatedTarget("mcu:emulated", tmp_path / "file" / "board").stage(bundle)


# What stops a deployment


def test_a_golden_mismatch_on_the_chip_keeps_the_firmware_before(
    deployed: tuple[DeployPlan, DeployResult, list[str]],
    agents: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, _, _ = deployed
    before = board_of(plan).active()
    right = firmware_config.agent_sources

    def wrong(bundle: Bundle) -> dict[str, str]:
        sources = right(bundle)
        found = re.search(r"static const float \w*w\w*\[[^=]*= \{\s*(-?0x[0-9a-fp.+-]+)f", sources["policy.c"])
        assert found is not None
        policy = sources["policy.c"]
        return {**sources, "policy.c": policy[: found.start(1)] + "0x1.8p+1" + policy[found.end(1) :]}

    monkeypatch.setattr(firmware_config, "agent_sources", wrong)
    lines: list[str] = []
    with pytest.raises(
        GoldenMismatchError, match=r"the first is number \d+: to \[.*\] the chip answers \[.*\], right is"
    ):
        deploy(plan_of(agents["softer"], tmp_path / "out", plan.target), say=lines.append)
    assert lines[-1].startswith("      ram") or lines[-1].startswith("[5/6]")
    after = board_of(plan).status()
    assert after["active"] == before and after["problems"] == []


def test_firmware_that_does_not_fly_does_not_stay_active(
    deployed: tuple[DeployPlan, DeployResult, list[str]],
    agents: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, _, _ = deployed
    before = board_of(plan).active()
    fly = hil_check.fly_chip

    def unplugged(*args: object, **how: object) -> object:
        fly(*args, **how)  # type: ignore[arg-type]
        raise LinkError("the emulated chip ended (signal 9)")

    monkeypatch.setattr(hil_check, "fly_chip", unplugged)
    lines: list[str] = []
    with pytest.raises(LinkError):
        deploy(plan_of(agents["softer"], tmp_path / "out", plan.target), say=lines.append)
    assert lines[-1].strip() == f"the HIL run did not end; active on the target: {before}"
    assert board_of(plan).active() == before


def test_no_compiler_and_no_emulator_are_told_before_anything_else(
    agents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    with pytest.raises(ToolchainError, match="no C compiler for cortex-m7"):
        deploy(plan_of(agents["linear"], tmp_path / "out", f"mcu:emulated:{tmp_path / 'board'}"), say=lines.append)
    assert not any(line.startswith("[") for line in lines)


@pytest.mark.parametrize("target", ["mcu:", "mcu:teensy", "mcu:COM3"])
def test_no_description_of_a_microcontroller(target: str) -> None:
    with pytest.raises(ConfigError, match="is no target"):
        open_chip(target)


def test_where_a_microcontroller_is_not_understood(agents: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="microcontroller"):
        open_target("mcu:emulated")
    teensy = SETTINGS.model_copy(update={"target": SETTINGS.target.model_copy(update={"platform": "teensy"})})
    with pytest.raises(NotSupportedError, match="platform 'teensy'") as caught:
        deploy(replace(plan_of(agents["linear"], tmp_path / "out", ""), settings=teensy))
    assert "mcu:emulated" in caught.value.hint


# A board on a serial port: here the emulated one, by its UART


@pytest.fixture
def device(deployed: tuple[DeployPlan, DeployResult, list[str]]) -> Iterator[str]:
    with EmulatedChip(board_of(deployed[0]).folder / "active" / "firmware.elf", uart=True) as chip:
        chip.channel.close()
        yield chip.device


def test_a_board_that_has_this_firmware_is_tested_and_flown(
    deployed: tuple[DeployPlan, DeployResult, list[str]], device: str
) -> None:
    plan, _, _ = deployed
    settings = SETTINGS.model_copy(
        update={"validation": SETTINGS.validation.model_copy(update={"hil_validation_episodes": 1})}
    )
    lines: list[str] = []
    board = deploy(replace(plan, target=f"mcu:{device}", settings=settings), say=lines.append)
    said = "\n".join(lines)
    assert "unchanged since the last run, kept" in said  # the bundle is the very one
    assert f"the firmware on {device} is of bundle" in said and "all to the last bit" in said
    assert board.step == 6
    hil = next(r for r in board.results if r.name == "HIL Performance")
    assert hil.metrics["exchange_us_median"] > 0.0
    with pytest.raises(NotSupportedError, match="knowing the bundle"):
        fly_installed(BoardTarget("mcu:x", device), VALIDATION)


def test_a_board_with_another_firmware_says_how_to_flash_it(
    device: str, agents: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(NotSupportedError, match="flashing") as caught:
        deploy(plan_of(agents["softer"], tmp_path / "out", f"mcu:{device}"))
    assert "sim2sky firmware" in caught.value.hint and "--port teensy41" in caught.value.hint


def test_no_board(agents: dict[str, Path], tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(Sim2SkyError, match="No such file"):
        deploy(plan_of(agents["linear"], tmp_path / "out", f"mcu:{tmp_path / 'tty'}"), say=lines.append)
    assert not any(line.startswith("[") for line in lines)
