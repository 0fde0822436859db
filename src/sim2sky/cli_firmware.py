"""`sim2sky firmware`: a bundle's flight agent in C, built for one kind of computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS

__all__ = ["firmware"]


def firmware(
    bundle: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="what to write")],
    port: Annotated[Literal["linux"], Parameter(help="linux: a program without Python")] = "linux",
    machine: Annotated[
        Literal["host", "aarch64"], Parameter(help="linux: this machine, or any 64-bit ARM such as a Jetson")
    ] = "host",
) -> int:
    """Build a bundle's flight agent from C: policy, guard and link without Python.

    Parameters
    ----------
    bundle
        Bundle folder.
    """
    from sim2sky.agent.bundle import open_bundle
    from sim2sky.deployment.linux_agent import build_linux_agent

    made = build_linux_agent(open_bundle(bundle), output, machine)
    print(f"{made} ({made.stat().st_size / 1e6:.1f} MB), a HIL agent for {machine}: {made} --link udp:HOST:PORT")
    return EXIT_PASS
