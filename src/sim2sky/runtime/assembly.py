"""From a verified bundle to something that can fly: guard, policy, agent."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.contract import Contract
from sim2sky.errors import BundleError
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.excitation import Excitation
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.inference import load_backend, preflight, replay_golden, tolerance_of
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.policy_process import WORKER, PolicyProcess
from sim2sky.runtime.safety import SafetyMonitor

__all__ = ["make_agent", "make_monitor", "supervised_agent"]

DEADLINE = 0.6  # of the control period: what the policy may take, so that the fallback law still commands in time
LOCKSTEP_DEADLINE_S = 1.0  # the plant waits; only a policy that hangs is late


def make_monitor(safety: Mapping[str, Any] | None, contract: Contract) -> SafetyMonitor:
    """The guard that a bundle's `safety.json` describes.

    Args:
        safety: limits, and under `fallback` the gains of the fallback law.
        contract: of the agent.

    Raises:
        BundleError: there are no limits, or no fallback gains.
        ConfigError: a limit or gain is unknown or out of range.
        ContractError: the contract cannot be flown.
    """
    if safety is None or not isinstance(safety.get("fallback"), Mapping):
        raise BundleError(
            "the bundle has no safety limits with a fallback law", hint="export it again: sim2sky export adds them"
        )
    limits = SafetyLimits.from_json(safety)
    law = Autopilot(AutopilotGains.from_json(safety["fallback"]), 1.0 / (contract.rate_hz or 1.0))
    return SafetyMonitor.for_contract(limits, law, contract)


def make_agent(bundle: Bundle, fmt: str | None = None, *, tolerance: float | None = None) -> FlightAgent:
    """A bundle ready to fly in simulation: policy loaded into this process, preflight checks passed, guard in place.

    Args:
        bundle: verified.
        fmt: policy format; default the active one.
        tolerance: largest golden error; default what the bundle's optimisation recorded, else `GOLDEN_TOLERANCE`.

    Raises:
        GoldenMismatchError: the policy on this machine does not answer as the trainer's did.
        BundleError, ConfigError, ContractError, NotSupportedError: the bundle cannot fly here.
    """
    monitor = make_monitor(bundle.safety(), bundle.contract)
    backend = load_backend(bundle, fmt)
    if monitor.limits.preflight_checks_required:
        preflight(replay_golden(backend, bundle.golden()), _tolerance(bundle, tolerance))
    return FlightAgent(bundle.contract, backend, monitor)


@contextmanager
def supervised_agent(
    bundle: Bundle,
    fmt: str | None = None,
    *,
    tolerance: float | None = None,
    paced: bool = True,
    realtime: bool = False,
    worker: str = WORKER,
    excitation: Excitation | None = None,
) -> Generator[tuple[FlightAgent, PolicyProcess], None, None]:
    """A bundle ready to fly an aircraft: this process keeps guard and fallback law, the policy runs in a child process,
    which is ended with the context.

    Args:
        bundle, fmt, tolerance: as in `make_agent`.
        paced: time goes on by itself, so the policy is late after `DEADLINE` of a control period; else lockstep.
        realtime: the policy process asks for real-time scheduling.
        worker: module that the policy process runs.
        excitation: added to what the policy proposes.

    Yields:
        The agent, and its policy process, which says how often and why it was started again.

    Raises:
        As `make_agent`.
    """
    contract = bundle.contract
    monitor = make_monitor(bundle.safety(), contract)
    checked = monitor.limits.preflight_checks_required
    with PolicyProcess(
        bundle,
        fmt,
        deadline_s=DEADLINE / contract.rate_hz if paced else LOCKSTEP_DEADLINE_S,
        tolerance=_tolerance(bundle, tolerance) if checked else math.inf,
        realtime=realtime,
        worker=worker,
    ) as policy:
        yield FlightAgent(contract, policy, monitor, excitation), policy


def _tolerance(bundle: Bundle, given: float | None) -> float:
    return tolerance_of(bundle) if given is None else given
