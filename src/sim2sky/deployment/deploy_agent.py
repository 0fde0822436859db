"""The six steps from a trained agent to an installed, tested and hardware-in-the-loop flown bundle.

A conductor, not a part: it stands above `validation` although the specification files it here (docs/adr/0003). Each
step is kept by a hash of its inputs, so that a deployment that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config.loader import dump_yaml
from sim2sky.config.safety import resolve_safety
from sim2sky.deployment.bundling import NAME, export_bundle, require_profile
from sim2sky.deployment.deploy_plan import DeployPlan, DeployResult
from sim2sky.deployment.keys import DEFAULT_KEY, KeyRing
from sim2sky.deployment.pipeline_state import PipelineState, content_hash
from sim2sky.deployment.release import Release
from sim2sky.deployment.signing import find_signer, signed_release
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import open_target, test_on_target
from sim2sky.errors import AgentError, BundleError, ConfigError, MissingExtraError, Sim2SkyError
from sim2sky.validation.checks import ProgressHook, ValidationResult
from sim2sky.validation.deployment_validator import CHECKS, DeploymentValidator, overall, report_json, report_text
from sim2sky.validation.flying_export import optimise_bundle, rollout_of, safety_of
from sim2sky.validation.hil_check import fly_hil, judge_hil
from sim2sky.validation.statistics import Outcome

__all__ = ["STEPS", "DeployPlan", "DeployResult", "deploy"]

STEPS = (
    "Exporting model to ONNX...",
    "Optimizing model (quantization)...",
    "Running validation checks...",
    "Copying model to target hardware...",
    "Testing inference on target...",
    "Running HIL validation...",
)
_RULE = "=" * 41
NEXT_STEPS = (
    "Bench test (actuators without aircraft)",
    "Ground test (powered on, no takeoff)",
    "Tethered flight test",
    "Free flight test (supervised)",
)


def _ignore(_: str) -> None:
    """The default listener."""


def deploy(
    plan: DeployPlan,
    *,
    say: Callable[[str], None] = _ignore,
    progress: ProgressHook | None = None,
    now: Callable[[], str] = str,
) -> DeployResult:
    """Run the six steps; stop at the first that fails. Interrupted at any point, the next call goes on from there.

    Args:
        plan: what and where.
        say: told the lines for the user.
        progress: told (name, `Progress`) after every episode.
        now: time stamp for the log.

    Returns:
        The verdict. Anything that prevents one is raised.

    Raises:
        Sim2SkyError: with a plain reason; before step 5 has committed, the target's previous release is active.
    """
    if not NAME.fullmatch(plan.name):
        raise ConfigError(f"agent name {plan.name!r} is not made of letters, digits, '.', '_' and '-'")
    target = open_target(plan.target_name)
    require_profile(plan.settings.target.platform, plan.settings.model_export.opset_version)
    if plan.key != DEFAULT_KEY:
        KeyRing().load(plan.key)  # a wrong name is said now, not after the campaign
    state = PipelineState(plan.output)
    with state.locked():
        for line in (
            _RULE,
            f"Deploying Agent: {plan.name}",
            f"Model: {plan.model_path}",
            f"Target: {target.name}",
            _RULE,
        ):
            say(line)
        return _Run(plan, target, state, say, progress, now).run()


class _Run:
    """One deployment under way."""

    def __init__(
        self,
        plan: DeployPlan,
        target: ReleaseTarget,
        state: PipelineState,
        say: Callable[[str], None],
        progress: ProgressHook | None,
        now: Callable[[], str],
    ) -> None:
        self.plan, self.target, self.state = plan, target, state
        self.say, self.progress, self.now = say, progress, now
        self.validation = plan.settings.validation_settings(plan.validation)
        self.step = 0
        self.written: list[Path] = []

    def begin(self, number: int) -> None:
        self.step = number
        self.say(f"[{number}/6] {STEPS[number - 1]}")

    def note(self, text: str) -> None:
        self.say(f"      {text}")

    def wrote(self, *paths: Path) -> None:
        for path in paths:
            self.written.append(path)
            self.state.log(f"{self.now()} step {self.step} wrote {path}")

    def known(self, step: str, key: str) -> dict[str, Any] | None:
        return None if self.plan.fresh else self.state.result(step, key)

    def run(self) -> DeployResult:
        self.state.write("config.yaml", dump_yaml(self.plan.settings))
        self.state.log(f"{self.now()} deploy {self.plan.name} {self.plan.model_path} to {self.target.name}")
        try:
            self.begin(1)
            exported = self.export()
            self.begin(2)
            bundle = self.optimise(exported)
            self.begin(3)
            validator, results = self.validate(bundle)
            if (outcome := overall(results)) != "pass":
                self.report(validator, results)
                return self.stopped(outcome, results, bundle, "Validation")
            self.begin(4)
            release = self.copy(bundle)
            self.begin(5)
            self.install(bundle, release)
            self.begin(6)
            results = self.fly(bundle, results)
        except Sim2SkyError as error:
            self.state.log(f"{self.now()} step {self.step} failed: {error.message}")
            raise
        except KeyboardInterrupt:
            self.state.log(f"{self.now()} step {self.step} interrupted")
            raise
        self.report(validator, results)
        if (outcome := overall(results)) != "pass":
            return self.stopped(outcome, results, bundle, "HIL validation")
        for line in (_RULE, "✓ Deployment complete!", _RULE, "", "Next steps:"):
            self.say(line)
        for number, text in enumerate(NEXT_STEPS, 1):
            self.say(f"{number}. {text}")
        self.state.log(f"{self.now()} complete")
        return DeployResult("pass", 6, results, bundle.path, self.target.name, self.written)

    def report(self, validator: DeploymentValidator, results: list[ValidationResult]) -> None:
        text = report_text(results, validator.pending)
        self.say(text)
        self.wrote(self.state.write("report.txt", text))
        data = json.dumps(report_json(validator, results), indent=1, ensure_ascii=False)
        self.wrote(self.state.write("report.json", data + "\n"))

    def stopped(self, outcome: Outcome, results: list[ValidationResult], bundle: Bundle, what: str) -> DeployResult:
        word = "failed" if outcome == "fail" else "inconclusive"
        self.say(f"✗ {what} {word}. Aborting deployment.")
        self.state.log(f"{self.now()} step {self.step} {outcome}")
        return DeployResult(outcome, self.step, results, bundle.path, self.target.name, self.written)

    # Step 1 ----------------------------------------------------------------------------------------------------------

    def export(self) -> Bundle:
        try:
            from sim2sky.agent.sb3_archive import find_vecnormalize
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        plan, settings = self.plan, self.plan.settings
        limits = resolve_safety(self.validation.safety).values
        normaliser = plan.vecnormalize or find_vecnormalize(plan.model_path)
        inputs = [_bytes_of(plan.model_path, "agent"), plan.name, settings.model_export.model_dump()]
        inputs += [settings.target.platform, limits, self.validation.environment.model_dump(mode="json"), _code()]
        contract = plan.contract or plan.model_path.with_name("contract.json")
        inputs.append(_bytes_of(normaliser, "normaliser") if normaliser is not None else b"")
        inputs.append(_bytes_of(contract, "contract") if plan.contract or contract.is_file() else b"")
        key = content_hash(*inputs)
        out = plan.output / "export"
        if (bundle := self.kept("export", key)) is not None:
            return bundle
        fmt = settings.model_export.format
        exported = export_bundle(
            plan.model_path,
            out,
            agent_name=plan.name,
            vecnormalize=plan.vecnormalize,
            contract=plan.contract,
            formats=("onnx",) if fmt == "onnx" else ("onnx", "torchscript"),
            active=fmt,
            profile=settings.target.platform,
            opset_version=settings.model_export.opset_version,
            safety=functools.partial(safety_of, limits),
            rollout=functools.partial(rollout_of, self.validation.environment),
            replace=True,
        )
        bundle = exported.bundle
        errors = ", ".join(f"{name} {error:.1e}" for name, error in exported.errors.items())
        self.note(f"{exported.algorithm}, bundle {bundle.digest[:12]}, largest golden error: {errors}")
        self.state.record("export", key, {"path": out.name, "digest": bundle.digest})
        self.wrote(out)
        return bundle

    def kept(self, step: str, key: str) -> Bundle | None:
        """The bundle a step made before from the same inputs, if it is still intact."""
        if (result := self.known(step, key)) is None:
            return None
        try:
            bundle = open_bundle(self.plan.output / result["path"], digest=result["digest"])
        except BundleError:
            self.state.forget(step)
            return None
        self.note(f"unchanged since the last run, kept (bundle {bundle.digest[:12]})")
        if bundle.path not in self.written:
            self.written.append(bundle.path)
        return bundle

    # Step 2 ----------------------------------------------------------------------------------------------------------

    def optimise(self, bundle: Bundle) -> Bundle:
        settings = self.plan.settings.optimization
        key = content_hash(bundle.digest, settings.model_dump(), self.validation.environment.model_dump(mode="json"))
        if (kept := self.kept("optimise", key)) is not None:
            self.note(str((self.known("optimise", key) or {}).get("sentence", "")))
            return kept
        if bundle.active != "onnx" or not (settings.quantize or settings.prune):
            self.note(
                "nothing to optimize: " + ("switched off" if bundle.active == "onnx" else f"flies {bundle.active}")
            )
            self.state.record("optimise", key, {"path": bundle.path.name, "digest": bundle.digest, "sentence": ""})
            return bundle
        found = optimise_bundle(
            bundle, self.plan.output / "optimized", settings, self.validation, progress=self.progress
        )
        for line in found.table.splitlines():
            self.note(line)
        self.wrote(self.state.write("optimization.txt", found.table + "\n"))
        self.state.record(
            "optimise",
            key,
            {"path": found.bundle.path.name, "digest": found.bundle.digest, "sentence": found.sentence},
        )
        if found.bundle.digest != bundle.digest:
            self.wrote(found.bundle.path)
        return found.bundle

    # Step 3 ----------------------------------------------------------------------------------------------------------

    def validate(self, bundle: Bundle) -> tuple[DeploymentValidator, list[ValidationResult]]:
        settings = self.validation.model_copy(update={"model_path": str(bundle.path)})
        validator = DeploymentValidator(
            settings, cluster=self.plan.cluster, folder=self.plan.output / "campaigns", progress=self.progress
        )
        key = content_hash(bundle.digest, self.validation.model_dump(mode="json"), _code())
        if (known := self.known("validate", key)) is not None:
            self.note("unchanged since the last run, kept")
            return validator, [_result_from(r) for r in known["results"]]
        results = validator.run_checks(tuple(name for name in CHECKS if name != "HIL Performance"))
        for result in results:
            self.note(f"{result.name}: {result.notes}")
        if overall(results) == "pass":
            self.state.record("validate", key, {"results": [r.to_json() for r in results]})
        self.wrote(self.plan.output / "campaigns")
        return validator, results

    # Steps 4 and 5 ---------------------------------------------------------------------------------------------------

    def copy(self, bundle: Bundle) -> Release | None:
        """The staged release; None where it is installed already."""
        known = self.known("install", content_hash(bundle.digest, self.target.name, _code()))
        active = self.target.active()
        if known is not None and active is not None and active == known["release"]:
            self.note(f"release {known['release']} is there already")
            return None
        key, out = find_signer(self.plan.key, self.note), self.plan.output / "release"
        above = self.target.highest_version()
        release = signed_release(bundle, out, key, now_s=time.time(), above=above, fresh=self.plan.fresh)
        self.wrote(out)
        for sentence in self.target.stage(release, now_s=time.time()):
            self.note(sentence)
        self.note(f"release {release.name}, signed with key {key.id}, copied to {self.target.name}")
        return release

    def install(self, bundle: Bundle, release: Release | None) -> None:
        key = content_hash(bundle.digest, self.target.name, _code())
        if release is None:
            try:
                report = test_on_target(self.target, samples=self.validation.latency_samples)
            except Sim2SkyError:
                self.state.forget("install")  # what lies there is not what was installed: copy it again next time
                raise
            report["release"] = self.target.active()
        else:
            report = self.target.finish(release, samples=self.validation.latency_samples)
            self.state.record("install", key, report)
            kind, _, where = self.target.name.partition(":")
            if kind == "local":
                self.wrote(Path(where))
        latency = report["latency"]
        self.note(
            f"{report['golden_vectors']} golden vectors, largest error {report['golden_max_error']:.1e}; "
            f"latency mean {latency['mean_ms']:.3f} ms, p99 {latency['p99_ms']:.3f} ms; active: {report['release']}"
        )

    # Step 6 ----------------------------------------------------------------------------------------------------------

    def fly(self, bundle: Bundle, results: list[ValidationResult]) -> list[ValidationResult]:
        active = self.target.active()
        key = content_hash(bundle.digest, self.validation.model_dump(mode="json"), self.target.name, active, _code())
        if (known := self.known("hil", key)) is not None:
            self.note("unchanged since the last run, kept")
            return _in_order([*results, _result_from(known)])
        logs = self.plan.output / "hil"
        try:
            run = fly_hil(bundle, self.validation, self.target, log_dir=logs, progress=self.progress)
            result = judge_hil(run, self.validation, self._simulated(bundle))
        except Sim2SkyError:
            self._revert("the HIL run did not end")
            raise
        self.note(f"{result.notes}")
        self.wrote(logs)
        if result.passed:
            self.state.record("hil", key, result.to_json())
        else:
            self._revert(f"HIL validation: {result.outcome}")
        return _in_order([*results, result])

    def _simulated(self, bundle: Bundle) -> list[Any]:
        """The same episodes in pure simulation; they were flown in step 3 and only have to be read."""
        from sim2sky.validation.campaign import campaign_seeds, fly_campaign
        from sim2sky.validation.flight import FlightJob

        seeds = campaign_seeds(self.validation.seed, self.validation.hil_validation_episodes)
        job = FlightJob.of(bundle, self.validation.environment)
        return fly_campaign(job, seeds, workers=self.validation.workers, folder=self.plan.output / "campaigns")

    def _revert(self, why: str) -> None:
        """What did not pass hardware-in-the-loop does not stay active."""
        self.state.forget("install")
        try:
            previous = self.target.revert()
        except Sim2SkyError as error:
            self.note(f"{why}; and the target cannot be reached to go back: {error.message}")
            return
        self.note(f"{why}; active on the target: {previous or 'nothing'}")


def _result_from(data: dict[str, Any]) -> ValidationResult:
    return ValidationResult(data["name"], data["outcome"] == "pass", data["metrics"], data["notes"], data["outcome"])


def _in_order(results: list[ValidationResult]) -> list[ValidationResult]:
    return sorted(results, key=lambda r: CHECKS.index(r.name))


def _bytes_of(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AgentError(f"cannot read the {what} {path}: {error.strerror}", hint="check the path") from error


@functools.cache
def _code() -> str:
    """Hash of this package's source: another version does its steps again."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".xml"):
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
