"""Steps 4 to 6 on a microcontroller: build the firmware, test it on the chip, fly it processor-in-the-loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim2sky.agent.bundle import Bundle
from sim2sky.config.deployment import OptimizationSettings
from sim2sky.deployment.chip_target import BoardTarget, ChipTarget, EmulatedTarget
from sim2sky.deployment.deploy_plan import DeployPlan
from sim2sky.deployment.deploy_steps import StepsOnTarget
from sim2sky.deployment.firmware_build import TEENSY41, Image
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import Sim2SkyError
from sim2sky.hil.chip import can_count, require_golden
from sim2sky.hil.pil import PilLink
from sim2sky.hil.pil_flight import measure_steps
from sim2sky.validation.campaign import campaign_seeds
from sim2sky.validation.checks import ValidationResult
from sim2sky.validation.flight import environment_for
from sim2sky.validation.hil_check import fly_pil, judge_hil

__all__ = ["OnChip", "plan_for_chip"]

CLOCK_HZ = 600e6
COUNTED_STEPS = 150
ASSUMPTION = "one instruction per cycle; dual issue, flash wait states and cache misses ignored"


def plan_for_chip(plan: DeployPlan) -> DeployPlan:
    """The plan with what a microcontroller asks for: its profile, and no other version of the ONNX file, which is for
    the checks of step 3 only; of int8 weights the C itself is checked."""
    settings = plan.settings
    settings = settings.model_copy(
        update={
            "target": settings.target.model_copy(update={"platform": "teensy"}),
            "model_export": settings.model_export.model_copy(update={"format": "onnx"}),
            "optimization": OptimizationSettings(quantize=False, prune=False),
        }
    )
    return replace(plan, settings=settings)


class OnChip(StepsOnTarget[ChipTarget, Image]):
    """Steps 4 to 6 on a microcontroller; `measured` goes into the report beside the outcome of the flights."""

    def copy(self, bundle: Bundle) -> Image | None:
        """Build and stage; None for a board, which must have this bundle's firmware already."""
        target = self.target
        if isinstance(target, BoardTarget):
            target.require_bundle(bundle)
            self.note(f"the firmware on {target.device} is of bundle {bundle.digest[:12]}")
            return None
        image = target.stage(bundle)
        self.measured |= {
            "compiler": image.compiler,
            "flash": f"{image.flash:,} of {TEENSY41.flash:,} bytes ({TEENSY41.name})",
            "ram": f"{image.ram:,} of {TEENSY41.ram:,} bytes, {image.stack:,} of them the stack at its deepest",
        }
        for name, value in self.measured.items():
            self.note(f"{name}: {value}")
        return image

    def install(self, bundle: Bundle, staged: Image | None) -> None:
        """Replay the golden vectors on the chip, count instructions, make the firmware the active one."""
        target = self.target
        if staged is None or isinstance(target, BoardTarget):
            with target.run() as link:
                require_golden(link, bundle)
            self.note(f"golden vectors: {len(bundle.golden())}, all to the last bit")
            return
        counted = can_count()
        try:
            with target.staged(icount=counted) as link:
                require_golden(link, bundle)
                if counted:
                    self.measured |= self.cost(link, bundle)
        except Sim2SkyError:
            target.discard()
            raise
        if not counted:
            self.measured["instructions"] = "not supported: counting them without QEMU"
        name = target.activate(staged, self.measured)
        self.note(f"golden vectors: {len(bundle.golden())}, all to the last bit")
        for key in ("instructions", "estimate"):
            if key in self.measured:
                self.note(f"{key}: {self.measured[key]}")
        self.note(f"active: firmware {name}")
        self.wrote(target.folder)

    def cost(self, link: PilLink, bundle: Bundle) -> dict[str, str]:
        """Instructions of a control step, and what they come to."""
        environment = environment_for(bundle.contract, self.validation.environment)
        seed = campaign_seeds(self.validation.seed, 1)[0]
        cost = measure_steps(link, bundle, environment, seed, ticks=COUNTED_STEPS)
        us = 1e6 / CLOCK_HZ
        return {
            "instructions": f"{cost.step:,} a control step (at most {cost.step_max:,}), "
            f"{cost.policy:,} of them the policy",
            "estimate": f"{cost.step * us:.1f} us a control step (at most {cost.step_max * us:.1f}) "
            f"at {CLOCK_HZ / 1e6:.0f} MHz, at {ASSUMPTION}",
        }

    def fly(self, bundle: Bundle, simulated: Callable[[], list[EpisodeOutcome]]) -> ValidationResult:
        """The episodes, and the verdict on them; what does not pass does not stay active."""
        logs = self.plan.output / "hil"
        try:
            run = fly_pil(bundle, self.validation, self.target, log_dir=logs, progress=self.progress)
            result = judge_hil(run, self.validation, simulated())
        except Sim2SkyError:
            self._revert("the HIL run did not end")
            raise
        result.metrics |= self.measured
        self.note(result.notes)
        self.wrote(logs)
        if not result.passed:
            self._revert(f"HIL validation: {result.outcome}")
        return result

    def _revert(self, why: str) -> None:
        if isinstance(self.target, EmulatedTarget):
            self.note(f"{why}; active on the target: {self.target.revert() or 'nothing'}")
