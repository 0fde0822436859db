"""A folder that stands for a flight computer: its own Python path, its own processes, releases and a `current` link.

Runs on the machine that deploys; what runs in the folder is `install.py`, `test_inference.py`, `launch.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.install import active_release, release_name
from sim2sky.deployment.transport import Completed
from sim2sky.errors import TargetError

__all__ = [
    "TARGET_ENVIRONMENT",
    "Completed",
    "LocalTarget",
    "distribution_closure",
    "link_site",
    "runtime_files",
]

TARGET_PACKAGES = ("numpy", "onnxruntime", "pymavlink", "h5py")
TARGET_ENVIRONMENT = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
"""Of every process on a local target: nothing of the deploying shell's leaks in."""
RUNTIME_FILES = (
    "__init__.py",
    "errors.py",
    "agent/__init__.py",
    "agent/contract.py",
    "agent/layers.py",
    "agent/network_file.py",
    "agent/golden.py",
    "agent/bundle.py",
    "runtime/*.py",
    "telemetry/*.py",
    "deployment/__init__.py",
    "deployment/install.py",
    "deployment/launch.py",
    "deployment/test_inference.py",
)
"""What of sim2sky a flight computer gets."""


def runtime_files() -> dict[str, bytes]:
    """The subset of this package that a flight computer gets, by path below `runtime/`."""
    package = Path(__file__).resolve().parent.parent
    found: dict[str, bytes] = {}
    for pattern in RUNTIME_FILES:
        matches = sorted(package.glob(pattern))
        if not matches:
            raise TargetError(f"this installation of sim2sky lacks {pattern}", hint="reinstall sim2sky")
        for path in matches:
            found[f"sim2sky/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    return found


def distribution_closure(roots: Sequence[str]) -> list[importlib.metadata.Distribution]:
    """The distributions and everything they require on this machine, by name.

    Raises:
        TargetError: one is not installed.
    """
    from packaging.requirements import Requirement

    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise TargetError(f"the target needs the package '{name}'", hint=f"pip install {name}") from error
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return [found[name] for name in sorted(found)]


def _top_level(distribution: importlib.metadata.Distribution) -> dict[str, Path]:
    """Import path (relative) to real path of what a distribution installs; one level deeper for namespace packages."""
    entries: dict[str, Path] = {}
    for file in distribution.files or []:
        parts: list[str] = list(file.parts)
        if parts[0] in ("..", "__pycache__") or file.is_absolute():
            continue
        top = Path(str(distribution.locate_file(parts[0])))
        namespace = len(parts) > 2 and top.is_dir() and not (top / "__init__.py").exists()
        deeper = namespace and not parts[0].endswith((".libs", ".dist-info"))
        relative = Path(*parts[: 2 if deeper else 1])
        entries[relative.as_posix()] = Path(str(distribution.locate_file(str(relative)))).resolve()
    if not entries:
        raise TargetError(f"cannot tell which files the package '{distribution.name}' installed")
    return entries


def link_site(site: Path, packages: Sequence[str]) -> None:
    """Make `site` a folder of links to the given packages and what they require; nothing is done where it is that.

    Raises:
        TargetError: a package is not installed.
        OSError: the folder cannot be written.
    """
    wanted: dict[str, Path] = {}
    for distribution in distribution_closure(packages):
        wanted.update(_top_level(distribution))
    present = {p.relative_to(site).as_posix(): p.resolve() for p in site.glob("**/*") if p.is_symlink()}
    if present == wanted:
        return
    fresh = Path(tempfile.mkdtemp(dir=site.parent, prefix=f".{site.name}."))
    for relative, source in wanted.items():
        (fresh / relative).parent.mkdir(parents=True, exist_ok=True)
        (fresh / relative).symlink_to(source)
    fresh.chmod(0o755)
    old = site.with_name(f"{fresh.name}.old")
    if site.exists():
        site.rename(old)
    fresh.rename(site)
    shutil.rmtree(old, ignore_errors=True)


class LocalTarget:
    """A folder that stands for a flight computer: commands run as processes that can import nothing else.

    `site/` holds links to numpy, onnxruntime, pymavlink, h5py and what they require; `releases/NAME/` a bundle and the
    runtime it was tested with; `current` the active release. Python runs isolated (`-I -S`), so neither the
    environment nor the interpreter's own packages leak in.

    Args:
        root: the folder; made on first use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.name = f"local:{root}"

    def prepare(self) -> None:
        """Make the folder, the launcher and the links.

        Raises:
            TargetError: the folder cannot be written, or belongs to something else.
        """
        with self._plain_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            known = {"launch.py", "site", "releases", "incoming", "current", "install.json", "install.lock", "logs"}
            strangers = [p.name for p in self.root.iterdir() if p.name not in known and not p.name.startswith(".")]
            if strangers and not (self.root / "launch.py").exists():
                raise TargetError(
                    f"{self.root} is no target: it holds {strangers[0]!r}", hint="name an empty or a new folder"
                )
            for folder in ("releases", "incoming", "logs"):
                (self.root / folder).mkdir(exist_ok=True)
            launcher = Path(__file__).with_name("launch.py").read_bytes()
            self._write("launch.py", launcher)
            link_site(self.root / "site", TARGET_PACKAGES)

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        if path.is_file() and path.read_bytes() == data:
            return
        temporary = path.with_name(f".{name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)

    @contextlib.contextmanager
    def _plain_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise TargetError(
                f"target {self.name}: {error.filename or self.root}: {error.strerror or error}",
                hint="free some space on its disk" if full else "check that the folder exists and is writable",
            ) from error

    def put(self, source: Path, destination: str) -> None:
        """As `Target.put`; `destination` is relative to the target's folder."""
        with self._plain_errors():
            final = self.root / destination
            part = final.with_name(f"{final.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                for path in sorted(source.rglob("*")):
                    copy = part / path.relative_to(source)
                    if path.is_dir():
                        copy.mkdir(parents=True, exist_ok=True)
                        continue
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    with copy.open("wb") as file:
                        file.write(path.read_bytes())
                        file.flush()
                        os.fsync(file.fileno())
                shutil.rmtree(final, ignore_errors=True)
                part.rename(final)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise

    def get(self, source: str, destination: Path) -> None:
        """As `Target.get`; `source` is relative to the target's folder."""
        with self._plain_errors():
            temporary = destination.with_name(f".{destination.name}.tmp")
            shutil.copyfile(self.root / source, temporary)
            temporary.replace(destination)

    def run(self, command: Sequence[str], *, timeout_s: float = 60.0) -> Completed:
        """As `Target.run`."""
        with self._plain_errors():
            try:
                done = subprocess.run(
                    list(command),
                    cwd=self.root,
                    env=dict(TARGET_ENVIRONMENT),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise TargetError(f"target {self.name}: a command did not end within {timeout_s:g} s") from error
        if done.returncode < 0:
            raise TargetError(
                f"target {self.name}: a command was ended by {signal.Signals(-done.returncode).name}",
                hint="the previous release stays active; deploy again",
            )
        return Completed(done.returncode, done.stdout, done.stderr)

    def command(self, module: str, *arguments: str, release: str = "current") -> list[str]:
        """As `Target.command`."""
        return [sys.executable, "-I", "-S", "-B", str(self.root / "launch.py"), release, module, *arguments]

    def active(self) -> str | None:
        """As `Target.active`."""
        with self._plain_errors():
            return active_release(self.root)

    def stage(self, bundle: Bundle) -> str:
        """Copy a bundle and this version's runtime to `incoming/`; the release's name.

        Raises:
            TargetError: the folder is read-only or full.
            BundleError: the bundle changed on disk.
        """
        self.prepare()
        contents = {f"bundle/{name}": bundle.read(name) for name in bundle.files}
        contents["bundle/bundle.json"] = (bundle.path / "bundle.json").read_bytes()
        contents.update({f"runtime/{name}": data for name, data in runtime_files().items()})
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in sorted(contents.items())
        }
        name = release_name(bundle.digest, files)
        manifest = {"schema": 1, "release": name, "bundle_digest": bundle.digest, "agent": bundle.agent, "files": files}
        with self._plain_errors(), tempfile.TemporaryDirectory(prefix="sim2sky-release-") as folder:
            for relative, data in {**contents, "release.json": json.dumps(manifest, sort_keys=True).encode()}.items():
                path = Path(folder) / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self.put(Path(folder), f"incoming/{name}")
        return name

    def activate(
        self, bundle: Bundle, *, samples: int = 300, on_state: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """As `Target.activate`: copy, then let the target's own installer verify, test, switch and commit."""
        release = self.stage(bundle)
        return self.finish(release, bundle.digest, samples=samples, on_state=on_state)

    def finish(
        self, release: str, digest: str, *, samples: int = 300, on_state: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Run the installer on a staged release.

        Raises:
            TargetError: refused, with the target's own reason; the previous release is active.
        """
        # The release's own installer, before it is installed: launch.py only starts what is committed or staged.
        bootstrap = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('sim2sky.deployment.install', run_name='__main__', alter_sys=True)"  # noqa: E501
        runtime = self._runtime_of(release)
        command = [sys.executable, "-I", "-S", "-B", "-c", bootstrap, str(runtime)]
        command += ["--root", str(self.root), "--release", release, "--digest", digest, "--samples", str(samples)]
        done = self.run(command, timeout_s=180.0)
        return self._parse(done, on_state)

    def revert(self) -> str | None:
        """As `Target.revert`."""
        arguments = ("--root", str(self.root), "--revert")
        done = self.run(self.command("sim2sky.deployment.install", *arguments))
        return self._parse(done, None)["release"]

    def _runtime_of(self, release: str) -> Path:
        for folder in ("incoming", "releases"):
            path = self.root / folder / release / "runtime"
            if path.is_dir():
                return path
        raise TargetError(f"target {self.name}: release {release} was not copied", hint="deploy again")

    def _parse(self, done: Completed, on_state: Callable[[str], None] | None) -> dict[str, Any]:
        records: list[dict[str, Any]] = []
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
        for record in records:
            if "state" in record and on_state is not None:
                on_state(record["state"])
            if "error" in record:
                raise TargetError(f"target {self.name}: {record['error']}", hint=record.get("hint", ""))
            if "result" in record:
                return record["result"]
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TargetError(f"target {self.name}: the installer failed (exit {done.returncode}): {reason}")
