"""The packages of a `local:` target: a folder of links to what a flight computer has, and to nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sim2sky.errors import TargetError

__all__ = ["TARGET_ENVIRONMENT", "TARGET_PACKAGES", "distribution_closure", "link_site"]

TARGET_PACKAGES = ("numpy", "onnxruntime", "pymavlink", "h5py")
TARGET_ENVIRONMENT = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
"""Of every process on a local target: nothing of the deploying shell's leaks in."""


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
