"""Opens targets by their description, tests and fetches what is installed on them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.deployment.keys import SigningKey
from sim2sky.deployment.local_transport import LocalTransport
from sim2sky.deployment.release import build_release
from sim2sky.deployment.ssh_address import SshAccess
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.errors import ConfigError, NotSupportedError, TargetError

__all__ = ["fetch_bundle", "open_target", "runtime_lines", "temporary_target", "test_on_target"]


def open_target(text: str, access: SshAccess | None = None) -> ReleaseTarget:
    """Target of a description. Nothing is reached yet.

    Args:
        text: `local:FOLDER` or `ssh://user@host[:port]/path`.
        access: key and trusted host keys of an SSH target; by default what `ssh` would use.

    Raises:
        NotSupportedError: serial targets; microcontrollers, which `chip_target.open_chip` opens.
        ConfigError: no target's description.
    """
    kind, _, rest = text.partition(":")
    if kind == "local":
        if not rest:
            raise ConfigError("a local target needs a folder", hint="write local:FOLDER")
        return ReleaseTarget(LocalTransport(Path(rest)))
    if kind == "ssh":
        from sim2sky.deployment.ssh import SshTransport  # asyncssh takes its time to import

        return ReleaseTarget(SshTransport(text, access=access))
    if kind == "mcu":
        raise NotSupportedError(
            f"this on a microcontroller ('{text}')",
            hint="sim2sky deploy, hil, test-inference, target status and rollback",
        )
    if kind in ("serial", "tcp"):
        raise NotSupportedError(f"{kind} targets ('{text}')", hint="write ssh://user@host[:port]/path or local:FOLDER")
    if "@" in text:
        host, _, path = text.partition(":")
        raise ConfigError(f"'{text}' is no target", hint=f"write ssh://{host}/{path.strip('/') or '~/controls'}")
    raise ConfigError(f"'{text}' is no target", hint="write local:FOLDER or ssh://user@host[:port]/path")


def temporary_target(bundle: Bundle, folder: Path) -> ReleaseTarget:
    """A local target in an empty folder with a bundle installed, signed with a key that nobody keeps.

    Raises:
        TargetError: the bundle does not pass its test there.
    """
    target = ReleaseTarget(LocalTransport(folder / "target"))
    now_s = time.time()
    release = build_release(
        bundle, folder / "release", SigningKey.generate("temporary"), version=int(now_s), now_s=now_s
    )
    target.activate(release, now_s=now_s)
    return target


def test_on_target(target: ReleaseTarget, *, samples: int = 1000, max_latency_ms: float = 20.0) -> dict[str, Any]:
    """Replay the golden vectors and measure latency with the release that is active on a target.

    Returns:
        The report of `test_inference`; its `passed` is true.

    Raises:
        TargetError: nothing is installed, the test failed, or the target died.
    """
    _active_release(target)
    arguments = ("--bundle", "{release}/bundle", "--samples", str(samples), "--max-latency-ms", str(max_latency_ms))
    done = target.run(target.module("sim2sky.deployment.test_inference", *arguments), timeout_s=120.0)
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        reason = next((line for line in said if line.startswith("error: ")), said[-1])
        raise TargetError(f"target {target.name}: the inference test gave no report: {reason}") from None
    if not report["passed"]:
        raise TargetError(f"target {target.name}: inference test failed: {report['reason']}", hint="deploy again")
    return report


test_on_target.__test__ = False  # type: ignore[attr-defined]  # pytest: this is no test


def runtime_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The `runtimes` of a report of `test_inference` as a table."""

    def cell(value: float | str | None, form: str) -> str:
        return "-" if value is None else format(float(value), form)

    lines = [f"{'runtime':<20} {'golden error':>12} {'p50 us':>9} {'p99 us':>9}"] if rows else []
    for row in rows:
        numbers = f"{cell(row['golden_max_error'], '.1e'):>12} {cell(row['p50_us'], '.2f'):>9}"
        said = " flies" if row["flies"] else ""
        lines.append(
            f"{row['runtime']:<20} {numbers} {cell(row['p99_us'], '.2f'):>9}{said}"
            + (f"  ({row['why']})" if row["why"] else "")
        )
    return lines


def _active_release(target: ReleaseTarget) -> str:
    release = target.active()
    if release is None:
        raise TargetError(
            f"target {target.name}: nothing is installed", hint="sim2sky deploy NAME MODEL TARGET", misuse=True
        )
    return release


def fetch_bundle(target: ReleaseTarget, folder: Path) -> Bundle:
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
