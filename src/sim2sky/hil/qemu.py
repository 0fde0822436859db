"""QEMU's emulated Cortex-M7 board (machine `mps2-an500`): runs a program on it, ends QEMU by its own process id."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from sim2sky.errors import TargetError
from sim2sky.runtime.channel import Channel, open_serial

__all__ = ["QEMU", "Completed", "EmulatedChip", "FifoChannel", "emulator_command", "find_qemu", "run_to_exit"]

QEMU = "qemu-system-arm"
START_S = 20.0

ICOUNT_SHIFT = 7
"""An instruction takes 2^7 ns of emulated time, which the 40 ns timer resolves: `port_instructions` is exact."""


class Completed(NamedTuple):
    """How a program on the board ended.

    Attributes:
        returncode: what its `main` returned, 0..255.
        stdout: what it printed.
    """

    returncode: int
    stdout: str


def find_qemu() -> str:
    """The emulator's path.

    Raises:
        TargetError: it is not installed.
    """
    if (path := shutil.which("qemu-system-arm")) is None:
        raise TargetError(
            "no emulator for the Cortex-M7: qemu-system-arm is missing", hint="sudo apt-get install qemu-system-arm"
        )
    return path


def emulator_command(
    elf: Path, arguments: Sequence[str] = (), *, serial: str = "null", icount: bool = False
) -> list[str]:
    """The command line that runs a program.

    Args:
        elf: linked for the board.
        arguments: words for `port_argument`; the program's name is word 0. They may not hold blanks.
        serial: QEMU's character device for UART0, e.g. `pty`.
        icount: count instructions; slower.
    """
    words = "".join(f",arg={word.replace(',', ',,')}" for word in (elf.name, *arguments))
    command = [find_qemu(), "-machine", "mps2-an500", "-nodefaults", "-display", "none", "-monitor", "none"]
    command += ["-serial", serial, "-chardev", "stdio,id=console,signal=off"]
    command += ["-semihosting-config", f"enable=on,target=native,chardev=console{words}"]
    return [*command, *(["-icount", f"shift={ICOUNT_SHIFT}"] if icount else []), "-kernel", str(elf)]


def run_to_exit(
    elf: Path, *, arguments: Sequence[str] = (), icount: bool = False, timeout_s: float = 120.0
) -> Completed:
    """Run a program until its `main` returns.

    Args:
        elf, arguments, icount: see `emulator_command`.
        timeout_s: after which it is ended.

    Raises:
        TargetError: no emulator, the program did not end in time, or QEMU gave up (a fault within a fault).
    """
    command = emulator_command(elf, arguments, icount=icount)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{elf.name} did not end within {timeout_s:g} s on the emulated board") from error
    if done.returncode < 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise TargetError(f"the emulator gave up on {elf.name}: {said}")
    return Completed(done.returncode, done.stdout)


class FifoChannel:
    """A pair of FIFOs as a `Channel`; this side holds both open before the other comes."""

    whole = False
    foreign = 0
    dropped = 0

    def __init__(self, to_chip: Path, from_chip: Path) -> None:
        os.mkfifo(to_chip, 0o600)
        os.mkfifo(from_chip, 0o600)
        # A writer that is a reader, too, need not wait for one; its end is still the other side's end of file.
        self._out = os.open(to_chip, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._in = os.open(from_chip, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._open = [self._in, self._out]
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)

    def send(self, data: bytes) -> bool:
        """See `Channel`; what is below PIPE_BUF is written whole or not at all."""
        try:
            return os.write(self._out, data) == len(data)
        except BlockingIOError:
            return False

    def receive(self, timeout_s: float) -> bytes:
        """See `Channel`."""
        if not self._poll.poll(timeout_s * 1e3):
            return b""
        if not (data := os.read(self._in, 4096)):
            raise EOFError
        return data

    def accept(self) -> None:
        """See `Channel`."""

    def close(self) -> None:
        """See `Channel`."""
        while self._open:
            os.close(self._open.pop())


class EmulatedChip:
    """A program on the emulated board that answers a host: the flight agent's firmware.

    Args:
        elf: the firmware.
        uart: speak over UART0, here a pseudo-terminal; default a pair of FIFOs, which is fifty times as fast.
        icount: let it count its instructions; slower.

    Attributes:
        channel: to the firmware.
        device: the pseudo-terminal; empty without `uart`.

    Raises:
        TargetError: no emulator, or it does not start.
    """

    def __init__(self, elf: Path, *, uart: bool = False, icount: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        with self._stack:  # closed where this fails
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sim2sky-chip-")))
            self._said = folder / "said"
            names = (folder / "in", folder / "out")
            arguments = (["uart"] if uart else ["fifo", *map(str, names)]) + ["count"] * icount
            fifos = None if uart else FifoChannel(*names)
            command = emulator_command(elf, arguments, serial="pty" if uart else "null", icount=icount)
            with self._said.open("wb") as sink:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
                )
            self._stack.callback(self._end)
            self.device = self._pseudo_terminal() if uart else ""
            port = fifos or open_serial(self.device, 115_200)
            self.channel: Channel = self._stack.enter_context(contextlib.closing(port))
            self._stack = self._stack.pop_all()

    def _pseudo_terminal(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not self.ended:
            if found := re.search(r"redirected to (/dev/\S+).*UART0 is open", self._words(), re.DOTALL):
                return found[1]
            time.sleep(0.005)
        raise TargetError(f"the emulator gave no pseudo-terminal: {self.ended or 'it is silent'}")

    def _words(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def ended(self) -> str:
        """Why it can answer no more; empty while it runs."""
        if self._process.poll() is None:
            return ""
        code = self._process.returncode
        said = [line for line in self._words().splitlines() if line and "nic lan9118" not in line]
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return f"the emulated chip ended ({how})" + (f": {said[-1]}" if said else "")

    @property
    def pid(self) -> int:
        """Process id of the emulator."""
        return self._process.pid

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()  # SIGTERM is not heard while the program waits for its host
        self._process.wait()

    def close(self) -> None:
        """End it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
