"""Settings of the deployment validation: thresholds, campaigns, the conditions that are flown in, safety limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import Settings
from sim2sky.config.safety import SafetySettings

__all__ = ["ValidationSettings"]


class ValidationSettings(Settings):
    """Everything `DeploymentValidator` needs. Vehicle, task and control rate come from the bundle's contract."""

    model_path: str | None = Field(default=None, description="bundle folder or ONNX file; --model overrides it")
    obs_dim: int | None = Field(
        default=None, ge=1, description="expected width of the observation; absent: as exported"
    )

    max_latency_ms: float = Field(default=20.0, gt=0, description="the mean must lie below this, ms")
    deadline_ms: float | None = Field(
        default=None, gt=0, description="one inference must end within this, ms; absent: max_latency_ms"
    )
    max_deadline_miss_rate: float = Field(
        default=0.01, ge=0, le=1, description="fraction of inferences that may be late"
    )
    latency_samples: int = Field(default=1000, ge=300, description="p99 needs at least 299 samples")
    golden_tolerance: float = Field(
        default=1e-5, gt=0, le=1, description="largest error of a float policy, action units"
    )

    sim_validation_episodes: int = Field(default=100, ge=1, le=100_000)
    sim_success_threshold: float = Field(default=0.80, gt=0, lt=1)
    hil_validation_episodes: int = Field(default=50, ge=1, le=100_000)
    hil_success_threshold: float = Field(default=0.70, gt=0, lt=1)
    strict: bool = Field(default=True, description="the lower bound, not the observed rate, must reach the threshold")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the one-sided bounds")

    seed: int = Field(
        default=20_251_009, ge=0, description="of the whole campaign; simulation and HIL use their own children"
    )
    workers: int = Field(default=0, ge=0, le=1024, description="processes; 0: one per core")
    hil_link: Literal["udp", "tcp"] = "udp"

    bench_test_required: bool = True
    ground_test_required: bool = True

    environment: EnvironmentSettings = EnvironmentSettings()
    safety: SafetySettings = SafetySettings()
