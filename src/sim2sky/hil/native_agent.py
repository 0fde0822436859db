"""The whole agent in C (policy, guard, observation) compiled for this machine, with `FlightAgent`'s interface: what a
chip or the standalone binary flies, bit for bit, in this process."""

from __future__ import annotations

import ctypes
import math
import tempfile
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from struct import Struct

import numpy as np

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import agent_sources
from sim2sky.deployment.toolchain import firmware_folder
from sim2sky.errors import GoldenMismatchError, ToolchainError
from sim2sky.hil.native_guard import GUARD_SOURCES
from sim2sky.hil.native_library import native_library
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import Command, PolicyState, Sample, Setpoint
from sim2sky.telemetry.trips import TripLog

__all__ = ["NativeAgent", "NativeSwitches", "agent_library"]

_SAMPLE, _SETPOINT = Struct("=q13d"), Struct("=8d")
_sample_values, _setpoint_values = (attrgetter(*(f.name for f in fields(c))) for c in (Sample, Setpoint))


_TICK = "4f8, 4f4, ({n},)f4, i4, u4"  # s2s_tick: command, action, observation, mode, trips


def agent_library(bundle: Bundle) -> Path:
    """The shared library of a bundle's agent, compiled now or found where it was compiled before.

    Raises:
        ToolchainError: there is no compiler, or it refuses the source.
        NotSupportedError, BundleError, ConfigError, ContractError: see `agent_sources`.
    """
    firmware = firmware_folder()
    core = firmware / "core"
    fixed = [core / f"{name}.c" for name in ("agent", "observation", *GUARD_SOURCES)]
    with tempfile.TemporaryDirectory(prefix="sim2sky-agent-") as folder:
        made = [Path(folder) / name for name in agent_sources(bundle)]
        for path, text in zip(made, agent_sources(bundle).values(), strict=True):
            path.write_text(text, encoding="ascii")
        sources = [firmware / "ports" / "host" / "agent_calls.c", *fixed, *(p for p in made if p.suffix == ".c")]
        return native_library(sources, include=[core])


class NativeSwitches:
    """The switches and the trip log of the guard inside a `NativeAgent`; see `SafetyMonitor`."""

    def __init__(self, library: ctypes.CDLL, agent: ctypes.c_void_p) -> None:
        self._agent = agent
        self._switch = library.s2s_agent_switch
        self._switch.argtypes, self._switch.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_bool
        self.events = TripLog()

    @property
    def killed(self) -> bool:
        """Whether the kill switch is latched or the aircraft disarmed."""
        return bool(self._switch(self._agent, 0))

    def kill(self) -> bool:
        """Latch the kill switch; False where the limits disable it."""
        return bool(self._switch(self._agent, ord("K")))

    def disarm(self) -> None:
        """Stop commanding; the first of the two steps back after a kill."""
        self._switch(self._agent, ord("D"))

    def arm(self) -> bool:
        """Command again; False while a kill is latched."""
        return bool(self._switch(self._agent, ord("A")))


class NativeAgent:
    """`FlightAgent` in C: same `reset`, `tick` and answers, to the last bit those of the chip.

    Args:
        bundle: what flies.

    Attributes:
        contract: the bundle's.
        monitor: switches and trip log of its guard.

    Raises:
        GoldenMismatchError: the compiled policy does not answer its embedded golden vectors bit for bit.
        ToolchainError, NotSupportedError, BundleError, ConfigError, ContractError: see `agent_library`.
    """

    policy_state = PolicyState.ANSWERED  # in one program with the agent, the policy is neither late nor dead

    def __init__(self, bundle: Bundle) -> None:
        self.contract = bundle.contract
        path = agent_library(bundle)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ToolchainError(f"cannot load {path}: {error}", hint="delete it: it is compiled again") from error
        library.s2s_agent_size.restype = ctypes.c_size_t
        library.s2s_agent_test.restype = ctypes.c_uint32
        self._memory = ctypes.create_string_buffer(library.s2s_agent_size())
        self._agent = ctypes.c_void_p(ctypes.addressof(self._memory))
        library.s2s_agent_init(self._agent, ctypes.byref(ctypes.c_char.in_dll(library, "s2s_config")))
        first = ctypes.c_uint32()
        if different := library.s2s_agent_test(self._agent, ctypes.byref(first)):
            raise GoldenMismatchError(
                f"the compiled policy answers {different} of its golden vectors with other bits, "
                f"the first is number {first.value}",
                hint=f"delete {path}, and try another compiler through the environment variable CC",
            )
        self.monitor = NativeSwitches(library, self._agent)
        self._sample = ctypes.create_string_buffer(_SAMPLE.size)
        self._setpoint = ctypes.create_string_buffer(_SETPOINT.size)
        self._out = np.zeros((), np.dtype(_TICK.format(n=len(self.contract.observation_names)), align=True))
        self._tick = library.s2s_agent_tick
        self._tick.restype = None
        self._tick.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p,
        ]  # fmt: skip
        self._reset = library.s2s_agent_reset

    def reset(self) -> None:
        """See `FlightAgent`."""
        self._reset(self._agent)
        self.monitor.events.clear()

    def tick(self, sample: Sample, setpoint: Setpoint, now_ns: int, *, battery_v: float = math.nan) -> Tick:
        """See `FlightAgent`."""
        _SAMPLE.pack_into(self._sample, 0, *_sample_values(sample))
        _SETPOINT.pack_into(self._setpoint, 0, *_setpoint_values(setpoint))
        self._tick(self._agent, self._sample, self._setpoint, now_ns, battery_v, self._out.ctypes.data)
        command, action, observation, mode, trips = self._out.item()
        self.monitor.events.note(sample, now_ns, battery_v, trips, mode)
        return Tick(Command(*command.tolist()), action.copy(), observation.copy(), mode, trips)
