"""`sim2sky firmware`: a bundle's flight agent in C, for one kind of computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS, ConfigError

__all__ = ["firmware"]


def firmware(
    bundle: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="what to write")],
    port: Annotated[
        Literal["linux", "teensy41", "mps2_an500", "sources"],
        Parameter(
            help="linux: a program without Python; teensy41: a PlatformIO project to build and flash yourself; "
            "mps2_an500: the sources of the emulated Cortex-M7; "
            "sources: the C files alone, for a project of your own"
        ),
    ] = "linux",
    machine: Annotated[
        Literal["host", "aarch64"] | None,
        Parameter(help="linux: what it runs on, this machine (default) or any 64-bit ARM such as a Jetson"),
    ] = None,
) -> int:
    """Write a bundle's flight agent in C: policy, guard and link without Python.

    Parameters
    ----------
    bundle
        Bundle folder.
    """
    from sim2sky.agent.bundle import open_bundle

    if port == "linux":
        from sim2sky.deployment.linux_agent import build_linux_agent

        made = build_linux_agent(open_bundle(bundle), output, machine or "host")
        print(f"{made} ({made.stat().st_size / 1e6:.1f} MB) flies HIL runs: {made.name} --link udp:HOST:PORT")
        return EXIT_PASS
    if machine is not None:
        raise ConfigError(f"--machine does not go with --port {port}", hint="whoever compiles it chooses the machine")
    from sim2sky.deployment.firmware_config import write_firmware_sources

    sources = write_firmware_sources(open_bundle(bundle), output, "" if port == "sources" else port)
    print(f"{output}: complete in itself, {len(sources)} C files in {sources[0].parent.name}/")
    return EXIT_PASS
