"""The validator's five checks on real bundles, each with something it must refuse; the report word for word."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.deploy_support import flying_bundle, make_bundle, network

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.layers import Network
from sim2sky.config.safety import SafetySettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.errors import BundleError, ConfigError
from sim2sky.validation.deployment_validator import (
    CHECKS,
    DeploymentValidator,
    ValidationResult,
    exit_code,
    overall,
    report_json,
    report_text,
)

QUICK = {
    "latency_samples": 300,
    "sim_validation_episodes": 30,
    "hil_validation_episodes": 6,
    "strict": False,
    "workers": 1,
    "environment": {"task": {"duration_s": 8.0, "hold_s": 1.0, "altitude_step_m": 5.0, "heading_step_deg": 20.0}},
    "safety": {"extends": "default"},
}
SPECIFIED = ("Model Export", "Inference Latency", "Simulation Performance", "HIL Performance", "Safety Compliance")
NOT_FLOWN = ("Model Export", "Inference Latency", "Safety Compliance")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return flying_bundle(tmp_path_factory.mktemp("bundle") / "b")


def check(name: str, path: Path, **changes: object) -> ValidationResult:
    (result,) = DeploymentValidator({**QUICK, "model_path": str(path), **changes}).run_checks((name,))
    assert result.name == name
    assert result.notes.startswith(result.outcome.upper())
    return result


def test_all_five_checks_pass_on_an_agent_that_flies(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told: list[str] = []
    validator = DeploymentValidator(
        {**QUICK, "model_path": str(bundle.path)}, folder=tmp_path, progress=lambda name, _: told.append(name)
    )
    passed, results = validator.run_all_checks()
    assert tuple(r.name for r in results) == CHECKS == SPECIFIED
    assert passed, [r.notes for r in results]
    by_name = {r.name: r for r in results}
    assert by_name["Simulation Performance"].metrics["episodes"] == 30
    assert by_name["HIL Performance"].metrics["episodes"] == 6
    assert by_name["HIL Performance"].metrics["same_success_as_simulation"] == "6/6"
    assert (tmp_path / "hil" / "hil_plant.h5").stat().st_size > 0
    assert (told.count("Simulation Performance"), told.count("HIL Performance")) == (30, 6)
    assert exit_code(results) == 0
    validator.print_report(results)
    text = capsys.readouterr().out
    assert "DEPLOYMENT VALIDATION REPORT" in text
    assert "✓ PASS - Model Export" in text
    assert "✓ ALL CHECKS PASSED - READY FOR DEPLOYMENT" in text
    assert "bench test" in text.split("Pending stages")[1]
    assert json.loads(json.dumps(report_json(validator, results)))["verdict"] == "pass"


# Model export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normaliser dropped", "clip removed"])
def test_a_broken_export_fails(tmp_path: Path, kind: str) -> None:
    net = network()
    broken = {
        "normaliser dropped": Network((replace(net.inputs[0], layers=()),), net.layers),
        "clip removed": Network(net.inputs, net.layers[:-1]),
    }[kind]
    result = check("Model Export", make_bundle(tmp_path / "b", exported=broken).path)
    assert result.outcome == "fail"
    assert "does not answer as trained" in result.notes
    assert result.metrics["golden_max_error"] > 0.01


def test_a_good_export_passes(tmp_path: Path) -> None:
    result = check("Model Export", make_bundle(tmp_path / "b").path, obs_dim=6)
    assert result.passed
    assert result.metrics["golden_max_error"] < 1e-5
    assert (result.metrics["opset"], result.metrics["ir_version"]) == (17, 8)


def test_another_width_than_configured_fails(tmp_path: Path) -> None:
    result = check("Model Export", make_bundle(tmp_path / "b").path, obs_dim=12)
    assert result.notes == "FAIL: the model observes 6 values, not 12"


def test_what_onnxruntime_cannot_load_fails(tmp_path: Path) -> None:
    result = check("Model Export", make_bundle(tmp_path / "b", onnx=b"garbage").path)
    assert result.outcome == "fail"
    assert "Export error:" in result.notes


def test_a_bare_onnx_file_has_nothing_that_shows_it_answers_as_trained(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(model_to_bytes(emit_onnx(network(), opset=11)))
    literal = check("Model Export", path, obs_dim=6)
    assert literal.passed
    assert check("Model Export", path, strict=True).outcome == "fail"
    assert check("Model Export", path, obs_dim=7).outcome == "fail"
    assert check("Inference Latency", path).passed
    assert check("Inference Latency", path, obs_dim=7).outcome == "fail"
    assert check("Simulation Performance", path).outcome == "not supported"
    assert check("HIL Performance", path).outcome == "not supported"
    assert check("Safety Compliance", path).passed


# Latency --------------------------------------------------------------------------------------------------------------


def test_latency_reports_what_the_mean_hides(bundle: Bundle) -> None:
    result = check("Inference Latency", bundle.path)
    assert result.passed
    assert {"mean_ms", "max_ms", "p95_ms", "p99_ms", "deadline_miss_rate"} <= set(result.metrics)
    assert result.metrics["n"] == 300
    assert 0 < result.metrics["mean_ms"] <= result.metrics["max_ms"] < 20


def test_a_mean_above_the_limit_fails(bundle: Bundle) -> None:
    assert check("Inference Latency", bundle.path, max_latency_ms=1e-4).outcome == "fail"


def test_too_many_late_inferences_fail_whatever_the_mean(bundle: Bundle) -> None:
    result = check("Inference Latency", bundle.path, deadline_ms=1e-4)
    assert result.outcome == "fail"
    assert "100.0% later than 0.0001 ms" in result.notes


# Simulation -----------------------------------------------------------------------------------------------------------


def test_an_agent_that_hardly_steers_fails_in_simulation(tmp_path: Path) -> None:
    weak = flying_bundle(tmp_path / "weak", scale=0.02)
    settings = {"environment": {}, "sim_validation_episodes": 20, "strict": True}
    result = check("Simulation Performance", weak.path, **settings)
    assert result.outcome == "fail"
    assert result.metrics["upper_bound"] < 0.8


def test_strict_asks_the_bound_and_can_be_inconclusive(bundle: Bundle) -> None:
    result = check("Simulation Performance", bundle.path, sim_validation_episodes=8, strict=True)
    assert result.metrics["successes"] == 8
    assert result.outcome == "inconclusive"
    assert not result.passed
    assert "a fresh campaign of 14 episodes would decide" in result.notes
    assert check("Simulation Performance", bundle.path, sim_validation_episodes=8, strict=False).passed


def test_the_same_seed_gives_the_same_verdict_on_any_number_of_workers(bundle: Bundle) -> None:
    one, two = (check("Simulation Performance", bundle.path, workers=n, sim_validation_episodes=10) for n in (1, 2))
    assert one == two


def test_agents_without_a_vehicle_are_not_supported_which_is_no_pass(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b").path
    results = [check(name, path) for name in ("Simulation Performance", "HIL Performance")]
    assert [r.outcome for r in results] == ["not supported"] * 2
    assert not any(r.passed for r in results)
    assert exit_code(results) == 1
    assert "its contract names no vehicle" in results[0].notes


# Safety ---------------------------------------------------------------------------------------------------------------


def test_limits_that_protect_nothing_fail(bundle: Bundle) -> None:
    result = check("Safety Compliance", bundle.path, safety={"extends": "default", "aileron_max": 1e9})
    assert result.outcome == "fail"
    assert "aileron_max 1e+09 deg is beyond the actuator's travel" in result.notes


def test_the_specifications_own_default_block_is_missing_params(bundle: Bundle) -> None:
    block = {"kill_switch_enabled": True, "geofence_enabled": True, "max_altitude_m": 500, "max_range_m": 500}
    result = check("Safety Compliance", bundle.path, safety=block)
    assert result.outcome == "fail"
    assert "Missing params: ['aileron_max', 'elevator_max', 'altitude_min'" in result.notes


# The whole ------------------------------------------------------------------------------------------------------------


def made(*outcomes: str) -> list[ValidationResult]:
    return [
        ValidationResult.of(name, outcome, {"rate": 0.5, "n": 3}, "because")  # type: ignore[arg-type]
        for name, outcome in zip(CHECKS, outcomes, strict=False)
    ]


@pytest.mark.parametrize(
    ("outcomes", "verdict", "code", "closing"),
    [
        (("pass",) * 5, "pass", 0, "✓ ALL CHECKS PASSED - READY FOR DEPLOYMENT"),
        (("pass", "fail", "pass", "pass", "pass"), "fail", 1, "✗ VALIDATION FAILED - DO NOT DEPLOY"),
        (("pass", "pass", "inconclusive", "pass", "pass"), "inconclusive", 3, "? INCONCLUSIVE - MORE EPISODES NEEDED"),
        (("fail", "pass", "inconclusive", "pass", "pass"), "fail", 1, "✗ VALIDATION FAILED"),
        (("pass", "pass", "not supported", "not supported", "pass"), "fail", 1, "✗ VALIDATION FAILED"),
    ],
)
def test_verdict_and_closing_line(outcomes: tuple[str, ...], verdict: str, code: int, closing: str) -> None:
    results = made(*outcomes)
    assert overall(results) == verdict
    assert exit_code(results) == code
    text = report_text(results, ["bench test"])
    assert closing in text
    assert ("READY FOR DEPLOYMENT" in text) == (verdict == "pass")


def test_no_checks_are_no_pass() -> None:
    assert overall([]) == "fail"


def test_the_report_is_the_specified_one() -> None:
    text = report_text([ValidationResult("Model Export", True, {"rate": 0.25, "tiny": 4e-7, "n": 3}, "fine")], [])
    line = "=" * 60
    assert text == (
        f"\n{line}\nDEPLOYMENT VALIDATION REPORT\n{line}\n\n✓ PASS - Model Export\n  fine\n  Metrics:\n"
        f"    rate: 0.2500\n    tiny: 4.00e-07\n    n: 3\n\n{line}\n✓ ALL CHECKS PASSED - READY FOR DEPLOYMENT\n{line}\n\n"
    )


def test_pending_stages_are_never_passed(bundle: Bundle) -> None:
    validator = DeploymentValidator({**QUICK, "model_path": str(bundle.path)})
    assert len(validator.pending) == 2
    text = report_text(made("pass"), validator.pending)
    assert "✓ PASS - bench" not in text.lower()
    assert DeploymentValidator({**QUICK, "model_path": str(bundle.path), "bench_test_required": False}).pending == [
        "ground test (powered on, no takeoff)"
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no model to validate"),
        ({"model_path": "agent.zip"}, "is a trained agent, not an export"),
        ({"model_path": "none.onnx"}, "there is no file"),
        ({"max_latency": 3}, "validation setting 'max_latency'"),
        ({"sim_success_threshold": "high"}, "validation setting 'sim_success_threshold'"),
    ],
)
def test_wrong_configurations_are_plain_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeploymentValidator(config)


def test_a_damaged_bundle_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle.path / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError):
        DeploymentValidator(ValidationSettings(model_path=str(bundle.path), safety=SafetySettings(extends="default")))


def test_the_specified_command_line(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    config = tmp_path / "v.yaml"
    config.write_text("validation:\n  latency_samples: 300\n  workers: 1\n  safety:\n    extends: default\n")
    command = [sys.executable, "-m", "sim2sky.validation.deployment_validator", "--model", str(bundle.path)]
    done = subprocess.run([*command, "--config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "✓ PASS - Model Export" in done.stdout
    assert "✗ NOT SUPPORTED - Simulation Performance" in done.stdout
    assert "✗ VALIDATION FAILED - DO NOT DEPLOY" in done.stdout
    config.write_text("validation:\n  latency_sample: 300\n")
    done = subprocess.run([*command, "--config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "v.yaml:2: unknown key 'validation.latency_sample'; did you mean 'latency_samples'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_golden_actions_are_not_all_alike(bundle: Bundle) -> None:
    """Guards the fixture: golden vectors on which every policy agrees would show nothing."""
    assert np.unique(bundle.golden().action, axis=0).shape[0] > 100
