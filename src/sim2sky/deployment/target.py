"""A target over any transport: copies signed releases, lets the installer *there* judge them, asks for its state."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import open_bundle
from sim2sky.deployment.release import Release, installer_zip
from sim2sky.deployment.transport import Completed, Transport
from sim2sky.errors import NotSupportedError, TargetError

__all__ = ["ReleaseTarget"]

TOOL = "install.pyz"
PACKAGES = ("numpy", "onnxruntime", "pymavlink")
OPTIONAL = ("h5py",)


def _ignore(_: str) -> None:
    """The default listener."""


class ReleaseTarget:
    """Releases on one target.

    `releases/NAME/` holds a bundle and the runtime it was tested with, `current` links to the active one, `trust/` the
    keys that may sign. Everything there is decided by `install.pyz` there, never by this side.

    Args:
        transport: how to reach it.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.name = transport.name
        self._python = ""

    # Plain access ----------------------------------------------------------------------------------------------------

    def run(self, command: Sequence[str], *, timeout_s: float = 60.0) -> Completed:
        """Run a command there to its end. Raises TargetError where it dies or hangs."""
        return self.transport.run(command, timeout_s=timeout_s)

    def get(self, source: str, destination: Path) -> None:
        """Copy a file back; complete or not at all. Raises TargetError."""
        self.transport.get_file(source, destination)

    def module(self, module: str, *arguments: str, release: str = "current") -> list[str]:
        """How to start a module of a release, on the target; `{release}` becomes the release's folder."""
        root = self.transport.root
        return [*self.transport.python(), f"{root}/{TOOL}", "start", "--root", root, release, module, *arguments]

    def command(self, module: str, *arguments: str, release: str = "current") -> list[str]:
        """As `module`, as a process of this machine."""
        return self.transport.command(self.module(module, *arguments, release=release))

    # Installing ------------------------------------------------------------------------------------------------------

    def preflight(self, release: Release, *, now_s: float) -> dict[str, Any]:
        """Look at the target before anything is written: can it fly this release, and with which Python?

        Args:
            release: to be installed.
            now_s: unix time here, to compare the target's clock with.

        Raises:
            TargetError: it cannot be reached, or cannot fly it; all reasons with their remedies.
            NotSupportedError: the C of the bundle is what flies; here it flies only in place of an ONNX file.
        """
        bundle = open_bundle(release.path / "bundle")
        onnx = bundle.active == "onnx"
        if bundle.active == "c":
            raise NotSupportedError(
                "a Linux target for a bundle that has its policy in C only",
                hint="export it with --format onnx,c; a chip takes it as it is: mcu:emulated",
            )
        needs = {
            "profile": bundle.profile,
            "packages": [*PACKAGES, *(() if onnx else ("torch",))],
            "optional": OPTIONAL,
            "opset": bundle.provenance.get("opset", 0) if onnx else 0,
            "ir_version": bundle.provenance.get("ir_version", 0) if onnx else 0,
            "bytes": sum(entry["size"] for entry in release.manifest["files"].values()),
            "stands_in": self.transport.stands_in,
            "now_s": now_s,
        }
        script = Path(__file__).with_name("preflight.py").read_bytes()
        command = [*self.transport.python(), "-", "--root", self.transport.root, "--needs", json.dumps(needs)]
        done = self.transport.run(command, stdin=script, timeout_s=300.0)
        try:
            report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise TargetError(
                f"target {self.name}: no usable Python there (exit {done.returncode}): {reason}",
                hint="install Python 3.10 or newer on the target: sudo apt install python3 python3-venv",
            ) from None
        if report["problems"]:
            what = "; ".join(p["problem"] for p in report["problems"])
            raise TargetError(
                f"target {self.name} cannot fly this release: {what}",
                hint="; ".join(p["remedy"] for p in report["problems"]),
            )
        self._python = report["python"]
        return report

    def stage(self, release: Release, *, now_s: float) -> list[str]:
        """Examine the target, let a new one trust the release's key, copy what is not there yet.

        A target that has never trusted anybody trusts the first key it meets, as an SSH client does with a host.

        Returns:
            Sentences for the user.

        Raises:
            TargetError: it cannot fly this release, or the copy failed; the active release stays.
        """
        self.transport.prepare()
        said = list(self.preflight(release, now_s=now_s)["notes"])
        self._bring_tool()
        if self._ask("trust", "--key", release.key_line, "--first")["changed"]:
            said.append(f"first installation there: it trusts key {release.key_line.split()[1][:16]} from now on")
        for name in release.files():
            self.transport.put_file(release.path / name, f"incoming/{release.name}/{name}")
        return said

    def finish(
        self,
        release: Release,
        *,
        samples: int = 300,
        max_latency_ms: float = 20.0,
        on_state: Callable[[str], None] = _ignore,
    ) -> dict[str, Any]:
        """Verify, test, switch to and commit a staged release; the report of the test on the target.

        Raises:
            TargetError: refused, with the target's own reason; the previous release is active.
        """
        arguments = ["--release", release.name, "--samples", str(samples), "--max-latency-ms", repr(max_latency_ms)]
        if self._python:
            arguments += ["--python", self._python]
        return self._ask("install", *arguments, timeout_s=240.0, on_state=on_state)

    def activate(
        self, release: Release, *, now_s: float, samples: int = 300, on_state: Callable[[str], None] = _ignore
    ) -> dict[str, Any]:
        """Stage and finish."""
        self.stage(release, now_s=now_s)
        return self.finish(release, samples=samples, on_state=on_state)

    # State -----------------------------------------------------------------------------------------------------------

    def active(self) -> str | None:
        """Name of the committed release, None where nothing is installed."""
        return self.status()["active"] if self._has_tool() else None

    def highest_version(self) -> int:
        """The highest version the target has ever verified, 0 where nothing was installed."""
        return self.status()["highest_version"] if self._has_tool() else 0

    def status(self) -> dict[str, Any]:
        """What is installed, every file of it re-hashed there; `problems` is empty where all is well.

        Raises:
            TargetError: no target, or its records are damaged.
        """
        return self._ask("status")

    def rollback(self) -> dict[str, Any]:
        """Go back to the previous release; `release` is active now, `left` was. Raises TargetError."""
        return self._ask("rollback")

    def revert(self) -> str | None:
        """A later test refused the active release: go back to the one before it, or to none; its name."""
        return self._ask("revert")["release"]

    def gc(self) -> list[str]:
        """Remove all but the active and the previous release; what was removed."""
        return self._ask("gc")["removed"]

    def trust(self, key_line: str) -> bool:
        """Let the target, new or not, accept releases signed by a key; False where it did. Raises TargetError."""
        self.transport.prepare()
        self._bring_tool()
        return self._ask("trust", "--key", key_line)["changed"]

    def revoke(self, key_line: str) -> bool:
        """Never accept a key again; False where it was revoked already. Raises TargetError."""
        return self._ask("revoke", "--key", key_line)["changed"]

    # Talking to install.pyz ------------------------------------------------------------------------------------------

    def _has_tool(self) -> bool:
        return self.transport.run(["test", "-f", f"{self.transport.root}/{TOOL}"]).returncode == 0

    def _bring_tool(self) -> None:
        """A new target gets this version's installer; later ones come in releases, signed."""
        if self._has_tool():
            return
        with tempfile.TemporaryDirectory(prefix="sim2sky-") as folder:
            path = Path(folder) / TOOL
            path.write_bytes(installer_zip())
            self.transport.put_file(path, TOOL)

    def _ask(
        self, what: str, *arguments: str, timeout_s: float = 60.0, on_state: Callable[[str], None] = _ignore
    ) -> dict[str, Any]:
        root = self.transport.root
        command = [*self.transport.python(), f"{root}/{TOOL}", what, "--root", root, *arguments]
        done = self.transport.run(command, timeout_s=timeout_s)
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError):
                record: dict[str, Any] = json.loads(line)
                if "state" in record:
                    on_state(record["state"])
                if "error" in record:
                    raise TargetError(f"target {self.name}: {record['error']}", hint=record.get("hint", ""))
                if "result" in record:
                    return record["result"]
        if not self._has_tool():
            raise TargetError(
                f"target {self.name}: nothing is installed", hint="sim2sky deploy NAME MODEL TARGET", misuse=True
            )
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TargetError(f"target {self.name}: the installer failed (exit {done.returncode}): {reason}")
