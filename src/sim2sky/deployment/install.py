"""Installs, checks and goes back on the target; runs THERE, standard library only, Python 3.6.

States: download -> verify -> selftest -> activate -> commit, then cleanup, always. Permanent only at commit, which is
the rename of one file: an error, a kill or a power cut before it leaves the previous release in charge, and whatever
runs next removes what was left behind. The order of work follows Mender and RAUC.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from sim2sky.deployment.launch import interpreter, resolve, start
from sim2sky.deployment.release_check import (
    check_arrived,
    check_files,
    read_manifest,
    read_plain,
    verify_release,
)
from sim2sky.deployment.target_state import TargetState, plain_errors, sync_folder, write_file
from sim2sky.errors import Sim2SkyError, TargetError
from sim2sky.runtime.native_record import which_flies

__all__ = ["STATES", "go_back", "install", "main", "recover", "run_self_test", "status"]

STATES = ("download", "verify", "selftest", "activate", "commit", "cleanup")
TEST_TIMEOUT_S = 120.0
_NAME = re.compile(r"[0-9a-f]{16}-[1-9][0-9]{0,15}")


def _ignore(_: str) -> None:
    """The default hook: nobody listens."""


def recover(state: TargetState, *, keep_incoming: str = "") -> "Optional[str]":
    """Undo an installation that did not reach its commit; remove what is neither active nor previous.

    Returns:
        The name of the release that was undone, if any.

    Raises:
        TargetError: the journal is damaged.
    """
    journal = state.journal()
    active, undone = journal["active"], journal["installing"]
    if state.current() != active:
        state.point_current(active)
    if undone is not None:
        state.write_journal(active, journal["previous"])
    state.clean(keep_incoming=keep_incoming)
    if active is not None:  # the installer that judges the next release is that of the active one
        with contextlib.suppress(OSError, TargetError):
            tool = read_plain(os.path.join(state.release(active), "install.pyz"), limit=1 << 22)
            path = os.path.join(state.root, "install.pyz")
            if not os.path.isfile(path) or read_plain(path, limit=1 << 22) != tool:
                write_file(path, tool)
    return undone


def run_self_test(
    root: str, release: str, *, samples: int, max_latency_ms: float, timeout_s: float = TEST_TIMEOUT_S
) -> "Dict[str, Any]":
    """Replay the golden vectors and measure latency in a process of its own, so that a crash is only a failure.

    Raises:
        TargetError: the test failed, crashed or hung; the reason is the test's own.
    """
    command = [*interpreter(root, release), os.path.join(root, "install.pyz"), "run", "--root", root, release]
    command += ["sim2sky.deployment.test_inference", "--bundle", "{release}/bundle", "--samples", str(samples)]
    command += ["--max-latency-ms", repr(max_latency_ms)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"the inference test did not end within {timeout_s:.0f} s") from None
    if done.returncode < 0:
        raise TargetError(f"the inference test was ended by {signal.Signals(-done.returncode).name}")
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines() or ["no output"]
        reason = next((line for line in said if line.startswith("error: ")), said[-1])
        raise TargetError(f"the inference test gave no report (exit {done.returncode}): {reason}") from None
    if not report.get("passed"):
        raise TargetError("inference test failed: {}".format(report.get("reason", "no reason given")))
    return report


def install(
    root: str,
    release: str,
    *,
    check: "Callable[[str, str], Dict[str, Any]]",
    python: "Optional[str]" = None,
    now_s: "Optional[float]" = None,
    on_state: "Callable[[str], None]" = _ignore,
) -> "Dict[str, Any]":
    """Install `incoming/RELEASE`.

    Args:
        root: the target's folder.
        release: its name.
        check: replays the golden vectors and measures latency: (root, release) -> report; raises where it fails.
        python: the interpreter that the release is tested with and started by from now on.
        now_s: unix time; the clock's by default.
        on_state: told every state before it begins.

    Returns:
        The report of `check`, and `release`, `previous`.

    Raises:
        TargetError: the release was refused; the previous one is active, and nothing of the new one is left.
    """
    if not _NAME.fullmatch(release):
        raise TargetError(f"{release!r} is not the name of a release")
    state = TargetState(root)
    with plain_errors(root), state.locked():
        recover(state, keep_incoming=release)
        before = state.journal()
        active, kept = before["active"], before["previous"]
        previous = kept if active == release else active
        try:
            on_state("download")
            state.write_journal(active, kept, release, "download")
            folder = _arrived(state, release)
            manifest = read_manifest(folder, state.trust(), now_s=time.time() if now_s is None else now_s)
            if manifest["release"] != release:
                raise TargetError("{} holds release {}".format(release, manifest["release"]), hint="deploy again")
            state.check_version(manifest)
            check_arrived(folder, manifest)
            on_state("verify")
            state.write_journal(active, kept, release, "verify")
            check_files(folder, manifest)
            state.record_version(manifest)
            _move_in(state, folder, release)
            on_state("selftest")
            state.write_journal(active, kept, release, "selftest")
            write_file(os.path.join(state.root, "python", release), ((python or sys.executable) + "\n").encode())
            report = check(root, release)
            on_state("activate")
            state.write_journal(active, kept, release, "activate")
            state.point_current(release)
            on_state("commit")
            verify_release(os.path.realpath(os.path.join(state.root, "current")), state.trust())
            state.write_journal(release, previous)
        finally:
            try:
                on_state("cleanup")
            finally:
                recover(state)
    return dict(report, release=release, previous=previous)


def _arrived(state: TargetState, release: str) -> str:
    """Where the release lies: among the installed ones if it is there already and intact."""
    installed = state.release(release)
    if os.path.isdir(installed):
        try:
            verify_release(installed, state.trust())
        except (TargetError, OSError):
            pass
        else:
            return installed
    folder = os.path.join(state.incoming, release)
    if os.path.islink(folder) or not os.path.isdir(folder):
        raise TargetError(f"release {release} was not copied", hint="deploy again")
    return folder


def _move_in(state: TargetState, folder: str, release: str) -> None:
    final = state.release(release)
    if folder == final:
        return
    for parent, folders, files in os.walk(folder):
        for name in folders:
            os.chmod(os.path.join(parent, name), 0o755)
        for name in files:
            os.chmod(os.path.join(parent, name), 0o755 if name == "fly" and parent == folder else 0o644)
        sync_folder(parent)
    os.chmod(folder, 0o755)
    if os.path.isdir(final):  # damaged: of no use to anyone
        aside = os.path.join(state.releases, ".damaged-" + release)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(final, aside)
    os.rename(folder, final)
    sync_folder(state.releases)
    sync_folder(state.incoming)


def go_back(root: str, *, refused: bool) -> "Dict[str, Any]":
    """Make the previous release active again, after it was verified.

    Args:
        root: the target's folder.
        refused: a later test refused the active release: forget it, and be content with nothing where there was no
            release before. Otherwise a user goes back, and may come forward again.

    Returns:
        `release`: what is active now; `left`: what was.

    Raises:
        TargetError: there is nothing to go back to, or it is not intact; the active release stays.
    """
    state = TargetState(root)
    with plain_errors(root), state.locked():
        recover(state)
        journal = state.journal()
        active, previous = journal["active"], journal["previous"]
        if active is None:
            raise TargetError(f"{root}: nothing is installed here", hint="sim2sky deploy NAME MODEL TARGET")
        if previous is None and not refused:
            raise TargetError(f"{root}: there is no previous release to go back to")
        if previous is not None:
            try:
                verify_release(state.release(previous), state.trust())
            except (TargetError, OSError) as error:
                if not refused:
                    reason = error.message if isinstance(error, TargetError) else str(error)
                    raise TargetError(f"the previous release {previous} cannot be used: {reason}") from None
                previous = None
        state.write_journal(previous, None if refused else active)
        recover(state)
    return {"release": previous, "left": active}


def status(root: str, *, now_s: "Optional[float]" = None) -> "Dict[str, Any]":
    """What is installed, re-hashed: every file of the current release is read.

    Returns:
        `active`, `previous`, manifest facts of the active release, keys, `problems` (empty where all is well).

    Raises:
        TargetError: the journal or the trust store is damaged.
    """
    state = TargetState(root)
    now_s = time.time() if now_s is None else now_s
    with plain_errors(root):
        journal, trust = state.journal(), state.trust()
        report: "Dict[str, Any]" = dict(journal, highest_version=state.highest_seen()["version"])
        report["trusted_keys"] = [trust.name_of(key) for key in sorted(trust.keys) if key not in trust.revoked]
        report["revoked_keys"] = [trust.name_of(key) for key in sorted(trust.revoked)]
        problems: "List[str]" = []
        report["problems"] = problems
        if journal["active"] is None:
            problems.append("nothing is installed")
            return report
        try:
            folder = resolve(root, "current")
            manifest = verify_release(folder, trust)
        except (TargetError, OSError) as error:
            problems.append(error.message if isinstance(error, TargetError) else str(error))
            return report
        for name in ("agent", "bundle_digest", "contract_hash", "golden_hash", "profile", "version", "expires"):
            report[name] = manifest[name]
        report["files"], report["expired"] = len(manifest["files"]) + 2, manifest["expires"] <= now_s
        report["signed_by"] = trust.name_of(bytes.fromhex(manifest["key"]))
        report["python"] = interpreter(root, journal["active"])[0]
        if "bundle/policy.c" in manifest["files"]:
            report["native"] = which_flies(Path(folder, "bundle"), manifest["bundle_digest"])
        if state.current() != journal["active"]:
            problems.append("the link current does not name the active release; the next installation puts it right")
        with open(os.path.join(state.root, "install.pyz"), "rb") as file:
            with open(os.path.join(folder, "install.pyz"), "rb") as signed:
                if file.read() != signed.read():
                    problems.append("install.pyz differs from the active release's")
    return report


def collect(root: str) -> "Dict[str, Any]":
    """Remove everything that is neither the active nor the previous release, uploads included; their names."""
    state = TargetState(root)
    with plain_errors(root), state.locked():
        removed = state.clean()
        recover(state)
    return {"removed": removed}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="install.pyz", description="Install and start signed releases.")
    commands = parser.add_subparsers(dest="command")
    commands.required = True
    for name in ("install", "status", "rollback", "revert", "gc", "trust", "revoke", "run", "start"):
        command = commands.add_parser(name)
        command.add_argument("--root", required=True)
        if name == "install":
            command.add_argument("--release", required=True)
            command.add_argument("--python")
            command.add_argument("--samples", type=int, default=300)
            command.add_argument("--max-latency-ms", type=float, default=20.0)
        if name in ("trust", "revoke"):
            command.add_argument("--key", required=True)
            command.add_argument("--first", action="store_true")
        if name in ("run", "start"):
            command.add_argument("release")
            command.add_argument("module")
            command.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _say(record: "Dict[str, Any]") -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _do(options: argparse.Namespace) -> "Dict[str, Any]":
    root = options.root
    if options.command == "install":
        return install(
            root,
            options.release,
            check=lambda root, release: run_self_test(
                root, release, samples=options.samples, max_latency_ms=options.max_latency_ms
            ),
            python=options.python,
            on_state=lambda state: _say({"state": state}),
        )
    if options.command == "status":
        return status(root)
    if options.command == "gc":
        return collect(root)
    if options.command in ("rollback", "revert"):
        return go_back(root, refused=options.command == "revert")
    state = TargetState(root)
    with plain_errors(root), state.locked():
        if options.command == "trust":
            return {"changed": state.add_key(options.key, first=options.first)}
        return {"changed": state.revoke_key(options.key)}


def main(argv: "List[str]") -> int:
    """Command line on the target: one JSON object a line, `{"state": ...}` and at the end a result or an error."""
    options = _parser().parse_args(argv)
    root = os.path.abspath(options.root)
    options.root = root
    try:
        if options.command in ("run", "start"):
            start(root, options.release, options.module, options.arguments, switch=options.command == "start")
            return 0
        result = _do(options)
    except Sim2SkyError as error:
        if options.command in ("run", "start"):
            sys.stderr.write(f"error: {error}\n")
        else:
            _say({"error": error.message, "hint": error.hint})
        return error.exit_code
    _say({"result": result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
