"""A randomisation patch: ranges that gap analysis puts in the place of an environment's own, and can take back.

A YAML file with the keys of `EnvironmentSettings` below `randomization` and `disturbances`, as few of them as changed:

    aircraft: ultrastick25e
    written_by: sim2sky identify flights.h5
    randomization:
      thrust_scale: [0.78, 0.84]
      coefficient_scales: {Clda: [0.9, 0.97]}
    disturbances:
      action_delay_s: [0.08, 0.1]
    replaced:
      randomization: {thrust_scale: [0.75, 1.1], coefficient_scales: {Clda: null}}
      disturbances: {action_delay_s: [0.0, 0.15]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import Settings, validate_settings
from sim2sky.errors import ConfigError

__all__ = ["RandomizationPatch"]

_SECTIONS = ("randomization", "disturbances")
Tree = dict[str, Any]


class RandomizationPatch(Settings):
    """What to change, and what it was before.

    `randomization` and `disturbances` are parts of `EnvironmentSettings`; `replaced` has the same keys with the values
    that were there, null where there was none. A patch without `replaced` can be applied, not reverted.
    """

    aircraft: str = Field(default="", description="the airframe it is for; any where empty")
    written_by: str = Field(default="", description="command and logs it comes from")
    randomization: Tree = Field(default_factory=dict)
    disturbances: Tree = Field(default_factory=dict)
    replaced: dict[str, Tree] | None = None

    @classmethod
    def between(cls, before: EnvironmentSettings, after: EnvironmentSettings, *, written_by: str = "") -> Self:
        """The patch that leads from one environment to another.

        Raises:
            ConfigError: they differ in more than randomisation and disturbances.
        """
        old, new = (s.model_dump(mode="json") for s in (before, after))
        if {k: v for k, v in old.items() if k not in _SECTIONS} != {k: v for k, v in new.items() if k not in _SECTIONS}:
            raise ConfigError("a randomisation patch changes neither aircraft nor task nor rates")
        changed = {name: _difference(old[name], new[name]) for name in _SECTIONS}
        return cls(
            aircraft=before.aircraft,
            written_by=written_by,
            randomization=changed["randomization"],
            disturbances=changed["disturbances"],
            replaced={name: _difference(new[name], old[name]) for name in _SECTIONS},
        )

    def apply(self, settings: EnvironmentSettings) -> EnvironmentSettings:
        """The environment with this patch.

        Raises:
            ConfigError: it is for another aircraft, or a key or value is wrong.
        """
        return self._merged(settings, {"randomization": self.randomization, "disturbances": self.disturbances})

    def revert(self, settings: EnvironmentSettings) -> EnvironmentSettings:
        """The environment as it was before `apply`.

        Raises:
            ConfigError: the patch does not say what it replaced.
        """
        if self.replaced is None:
            raise ConfigError("this patch does not say what it replaced, so it cannot be reverted")
        return self._merged(settings, self.replaced)

    def _merged(self, settings: EnvironmentSettings, changes: Mapping[str, Tree]) -> EnvironmentSettings:
        if self.aircraft not in {"", settings.aircraft}:
            raise ConfigError(
                f"the randomisation patch is for '{self.aircraft}', the environment flies '{settings.aircraft}'",
                hint="identify from flights of the same aircraft",
            )
        data = settings.model_dump(mode="json")
        for section in _SECTIONS:
            data[section] = _merge(data[section], changes.get(section, {}))
        return validate_settings(data, EnvironmentSettings)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Tree:
    """What makes `new` of `old`; null takes a key away."""
    changes: Tree = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := _difference(before, value):  # type: ignore[arg-type]
                changes[key] = inner
        elif value != before:
            changes[key] = value
    return changes


def _merge(old: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    merged = dict(old)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = _merge(before, value)  # type: ignore[arg-type]
        elif value is None and key != "command_swap":
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged
