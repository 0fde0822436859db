"""One agent onto many targets: exported and validated once, installed and flown hardware-in-the-loop on each.

Every target has a process of its own here (JSBSim flies in it), so that whatever happens to one hurts no other, and a
folder of its own with its record, so that the same command goes on where each of them stopped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import open_bundle
from sim2sky.config.fleet import FleetSettings, FleetTarget
from sim2sky.deployment.deploy_agent import Preparation, announce, check_plan
from sim2sky.deployment.deploy_plan import DeployPlan
from sim2sky.deployment.deploy_steps import ignore
from sim2sky.deployment.deploy_target import OnTarget
from sim2sky.deployment.pipeline_state import PipelineState
from sim2sky.deployment.signing import find_signer
from sim2sky.deployment.ssh_address import SshAccess
from sim2sky.deployment.targets import open_target
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import Sim2SkyError
from sim2sky.validation.checks import ProgressHook, ValidationResult
from sim2sky.validation.deployment_validator import DeploymentValidator, overall
from sim2sky.validation.statistics import Outcome

__all__ = ["FleetResult", "TargetOutcome", "deploy_fleet"]

STOP_S = 20.0


@dataclass(frozen=True)
class TargetOutcome:
    """How one target ended.

    Attributes:
        name, url: which.
        outcome: `pass` only after all six steps.
        step: the last that was begun, 0 where none was.
        release: active there now; empty where unknown.
        p99_ms: of the inference test there, ms.
        hil: the HIL check in words.
        reason, hint: why it did not pass, and what helps.
    """

    name: str
    url: str
    outcome: Outcome
    step: int = 0
    release: str = ""
    p99_ms: float | None = None
    hil: str = ""
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class FleetResult:
    """How the deployment of a fleet ended.

    Attributes:
        outcome: `fail` if any target or the agent failed, else `inconclusive` if any is, else `pass`.
        results: the checks of step 3.
        bundle: what was installed.
        targets: one for each, in the file's order; empty where the agent did not pass its checks.
    """

    outcome: Outcome
    results: list[ValidationResult]
    bundle: Path
    targets: list[TargetOutcome]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "verdict": self.outcome,
            "checks": [r.to_json() for r in self.results],
            "bundle": str(self.bundle),
            "targets": [asdict(t) for t in self.targets],
        }


@dataclass(frozen=True)
class _Task:
    """What a target's process is given."""

    plan: DeployPlan
    target: FleetTarget
    bundle: Path
    digest: str
    results: list[ValidationResult]
    simulated: list[EpisodeOutcome]
    time: str


def deploy_fleet(
    plan: DeployPlan,
    fleet: FleetSettings,
    *,
    say: Callable[[str], None] = ignore,
    progress: ProgressHook | None = None,
    now: Callable[[], str] = str,
) -> FleetResult:
    """Steps 1 to 3 once, steps 4 to 6 on every target, `fleet.parallel` at a time.

    Args:
        plan: what; its target is not used.
        fleet: where.
        say: told the lines for the user, those of steps 4 to 6 with the target's name in front.
        progress: told (name, `Progress`) after every episode of step 3.
        now: time stamp for the logs.

    Raises:
        ConfigError: an address is malformed; nothing was done.
        Sim2SkyError: steps 1 to 3 could not be done. What prevents a target is in its outcome.
    """
    for target in fleet.targets:
        open_target(target.url)
    check_plan(plan)
    state = PipelineState(plan.output)
    with state.locked():
        announce(plan, f"{len(fleet.targets)} targets", say)
        preparation = Preparation(plan, state, say=say, progress=progress, now=now)
        ready = preparation.run()
        text = preparation.report(ready.validator, ready.results)
        if (outcome := overall(ready.results)) != "pass":
            say(text)
            preparation.stopped(outcome, "Validation")
            return FleetResult(outcome, ready.results, ready.bundle.path, [])
        simulated = ready.simulated()
        find_signer(plan.key, preparation.note)  # made once, before many ask for it
        tasks = [
            _Task(
                replace(plan, target=t.url, output=plan.output / "targets" / t.name),
                t, ready.bundle.path, ready.bundle.digest, ready.results, simulated, now(),
            )
            for t in fleet.targets
        ]  # fmt: skip
        outcomes = _all(tasks, fleet.parallel, say)
    kinds = {t.outcome for t in outcomes}
    worst: Outcome = "fail" if "fail" in kinds else "inconclusive" if "inconclusive" in kinds else "pass"
    return FleetResult(worst, ready.results, ready.bundle.path, outcomes)


