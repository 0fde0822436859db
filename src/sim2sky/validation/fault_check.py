"""A fault file flown with the release that is installed on a target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import fetch_bundle
from sim2sky.errors import ConfigError, NotSupportedError
from sim2sky.hil.fault_matrix import CaseResult, fly_cases
from sim2sky.hil.fault_schedule import FaultSettings
from sim2sky.validation.checks import golden_tolerance
from sim2sky.validation.flight import environment_for

__all__ = ["fly_faults"]


def fly_faults(
    target: ReleaseTarget,
    faults: FaultSettings,
    settings: ValidationSettings,
    *,
    log_dir: Path | None = None,
    progress: Callable[[CaseResult], None] = lambda _: None,
) -> list[CaseResult]:
    """Fly every case of a fault file; aircraft, task and rate are those of the installed agent's contract.

    Args:
        target: with an active release.
        faults: the file.
        settings: for the golden tolerance and the link.
        log_dir: for flight logs, a folder per run; None: no logs.
        progress: told each result.

    Raises:
        NotSupportedError: the agent flies none of the simulated aircraft, or its process is to be killed on another
            machine.
        LinkError, TargetError: the agent cannot be started at all.
    """
    tunnelled = target.transport.tunnelled
    if tunnelled and any(fault.kind == "restart" for case in faults.cases for fault in case.faults):
        raise NotSupportedError(
            "killing the flight agent of a target on another machine", hint="leave the restarts out of the fault file"
        )
    if log_dir is not None:
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write flight logs to {log_dir}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="sim2sky-faults-") as folder:
        bundle = fetch_bundle(target, Path(folder))
        environment = environment_for(bundle.contract, faults.environment)
        tolerance = golden_tolerance(bundle, settings)
        arguments = ("--bundle", "{release}/bundle", "--tolerance", repr(tolerance))
        return fly_cases(
            target.command("sim2sky.runtime.main", *arguments),
            faults.model_copy(update={"environment": environment}),
            link="tcp" if tunnelled else settings.hil_link,
            log_dir=None if log_dir is None else log_dir.absolute(),
            progress=progress,
            agent_name=bundle.agent,
            bundle_digest=bundle.digest,
        )
