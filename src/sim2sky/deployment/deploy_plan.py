"""What to deploy where, and how it ended: plain data. Stands where `deploy_agent` stands (docs/adr/0003)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim2sky.config.deployment import DeploymentSettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.keys import DEFAULT_KEY
from sim2sky.validation.checks import ValidationResult
from sim2sky.validation.statistics import Outcome

__all__ = ["DeployPlan", "DeployResult"]


@dataclass(frozen=True)
class DeployPlan:
    """What to deploy where.

    Attributes:
        name: the agent's name.
        model_path: its zip.
        target: `local:FOLDER` or `ssh://user@host[:port]/path`; `user@host`: the settings' folder there; `host`: the
            settings' host; empty: the folder `target` inside `output`.
        output: where bundle, report, logs and the record of finished steps go.
        settings, validation: the configuration.
        vecnormalize, contract: files beside the zip are found by themselves.
        cluster: `dask://host:port` for the simulation campaign.
        fresh: do every step again.
        key: name of the key that signs; the default one is made when it is first needed.
    """

    name: str
    model_path: Path
    output: Path
    settings: DeploymentSettings
    validation: ValidationSettings
    target: str = ""
    vecnormalize: Path | None = None
    contract: Path | None = None
    cluster: str | None = None
    fresh: bool = False
    key: str = DEFAULT_KEY

    @property
    def target_name(self) -> str:
        """The target as `open_target` takes it."""
        there = self.settings.target
        login = there.host if self.target == "host" else self.target
        if "@" in login and ":" not in login and "/" not in login:
            return f"ssh://{login}/{there.model_dir.lstrip('/')}"
        return self.target or f"local:{self.output / 'target'}"


@dataclass(frozen=True)
class DeployResult:
    """How a deployment ended.

    Attributes:
        outcome: `pass` only after all six steps.
        step: number of the last step that was done or begun.
        results: all checks that were made.
        bundle: what was installed.
        written: everything that lies on disk now.
    """

    outcome: Outcome
    step: int
    results: list[ValidationResult]
    bundle: Path | None
    target: str
    written: list[Path] = field(default_factory=list[Path])

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "verdict": self.outcome,
            "step": self.step,
            "checks": [r.to_json() for r in self.results],
            "bundle": str(self.bundle) if self.bundle else None,
            "target": self.target,
            "written": [str(p) for p in self.written],
        }
