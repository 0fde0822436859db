"""Microcontroller targets: the emulated board with two slots for firmware, and a real board on a serial port.

A slot is a folder with the firmware, the bundle it was built from and a record that is written last, after the firmware
has passed its test there; the active one is named by a symbolic link, which is replaced atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.deployment.firmware_build import Image, build_agent
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.errors import BundleError, ConfigError, NotSupportedError, TargetError
from sim2sky.hil.chip import emulated_chip, require_emulator, serial_board
from sim2sky.hil.pil import PilLink

__all__ = ["BoardTarget", "ChipTarget", "EmulatedTarget", "is_chip", "open_chip"]

PREFIX = "mcu:"
SLOTS = ("a", "b")
ACTIVE = "active"
FIRMWARE, BUNDLE, RECORD = "firmware.elf", "bundle", "firmware.json"


def is_chip(text: str) -> bool:
    """Whether a target's description names a microcontroller."""
    return text.startswith(PREFIX)


def open_chip(text: str) -> ChipTarget:
    """Target of a description. Nothing is reached yet.

    Args:
        text: `mcu:emulated[:FOLDER]` or `mcu:/dev/DEVICE`.

    Raises:
        ConfigError: neither.
    """
    kind, _, folder = text.removeprefix(PREFIX).partition(":")
    if kind == "emulated":
        return EmulatedTarget(text, Path(folder) if folder else default_folder())
    if kind.startswith("/"):
        return BoardTarget(text, kind)
    raise ConfigError(f"'{text}' is no target", hint="write mcu:emulated, mcu:emulated:FOLDER or mcu:/dev/ttyACM0")


def default_folder() -> Path:
    """`$XDG_DATA_HOME/sim2sky/emulated`, or below `~/.local/share`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sim2sky" / "emulated"


class EmulatedTarget:
    """An emulated Cortex-M7 and the folder that holds its firmware.

    Args:
        name: as the user wrote it.
        folder: of the slots.
    """

    flashes = True

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def require(self) -> None:
        """See `BoardTarget`: compiler and emulator are there.

        Raises:
            ToolchainError, TargetError: one is not; the hint says what to install.
        """
        find_compiler("cortex-m7")
        require_emulator()

    def stage(self, bundle: Bundle) -> Image:
        """Build a bundle's firmware into the slot that is not active; the active one is not touched.

        Raises:
            TargetError: it does not fit, or the folder cannot be written.
            ToolchainError, NotSupportedError, BundleError, ContractError: see `build_agent`.
        """
        slot = self._spare()
        with self._writing():
            shutil.rmtree(slot, ignore_errors=True)
            slot.mkdir(parents=True)
            shutil.copytree(bundle.path, slot / BUNDLE)
        return build_agent(bundle, slot / FIRMWARE)

    @contextlib.contextmanager
    def staged(self, *, icount: bool = False) -> Generator[PilLink, None, None]:
        """Run the firmware that was staged last."""
        with emulated_chip(self._spare() / FIRMWARE, icount=icount) as link:
            yield link

    def activate(self, image: Image, measured: dict[str, Any]) -> str:
        """The staged firmware has passed its test: it is the active one from now on; its name."""
        slot = self._spare()
        digest = hashlib.sha256((slot / FIRMWARE).read_bytes()).hexdigest()
        record = {
            "firmware": digest[:16],
            "sha256": digest,
            "bundle_digest": open_bundle(slot / BUNDLE).digest,
            **{k: v for k, v in asdict(image).items() if k != "elf"},
            **measured,
        }
        with self._writing():
            temporary = slot / f".{RECORD}"
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            temporary.replace(slot / RECORD)
            self._switch(slot)
        return digest[:16]

    def discard(self) -> None:
        """The staged firmware did not pass: it must never become active."""
        shutil.rmtree(self._spare(), ignore_errors=True)

    def active(self) -> str | None:
        """Name of the active firmware; None where there is none."""
        return None if (record := self._record(self._active())) is None else record["firmware"]

    @contextlib.contextmanager
    def run(self, *, icount: bool = False) -> Generator[PilLink, None, None]:
        """Run the active firmware.

        Raises:
            TargetError: nothing is installed, or a byte of it has changed.
        """
        self._require_whole()
        with emulated_chip(self._active() / FIRMWARE, icount=icount) as link:
            yield link

    def bundle(self) -> Bundle:
        """What the active firmware was built from.

        Raises:
            TargetError: nothing is installed, or a byte of it has changed.
        """
        record = self._require_whole()
        return open_bundle(self._active() / BUNDLE, digest=record["bundle_digest"])

    def revert(self) -> str | None:
        """A later test refused the active firmware: go back to the one before it, or to none; its name."""
        refused = self._active()
        other = self._record(self._spare())
        with self._writing():
            if other is None:
                (self.folder / ACTIVE).unlink(missing_ok=True)
            else:
                self._switch(self._spare())
            shutil.rmtree(refused, ignore_errors=True)
        return None if other is None else other["firmware"]

    def rollback(self) -> dict[str, Any]:
        """Go back to the firmware before, a second time forward again. Raises TargetError where there is none."""
        left, other = self.active(), self._record(self._spare())
        if left is None or other is None:
            raise TargetError(f"target {self.name}: there is no previous firmware to go back to")
        self._check(self._spare(), other)
        with self._writing():
            self._switch(self._spare())
        return {"release": other["firmware"], "left": left}

    def status(self) -> dict[str, Any]:
        """What is installed, every byte of it read and compared; `problems` is empty where all is well."""
        record, previous = self._record(self._active()), self._record(self._spare())
        problems: list[str] = []
        for slot, found in ((self._active(), record), (self._spare(), previous)):
            try:
                if found is not None:
                    self._check(slot, found)
            except TargetError as error:
                problems.append(error.message)
        return {
            "active": record and record["firmware"],
            "previous": previous and previous["firmware"],
            "firmware": record or {},
            "problems": problems,
        }

    def _active(self) -> Path:
        """The active slot; where none is, a path that does not exist."""
        link = self.folder / ACTIVE
        name = link.readlink().name if link.is_symlink() else ""
        return self.folder / (name if name in SLOTS else "none")

    def _spare(self) -> Path:
        return self.folder / (SLOTS[1] if self._active().name == SLOTS[0] else SLOTS[0])

    def _switch(self, slot: Path) -> None:
        temporary = self.folder / f".{ACTIVE}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(slot.name)
        temporary.replace(self.folder / ACTIVE)

    @staticmethod
    def _record(slot: Path) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((slot / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record

    def _require_whole(self) -> dict[str, Any]:
        if (record := self._record(self._active())) is None:
            raise TargetError(
                f"target {self.name}: nothing is installed", hint=f"sim2sky deploy NAME MODEL {self.name}", misuse=True
            )
        self._check(self._active(), record)
        return record

    def _check(self, slot: Path, record: dict[str, Any]) -> None:
        try:
            whole = hashlib.sha256((slot / FIRMWARE).read_bytes()).hexdigest() == record["sha256"]
            open_bundle(slot / BUNDLE, digest=record["bundle_digest"])
        except (OSError, KeyError, BundleError):
            whole = False
        if not whole:
            raise TargetError(
                f"target {self.name}: firmware {record.get('firmware')} in slot {slot.name} has changed since its test",
                hint="deploy again",
            )

    @contextlib.contextmanager
    def _writing(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise TargetError(
                f"target {self.name}: cannot write {error.filename or self.folder}: {error.strerror or error}",
                hint="name another folder: mcu:emulated:FOLDER",
            ) from error


class BoardTarget:
    """A board on a serial port. What runs on it was flashed by its owner: that is not done here.

    Args:
        name: as the user wrote it.
        device: of the serial port.
    """

    flashes = False

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device

    def require(self) -> None:
        """Before anything else is done: the board answers.

        Raises:
            LinkError: the port cannot be opened, or nothing of ours answers.
            TargetError: firmware of another version.
        """
        with self.run() as link:
            link.identify()

    @contextlib.contextmanager
    def run(self, *, icount: bool = False) -> Generator[PilLink, None, None]:
        """Speak to what runs on the board.

        Raises:
            NotSupportedError: counting instructions.
            LinkError: see `serial_board`.
        """
        if icount:
            raise NotSupportedError("counting instructions on a board", hint="deploy to mcu:emulated")
        with serial_board(self.device) as link:
            yield link

    def bundle(self) -> Bundle:
        """See `EmulatedTarget`.

        Raises:
            NotSupportedError: a board does not hold it.
        """
        raise NotSupportedError(
            f"knowing the bundle behind the firmware on {self.device}", hint=f"sim2sky deploy NAME MODEL {self.name}"
        )

    def require_bundle(self, bundle: Bundle) -> None:
        """The firmware on the board was built from this bundle.

        Raises:
            NotSupportedError: it was not, and flashing is not done here.
            LinkError: see `PilLink.ask`.
        """
        with self.run() as link:
            there = link.identify().bundle_digest
        if there != bundle.digest:
            raise NotSupportedError(
                f"flashing {self.device}: the firmware there is of bundle {there[:12]}, not {bundle.digest[:12]}",
                hint=f"sim2sky firmware {bundle.path} -o FOLDER --port teensy41, build and flash it, then deploy again",
            )


ChipTarget = EmulatedTarget | BoardTarget
