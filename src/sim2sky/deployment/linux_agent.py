"""Builds `sim2sky-agent`: a bundle's flight agent as one static Linux program that needs no Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import agent_sources
from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder

__all__ = ["build_linux_agent"]


def build_linux_agent(bundle: Bundle, out: Path, machine: Literal["host", "aarch64"] = "host") -> Path:
    """Compile the core, the Linux port and the bundle's policy; `out` appears whole or not at all.

    Args:
        bundle: what is to fly.
        out: the program to make.
        machine: what it runs on. `host`: this machine, with all its processor can; `aarch64`: any 64-bit ARM Linux.

    Returns:
        `out`.

    Raises:
        ToolchainError: there is no compiler for the machine, or it refuses.
        NotSupportedError: the network has a layer that the C generator does not know.
        BundleError, ConfigError, ContractError: the bundle cannot be flown.
    """
    compiler = find_compiler(machine)
    folders = [firmware_folder() / "core", firmware_folder() / "ports" / "linux"]
    with tempfile.TemporaryDirectory(prefix="sim2sky-agent-") as generated:
        for name, text in agent_sources(bundle).items():
            (Path(generated) / name).write_text(text, encoding="ascii")
        folders.append(Path(generated))
        return compile_c(
            compiler,
            [source for folder in folders for source in sorted(folder.glob("*.c"))],
            out,
            product="program",
            include=folders,
            options=["-static"],  # it runs whatever C library the target has
        )
