"""Settings of the six deployment steps: the specification's block, key by key, and what it lacked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim2sky.config.loader import Settings
from sim2sky.config.safety import SafetySettings
from sim2sky.config.validation import ValidationSettings

__all__ = ["DeploymentSettings", "ExportSettings", "OptimizationSettings", "TargetSettings", "ThresholdSettings"]


class ExportSettings(Settings):
    """Step 1."""

    format: Literal["onnx", "torchscript"] = Field(default="onnx", description="the format that flies")
    opset_version: int | None = Field(
        default=11, ge=9, le=26, description="ONNX opset; absent: what the platform wants"
    )
    c_weights: Literal["float32", "int8"] = Field(
        default="float32", description="of the C that flies on a microcontroller; int8 where its flash is short"
    )


class OptimizationSettings(Settings):
    """Step 2: which candidates are measured against the exported policy. None is kept unless it wins."""

    quantize: bool = True
    quantization_type: Literal["int8", "uint8"] = "int8"
    prune: bool = False
    pruning_amount: float = Field(default=0.3, gt=0, lt=1, description="fraction of weights or neurons")
    paired_episodes: int = Field(
        default=40, ge=10, le=10_000, description="flown by candidate and original on equal seeds"
    )


class ThresholdSettings(Settings):
    """Step 3 and 6: overrides of the validation configuration."""

    sim_validation_episodes: int = Field(default=100, ge=1, le=100_000)
    sim_success_threshold: float = Field(default=0.80, gt=0, lt=1)
    hil_validation_episodes: int = Field(default=50, ge=1, le=100_000)
    hil_success_threshold: float = Field(default=0.70, gt=0, lt=1)
    max_latency_ms: float = Field(default=20.0, gt=0)
    bench_test_required: bool = True
    ground_test_required: bool = True


class TargetSettings(Settings):
    """Step 4: for whom the policy is exported and where it goes."""

    platform: Literal["jetson_nano", "raspberry_pi", "generic_linux", "teensy"] = "jetson_nano"
    host: str = Field(default="jetson@192.168.1.100", description="user@host, where the command line says `host`")
    model_dir: str = Field(default="/home/jetson/controls/models", description="folder on that host")


class DeploymentSettings(Settings):
    """The file `configs/deployment/default.yaml`, under its key `deployment`."""

    model_export: ExportSettings = ExportSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    validation: ThresholdSettings = ThresholdSettings()
    target: TargetSettings = TargetSettings()
    safety: SafetySettings = SafetySettings()

    def validation_settings(self, base: ValidationSettings) -> ValidationSettings:
        """`base` with this file's thresholds and safety limits in front."""
        safety = SafetySettings.model_validate(
            {**base.safety.values, **self.safety.values, "extends": self.safety.extends or base.safety.extends}
        )
        return base.model_copy(update={**self.validation.model_dump(), "safety": safety})
