"""What the six steps share: the record of what is done, the words for the user, the list of what was written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Generic, TypeVar

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.deploy_plan import DeployPlan
from sim2sky.deployment.pipeline_state import PipelineState
from sim2sky.deployment.targets import runtime_lines
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import Sim2SkyError
from sim2sky.validation.checks import ProgressHook, ValidationResult
from sim2sky.validation.deployment_validator import CHECKS, DeploymentValidator, report_json, report_text
from sim2sky.validation.statistics import Outcome

__all__ = ["STEPS", "Steps", "StepsOnTarget", "code_hash", "ignore", "in_order", "result_from"]

Where = TypeVar("Where")
Staged = TypeVar("Staged")

STEPS = (
    "Exporting model to ONNX...",
    "Optimizing model (quantization)...",
    "Running validation checks...",
    "Copying model to target hardware...",
    "Testing inference on target...",
    "Running HIL validation...",
)


def ignore(_: str) -> None:
    """The default listener."""


class Steps:
    """A deployment under way.

    Args:
        plan: what and where.
        state: the record in the plan's output folder.
        say: told the lines for the user.
        progress: told (name, `Progress`) after every episode.
        now: time stamp for the log.
    """

    def __init__(
        self,
        plan: DeployPlan,
        state: PipelineState,
        *,
        say: Callable[[str], None] = ignore,
        progress: ProgressHook | None = None,
        now: Callable[[], str] = str,
    ) -> None:
        self.plan, self.state = plan, state
        self.say, self.progress, self.now = say, progress, now
        self.validation = plan.settings.validation_settings(plan.validation)
        self.step = 0
        self.written: list[Path] = []
        self.runtimes: list[dict[str, Any]] = []
        """What could fly on the target, measured there by step 5."""

    def begin(self, number: int) -> None:
        """Announce a step."""
        self.step = number
        self.say(f"[{number}/6] {STEPS[number - 1]}")

    def note(self, text: str) -> None:
        """A line under the step's."""
        self.say(f"      {text}")

    def wrote(self, *paths: Path) -> None:
        """Note files for the list at the end, and in the log."""
        for path in paths:
            self.written.append(path)
            self.log(f"step {self.step} wrote {path}")

    def log(self, text: str) -> None:
        """A line of the deployment's log."""
        self.state.log(f"{self.now()} {text}")

    def known(self, step: str, key: str) -> dict[str, Any] | None:
        """What a step gave when it was last done with the same inputs."""
        return None if self.plan.fresh else self.state.result(step, key)

    @contextlib.contextmanager
    def logged(self) -> Generator[None, None, None]:
        """Why it stopped stands in the log, too."""
        try:
            yield
        except Sim2SkyError as error:
            self.log(f"step {self.step} failed: {error.message}")
            raise
        except KeyboardInterrupt:
            self.log(f"step {self.step} interrupted")
            raise

    def stopped(self, outcome: Outcome, what: str) -> None:
        """Say that checks were not passed."""
        self.say(f"✗ {what} {'failed' if outcome == 'fail' else 'inconclusive'}. Aborting deployment.")
        self.log(f"step {self.step} {outcome}")

    def report(self, validator: DeploymentValidator, results: list[ValidationResult]) -> str:
        """Write the report of all checks; its text."""
        text = report_text(results, validator.pending)
        if lines := runtime_lines(self.runtimes):
            text = text.rstrip("\n") + "\n\nRuntimes on the target\n" + "\n".join(lines) + "\n"
        self.wrote(self.state.write("report.txt", text))
        content = {**report_json(validator, results), "runtimes": self.runtimes}
        data = json.dumps(content, indent=1, ensure_ascii=False)
        self.wrote(self.state.write("report.json", data + "\n"))
        return text


class StepsOnTarget(Steps, ABC, Generic[Where, Staged]):
    """Steps 4 to 6, on any kind of target.

    Args:
        target: where.
    """

    def __init__(
        self,
        plan: DeployPlan,
        state: PipelineState,
        target: Where,
        *,
        say: Callable[[str], None] = ignore,
        progress: ProgressHook | None = None,
        now: Callable[[], str] = str,
    ) -> None:
        super().__init__(plan, state, say=say, progress=progress, now=now)
        self.target = target
        self.measured: dict[str, Any] = {}
        """What the test on the target gave."""

    def run(
        self, bundle: Bundle, results: list[ValidationResult], simulated: Callable[[], list[EpisodeOutcome]]
    ) -> list[ValidationResult]:
        """The three steps; all results, in the report's order.

        Args:
            bundle: passed the checks of step 3.
            results: of those checks.
            simulated: gives the episodes of the HIL run in pure simulation.

        Raises:
            Sim2SkyError: with a plain reason; before step 5 has committed, what was installed before is active.
        """
        with self.logged():
            self.begin(4)
            staged = self.copy(bundle)
            self.begin(5)
            self.install(bundle, staged)
            self.begin(6)
            result = self.fly(bundle, simulated)
        return in_order([*results, result])

    @abstractmethod
    def copy(self, bundle: Bundle) -> Staged | None:
        """What was staged; None where the target has it already."""

    @abstractmethod
    def install(self, bundle: Bundle, staged: Staged | None) -> None:
        """Test over there what was staged, and make it the active one."""

    @abstractmethod
    def fly(self, bundle: Bundle, simulated: Callable[[], list[EpisodeOutcome]]) -> ValidationResult:
        """The episodes, and the verdict on them; what does not pass does not stay active."""


def result_from(data: dict[str, Any]) -> ValidationResult:
    """The inverse of `ValidationResult.to_json`."""
    return ValidationResult(data["name"], data["outcome"] == "pass", data["metrics"], data["notes"], data["outcome"])


def in_order(results: list[ValidationResult]) -> list[ValidationResult]:
    """As the report lists them."""
    return sorted(results, key=lambda r: CHECKS.index(r.name))


@functools.cache
def code_hash() -> str:
    """Hash of this package's source: another version does its steps again."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".xml"):
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
