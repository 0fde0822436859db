"""What went into a report: files with their hashes, versions, and the command that made it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sim2sky.errors import FlightLogError
from sim2sky.report.html import size_of
from sim2sky.report.page import Section, Table
from sim2sky.telemetry.log_files import parts_of

__all__ = ["InputFile", "input_section"]

PACKAGES = ("sim2sky", "numpy", "scipy", "h5py", "jsbsim", "plotly", "matplotlib")


@dataclass(frozen=True)
class InputFile:
    """A flight log as it was read.

    Attributes:
        path: as it was named.
        source: where the flights took place, by the log's own word.
        flights: in it.
        vehicle, agent, bundle_digest, contract_hash: by the log's metadata; may be empty.
    """

    path: Path
    source: str
    flights: int
    vehicle: str = ""
    agent: str = ""
    bundle_digest: str = ""
    contract_hash: str = ""

    @property
    def files(self) -> list[Path]:
        """The log, and its parts where it was never closed."""
        parts = parts_of(self.path)
        own = [self.path] if self.path.is_file() else []
        return own + (sorted(p for p in parts.iterdir() if p.is_file()) if parts.is_dir() else [])


def input_section(inputs: Sequence[InputFile], command: str) -> Section:
    """Files, hashes, versions, command.

    Raises:
        FlightLogError: a file cannot be read any more.
    """
    rows = [
        [str(file), item.source, str(item.flights), size_of(file.stat().st_size), _sha256(file)]
        for item in inputs
        for file in item.files
    ]
    flown = [
        [str(item.path), item.vehicle or "not said", item.agent or "not said", item.bundle_digest or "not said",
         item.contract_hash or "not said"]
        for item in inputs
    ]  # fmt: skip
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    made = [["command", command or "not said"], ["system", system], ["versions", _versions()]]
    return Section(
        "inputs",
        "Inputs",
        "The same files and versions give the same report.",
        [
            Table("Input files", ["file", "source", "flights", "size", "sha256"], rows, numeric=(2, 3), code=(4,)),
            Table("What flew", ["log", "vehicle", "agent", "bundle", "contract"], flown, code=(3, 4)),
            Table("How", ["", "value"], made, code=(1,)),
        ],
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FlightLogError(f"cannot read {path}: {error.strerror or error}") from error


def _versions() -> str:
    found: list[str] = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
