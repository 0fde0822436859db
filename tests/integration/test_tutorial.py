"""Runs the commands of the tutorials and of the README and compares what they print with what the pages show."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXITS = {"modle.zip": 2, "my.yaml": 2, "--episodes 5": 3}  # every other command must exit with 0


def commands(page: Path) -> list[tuple[str, str]]:
    """(command, expected output) of every ```console block, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            found.append((command, expected))
    return found


def matches(expected: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(expected, printed, FLAGS)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_does_what_it_shows(page, tmp_path):
    (tmp_path / "agents").symlink_to(ROOT / "agents")
    shutil.copy(ROOT / "configs" / "training" / "hawk.yaml", tmp_path / "hawk.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    assert commands(page)
    for command, expected in commands(page):
        words = command.split()
        assert words[0] == "sim2sky"
        done = subprocess.run(  # noqa: PLW1510 - the exit code is compared below
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        wanted = next((code for mark, code in EXITS.items() if mark in command), 0)
        assert done.returncode == wanted, f"$ {command}\n{done.stdout}"
        assert matches(expected, done.stdout), f"$ {command}\nexpected:\n{expected}\nprinted:\n{done.stdout}"


def test_the_comparison_can_fail():
    assert matches("a ...\nb\n", "a 1\nb\n")
    assert not matches("a ...\nb\n", "a 1\nc\n")
    assert not matches("", "surprise\n")


def test_every_page_has_commands_and_none_is_skipped():
    assert PAGES
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(commands(page)) == len(re.findall(r"^\$ ", text, re.MULTILINE))
