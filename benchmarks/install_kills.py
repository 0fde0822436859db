"""Kills an installation at random points: is there ever a target without a complete, verified release?

    PYTHONPATH=src:. python benchmarks/install_kills.py [--kills 1000] [--seed 0] [--json]

One target, one release after another, each a process of its own that copies, then becomes the target's installer. It
gets SIGKILL in a state drawn at random, after a delay drawn from that state's own duration; half of the time its whole
process group does, half of the time the installer alone. After every kill, every byte of what would fly is hashed, its
signature checked, and no compiled policy may be there by half. Every fifth time nothing is killed, and the installation
must succeed. Deaths of processes, not of the machine: what reached the kernel stays.

The negative control is an installer that copies over the files of the active release in place. The same check must
catch it, or this benchmark fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine
from tests.deploy_support import local_target, make_bundle, make_release
from tests.native_support import with_c

from sim2sky.deployment.install import STATES
from sim2sky.deployment.launch import resolve
from sim2sky.deployment.release import Release
from sim2sky.deployment.release_check import verify_release
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.target_state import TargetState
from sim2sky.errors import BundleError, TargetError
from sim2sky.runtime.native_record import RECORD, read_library, read_record

POINTS = ("copy", *STATES)
SAMPLES = 20
TIMEOUT_S = 60.0


@dataclass
class Outcome:
    """What happened: kills per state, installations that were left alone, and every time the check found fault."""

    kills: Counter[str] = field(default_factory=Counter)
    undisturbed: int = 0
    too_late: int = 0
    bad: list[str] = field(default_factory=list)


def problem_of(root: Path, allowed: set[str]) -> str:
    """What is wrong with the release that would fly now; empty where it is complete, verified and one of `allowed`."""
    try:
        folder = Path(resolve(str(root), "current"))
        name = verify_release(str(folder), TargetState(str(root)).trust())["release"]
    except (TargetError, OSError) as error:
        return str(error)
    for native in sorted((root / "native").glob("[!.]*")):  # whole or not there, whoever was killed compiling it
        try:
            record = read_record(native, json.loads((native / RECORD).read_bytes())["bundle"])
            if record["sha256"]:
                read_library(native, record)
        except (BundleError, OSError, ValueError) as error:
            return f"{native.name}: {error}"
    return "" if name in allowed else f"{name} flies, which is none of {sorted(allowed)}"


def install(target: ReleaseTarget, release: Release) -> None:
    """Runs in the child: copy, then become the target's own installer, which prints its states."""
    os.write(1, b'{"state": "copy"}\n')
    for name in release.files():
        target.transport.put_file(release.path / name, f"incoming/{release.name}/{name}")
    root = target.transport.root
    command = [*target.transport.python(), f"{root}/install.pyz", "install", "--root", root]
    command += ["--release", release.name, "--samples", str(SAMPLES), "--python", sys.executable]
    os.execv(command[0], command)  # noqa: S606


def install_in_place(target: ReleaseTarget, release: Release) -> None:
    """The negative control: write over what is active, file by file, each of them synced."""
    folder = Path(target.transport.root) / "current"
    os.write(1, b'{"state": "copy"}\n')
    for name in release.files():
        with (folder / name).open("wb") as file:
            file.write((release.path / name).read_bytes())
            file.flush()
            os.fsync(file.fileno())
    os.write(1, b'{"result": {}}\n')


Installer = Callable[[ReleaseTarget, Release], None]


