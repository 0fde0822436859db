"""Installs a release; runs ON the target. Standard library only.

States: verify -> stage -> test -> switch -> confirm -> commit. Permanent only at commit: an error, a kill or a power
cut before it leaves the previous release in charge (`launch.py` reads the journal written here), and the next
installation removes what was left behind. The order of work follows Mender and RAUC.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from sim2sky.errors import Sim2SkyError, TargetError

__all__ = ["STATES", "active_release", "install", "recover", "revert", "verify_release"]

STATES = ("verify", "stage", "test", "switch", "confirm", "commit")
KEEP = 3  # releases kept for going back by hand
TEST_TIMEOUT_S = 120.0
_NAME = re.compile(r"[0-9a-f]{8,64}(-[0-9a-f]{8,64})?")

Hook = Callable[[str], None]
Check = Callable[[Path, str], dict[str, Any]]


def _ignore(_: str) -> None:
    """The default hook: nobody listens."""


@contextlib.contextmanager
def _plain_errors(root: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        where = error.filename or root
        raise TargetError(
            f"{where}: {error.strerror or error}",
            hint="check that the target's folder is writable and its disk not full",
        ) from error


@contextlib.contextmanager
def _lock(root: Path) -> Generator[None, None, None]:
    """One installation at a time; the kernel releases the lock when its owner dies."""
    with (root / "install.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TargetError(f"{root}: another installation is running", hint="wait until it has ended") from error
        yield


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_journal(root: Path, *, state: str, release: str, previous: str | None) -> None:
    temporary = root / ".install.json.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"schema": 1, "state": state, "release": release, "previous": previous}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(root / "install.json")
    _sync(root)


def _read_journal(root: Path) -> dict[str, Any] | None:
    try:
        text = (root / "install.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        journal = json.loads(text)
        return {k: journal[k] for k in ("state", "release", "previous")}
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(
            f"{root / 'install.json'} is damaged: {error!r}", hint="move the folder away and install again"
        ) from error


def active_release(root: Path) -> str | None:
    """Name of the committed release, None where nothing is installed.

    Raises:
        TargetError: the journal is damaged.
    """
    journal = _read_journal(root)
    if journal is None:
        return None
    return journal["release"] if journal["state"] == "committed" else journal["previous"]


def _point_current(root: Path, release: str | None) -> None:
    link = root / "current"
    if release is None:
        link.unlink(missing_ok=True)
    else:
        temporary = root / ".current.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("releases") / release)
        temporary.replace(link)
    _sync(root)


def recover(root: Path, *, keep_incoming: str = "") -> str | None:
    """Undo an installation that did not reach its commit; remove half-written folders.

    Args:
        root: the target's folder.
        keep_incoming: the release about to be installed.

    Returns:
        The name of the release that was undone, if any.

    Raises:
        TargetError: the folder cannot be written, or the journal is damaged.
    """
    with _plain_errors(root):
        journal = _read_journal(root)
        active = active_release(root)
        undone = None
        if journal is not None and journal["state"] not in ("committed", "rolled back"):
            undone = journal["release"]
            _write_journal(root, state="rolled back", release=undone, previous=active)
        if journal is not None and (undone is not None or _current(root) != active):
            _point_current(root, active)
        releases = root / "releases"
        if undone is not None and undone != active:
            shutil.rmtree(releases / undone, ignore_errors=True)
        for folder in (root / "incoming", releases):
            for entry in folder.iterdir() if folder.is_dir() else ():
                half_written = folder.name == "incoming" or entry.name.startswith(".")
                if half_written and entry.name != keep_incoming:
                    shutil.rmtree(entry, ignore_errors=True)
    return undone


def _current(root: Path) -> str | None:
    link = root / "current"
    return link.readlink().name if link.is_symlink() else None


def verify_release(folder: Path, *, digest: str | None = None) -> dict[str, Any]:
    """Compare every file of a release with its manifest.

    Args:
        folder: holds `release.json`, `bundle/` and `runtime/`.
        digest: what the bundle's digest must be, where the caller knows.

    Returns:
        The manifest.

    Raises:
        TargetError: manifest unreadable; a file missing, superfluous, a link, or of another content.
    """
    try:
        manifest = json.loads((folder / "release.json").read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        name, bundle_digest = manifest["release"], manifest["bundle_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{folder.name}: the release arrived without a readable release.json: {error}") from error
    if digest is not None and bundle_digest != digest:
        raise TargetError(f"{folder.name}: holds bundle {bundle_digest[:12]}, expected {digest[:12]}")
    if name != folder.name.removesuffix(".part"):
        raise TargetError(f"{folder.name}: its manifest says it is release {name}")
    present: set[str] = set()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise TargetError(f"{folder.name}: {relative} is not a plain file")
        if path.is_file():
            present.add(relative)
    present.discard("release.json")
    if missing := sorted(set(files) - present):
        raise TargetError(f"{folder.name}: {missing[0]} did not arrive")
    if extra := sorted(present - set(files)):
        raise TargetError(f"{folder.name}: {extra[0]} is not in the release's manifest")
    for relative, entry in files.items():
        data = (folder / relative).read_bytes()
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise TargetError(f"{folder.name}: {relative} was damaged on the way (sha256)", hint="deploy again")
    if release_name(bundle_digest, files) != name:
        raise TargetError(f"{folder.name}: its name does not fit its content")
    return manifest


def release_name(bundle_digest: str, files: dict[str, dict[str, Any]]) -> str:
    """Name of a release: the bundle's digest and a hash of all files, shortened."""
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":")).encode()
    return f"{bundle_digest[:16]}-{hashlib.sha256(canonical).hexdigest()[:8]}"


