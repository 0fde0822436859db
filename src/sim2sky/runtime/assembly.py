"""From a verified bundle to something that can fly: guard, policy, agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.contract import Contract
from sim2sky.errors import BundleError, GoldenMismatchError
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.inference import load_backend, replay_golden, tolerance_of
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import SafetyMonitor

__all__ = ["make_agent", "make_monitor", "preflight"]


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
    """A bundle ready to fly: policy loaded, preflight checks passed, guard in place.

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
        allowed = tolerance_of(bundle) if tolerance is None else tolerance
        preflight(replay_golden(backend, bundle.golden()), allowed)
    return FlightAgent(bundle.contract, backend, monitor)


def preflight(error: float, tolerance: float) -> None:
    """Refuse a policy whose error on the golden vectors is above `tolerance`.

    Raises:
        GoldenMismatchError: it is.
    """
    if not error <= tolerance:
        raise GoldenMismatchError(
            f"the policy differs from its golden vectors by {error:.3g}, allowed are {tolerance:.3g}",
            hint="install the bundle again, or export it for this target",
        )
