"""The emulated Cortex-M7 board: start-up, exit code, files, instruction counter, faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim2sky.deployment.firmware_build import build_program
from sim2sky.errors import TargetError, ToolchainError
from sim2sky.hil.qemu import run_to_exit

PRINT_NUMBER = """
#include "port.h"
static void number(uint64_t value)
{
    char text[22];
    int i = 21;
    text[i] = 0;
    text[--i] = '\\n';
    do { text[--i] = (char)('0' + value % 10u); value /= 10u; } while (value != 0u);
    port_print(text + i);
}
"""


def build(folder: Path, text: str) -> Path:
    source = folder / "main.c"
    source.write_text(PRINT_NUMBER + text)
    return build_program(source, [], folder / "program.elf")


def test_data_bss_fpu_arguments_and_exit_code(tmp_path: Path) -> None:
    elf = build(
        tmp_path,
        """
static volatile float single = 3.0f;
static volatile double fused = 2.0;
static volatile int zeroed[1000];
int main(void)
{
    char word[8];
    int zeros = 0;
    for (int i = 0; i < 1000; i++) { zeros += zeroed[i] == 0; }
    number((uint64_t)zeros);
    number(single * single == 9.0f && __builtin_fma(fused, fused, 1.0) == 5.0);
    volatile float tiny = 1e-38f;
    number(tiny * 0.01f > 0.0f); /* subnormal numbers are not flushed to zero */
    for (unsigned i = 1u; i < 5u; i++) {
        if (port_argument(i, word, sizeof word)) { port_print(word); port_print(";"); } else { port_print("-;"); }
    }
    return 7;
}
""",
    )
    done = run_to_exit(elf, arguments=("one", "a,b", "muchtoolong"))
    assert done == (7, "1000\n1\n1\none;a,b;-;-;")


def test_instructions_are_counted_exactly(tmp_path: Path) -> None:
    elf = build(
        tmp_path,
        """
#define LOOP(n) __asm__ volatile("movw r0, #" #n "\\n1: subs r0, #1\\nbne 1b" ::: "r0", "cc")
int main(void)
{
    static volatile uint64_t t[7];
    t[0] = port_instructions();
    t[1] = port_instructions();
    t[2] = port_instructions();
    __asm__ volatile("nop");
    t[3] = port_instructions();
    LOOP(1000);
    t[4] = port_instructions();
    LOOP(60000);
    t[5] = port_instructions();
    LOOP(1001);
    t[6] = port_instructions();
    const uint64_t call = t[2] - t[1];
    for (int i = 2; i < 6; i++) { number(t[i + 1] - t[i] - call); }
    return 0;
}
""",
    )
    first = run_to_exit(elf, icount=True)
    # one nop; movw and two instructions per turn; what the compiler puts around the calls is the same each time
    assert [int(n) for n in first.stdout.split()] == [1, 2001, 120001, 2003]
    assert run_to_exit(elf, icount=True) == first


def test_files_of_the_host_by_a_pair_of_fifos(tmp_path: Path) -> None:
    elf = build(
        tmp_path,
        """
int main(void)
{
    char path[256];
    uint8_t data[64];
    if (!port_argument(1u, path, sizeof path)) { return 1; }
    const int in = port_open(path, false);
    if (!port_argument(2u, path, sizeof path)) { return 2; }
    const int out = port_open(path, true);
    if (in < 0 || out < 0) { return 3; }
    for (;;) {
        const size_t n = port_read(in, data, sizeof data);
        if (n == 0u) { return port_open("/no/such/file", false) == -1 ? 0 : 4; }
        for (size_t i = 0; i < n; i++) { data[i] ^= 0x20u; }
        if (!port_write(out, data, n)) { return 5; }
    }
}
""",
    )
    (tmp_path / "in").write_bytes(b"Hello, Chip" * 20)
    done = run_to_exit(elf, arguments=(str(tmp_path / "in"), str(tmp_path / "out")))
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == bytes(b ^ 0x20 for b in b"Hello, Chip" * 20)


def test_a_fault_ends_the_program_with_its_cause(tmp_path: Path) -> None:
    elf = build(tmp_path, 'int main(void) { __asm__ volatile("udf #1"); return 0; }')
    done = run_to_exit(elf)
    assert done == (70, "fault, CFSR 0x00010000\n")  # UNDEFINSTR


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    elf = build(tmp_path, "int main(void) { for (;;) { } }")
    with pytest.raises(TargetError, match=r"did not end within 1 s"):
        run_to_exit(elf, timeout_s=1.0)


def test_no_emulator_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match=r"qemu-system-arm is missing\n.*apt-get install qemu-system-arm"):
        run_to_exit(tmp_path / "program.elf")


def test_the_compilers_error_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="not_declared"):
        build(tmp_path, "int main(void) { return not_declared; }")
    assert not (tmp_path / "program.elf").exists()
    assert os.listdir(tmp_path) == ["main.c"]
