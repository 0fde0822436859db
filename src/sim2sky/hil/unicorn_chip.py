"""The Cortex-M7 where QEMU is not installed: the same firmware on `unicorn` (a Python package), inside this process.

It has no board around it: the semihosting calls the firmware makes are answered here, there is no UART and no timer, so
instructions are not counted.
"""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any, Self

from sim2sky.errors import MissingExtraError, NotSupportedError, TargetError
from sim2sky.runtime.channel import Channel

__all__ = ["UnicornChip"]

_WORDS = ("firmware", "fifo", "in", "out")
_FILES = {"in": 3, "out": 4}
# Semihosting for AArch32 and AArch64, Arm document 100863, section 5.
_OPEN, _WRITE0, _WRITE, _READ, _GET_CMDLINE, _EXIT_EXTENDED = 0x01, 0x04, 0x05, 0x06, 0x15, 0x20
_BKPT_SEMIHOSTING = b"\xab\xbe"
_MEMORY = ((0x00000000, 4 << 20), (0x20000000, 4 << 20), (0x40000000, 0x10000), (0xE000E000, 0x1000))
_FPU_FULL_ACCESS, _FPU_ENABLE = 0xF << 20, 1 << 30
_PT_LOAD = 1


class UnicornChip:
    """A program on the bare processor, and the channel to it; see `EmulatedChip`.

    Args:
        elf: firmware for the board `mps2-an500`.
        uart, icount: not supported here.

    Raises:
        MissingExtraError: unicorn is not installed.
        NotSupportedError: a UART, or counting instructions.
        TargetError: the firmware cannot be read.
    """

    whole = False
    foreign = 0
    dropped = 0
    device = ""

    def __init__(self, elf: Path, *, uart: bool = False, icount: bool = False) -> None:
        if uart or icount:
            raise NotSupportedError(
                f"{'a UART' if uart else 'counting instructions'} on unicorn",
                hint="sudo apt-get install qemu-system-arm",
            )
        try:
            self._unicorn: Any = importlib.import_module("unicorn")
        except ImportError as error:
            raise MissingExtraError("unicorn", "mcu") from error
        self._arm: Any = importlib.import_module("unicorn.arm_const")
        self._cpu = self._processor(elf)
        self._input = bytearray()
        self._output = bytearray()
        self.ended = ""

    @property
    def channel(self) -> Channel:
        """To the firmware."""
        return self

    def _processor(self, elf: Path) -> Any:
        u, arm = self._unicorn, self._arm
        cpu = u.Uc(u.UC_ARCH_ARM, u.UC_MODE_THUMB)  # with UC_MODE_MCLASS it would be a Cortex-M33: no double precision
        cpu.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M7)
        for start, size in _MEMORY:
            cpu.mem_map(start, size)
        try:
            image = elf.read_bytes()
            (table,), (n,) = struct.unpack_from("<I", image, 28), struct.unpack_from("<H", image, 44)
            for i in range(n):
                kind, offset, _, address, size = struct.unpack_from("<5I", image, table + 32 * i)
                if kind == _PT_LOAD and size:
                    cpu.mem_write(address, image[offset : offset + size])
        except (OSError, struct.error, u.UcError) as error:
            raise TargetError(f"{elf} is no firmware for the emulated chip: {error}") from error
        stack, self._pc = struct.unpack("<II", cpu.mem_read(0, 8))
        cpu.reg_write(arm.UC_ARM_REG_SP, stack)
        cpu.reg_write(arm.UC_ARM_REG_C1_C0_2, _FPU_FULL_ACCESS)  # what CPACR would do, were there a system block
        cpu.reg_write(arm.UC_ARM_REG_FPEXC, _FPU_ENABLE)
        cpu.hook_add(u.UC_HOOK_INTR, lambda cpu, *_: cpu.emu_stop())
        return cpu

    def send(self, data: bytes) -> bool:
        """See `Channel`."""
        self._input += data
        return not self.ended

    def receive(self, timeout_s: float) -> bytes:
        """See `Channel`: the program runs until it waits for more than there is."""
        limit_us = max(int(timeout_s * 1e6), 1)
        while not self.ended and (self._input or not self._waiting()):
            before = self._pc
            try:
                self._cpu.emu_start(self._pc | 1, 0xFFFFFFFF, limit_us)
            except self._unicorn.UcError as error:
                self.ended = f"the emulated chip ended: {error}"
                break
            self._pc = self._cpu.reg_read(self._arm.UC_ARM_REG_PC)
            if not self._at_call():
                if self._pc == before:
                    self.ended = f"the emulated chip stands still at {self._pc:#x}"
                break  # out of time
            if not self._serve():
                break
            self._pc += 2
        data = bytes(self._output)
        self._output.clear()
        if not data and self.ended:
            raise EOFError
        return data

    def _at_call(self) -> bool:
        return bytes(self._cpu.mem_read(self._pc, 2)) == _BKPT_SEMIHOSTING

    def _waiting(self) -> bool:
        return self._at_call() and self._cpu.reg_read(self._arm.UC_ARM_REG_R0) == _READ

    def _serve(self) -> bool:
        """Answer a semihosting call; False where it has to wait for input."""
        cpu, arm = self._cpu, self._arm
        operation, block = cpu.reg_read(arm.UC_ARM_REG_R0), cpu.reg_read(arm.UC_ARM_REG_R1)
        answer = 0
        if operation == _READ:
            _, address, size = struct.unpack("<3I", cpu.mem_read(block, 12))
            if not self._input:
                return False
            data = bytes(self._input[:size])
            del self._input[:size]
            cpu.mem_write(address, data)
            answer = size - len(data)
        elif operation == _WRITE:
            _, address, size = struct.unpack("<3I", cpu.mem_read(block, 12))
            self._output += cpu.mem_read(address, size)
        elif operation == _OPEN:
            address, _, size = struct.unpack("<3I", cpu.mem_read(block, 12))
            answer = _FILES.get(cpu.mem_read(address, size).decode("ascii", "replace"), 0xFFFFFFFF)
        elif operation == _GET_CMDLINE:
            address, size = struct.unpack("<2I", cpu.mem_read(block, 8))
            words = " ".join(_WORDS).encode() + b"\0"
            cpu.mem_write(address, words[:size])
        elif operation == _EXIT_EXTENDED:
            _, code = struct.unpack("<2I", cpu.mem_read(block, 8))
            self.ended = f"the emulated chip ended (exit {code})"
        elif operation != _WRITE0:
            self.ended = f"the emulated chip ended: semihosting call {operation:#x} is not known"
        cpu.reg_write(arm.UC_ARM_REG_R0, answer)
        return True

    def accept(self) -> None:
        """See `Channel`."""

    def close(self) -> None:
        """See `Channel`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
