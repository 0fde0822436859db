"""Real-time scheduling where the system allows it: SCHED_FIFO and locked memory. What is refused is said, not raised.

Linux: sched(7), mlockall(2). Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

__all__ = ["FLIGHT_PRIORITY", "POLICY_PRIORITY", "enter_realtime"]

FLIGHT_PRIORITY = 50
POLICY_PRIORITY = 40  # below: a policy that spins must not keep the flight process from its command

_MCL_CURRENT, _MCL_FUTURE = 1, 2  # sys/mman.h
_CAP_IPC_LOCK = 14  # linux/capability.h
_REMEDY = (
    "{what}; allow it once with: sudo setcap cap_sys_nice,cap_ipc_lock+ep {python}, "
    "or in /etc/security/limits.conf: {limit}"
)


def enter_realtime(priority: int = FLIGHT_PRIORITY) -> list[str]:
    """Schedule this thread before all normal ones and keep its memory in RAM, as far as the system allows.

    Threads and processes started later are scheduled as normal ones.

    Args:
        priority: 1..99, of SCHED_FIFO.

    Returns:
        One sentence for each of the two, saying what was granted, or why not and what to do about it.
    """
    return [_schedule(priority), _lock_memory()]


def _schedule(priority: int) -> str:
    if not hasattr(os, "sched_setscheduler"):
        return "not supported: real-time scheduling on this system; it needs Linux"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        return _refused(f"real-time scheduling was refused ({error.strerror})", f"* - rtprio {priority}")
    return f"real-time scheduling: SCHED_FIFO, priority {priority}"


def _lock_memory() -> str:
    if not sys.platform.startswith("linux"):
        return "not supported: locking memory on this system; it needs Linux"
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _capable(_CAP_IPC_LOCK):
        # mlockall would succeed now and make allocations fail later, in flight.
        return _refused("memory is not locked (this user's limit is finite)", "* - memlock unlimited")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        return _refused(f"memory is not locked ({os.strerror(ctypes.get_errno())})", "* - memlock unlimited")
    return "memory is locked in RAM"


def _capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def _refused(what: str, limit: str) -> str:
    return _REMEDY.format(what=what, python=Path(sys.executable).resolve(), limit=limit)
