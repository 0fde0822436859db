"""The bound of the stack: exact on a known chain, and refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim2sky.deployment import stack_usage
from sim2sky.deployment.firmware_build import build_program
from sim2sky.deployment.stack_usage import Stack, worst_case_stack
from sim2sky.errors import NotSupportedError, ToolchainError

KEEP = "__attribute__((noinline, noclone, used)) "


def program(folder: Path, text: str) -> Path:
    source = folder / "main.c"
    source.write_text(f"#include <string.h>\nint main(void);\n{text}", encoding="utf-8")
    return build_program(source, [], folder / "main.elf")


def test_the_deepest_of_several_ways_counts(tmp_path: Path) -> None:
    elf = program(
        tmp_path,
        f"volatile int sink;\n"
        f"{KEEP}static int shallow(volatile char *p) {{ volatile char q[40]; q[3] = *p; return q[3]; }}\n"
        f"{KEEP}static int deep(volatile char *p) {{ volatile char q[400]; q[3] = *p; return q[3] + shallow(q); }}\n"
        f"int main(void) {{ volatile char p[8]; p[0] = 1; sink = shallow(p) + deep(p); return deep(p); }}\n",
    )
    stack = worst_case_stack(elf, "main")
    assert [name for name, _ in stack.path] == ["main", "deep", "shallow"]
    frames = dict(stack.path)
    assert frames["deep"] >= 400 and 40 <= frames["shallow"] < 100 and stack.n_bytes == sum(frames.values())
    assert worst_case_stack(elf, "shallow") == Stack(frames["shallow"], (("shallow", frames["shallow"]),))
    assert str(stack).startswith(f"stack: {stack.n_bytes} bytes (main ")
    whole = worst_case_stack(elf, "port_reset")  # start-up code and all
    assert whole.n_bytes > stack.n_bytes and whole.path[0][0] == "port_reset"


def test_floating_point_registers_are_counted(tmp_path: Path) -> None:
    body = '__asm__ volatile("" ::: "d8", "d9", "d10", "r4");'  # uses them: they must be saved
    elf = program(tmp_path, f"{KEEP}void keeps(void) {{ {body} }}\nint main(void) {{ keeps(); return 0; }}\n")
    assert worst_case_stack(elf, "keeps") == Stack(28, (("keeps", 28),))


SELF = f"{KEEP}int f(int n) {{ return n < 1 ? 0 : f(n - 1) * 3 + f(n - 2); }}\n"
EACH_OTHER = f"""int g(int n);
{KEEP}int f(int n) {{ return n < 1 ? 0 : g(n - 1) * 3; }}
{KEEP}int g(int n) {{ return f(n) + 7 * f(n - 5); }}
"""
POINTER = f"int (*volatile p)(int);\n{KEEP}int f(int n) {{ return p(n) + 1; }}\n"
VARIABLE = f"{KEEP}int f(int n) {{ volatile char room[n + 1]; room[n] = 1; return room[n]; }}\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SELF, "recursion .*f > f"),
        (EACH_OTHER, "recursion .*(f > g > f|g > f > g)"),
        (POINTER, "through a pointer"),
        (VARIABLE, "whose size varies"),
    ],
)
def test_what_has_no_bound_is_refused(tmp_path: Path, text: str, why: str) -> None:
    elf = program(tmp_path, text + "int main(void) { volatile int n = 3; return f(n); }\n")
    with pytest.raises(NotSupportedError, match=why):
        worst_case_stack(elf, "main")


def test_bad_input_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = program(tmp_path, "int main(void) { return 0; }\n")
    with pytest.raises(ToolchainError, match=r"no function 'fly' in main\.elf"):
        worst_case_stack(elf, "fly")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no program")
    with pytest.raises(ToolchainError, match="cannot read garbage"):
        worst_case_stack(garbage, "main")
    monkeypatch.setattr(stack_usage, "OBJDUMP", "no-such-objdump")
    with pytest.raises(ToolchainError, match="no-such-objdump is missing"):
        worst_case_stack(elf, "main")
