"""Settings of a training run (`configs/training/*.yaml`)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import Settings

__all__ = ["TrainingSettings"]


class TrainingSettings(Settings):
    """One training run. `hyperparameters` go to the algorithm's constructor as Stable-Baselines3 names them."""

    algorithm: Literal["PPO", "SAC", "TD3", "TQC"] = "PPO"
    total_timesteps: int = Field(default=400_000, ge=1, le=1_000_000_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    n_envs: int = Field(default=16, ge=1, le=256, description="environments stepped in this process")
    normalize: bool = Field(default=True, description="running normalisation of observations (VecNormalize)")
    clip_obs: float = Field(default=5.0, gt=0, description="limit of normalised observations, standard deviations")
    learning_rate: float = Field(default=5e-4, gt=0, lt=1)
    learning_rate_final_fraction: float = Field(
        default=1.0, ge=0, le=1, description="the learning rate falls linearly to this fraction of its start"
    )
    net_arch: tuple[int, ...] = Field(default=(64, 64), min_length=1)
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    log_std_init: float | None = Field(default=None, description="PPO and SAC only")
    hyperparameters: dict[str, int | float | str | bool] = Field(default_factory=dict)
    checkpoint_every: int = Field(default=100_000, ge=1, description="steps between checkpoints a killed run loses")
    environment: EnvironmentSettings = EnvironmentSettings()
    mixed_with: EnvironmentSettings | None = Field(
        default=None, description="every second environment flies this one, so that it is not forgotten"
    )
    freeze_normalizer: bool = Field(default=False, description="observations keep the statistics the run starts with")

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> Self:
        taken = {"learning_rate", "seed", "policy", "env", "device", "verbose", "tensorboard_log", "policy_kwargs"}
        clash = sorted(taken & set(self.hyperparameters))
        if clash:
            raise ValueError(f"hyperparameters must not set {', '.join(clash)}: these have keys of their own")
        return self

    def policy_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the policy, without the activation class (that one needs torch)."""
        kwargs: dict[str, Any] = {"net_arch": list(self.net_arch)}
        if self.log_std_init is not None:
            kwargs["log_std_init"] = self.log_std_init
        return kwargs
