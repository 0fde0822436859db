"""Steps 4 to 6 on one target: copy, install with the tests over there, fly hardware-in-the-loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.deploy_steps import StepsOnTarget, code_hash, result_from
from sim2sky.deployment.pipeline_state import content_hash
from sim2sky.deployment.release import Release
from sim2sky.deployment.signing import find_signer, signed_release
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import runtime_lines, test_on_target
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import Sim2SkyError
from sim2sky.validation.checks import ValidationResult
from sim2sky.validation.hil_check import fly_hil, judge_hil

__all__ = ["OnTarget"]


class OnTarget(StepsOnTarget[ReleaseTarget, Release]):
    """Steps 4 to 6 on a Linux target."""

    def copy(self, bundle: Bundle) -> Release | None:
        """The staged release; None where it is installed already."""
        known = self.known("install", content_hash(bundle.digest, self.target.name, code_hash()))
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

    def install(self, bundle: Bundle, staged: Release | None) -> None:
        key = content_hash(bundle.digest, self.target.name, code_hash())
        if staged is None:
            try:
                report = test_on_target(self.target, samples=self.validation.latency_samples)
            except Sim2SkyError:
                self.state.forget("install")  # what lies there is not what was installed: copy it again next time
                raise
            report["release"] = self.target.active()
        else:
            report = self.target.finish(staged, samples=self.validation.latency_samples)
            self.state.record("install", key, report)
            kind, _, where = self.target.name.partition(":")
            if kind == "local":
                self.wrote(Path(where))
        self.measured, latency = report, report["latency"]
        self.runtimes = report.get("runtimes", [])
        self.note(
            f"{report['golden_vectors']} golden vectors, largest error {report['golden_max_error']:.1e}; "
            f"latency mean {latency['mean_ms']:.3f} ms, p99 {latency['p99_ms']:.3f} ms; active: {report['release']}"
        )
        for line in runtime_lines(self.runtimes):
            self.note(line)

    def fly(self, bundle: Bundle, simulated: Callable[[], list[EpisodeOutcome]]) -> ValidationResult:
        active = self.target.active()
        key = content_hash(
            bundle.digest, self.validation.model_dump(mode="json"), self.target.name, active, code_hash()
        )
        if (known := self.known("hil", key)) is not None:
            self.note("unchanged since the last run, kept")
            return result_from(known)
        logs = self.plan.output / "hil"
        try:
            run = fly_hil(bundle, self.validation, self.target, log_dir=logs, progress=self.progress)
            result = judge_hil(run, self.validation, simulated())
        except Sim2SkyError:
            self._revert("the HIL run did not end")
            raise
        self.note(f"{result.notes}")
        self.wrote(logs)
        if result.passed:
            self.state.record("hil", key, result.to_json())
        else:
            self._revert(f"HIL validation: {result.outcome}")
        return result

    def _revert(self, why: str) -> None:
        """What did not pass hardware-in-the-loop does not stay active."""
        self.state.forget("install")
        try:
            previous = self.target.revert()
        except Sim2SkyError as error:
            self.note(f"{why}; and the target cannot be reached to go back: {error.message}")
            return
        self.note(f"{why}; active on the target: {previous or 'nothing'}")
