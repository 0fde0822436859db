"""The guard's limits for an airframe: what a user gives, what is shipped for it, and the gains of its fallback law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim2sky.config.loader import default_path, load_settings
from sim2sky.config.safety import SafetySettings
from sim2sky.environments.airframes import AIRFRAMES

__all__ = ["safety_of"]


def safety_of(limits: Mapping[str, Any], vehicle: str) -> dict[str, Any] | None:
    """`safety.json` for a vehicle: limits, what `configs/safety` has for the airframe and `limits` leaves out, and the
    fallback law's gains; None for a vehicle we do not know."""
    if vehicle not in AIRFRAMES:
        return None
    own = load_settings(default_path("safety", vehicle), SafetySettings, section="safety").values
    return {**own, **limits, "fallback": AIRFRAMES[vehicle].gains.to_json()}
