"""The six steps from a trained agent to an installed, tested and hardware-in-the-loop flown bundle.

A conductor, not a part: it stands above `validation` although the specification files it here (docs/adr/0003). Each
step is kept by a hash of its inputs, so that a deployment that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config.loader import dump_yaml
from sim2sky.config.safety import resolve_safety
from sim2sky.deployment.bundling import NAME, export_bundle
from sim2sky.deployment.chip_target import is_chip, open_chip
from sim2sky.deployment.deploy_chip import OnChip, plan_for_chip
from sim2sky.deployment.deploy_plan import DeployPlan, DeployResult
from sim2sky.deployment.deploy_steps import STEPS, Steps, code_hash, ignore, result_from
from sim2sky.deployment.deploy_target import OnTarget
from sim2sky.deployment.firmware_build import require_weights_fit
from sim2sky.deployment.keys import DEFAULT_KEY, KeyRing
from sim2sky.deployment.onnx_emitter import resolve_versions
from sim2sky.deployment.pipeline_state import PipelineState, content_hash
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import open_target
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import AgentError, BundleError, ConfigError, MissingExtraError, NotSupportedError
from sim2sky.validation.checks import ProgressHook, ValidationResult
from sim2sky.validation.deployment_validator import CHECKS, DeploymentValidator, overall
from sim2sky.validation.flying_export import optimise_bundle, rollout_of, safety_of
from sim2sky.validation.statistics import Outcome

__all__ = ["STEPS", "DeployPlan", "DeployResult", "Preparation", "Prepared", "announce", "check_plan", "deploy"]

_RULE = "=" * 41
_FORMATS = {"onnx": ("onnx",), "torchscript": ("onnx", "torchscript")}
NEXT_STEPS = (
    "Bench test (actuators without aircraft)",
    "Ground test (powered on, no takeoff)",
    "Tethered flight test",
    "Free flight test (supervised)",
)


def deploy(
    plan: DeployPlan,
    *,
    say: Callable[[str], None] = ignore,
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
    on_chip = is_chip(plan.target_name)
    plan = plan_for_chip(plan) if on_chip else plan
    target = open_chip(plan.target_name) if on_chip else open_target(plan.target_name)
    check_plan(plan)
    state = PipelineState(plan.output)
    with state.locked():
        announce(plan, target.name, say)
        # Whoever cannot be reached is told so now, not after the campaign.
        if isinstance(target, ReleaseTarget):
            target.transport.python()
            on_target = OnTarget(plan, state, target, say=say, progress=progress, now=now)
        else:
            target.require()
            on_target = OnChip(plan, state, target, say=say, progress=progress, now=now)
        preparation = Preparation(plan, state, say=say, progress=progress, now=now)
        ready = preparation.run()
        on_target.written = preparation.written

        def ended(outcome: Outcome, step: int, results: list[ValidationResult]) -> DeployResult:
            return DeployResult(outcome, step, results, ready.bundle.path, target.name, on_target.written)

        if (outcome := overall(ready.results)) != "pass":
            say(preparation.report(ready.validator, ready.results))
            preparation.stopped(outcome, "Validation")
            return ended(outcome, 3, ready.results)
        results = on_target.run(ready.bundle, ready.results, ready.simulated)
        say(on_target.report(ready.validator, results))
        if (outcome := overall(results)) != "pass":
            on_target.stopped(outcome, "HIL validation")
            return ended(outcome, 6, results)
        complete(on_target)
        return ended("pass", 6, results)


def check_plan(plan: DeployPlan) -> None:
    """Say a wrong name now, not after the campaign.

    Raises:
        AgentError: the agent's file cannot be read.
        ConfigError: agent's name, profile or signing key.
        NotSupportedError: a microcontroller's platform or weights on a target that is none.
    """
    _bytes_of(plan.model_path, "agent")
    if not NAME.fullmatch(plan.name):
        raise ConfigError(f"agent name {plan.name!r} is not made of letters, digits, '.', '_' and '-'")
    if plan.settings.target.platform == "teensy" and not is_chip(plan.target_name):
        raise NotSupportedError(
            f"platform 'teensy' on {plan.target_name}", hint="deploy to mcu:emulated or mcu:/dev/ttyACM0"
        )
    if plan.settings.model_export.c_weights != "float32" and not is_chip(plan.target_name):
        raise NotSupportedError(
            f"c_weights: {plan.settings.model_export.c_weights} on {plan.target_name}: C flies there as exact as ONNX",
            hint="leave model_export.c_weights out, or deploy to mcu:emulated or mcu:/dev/ttyACM0",
        )
    resolve_versions(plan.settings.target.platform, plan.settings.model_export.opset_version)
    if plan.key != DEFAULT_KEY:
        KeyRing().load(plan.key)


def announce(plan: DeployPlan, target: str, say: Callable[[str], None]) -> None:
    """The first lines."""
    for line in (_RULE, f"Deploying Agent: {plan.name}", f"Model: {plan.model_path}", f"Target: {target}", _RULE):
        say(line)


def complete(steps: Steps) -> None:
    """The last lines."""
    for line in (_RULE, "✓ Deployment complete!", _RULE, "", "Next steps:"):
        steps.say(line)
    for number, text in enumerate(NEXT_STEPS, 1):
        steps.say(f"{number}. {text}")
    steps.log("complete")


@dataclass(frozen=True)
class Prepared:
    """What steps 1 to 3 gave.

    Attributes:
        bundle: to be installed.
        validator: made the checks.
        results: of the checks.
        simulated: gives the episodes of the HIL run in pure simulation.
    """

    bundle: Bundle
    validator: DeploymentValidator
    results: list[ValidationResult]
    simulated: Callable[[], list[EpisodeOutcome]]


class Preparation(Steps):
    """Steps 1 to 3: on this machine, once for any number of targets."""

    def run(self) -> Prepared:
        """The three steps.

        Raises:
            Sim2SkyError: with a plain reason.
        """
        self.state.write("config.yaml", dump_yaml(self.plan.settings))
        self.log(f"deploy {self.plan.name} {self.plan.model_path} to {self.plan.target_name}")
        with self.logged():
            self.begin(1)
            exported = self.export()
            if is_chip(self.plan.target_name):
                require_weights_fit(exported)
            self.begin(2)
            bundle = self.optimise(exported)
            self.begin(3)
            validator, results = self.validate(bundle)
        return Prepared(bundle, validator, results, functools.partial(self.simulated, bundle))

    def export(self) -> Bundle:
        try:
            from sim2sky.agent.sb3_archive import find_vecnormalize
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        plan, settings = self.plan, self.plan.settings
        limits = resolve_safety(self.validation.safety).values
        normaliser = plan.vecnormalize or find_vecnormalize(plan.model_path)
        inputs = [_bytes_of(plan.model_path, "agent"), plan.name, settings.model_export.model_dump()]
        inputs += [settings.target.platform, limits, self.validation.environment.model_dump(mode="json"), code_hash()]
        contract = plan.contract or plan.model_path.with_name("contract.json")
        inputs.append(_bytes_of(normaliser, "normaliser") if normaliser is not None else b"")
        inputs.append(_bytes_of(contract, "contract") if plan.contract or contract.is_file() else b"")
        key = content_hash(*inputs)
        out = plan.output / "export"
        if (bundle := self.kept("export", key)) is not None:
            return bundle
        fmt, chip = settings.model_export.format, is_chip(plan.target_name)
        int8 = chip and settings.model_export.c_weights == "int8"
        exported = export_bundle(
            plan.model_path,
            out,
            agent_name=plan.name,
            vecnormalize=plan.vecnormalize,
            contract=plan.contract,
            formats=_FORMATS[fmt] + (("c",) if chip else ()),
            active="c" if int8 else fmt,
            c_weights="int8" if int8 else "float32",
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

    def validate(self, bundle: Bundle) -> tuple[DeploymentValidator, list[ValidationResult]]:
        settings = self.validation.model_copy(update={"model_path": str(bundle.path)})
        validator = DeploymentValidator(
            settings, cluster=self.plan.cluster, folder=self.plan.output / "campaigns", progress=self.progress
        )
        key = content_hash(bundle.digest, self.validation.model_dump(mode="json"), code_hash())
        if (known := self.known("validate", key)) is not None:
            self.note("unchanged since the last run, kept")
            return validator, [result_from(r) for r in known["results"]]
        results = validator.run_checks(tuple(name for name in CHECKS if name != "HIL Performance"))
        for result in results:
            self.note(f"{result.name}: {result.notes}")
        if overall(results) == "pass":
            self.state.record("validate", key, {"results": [r.to_json() for r in results]})
        self.wrote(self.plan.output / "campaigns")
        return validator, results

    def simulated(self, bundle: Bundle) -> list[EpisodeOutcome]:
        """The same episodes in pure simulation; they were flown in step 3 and only have to be read."""
        from sim2sky.validation.campaign import campaign_seeds, fly_campaign
        from sim2sky.validation.flight import FlightJob

        seeds = campaign_seeds(self.validation.seed, self.validation.hil_validation_episodes)
        job = FlightJob.of(bundle, self.validation.environment)
        return fly_campaign(job, seeds, workers=self.validation.workers, folder=self.plan.output / "campaigns")


def _bytes_of(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AgentError(f"cannot read the {what} {path}: {error.strerror}", hint="check the path") from error
