"""`AircraftEnv`: the simulated aircraft as a Gymnasium environment. Observations and actions as the contract says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sim2sky.config import EnvironmentSettings
from sim2sky.config.loader import load_settings, validate_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.environments.tasks import make_contract, reward_function
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.runtime.observation import ObservationBuilder
from sim2sky.runtime.state import Command

__all__ = ["AircraftEnv"]

ENVELOPE_PENALTY = 20.0


class AircraftEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Fly an airframe on a task.

    Args:
        config: `EnvironmentSettings` or a mapping with its keys; None flies the Ultra Stick on `hsa`.
        randomization: a patch of its randomisation and disturbances, e.g. as gap analysis writes one; or its file.

    Raises:
        ConfigError: a key or value of `config` or of the patch is wrong.

    Observation: float32 (n,), physical units, named and limited by `contract`. Action: float32 (4,) in [-1, 1]:
    aileron, elevator, rudder, throttle around trim (`contract.output` maps it to commands).
    `info["is_success"]` at the end of an episode says whether the task was fulfilled, `info["termination"]` why it
    ended.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(
        self,
        config: EnvironmentSettings | Mapping[str, Any] | None = None,
        *,
        randomization: RandomizationPatch | Path | None = None,
    ) -> None:
        settings = config if isinstance(config, EnvironmentSettings) else validate_settings(config, EnvironmentSettings)
        if isinstance(randomization, Path):
            randomization = load_settings(randomization, RandomizationPatch)
        if randomization is not None:
            settings = randomization.apply(settings)
        self.settings = settings
        self.contract = make_contract(settings)
        self.vehicle = SimVehicle(settings)
        self.render_mode = None
        self._builder = ObservationBuilder(self.contract)
        self._reward = reward_function(settings.task.name)
        signals = self.contract.inputs[0].signals
        self.observation_space = spaces.Box(
            np.array([s.low for s in signals], np.float32), np.array([s.high for s in signals], np.float32)
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.contract.output.signals),), np.float32)
        # Per channel: neutral, gain below and above it (see ActionSignal.command; limits are -1 and 1 here).
        self._map = [
            (s.command_neutral, s.command_neutral - s.command_low, s.command_high - s.command_neutral)
            for s in self.contract.output.signals
        ]

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's signature
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; with `seed`, the same one every time."""
        super().reset(seed=seed)
        episode = seed if seed is not None else int(self.np_random.integers(0, 2**63 - 1))
        self._sample = self.vehicle.reset(episode)
        self._builder.reset()
        self._last = [0.0] * 4
        return self._builder.build(self._sample, self.vehicle.setpoint), {"seed": episode}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One control tick."""
        values: list[float] = np.asarray(action, np.float32).tolist()
        a, e, r, t = values
        if not (-1.0 <= a <= 1.0 and -1.0 <= e <= 1.0 and -1.0 <= r <= 1.0 and -1.0 <= t <= 1.0):
            # Out of range is clipped, as the trainers do; NaN flies neutral.
            values = [min(max(v, -1.0), 1.0) if v == v else 0.0 for v in values]  # noqa: PLR0124
            a, e, r, t = values
        (a0, a_down, a_up), (e0, e_down, e_up), (r0, r_down, r_up), (t0, t_down, t_up) = self._map
        command = Command(
            a0 + a * (a_up if a >= 0.0 else a_down),
            e0 + e * (e_up if e >= 0.0 else e_down),
            r0 + r * (r_up if r >= 0.0 else r_down),
            t0 + t * (t_up if t >= 0.0 else t_down),
        )
        vehicle = self.vehicle
        sample = vehicle.step(command)
        last_a, last_e, last_r, last_t = self._last
        activity = abs(a - last_a) + abs(e - last_e) + abs(r - last_r) + abs(t - last_t)
        self._last = values
        self._builder.record(values)
        observation = self._builder.build(sample, vehicle.setpoint)
        reward = self._reward(vehicle.true_state, vehicle.setpoint, activity, vehicle.beta_rad())
        if not vehicle.done:
            return observation, reward, False, False, {}
        terminated = vehicle.termination != "completed"
        if terminated:
            reward -= ENVELOPE_PENALTY
        info = {"is_success": vehicle.success, "termination": vehicle.termination}
        return observation, reward, terminated, not terminated, info
