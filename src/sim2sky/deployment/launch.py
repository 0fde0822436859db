"""Starts a module of a release on the target, after its signature and every byte of it were checked again.

`current` means the last *committed* release, whatever the link says: an installation that was killed before its commit
is ignored here and undone by the next one. Standard library, Python 3.6; what it starts decides for itself.
"""

import os
import runpy
import sys
from typing import List

from sim2sky.deployment.release_check import verify_release
from sim2sky.deployment.target_state import TargetState
from sim2sky.errors import TargetError

__all__ = ["interpreter", "resolve", "start"]


def resolve(root: str, release: str) -> str:
    """Folder of a release; `current` for the committed one.

    Raises:
        TargetError: nothing is installed, or there is no such release.
    """
    state = TargetState(root)
    name = release
    if release == "current":
        name = state.journal()["active"]
        if name is None:
            raise TargetError(f"{root}: nothing is installed here", hint="sim2sky deploy NAME MODEL TARGET")
    folder = state.release(name)
    if not name or "/" in name or name.startswith(".") or not os.path.isdir(folder):
        raise TargetError(f"{root}: there is no release {name!r}", hint="deploy again")
    return folder


def interpreter(root: str, release: str) -> "List[str]":
    """The Python that a release was tested with, and its flags.

    Where the folder has `site/`, it brings its own packages and Python runs isolated from everything else.
    """
    try:
        with open(os.path.join(root, "python", release), encoding="utf-8") as file:
            python = file.readline().rstrip("\n")
    except FileNotFoundError:
        python = sys.executable
    isolated = os.path.isdir(os.path.join(root, "site"))
    return [python, "-I", "-S", "-B"] if isolated else [python, "-B"]


def start(root: str, release: str, module: str, arguments: "List[str]", *, switch: bool) -> None:
    """Run a module of a release as `__main__`; `{release}` in an argument becomes the release's folder.

    Args:
        root, release: where and which.
        module, arguments: what to run.
        switch: replace this process first where the release was tested with another Python.

    Raises:
        TargetError: nothing is installed, or what is differs from what was signed, or its key is no longer trusted.
    """
    folder = resolve(root, release)
    python = interpreter(root, os.path.basename(folder))
    if switch and python[0] != sys.executable:
        try:
            os.execv(python[0], [*python, sys.argv[0], "run", "--root", root, release, module, *arguments])
        except OSError as error:
            raise TargetError(
                f"{python[0]}: the Python that the release was tested with: {error.strerror}",
                hint="deploy again, so that another one is looked for",
            ) from None
    verify_release(folder, TargetState(root).trust())
    # From here on nothing but the release's own sim2sky is importable.
    for name in [m for m in sys.modules if m == "sim2sky" or m.startswith("sim2sky.")]:
        del sys.modules[name]
    here = sys.argv[0]
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != os.path.abspath(here)]
    site = os.path.join(root, "site")
    sys.path[:0] = [os.path.join(folder, "sim2sky.pyz"), *([site] if os.path.isdir(site) else [])]
    sys.argv = [module, *(a.replace("{release}", folder) for a in arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