def run_inference_test(root: Path, release: str, *, samples: int, timeout_s: float = TEST_TIMEOUT_S) -> dict[str, Any]:
    """Replay the golden vectors and measure latency in a process of its own, so that a crash is only a failure.

    Raises:
        TargetError: the test failed, crashed or hung; the reason is the test's own.
    """
    command = [sys.executable, "-I", "-S", "-B", str(root / "launch.py"), release, "sim2sky.deployment.test_inference"]
    command += ["--bundle", "{release}/bundle", "--samples", str(samples)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"the inference test did not end within {timeout_s:.0f} s") from error
    if done.returncode < 0:
        raise TargetError(f"the inference test was ended by {signal.Signals(-done.returncode).name}")
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise TargetError(f"the inference test gave no report (exit {done.returncode}): {reason}") from None
    if not report.get("passed"):
        raise TargetError(f"inference test failed: {report.get('reason', 'no reason given')}")
    return report


def install(
    root: Path,
    release: str,
    *,
    check: Check,
    digest: str | None = None,
    on_state: Hook = _ignore,
) -> dict[str, Any]:
    """Install `incoming/RELEASE`.

    Args:
        root: the target's folder.
        release: its name, as `release_name` gives it.
        check: replays the golden vectors and measures latency: (root, release) -> report; raises where it fails.
        digest: the bundle's digest, where the caller knows it.
        on_state: told every state before it begins.

    Returns:
        The report of `check`, and `release`, `previous`.

    Raises:
        TargetError: the release was refused; the previous one is active, and nothing of the new one is left.
    """
    if not _NAME.fullmatch(release):
        raise TargetError(f"{release!r} is not the name of a release")
    incoming, final = root / "incoming" / release, root / "releases" / release
    with _plain_errors(root), _lock(root):
        recover(root, keep_incoming=release)
        previous = active_release(root)
        try:
            on_state("verify")
            if final.is_dir() and _intact(final, digest):
                shutil.rmtree(incoming, ignore_errors=True)
            else:
                verify_release(incoming, digest=digest)
            on_state("stage")
            _write_journal(root, state="stage", release=release, previous=previous)
            if incoming.is_dir():
                final.parent.mkdir(exist_ok=True)
                if final.exists():  # damaged: neither intact nor of use
                    final.rename(final.with_name(f".{release}"))
                incoming.rename(final)
                _sync(final.parent)
            on_state("test")
            report = check(root, release)
            on_state("switch")
            _write_journal(root, state="switch", release=release, previous=previous)
            _point_current(root, release)
            on_state("confirm")
            verify_release((root / "current").resolve(), digest=digest)
            on_state("commit")
            _write_journal(root, state="committed", release=release, previous=previous)
        except BaseException:
            recover(root)
            raise
        _prune(root, {release, previous or release})
    return {**report, "release": release, "previous": previous}


def _intact(folder: Path, digest: str | None) -> bool:
    try:
        verify_release(folder, digest=digest)
    except TargetError:
        return False
    return True


def _prune(root: Path, keep: set[str]) -> None:
    """Remove all but the newest releases; failing to is no failure of the installation."""
    with contextlib.suppress(OSError):
        folders = sorted((root / "releases").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
        for folder in [f for f in folders if f.name not in keep][max(KEEP - len(keep), 0) :]:
            shutil.rmtree(folder, ignore_errors=True)


def revert(root: Path) -> str | None:
    """Go back from the committed release to the one before it, because a later test refused it.

    Returns:
        The release that is active now; None where there was none before.

    Raises:
        TargetError: the folder cannot be written, or the journal is damaged.
    """
    with _plain_errors(root), _lock(root):
        journal = _read_journal(root)
        if journal is None or journal["state"] != "committed":
            return active_release(root)
        previous, refused = journal["previous"], journal["release"]
        if previous is not None and not (root / "releases" / previous).is_dir():
            previous = None
        if previous is None:
            _write_journal(root, state="rolled back", release=refused, previous=None)
        else:
            _write_journal(root, state="committed", release=previous, previous=None)
        _point_current(root, previous)
        return previous


def main(argv: list[str]) -> int:
    """Command line on the target: one JSON object a line, `{"state": ...}` and at the end a result or an error."""
    parser = argparse.ArgumentParser(prog="install")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--release", default="")
    parser.add_argument("--digest", default=None)
    parser.add_argument("--revert", action="store_true")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args(argv)

    def say(record: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()

    try:
        if options.revert:
            say({"result": {"release": revert(options.root)}})
            return 0
        result = install(
            options.root,
            options.release,
            check=lambda root, release: run_inference_test(root, release, samples=options.samples),
            digest=options.digest,
            on_state=lambda state: say({"state": state}),
        )
    except Sim2SkyError as error:
        say({"error": error.message, "hint": error.hint})
        return error.exit_code
    say({"result": result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
