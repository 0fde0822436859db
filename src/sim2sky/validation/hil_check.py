"""The fourth check: hardware in the loop, with the release that is installed on a target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from sim2sky.agent.bundle import Bundle
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.chip_target import ChipTarget
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import fetch_bundle, temporary_target
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError
from sim2sky.hil.hil_test import HilResult, run_hil
from sim2sky.hil.pil import ChipAgent
from sim2sky.hil.pil_flight import fly_chip
from sim2sky.validation.campaign import Progress, campaign_seeds
from sim2sky.validation.checks import ProgressHook, Subject, ValidationResult, golden_tolerance, judge_episodes, shown
from sim2sky.validation.flight import environment_for, why_not_flyable
from sim2sky.validation.statistics import clopper_pearson

__all__ = ["check_hil_performance", "fly_hil", "fly_installed", "fly_pil", "judge_hil"]

NAME = "HIL Performance"
START_S = 120.0
"""How long an agent may take to start: slow processors load onnxruntime slowly; one that died is noticed at once."""


def fly_hil(
    bundle: Bundle,
    settings: ValidationSettings,
    target: ReleaseTarget,
    *,
    log_dir: Path | None = None,
    progress: ProgressHook | None = None,
) -> HilResult:
    """Fly the release that is installed on a target, the plant on this machine, MAVLink between them.

    The episodes are the first of the simulation campaign, so that the two can be compared one by one.

    Raises:
        NotSupportedError: the agent flies none of the simulated aircraft.
        LinkError, TargetError: the link or the target failed; that says nothing about the agent.
    """
    environment = environment_for(bundle.contract, settings.environment)
    seeds = campaign_seeds(settings.seed, settings.hil_validation_episodes)
    _make_folder(log_dir)
    tolerance = golden_tolerance(bundle, settings)
    arguments = ("--bundle", "{release}/bundle", "--tolerance", repr(tolerance))
    return run_hil(
        target.command("sim2sky.runtime.main", *arguments),
        environment,
        seeds,
        link="tcp" if target.transport.tunnelled else settings.hil_link,
        log_dir=None if log_dir is None else log_dir.absolute(),
        progress=_counted(len(seeds), progress),
        agent_name=bundle.agent,
        bundle_digest=bundle.digest,
        connect_timeout_s=START_S,
    )


def fly_pil(
    bundle: Bundle,
    settings: ValidationSettings,
    target: ChipTarget,
    *,
    log_dir: Path | None = None,
    progress: ProgressHook | None = None,
) -> HilResult:
    """Fly what is active on a microcontroller, processor in the loop, the plant in this process; episodes as `fly_hil`.

    Raises:
        NotSupportedError: the agent flies none of the simulated aircraft.
        LinkError, TargetError: the chip failed, or flies another bundle; that says nothing about the agent.
    """
    environment = environment_for(bundle.contract, settings.environment)
    seeds = campaign_seeds(settings.seed, settings.hil_validation_episodes)
    _make_folder(log_dir)
    with target.run() as link:
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        told = _counted(len(seeds), progress)
        return fly_chip(agent, bundle, environment, seeds, log_dir=log_dir, progress=told)


def _counted(total: int, progress: ProgressHook | None) -> Callable[[int, EpisodeOutcome], None]:
    """Outcomes of episodes as progress of the check."""
    successes = 0

    def told(episode: int, outcome: EpisodeOutcome) -> None:
        nonlocal successes
        successes += outcome.success
        if progress is not None:
            done = episode + 1
            progress(NAME, Progress(done, total, successes, clopper_pearson(successes, done)))

    return told


def _make_folder(log_dir: Path | None) -> None:
    if log_dir is not None:
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write flight logs to {log_dir}: {error.strerror}") from error


def check_hil_performance(
    subject: Subject,
    settings: ValidationSettings,
    *,
    target: ReleaseTarget | None = None,
    simulated: list[EpisodeOutcome] | None = None,
    folder: Path | None = None,
    progress: ProgressHook | None = None,
) -> ValidationResult:
    """Hardware in the loop, on the installed target or on a local one made for the occasion.

    Raises:
        LinkError, TargetError: the link or the target failed.
    """
    bundle = subject.bundle
    if bundle is None or why_not_flyable(bundle.contract):
        return ValidationResult.of(NAME, "not supported", {}, subject.why_not_flown)
    if bundle.active == "c":
        note = "a policy in C only is flown on a chip: sim2sky deploy NAME AGENT.zip mcu:emulated"
        return ValidationResult.of(NAME, "not supported", {}, note)
    with tempfile.TemporaryDirectory(prefix="sim2sky-hil-") as temporary:
        where = target or temporary_target(bundle, Path(temporary))
        run = fly_hil(bundle, settings, where, log_dir=folder, progress=progress)
    return judge_hil(run, settings, simulated)


def judge_hil(
    run: HilResult, settings: ValidationSettings, simulated: list[EpisodeOutcome] | None = None
) -> ValidationResult:
    """The verdict on a HIL run, and how it compares with the simulation of the same seeds."""
    result = judge_episodes(NAME, run.outcomes, settings.hil_success_threshold, settings)
    result.metrics |= {
        "exchange_us_median": run.exchange_us["median"],
        "exchange_us_p99": run.exchange_us["p99"],
        "retransmissions": run.retransmissions,
    }
    by_seed = {o.seed: o.success for o in simulated or []}
    if common := [o for o in run.outcomes if o.seed in by_seed]:
        same = sum(by_seed[o.seed] == o.success for o in common)
        result.metrics["same_success_as_simulation"] = f"{same}/{len(common)}"
    logs = [shown(log) for log in (run.plant_log, run.agent_log) if log is not None]
    if logs:
        result.metrics["logs"] = ", ".join(logs)
    if run.problem:
        result.metrics["log_problem"] = run.problem
    return result


def fly_installed(
    target: ReleaseTarget | ChipTarget,
    settings: ValidationSettings,
    *,
    log_dir: Path | None = None,
    progress: ProgressHook | None = None,
) -> ValidationResult:
    """Judge whatever is active on a target.

    Raises:
        TargetError: nothing is installed there.
        NotSupportedError: it flies none of the simulated aircraft, or is a board, which does not hold its bundle.
        LinkError: the link failed.
    """
    if not isinstance(target, ReleaseTarget):
        return judge_hil(fly_pil(target.bundle(), settings, target, log_dir=log_dir, progress=progress), settings)
    with tempfile.TemporaryDirectory(prefix="sim2sky-installed-") as folder:
        bundle = fetch_bundle(target, Path(folder))
        return judge_hil(fly_hil(bundle, settings, target, log_dir=log_dir, progress=progress), settings)
