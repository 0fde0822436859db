"""Settings of a fleet: the targets that one deployment reaches."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from sim2sky.config.loader import Settings, load_settings

__all__ = ["FleetSettings", "FleetTarget", "load_fleet"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a name is made of letters, digits, '.', '_' and '-'")
    return value


def _expanded(value: Path) -> Path:
    return Path(os.path.expanduser(value))  # noqa: PTH111 - Path.expanduser raises where there is no home


File = Annotated[Path, AfterValidator(_expanded)]


class FleetTarget(Settings):
    """One machine."""

    url: str = Field(description="ssh://user@host[:port]/path, or local:FOLDER")
    name: Annotated[str, AfterValidator(_name)] = Field(description="in tables, and of its folder of results")
    known_hosts: File | None = Field(default=None, description="file of trusted host keys, instead of the fleet's")
    key: File | None = Field(default=None, description="private key, instead of the fleet's")


class FleetSettings(Settings):
    """The file of `sim2sky deploy --targets FILE`, under its key `fleet`."""

    parallel: int = Field(default=4, ge=1, le=64, description="targets that are installed at the same time")
    known_hosts: File | None = Field(default=None, description="file of trusted host keys; absent: as ssh")
    key: File | None = Field(default=None, description="private key; absent: as ssh, or the agent's")
    targets: tuple[FleetTarget, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> FleetSettings:
        for what in ("name", "url"):
            values = [getattr(t, what) for t in self.targets]
            if twice := next((v for v in values if values.count(v) > 1), None):
                raise ValueError(f"two targets have the {what} '{twice}'")
        return self


def load_fleet(path: Path) -> FleetSettings:
    """Read a fleet; relative paths of keys and known hosts begin at the file's folder.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    fleet = load_settings(path, FleetSettings, section="fleet")
    here = path.absolute().parent

    def placed(target: FleetTarget) -> FleetTarget:
        known, key = target.known_hosts or fleet.known_hosts, target.key or fleet.key
        files = {"known_hosts": known and here / known, "key": key and here / key}
        return target.model_copy(update=files)

    return fleet.model_copy(update={"targets": tuple(placed(t) for t in fleet.targets)})
