"""What `finetune_with_real_data` is told about the vehicle the data come from (`real_env_config`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sim2sky.config.loader import Settings
from sim2sky.config.randomization import RandomizationPatch

__all__ = ["RUNGS", "RealEnvSettings", "Rung"]

Rung = Literal["refit", "offline", "residual", "vehicle"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
"""Safest first."""


class RealEnvSettings(Settings):
    """The vehicle, how its agent may learn, and what from."""

    vehicle: Literal["virtual", "hil", "mavlink"] = Field(description="where the flights took place")
    rung: Rung | None = Field(
        default=None,
        description="absent: refit where there is a patch, else offline; `vehicle` is never chosen by itself",
    )
    randomization: RandomizationPatch | Path | None = Field(
        default=None, description="what identification found: a patch of the simulator, or its file"
    )
    logs: tuple[Path, ...] = Field(default=(), description="flight logs of the vehicle")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the training")
    aircraft_seed: int = Field(default=0, ge=0, description="which virtual aircraft the rung `vehicle` flies")

    @property
    def chosen(self) -> Rung:
        """The rung that is taken."""
        return self.rung or ("refit" if self.randomization is not None else "offline")

    @model_validator(mode="after")
    def _has_what_it_learns_from(self) -> Self:
        if self.chosen in ("refit", "residual") and self.randomization is None:
            raise ValueError(f"the rung '{self.chosen}' needs `randomization`, a patch as sim2sky identify writes it")
        if self.chosen == "offline" and not self.logs:
            raise ValueError("the rung 'offline' needs `logs`; give them, or `randomization` for the rung 'refit'")
        return self
