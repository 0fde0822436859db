"""Starts a module of an installed release: copied to the target's folder, run as `python -I -S -B launch.py ...`.

Stands alone (standard library only), because it decides what is importable: the release's own runtime, the target's
`site` folder and the standard library, nothing else. `current` means the last *committed* release: an installation
that was killed between its switch and its commit is ignored here and undone by the next one.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

__all__ = ["main", "resolve"]


def resolve(root: Path, release: str) -> Path:
    """Folder of a release; `current` for the committed one.

    Raises:
        SystemExit: nothing is installed, or there is no such release.
    """
    name = release
    if release == "current":
        try:
            journal = json.loads((root / "install.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SystemExit(f"{root}: nothing is installed here") from None
        name = journal["release"] if journal["state"] == "committed" else journal["previous"]
        if name is None:
            raise SystemExit(f"{root}: nothing is installed here; the last installation did not finish")
    folder = root / "releases" / name
    if not name or "/" in name or name.startswith(".") or not folder.is_dir():
        raise SystemExit(f"{root}: there is no release {name!r}")
    return folder


def main() -> None:
    """`launch.py RELEASE MODULE [ARGUMENTS...]`; `{release}` in an argument becomes the release's folder."""
    root = Path(__file__).resolve().parent
    release, module, *arguments = sys.argv[1:]
    folder = resolve(root, release)
    sys.path[:0] = [str(folder / "runtime"), str(root / "site")]
    sys.argv = [module, *(a.replace("{release}", str(folder)) for a in arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
