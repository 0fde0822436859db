"""One line on the machine and versions, printed above every benchmark's table."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def describe_machine(*packages: str) -> str:
    """Processor, cores, Python and the versions of the packages that are installed."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"
