"""The guard in C behind `SafetyMonitor`'s interface: the simulator can fly either and gets the same bits."""

from __future__ import annotations

import ctypes
import struct
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sim2sky.deployment.guard_table import GuardConfig, guard_config
from sim2sky.deployment.toolchain import firmware_folder
from sim2sky.hil.native_library import native_library
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.safety import Guarded, Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import NOMINAL, Command, Health, Sample, Setpoint

__all__ = ["ANSWER", "CALL", "GUARD_SOURCES", "NativeGuard", "NativeMonitor", "guard_sources", "open_guard"]

GUARD_SOURCES = ("guard", "watch", "ladder", "autopilot", "guidance", "escape", "fence", "wind", "real")
CALL = struct.Struct("=q13d8d4dqdii")
"""`s2s_guard_call`: sample, setpoint, proposed command, time, battery, policy, what."""
ANSWER = struct.Struct("=4diI")
"""`s2s_guarded`: command, mode, trips."""
STEP, RESET, KILL, DISARM, ARM = range(5)


def guard_sources() -> list[Path]:
    """The C files of the guard, with its entry for records.

    Raises:
        ToolchainError: they are not there.
    """
    folder = firmware_folder()
    return [folder / "ports" / "host" / "guard_calls.c", *(folder / "core" / f"{name}.c" for name in GUARD_SOURCES)]


@cache
def guard_library() -> ctypes.CDLL:
    """The guard, compiled for this machine.

    Raises:
        ToolchainError: it cannot be compiled here.
    """
    return open_guard(native_library(guard_sources(), include=[firmware_folder() / "core"]))


def open_guard(path: Path) -> ctypes.CDLL:
    """A library made of `guard_sources`."""
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.s2s_guard_size.restype = size
    library.s2s_guard_init.argtypes = [pointer, ctypes.POINTER(GuardConfig)]
    library.s2s_guard_calls.argtypes = [pointer, pointer, pointer, size]
    library.s2s_guard_init.restype = library.s2s_guard_calls.restype = None
    return library


class NativeGuard:
    """One guard in C, with what it was told, answering records.

    Args:
        config: limits, gains and constants.
        library: default: compiled for this machine.

    Raises:
        ToolchainError: there is no library, and none can be compiled.
    """

    def __init__(self, config: GuardConfig, library: ctypes.CDLL | None = None) -> None:
        self._library = library or guard_library()
        self._config = config  # C keeps a pointer to it
        self._memory = ctypes.create_string_buffer(self._library.s2s_guard_size())
        self._library.s2s_guard_init(self._memory, config)

    def answer(self, records: int, answers: int, n: int) -> None:
        """Answer n records (`CALL`) at one address at another address (`ANSWER`)."""
        self._library.s2s_guard_calls(self._memory, records, answers, n)


class NativeMonitor(SafetyMonitor):
    """Flies the C guard. Limits, constants, the trip log and the questions before engagement are those of Python.

    The fallback law must be an `Autopilot`: its gains go to the C, and nothing else of it is used. Times must fit an
    int64.

    Raises:
        ToolchainError: the C guard cannot be compiled here.
    """

    @cached_property
    def _native(self) -> tuple[NativeGuard, ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]:
        """The guard, and room for one record and one answer."""
        if not isinstance(self._fallback, Autopilot):
            raise TypeError("the guard in C flies the autopilot as its fallback law, no other")
        room = (ctypes.create_string_buffer(CALL.size), ctypes.create_string_buffer(ANSWER.size))
        return NativeGuard(guard_config(self)), *room

    def reset(self) -> None:
        """See `SafetyMonitor`."""
        super().reset()
        self._do(RESET)

    def kill(self) -> bool:
        """See `SafetyMonitor`."""
        self._do(KILL)
        return super().kill()

    def disarm(self) -> None:
        """See `SafetyMonitor`."""
        self._do(DISARM)
        super().disarm()

    def arm(self) -> bool:
        """See `SafetyMonitor`."""
        self._do(ARM)
        return super().arm()

    def guard(
        self, sample: Sample, setpoint: Setpoint, proposed: Command, now_ns: int, health: Health = NOMINAL
    ) -> Guarded:
        """See `SafetyMonitor`."""
        *command, mode, trips = self._ask(*fields_of(sample, setpoint, proposed, now_ns, health), STEP)
        self.events.note(sample, now_ns, health.battery_v, trips, mode)
        return Guarded(Command(*command), Mode(mode), Trip(trips))

    def _do(self, what: int) -> None:
        self._ask(*[0] * 29, what)

    def _ask(self, *values: float) -> tuple[Any, ...]:
        native, call, answer = self._native
        CALL.pack_into(call, 0, *values)
        native.answer(ctypes.addressof(call), ctypes.addressof(answer), 1)
        return ANSWER.unpack(answer)


def fields_of(s: Sample, t: Setpoint, proposed: Command, now_ns: int, health: Health) -> tuple[float, ...]:
    """The arguments of `SafetyMonitor.guard` in the order of `CALL`, without `what`."""
    return (
        s.time_ns, s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps, s.airspeed_mps, s.altitude_m,
        s.climb_rate_mps, s.north_m, s.east_m, s.north_mps, s.east_mps,
        t.altitude_m, t.airspeed_mps, t.heading_rad, t.roll_rad, t.pitch_rad, t.p_radps, t.q_radps, t.r_radps,
        *proposed, now_ns, health.battery_v, health.policy,
    )  # fmt: skip
