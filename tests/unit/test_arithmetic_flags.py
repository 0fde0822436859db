"""A compiler set to other arithmetic than the tested one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.errors import ToolchainError

CORE = firmware_folder() / "core"


def build(tmp_path: Path, machine: str, *options: str) -> Path:
    source = CORE / "observation.c"
    return compile_c(find_compiler(machine), [source], tmp_path / "o.o", product="object", options=options)


@pytest.mark.parametrize("machine", ["host", "aarch64", "cortex-m7"])
def test_strict_arithmetic_is_accepted_everywhere(tmp_path: Path, machine: str) -> None:
    assert build(tmp_path, machine, "-Werror").is_file()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("-ffast-math", "without -ffast-math"),
        ("-Ofast", "without -ffast-math"),
        ("-ffinite-math-only", "without -ffast-math"),
        ("-fsingle-precision-constant", "s2s_build_without_single_precision_constant"),
    ],
)
def test_liberties_are_refused_by_name(tmp_path: Path, option: str, named: str) -> None:
    with pytest.raises(ToolchainError, match=named):
        build(tmp_path, "cortex-m7", option)
    assert not (tmp_path / "o.o").exists()


def test_the_last_word_may_take_a_liberty_back(tmp_path: Path) -> None:
    """What `platformio.ini` of the Teensy port relies on."""
    build(tmp_path, "cortex-m7", "-fsingle-precision-constant", "-fno-single-precision-constant")
