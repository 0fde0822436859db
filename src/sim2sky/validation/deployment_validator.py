"""Is this agent good enough to be installed: five checks, a report, a verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import (
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    ConfigError,
    Sim2SkyError,
)
from sim2sky.validation.checks import (
    ProgressHook,
    Subject,
    ValidationResult,
    check_inference_latency,
    check_model_export,
    check_safety_compliance,
    check_sim_performance,
    open_subject,
)
from sim2sky.validation.hil_check import check_hil_performance
from sim2sky.validation.statistics import Outcome

__all__ = [
    "CHECKS",
    "DeploymentValidator",
    "ValidationResult",
    "exit_code",
    "overall",
    "report_json",
    "report_text",
    "result_text",
]

CHECKS = ("Model Export", "Inference Latency", "Simulation Performance", "HIL Performance", "Safety Compliance")
_LINE = "=" * 60
_STATUS = {"pass": "✓ PASS", "fail": "✗ FAIL", "inconclusive": "? INCONCLUSIVE", "not supported": "✗ NOT SUPPORTED"}


class DeploymentValidator:
    """Pre-deployment validation suite.

    Args:
        config: thresholds and parameters, as `configs/validation/default.yaml` has them below `validation`.
        cluster: `dask://host:port` for the simulation campaign.
        target: where the release is installed already; without one, HIL makes a local target for the occasion.
        folder: where finished episodes and flight logs are kept; nothing is kept without one.
        progress: told (name of the check, `Progress`) after every episode.

    Raises:
        ConfigError: a key or value is wrong, or no model is named.
        BundleError: the model is a damaged bundle.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | ValidationSettings,
        *,
        cluster: str | None = None,
        target: ReleaseTarget | None = None,
        folder: Path | None = None,
        progress: ProgressHook | None = None,
    ) -> None:
        if isinstance(config, ValidationSettings):
            self.config = config
        else:
            try:
                self.config = ValidationSettings.model_validate(dict(config))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise ConfigError(f"validation setting '{where}': {first['msg']}") from error
        self.subject: Subject = open_subject(self.config)
        self._cluster = cluster
        self._target = target
        self._folder = folder
        self._progress = progress
        self._simulated: list[EpisodeOutcome] = []

    def run_all_checks(self) -> tuple[bool, list[ValidationResult]]:
        """Run all validation checks.

        Returns:
            (all_passed, results): overall pass/fail and detailed results. Not passing may also mean inconclusive; see
            `overall`.
        """
        results = self.run_checks()
        return all(r.passed for r in results), results

    def run_checks(self, names: tuple[str, ...] = CHECKS) -> list[ValidationResult]:
        """Run some of the checks, in order.

        Raises:
            LinkError, TargetError: the cluster, the link or the target failed, which says nothing about the agent.
        """
        checks: dict[str, Callable[[], ValidationResult]] = {
            "Model Export": lambda: check_model_export(self.subject, self.config),
            "Inference Latency": lambda: check_inference_latency(self.subject, self.config),
            "Simulation Performance": self._simulation,
            "HIL Performance": self._hil,
            "Safety Compliance": lambda: check_safety_compliance(self.subject, self.config),
        }
        return [checks[name]() for name in CHECKS if name in names]

    def _simulation(self) -> ValidationResult:
        result, self._simulated = check_sim_performance(
            self.subject, self.config, cluster=self._cluster, folder=self._folder, progress=self._progress
        )
        return result

    def _hil(self) -> ValidationResult:
        return check_hil_performance(
            self.subject,
            self.config,
            target=self._target,
            simulated=self._simulated,
            folder=None if self._folder is None else self._folder / "hil",
            progress=self._progress,
        )

    @property
    def pending(self) -> list[str]:
        """Stages on hardware that the configuration requires and nothing here can stand for."""
        stages = []
        if self.config.bench_test_required:
            stages.append("bench test (actuators without aircraft)")
        if self.config.ground_test_required:
            stages.append("ground test (powered on, no takeoff)")
        return stages

    def print_report(self, results: list[ValidationResult]) -> None:
        """Print validation report."""
        sys.stdout.write(report_text(results, self.pending))


def overall(results: list[ValidationResult]) -> Outcome:
    """`fail` where any check failed or could not be made, else `inconclusive` where any is, else `pass`."""
    outcomes = {r.outcome for r in results}
    if not results or outcomes & {"fail", "not supported"}:
        return "fail"
    return "inconclusive" if "inconclusive" in outcomes else "pass"


def exit_code(results: list[ValidationResult]) -> int:
    """0 pass, 1 fail, 3 inconclusive."""
    return {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}[overall(results)]


def report_text(results: list[ValidationResult], pending: list[str]) -> str:
    """The specified report, with the stages that are still to come."""
    lines = ["", _LINE, "DEPLOYMENT VALIDATION REPORT", _LINE]
    for result in results:
        lines += ["", result_text(result)]
    if pending:
        lines += ["", "Pending stages, required before flight and not part of this verdict:"]
        lines += [f"  - {stage}" for stage in pending]
    closing = {
        "pass": "✓ ALL CHECKS PASSED - READY FOR DEPLOYMENT",
        "fail": "✗ VALIDATION FAILED - DO NOT DEPLOY",
        "inconclusive": "? INCONCLUSIVE - MORE EPISODES NEEDED - DO NOT DEPLOY YET",
    }
    lines += ["", _LINE, closing[overall(results)], _LINE, "", ""]
    return "\n".join(lines)


def result_text(result: ValidationResult) -> str:
    """One check as the specified report shows it."""
    lines = [f"{_STATUS[result.outcome]} - {result.name}", f"  {result.notes}"]
    if result.metrics:
        lines.append("  Metrics:")
        lines += [f"    {key}: {_shown(value)}" for key, value in result.metrics.items()]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    # Four decimals as specified; a golden error of 4e-7 would read 0.0000.
    return f"{value:.4f}" if value == 0.0 or abs(value) >= 1e-3 else f"{value:.2e}"


def report_json(validator: DeploymentValidator, results: list[ValidationResult]) -> dict[str, Any]:
    """The report as JSON-compatible data."""
    bundle = validator.subject.bundle
    return {
        "verdict": overall(results),
        "model": str(validator.subject.path),
        "digest": bundle.digest if bundle else None,
        "agent": bundle.agent if bundle else None,
        "checks": [r.to_json() for r in results],
        "pending": validator.pending,
    }


def main(argv: list[str] | None = None) -> int:
    """`python -m sim2sky.validation.deployment_validator --model M --config YAML`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="deployment_validator", description="Validate an agent before deployment.")
    parser.add_argument("--model", help="bundle folder or ONNX file")
    parser.add_argument("--config", type=Path, help="YAML file (default: the shipped one)")
    parser.add_argument("--cluster", help="dask://host:port")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    try:
        settings = load_settings(options.config or default_path("validation"), ValidationSettings, section="validation")
        if options.model:
            settings = settings.model_copy(update={"model_path": options.model})
        validator = DeploymentValidator(settings, cluster=options.cluster)
        results = validator.run_checks()
    except Sim2SkyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    if options.json:
        sys.stdout.write(json.dumps(report_json(validator, results), indent=2, ensure_ascii=False) + "\n")
    else:
        validator.print_report(results)
    return exit_code(results)


if __name__ == "__main__":
    raise SystemExit(main())
