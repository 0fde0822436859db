"""The environment of learning in flight: what a policy tries stays near the champion's answer and passes the guard.

Rewards are those an aircraft could compute itself, from what its sensors say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.layers import Network, evaluate
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.aircraft_env import ENVELOPE_PENALTY, AircraftEnv
from sim2sky.environments.tasks import reward_function
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import Command

__all__ = ["LEASH", "GuardedAircraftEnv"]

LEASH = 0.2
"""Farthest an action may be from the champion's, of half the action's range."""


class GuardedAircraftEnv(AircraftEnv):
    """A vehicle behind the flight runtime's guard.

    Args:
        settings: the vehicle.
        safety: limits and fallback gains, as in a bundle's `safety.json`.
        champion: the policy that actions are held near.

    Raises:
        BundleError, ConfigError, ContractError: no guard can be made of these limits.

    `info["guard"]` says how many ticks of the episode the guard commanded itself or changed a command.
    """

    def __init__(self, settings: EnvironmentSettings, safety: Mapping[str, Any], champion: Network) -> None:
        super().__init__(settings)
        self._monitor = make_monitor(safety, self.contract)
        self._champion, self._key = champion, self.contract.inputs[0].key
        self._measured_reward = reward_function(settings.task.name)
        self._signals = self.contract.output.signals
        self._seen: NDArray[np.float32]
        self._guarded = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See `AircraftEnv`."""
        self._monitor.reset()
        self._guarded = 0
        self._seen, info = super().reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One control tick."""
        own = np.asarray(evaluate(self._champion, {self._key: self._seen[None]})[0])[0]
        tried = np.nan_to_num(np.asarray(action, np.float64), nan=0.0)
        held = np.clip(np.clip(tried, own - LEASH, own + LEASH), -1.0, 1.0).tolist()
        proposed = Command(*(s.command(a) for s, a in zip(self._signals, held, strict=True)))
        vehicle = self.vehicle
        setpoint = vehicle.setpoint
        guarded = self._monitor.guard(self._sample, setpoint, proposed, self._sample.time_ns)
        self._guarded += guarded.command != proposed
        if guarded.mode is not Mode.POLICY:
            held = [s.action(c) for s, c in zip(self._signals, guarded.command, strict=True)]
        self._sample = vehicle.step(guarded.command)
        activity = sum(abs(a - last) for a, last in zip(held, self._last, strict=True))
        self._last = held
        self._builder.record(held)
        self._seen = self._builder.build(self._sample, vehicle.setpoint)
        reward = self._measured_reward(self._sample, vehicle.setpoint, activity, 0.0)
        if not vehicle.done:
            return self._seen, reward, False, False, {}
        terminated = vehicle.termination != "completed"
        info = {"is_success": vehicle.success, "termination": vehicle.termination, "guard": self._guarded}
        return self._seen, reward - ENVELOPE_PENALTY * terminated, terminated, not terminated, info
