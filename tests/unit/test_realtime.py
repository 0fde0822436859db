"""Real-time scheduling: what is said is what is, and what is refused comes with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.flight_support import agent_environment

from sim2sky.runtime import realtime

# Ask in a process of its own: this one must stay an ordinary one.
ASK = """
import json, os, subprocess, sys, threading
{before}
from sim2sky.runtime.realtime import enter_realtime
said = enter_realtime({priority})
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
schedulers = []
thread = threading.Thread(target=lambda: schedulers.append(os.sched_getscheduler(0)))
thread.start(); thread.join()
child = "import os; print(os.sched_getscheduler(0))"
schedulers.append(int(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout))
print(json.dumps({{
    "said": said,
    "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
    "priority": os.sched_getparam(0).sched_priority,
    "locked_kb": int(status["VmLck"].split()[0]),
    "later": schedulers,
}}))
"""

# Give up what would allow it: the capabilities (capset(2), version 3), and the limits that replace them.
DROP = """
import ctypes, resource
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]
assert ctypes.CDLL(None).capset(ctypes.byref(Header(0x20080522, 0)), (Data * 2)()) == 0
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
"""


def ask(before: str = "", priority: int = 50) -> dict[str, object]:
    code = ASK.format(before=before, priority=priority)
    result = subprocess.run(
        [sys.executable, "-c", code], env=agent_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_what_is_said_is_what_is() -> None:
    found = ask()
    schedule, memory = found["said"]  # type: ignore[misc]
    granted = schedule == "real-time scheduling: SCHED_FIFO, priority 50"
    assert (found["policy"] == os.SCHED_FIFO) == granted and found["priority"] == (50 if granted else 0)
    assert (found["locked_kb"] != 0) == (memory == "memory is locked in RAM")
    assert found["later"] == [os.SCHED_OTHER] * 2  # a policy process or a writing thread must not inherit it


def test_without_the_right_nothing_changes_and_the_remedy_is_named() -> None:
    found = ask(DROP)
    schedule, memory = found["said"]  # type: ignore[misc]
    assert found["policy"] == os.SCHED_OTHER and found["locked_kb"] == 0
    assert schedule.startswith("real-time scheduling was refused (Operation not permitted); allow it once with: ")
    assert memory.startswith("memory is not locked (this user's limit is finite); allow it once with: ")
    for sentence, limit in ((schedule, "* - rtprio 50"), (memory, "* - memlock unlimited")):
        assert "setcap cap_sys_nice,cap_ipc_lock+ep /" in sentence and sentence.endswith(limit)


@pytest.mark.parametrize("priority", [0, 100, -1])
def test_a_priority_that_is_none_is_said_not_raised(priority: int) -> None:
    found = ask(priority=priority)
    assert "was refused" in found["said"][0] and found["policy"] == os.SCHED_OTHER  # type: ignore[index]


def test_the_policy_process_stands_below_the_flight_process() -> None:
    assert 0 < realtime.POLICY_PRIORITY < realtime.FLIGHT_PRIORITY < 99


def test_elsewhere_than_on_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_setscheduler")
    said = realtime.enter_realtime()
    assert [sentence.partition(":")[0] for sentence in said] == ["not supported"] * 2
