"""How one of our processes starts another one of our modules. Standard library only."""

from __future__ import annotations

import json
import sys

__all__ = ["module_command"]

_BOOT = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` with the modules this process finds, in a folder, a release or a zip archive."""
    flags = ["-S"] if sys.flags.no_site else []
    return [sys.executable, "-I", *flags, "-B", "-c", _BOOT, json.dumps(sys.path), module, *arguments]
