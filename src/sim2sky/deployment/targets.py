"""Where a bundle is installed. A target can take files, run a command, give files back, and activate a release."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.deployment.local_target import Completed, LocalTarget
from sim2sky.errors import ConfigError, NotSupportedError, TargetError

__all__ = ["Target", "fetch_bundle", "open_target", "test_on_target"]


class Target(Protocol):
    """A machine, or a folder that stands for one."""

    @property
    def name(self) -> str:
        """As the user named it, e.g. `local:models/hawk/target`."""
        ...

    def put(self, source: Path, destination: str) -> None:
        """Copy a folder; complete or not at all. Raises TargetError."""
        ...

    def run(self, command: Sequence[str], *, timeout_s: float = 60.0) -> Completed:
        """Run a command in the target's folder to its end. Raises TargetError where it dies or hangs."""
        ...

    def get(self, source: str, destination: Path) -> None:
        """Copy a file back; complete or not at all. Raises TargetError."""
        ...

    def command(self, module: str, *arguments: str, release: str = "current") -> list[str]:
        """How to start a module of a release from this machine; `{release}` becomes the release's folder."""
        ...

    def activate(
        self, bundle: Bundle, *, samples: int = 300, on_state: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Install a bundle and make it current; the report of the test on the target. Raises TargetError."""
        ...

    def stage(self, bundle: Bundle) -> str:
        """Copy a bundle and the runtime; the release's name. Raises TargetError."""
        ...

    def finish(
        self, release: str, digest: str, *, samples: int = 300, on_state: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Verify, test, switch to and commit a staged release; the report of the test. Raises TargetError."""
        ...

    def revert(self) -> str | None:
        """Make the release before the current one active again; its name. Raises TargetError."""
        ...

    def active(self) -> str | None:
        """Name of the committed release."""
        ...


def open_target(text: str) -> Target:
    """Target of a description.

    Raises:
        NotSupportedError: ssh and serial targets.
        ConfigError: no target's description.
    """
    kind, _, rest = text.partition(":")
    if kind == "local":
        if not rest:
            raise ConfigError("a local target needs a folder", hint="write local:FOLDER")
        return LocalTarget(Path(rest))
    if kind in ("ssh", "serial", "tcp") or "@" in text:
        what = "ssh" if kind != "serial" else "serial"
        raise NotSupportedError(
            f"{what} targets ('{text}'): this version installs into local folders",
            hint="run sim2sky on the flight computer itself and deploy to local:FOLDER there",
        )
    raise ConfigError(f"'{text}' is no target", hint="write local:FOLDER")


def test_on_target(target: Target, *, samples: int = 1000, max_latency_ms: float = 20.0) -> dict[str, Any]:
    """Replay the golden vectors and measure latency with the release that is active on a target.

    Returns:
        The report of `test_inference`; its `passed` is true.

    Raises:
        TargetError: nothing is installed, the test failed, or the target died.
    """
    _active_release(target)
    arguments = ("--bundle", "{release}/bundle", "--samples", str(samples), "--max-latency-ms", str(max_latency_ms))
    done = target.run(target.command("sim2sky.deployment.test_inference", *arguments), timeout_s=120.0)
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TargetError(f"target {target.name}: the inference test gave no report: {reason}") from None
    if not report["passed"]:
        raise TargetError(f"target {target.name}: inference test failed: {report['reason']}", hint="deploy again")
    return report


test_on_target.__test__ = False  # type: ignore[attr-defined]  # pytest: this is no test


def _active_release(target: Target) -> str:
    release = target.active()
    if release is None:
        raise TargetError(
            f"target {target.name}: nothing is installed", hint="sim2sky deploy NAME MODEL TARGET", misuse=True
        )
    return release


def fetch_bundle(target: Target, folder: Path) -> Bundle:
    """Copy the bundle that is active on a target here, and verify it.

    Args:
        target: where it is installed.
        folder: an existing folder; the bundle is put into `folder/bundle`.

    Raises:
        TargetError: nothing is installed, or it cannot be read.
        BundleError: it is damaged there.
    """
    release = _active_release(target)
    manifest = folder / "release.json"
    target.get(f"releases/{release}/release.json", manifest)
    (folder / "bundle").mkdir()
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name in content["files"]:
        if name.startswith("bundle/") and "/" not in name[7:] and name[7:] not in ("", ".", ".."):
            target.get(f"releases/{release}/{name}", folder / name)
    return open_bundle(folder / "bundle", digest=content["bundle_digest"])