@contextlib.contextmanager
def started(installer: Installer, target: ReleaseTarget, release: Release) -> Iterator[tuple[int, int]]:
    """A child process in its own group; its id and the reading end of its output. Nothing of it is left afterwards."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            os.dup2(writing, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            installer(target, release)
        os._exit(1)
    os.close(writing)
    try:
        yield pid, reading
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(reading)


def follow(reading: int, until: str, deadline: float) -> tuple[list[tuple[str, float]], float]:
    """Read the states a child says, with times, until it says `until` or ends; and when it reported a result, or 0."""
    seen: list[tuple[str, float]] = []
    buffer, result = b"", 0.0
    while select.select([reading], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        chunk = os.read(reading, 65536)
        if not chunk:
            return seen, result
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            record = json.loads(line)
            if "result" in record:
                result = time.monotonic()
            if "state" in record:
                seen.append((record["state"], time.monotonic()))
        if until in [state for state, _ in seen]:
            return seen, result
    raise TimeoutError(f"an installation did not get to {until} within {TIMEOUT_S:g} s")


def durations(target: ReleaseTarget, release: Release) -> dict[str, float]:
    """Seconds in each state of an installation that is left alone."""
    with started(install, target, release) as (_, reading):
        seen, result = follow(reading, "", time.monotonic() + TIMEOUT_S)
    assert result, "the installation that nobody killed failed"
    ends = [*(at for _, at in seen[1:]), result]
    return {state: max(end - at, 1e-4) for (state, at), end in zip(seen, ends, strict=True)}


def campaign(
    folder: Path, kills: int, seed: int, *, installer: Installer = install, points: tuple[str, ...] = POINTS
) -> Outcome:
    """Kill `kills` installations on a target in `folder`."""
    rng, outcome = random.Random(seed), Outcome()
    bundles = [make_bundle(folder / f"bundle{i}", seed=i, agent=f"agent{i}") for i in range(2)]
    bundles[1] = with_c(bundles[1])  # compiled over there, within the self-test
    target, root = local_target(folder / "target"), folder / "target"
    first = make_release(bundles[0], folder / "release")
    active = target.activate(first, now_s=time.time(), samples=SAMPLES)["release"]
    second = make_release(bundles[1], folder / "release")
    took = dict.fromkeys(points, 0.05) if installer is not install else durations(target, second)
    active = second.name if installer is install else active
    attempts = 0
    while sum(outcome.kills.values()) < kills:
        attempts += 1
        release = make_release(bundles[attempts % 2], folder / "release")
        alone = installer is install and attempts % 5 == 0
        point = rng.choice(points)
        with started(installer, target, release) as (pid, reading):
            seen, result = follow(reading, "" if alone else point, time.monotonic() + TIMEOUT_S)
            if not alone:
                time.sleep(rng.uniform(0.0, took[point]))
                whole = rng.random() < 0.5
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if whole else os.kill)(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                more, result = follow(reading, "", time.monotonic() + TIMEOUT_S)
                seen += more
        allowed = {release.name} if result else {active, release.name}
        if wrong := problem_of(root, allowed):
            outcome.bad.append(f"killed in {seen[-1][0]}: {wrong}")
            if installer is not install:
                break  # caught: what is active now is ruined for good
        else:
            active = Path(resolve(str(root), "current")).name
        if alone:
            outcome.undisturbed += 1
            if not result:
                outcome.bad.append("an installation after a kill failed although nobody disturbed it")
        elif result:
            outcome.too_late += 1  # it had already said that it was done
        else:
            outcome.kills[seen[-1][0]] += 1
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sim2sky-kills-") as folder:
        found = campaign(Path(folder), options.kills, options.seed)
    seconds = time.monotonic() - began
    with tempfile.TemporaryDirectory(prefix="sim2sky-kills-") as folder:
        control = campaign(Path(folder), 50, options.seed, installer=install_in_place, points=("copy",))
    caught = bool(control.bad)
    if options.json:
        print(json.dumps({"kills": dict(found.kills), "bad": found.bad, "control_caught": caught, "seconds": seconds}))
    else:
        print(describe_machine("onnxruntime", "cryptography"))
        print(f"{sum(found.kills.values())} kills in {seconds:.0f} s; {found.undisturbed} installations left alone")
        for point in POINTS:
            print(f"  killed in {point:<9} {found.kills[point]:5d}")
        print(f"targets without a complete verified release: {len(found.bad)}")
        for wrong in found.bad[:10]:
            print(f"  {wrong}")
        after = sum(control.kills.values()) + 1
        print(f"negative control (copies in place): {f'caught at kill {after}' if caught else 'NOT CAUGHT'}")
    return 0 if not found.bad and caught else 1


if __name__ == "__main__":
    raise SystemExit(main())
