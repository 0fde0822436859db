"""A bundle whose only policy is C: judged in simulation with what this machine compiles, refused where no C flies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.deploy_support import deliver, flying_bundle, local_target
from tests.native_support import with_c

from sim2sky.agent.bundle import GOLDEN, NETWORK, SAFETY, Bundle, write_bundle
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.native_build import backend_here
from sim2sky.errors import BundleError, NotSupportedError, ToolchainError
from sim2sky.runtime.inference import OnnxBackend, load_backend
from sim2sky.runtime.native_policy import NativeBackend
from sim2sky.validation.deployment_validator import DeploymentValidator, ValidationResult

SHORT = {
    "latency_samples": 300,
    "sim_validation_episodes": 4,
    "strict": False,
    "workers": 1,
    "environment": {"task": {"duration_s": 8.0, "hold_s": 1.0, "altitude_step_m": 5.0, "heading_step_deg": 20.0}},
    "safety": {"extends": "default"},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_c(flying_bundle(tmp_path_factory.mktemp("both") / "plain"))


@pytest.fixture(scope="module")
def c_only(both: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    kept = (NETWORK, GOLDEN, SAFETY, "policy.c", "policy.h")
    return write_bundle(
        tmp_path_factory.mktemp("only") / "b",
        agent=both.agent,
        contract=both.contract,
        formats={"c": "policy.c"},
        active="c",
        files={name: both.read(name) for name in kept},
        profile=both.profile,
        provenance=both.provenance,
    )


def check(name: str, bundle: Bundle) -> ValidationResult:
    settings = ValidationSettings.model_validate({**SHORT, "model_path": str(bundle.path)})
    (result,) = DeploymentValidator(settings.model_dump()).run_checks((name,))
    return result


def test_the_lab_compiles_what_flies_and_loads_the_rest(both: Bundle, c_only: Bundle) -> None:
    compiled, loaded = backend_here(c_only), backend_here(both)
    assert isinstance(compiled, NativeBackend) and isinstance(loaded, OnnxBackend)
    assert isinstance(backend_here(both, "c"), NativeBackend)
    for row in next(iter(both.golden().observations.values()))[:50]:
        assert np.abs(compiled(row) - loaded(row)).max() <= 1e-5


def test_on_a_target_c_must_have_been_installed(c_only: Bundle) -> None:
    with pytest.raises(BundleError, match="is not compiled"):
        load_backend(c_only)


def test_it_is_judged_in_simulation_as_the_onnx_file_is(both: Bundle, c_only: Bundle) -> None:
    ours, onnx = (check("Simulation Performance", bundle) for bundle in (c_only, both))
    assert ours.metrics["successes"] == onnx.metrics["successes"] and ours.outcome == onnx.outcome
    assert ours.metrics["median_altitude_rmse_m"] == pytest.approx(onnx.metrics["median_altitude_rmse_m"], rel=1e-3)
    export = check("Model Export", c_only)
    assert export.passed and 0.0 <= export.metrics["golden_max_error"] <= 1e-5


def test_hardware_in_the_loop_names_the_chip(c_only: Bundle) -> None:
    result = check("HIL Performance", c_only)
    assert result.outcome == "not supported" and not result.passed
    assert "mcu:emulated" in result.notes


def test_a_linux_target_refuses_it_before_anything_is_copied(c_only: Bundle, tmp_path: Path) -> None:
    target = local_target(tmp_path / "target")
    with pytest.raises(NotSupportedError, match="in C only") as caught:
        deliver(target, c_only)
    assert "onnx,c" in caught.value.hint and target.active() is None


def test_without_a_compiler_the_check_says_what_to_install(
    c_only: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolchainError, match="no C compiler") as caught:
        backend_here(c_only)
    assert "apt-get install" in caught.value.hint