def _all(tasks: list[_Task], parallel: int, say: Callable[[str], None]) -> list[TargetOutcome]:
    """A thread waits for each process; Ctrl-C reaches the processes from the terminal, and is waited for here."""
    running: set[int] = set()
    with ThreadPoolExecutor(parallel, thread_name_prefix="target") as pool:
        futures = [pool.submit(_one, task, say, running) for task in tasks]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for pid in list(running):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            raise


def _one(task: _Task, say: Callable[[str], None], running: set[int]) -> TargetOutcome:
    """Deploy to one target in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(task, sender), name=task.target.name)
    resource_tracker.ensure_running()  # starting it later would unblock the signal (CPython 3.11)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # of this thread; inherited until `_serve` can answer
    process.start()
    sender.close()
    running.add(process.pid or 0)
    outcome = None
    try:
        with receiver, contextlib.suppress(EOFError):
            while outcome is None:
                message = receiver.recv()
                if isinstance(message, TargetOutcome):
                    outcome = message
                else:
                    say(f"{task.target.name}: {message}")
    finally:
        process.join(STOP_S)
        if process.is_alive():
            process.kill()
            process.join()
        running.discard(process.pid or 0)
    reason = f"its process here ended with code {process.exitcode}"
    return outcome or TargetOutcome(
        task.target.name, task.target.url, "fail", reason=reason, hint="the same command goes on from where it stopped"
    )


def _serve(task: _Task, sender: Connection) -> None:
    """Runs in the target's process.

    Ctrl-C comes from the terminal and from the process that waits for this one; only the first interrupts, and none
    that comes at the end, where multiprocessing would print a traceback.
    """
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError), sender:
        signal.signal(signal.SIGINT, _interrupted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            sender.send(_deploy_to(task, sender.send))
        finally:
            signal.signal(signal.SIGINT, _unheard)


def _interrupted(*_: object) -> None:
    signal.signal(signal.SIGINT, _unheard)
    raise KeyboardInterrupt


def _unheard(*_: object) -> None:
    """Unlike SIG_IGN, this is not inherited by programs that are started."""


def _deploy_to(task: _Task, say: Callable[[str], None]) -> TargetOutcome:
    name, url = task.target.name, task.target.url
    on_target = None
    try:
        target = open_target(url, SshAccess(task.target.known_hosts, task.target.key))
        state = PipelineState(task.plan.output)
        with state.locked():
            on_target = OnTarget(task.plan, state, target, say=say, now=lambda: task.time)
            results = on_target.run(open_bundle(task.bundle, digest=task.digest), task.results, lambda: task.simulated)
            settings = on_target.validation.model_copy(update={"model_path": str(task.bundle)})
            on_target.report(DeploymentValidator(settings), results)
            hil = next(r for r in results if r.name == "HIL Performance")
            passed = hil.outcome == "pass"
            return TargetOutcome(
                name,
                url,
                "pass" if passed else "inconclusive" if hil.outcome == "inconclusive" else "fail",
                6,
                (target.active() or "") if not passed else on_target.measured["release"],
                on_target.measured["latency"]["p99_ms"],
                hil.notes,
                "" if passed else f"HIL validation: {hil.outcome}",
            )
    except Sim2SkyError as error:
        reason = error.message.removeprefix(f"target {url}: ")
        step = on_target.step if on_target else 0
        return TargetOutcome(name, url, "fail", step, reason=reason, hint=error.hint)
    except Exception as error:  # a mistake of ours on one target must not hide what became of the others
        return TargetOutcome(name, url, "fail", reason=f"{type(error).__name__}: {error}", hint="please report this")
