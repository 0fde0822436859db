"""Runs the commands of the tutorials and of the README and compares what they print with what the pages show."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.ssh_support import USER, SshServer, ssh_server

from sim2sky.analysis.sim_to_real_gap import SimToRealGapAnalyzer
from sim2sky.telemetry.flight_log import read_flight_log

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXITS = {
    "modle.zip": 2, "my.yaml": 2, "--episodes 5": 3, "--episodes 2": 3, "--targets fleet.yaml": 1,
    "pi:raspberry@": 2, "raspberrypi.local$": 2, "elsewhere": 2, "gap sim.h5 real.h5": 1,
}  # fmt: skip
"""Exit codes of commands that hold, or with `$` end with, these words; every other one must exit with 0."""
PI = "pi@raspberrypi.local"


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


class Laptop:
    """Where a page's commands run: its folder, its environment, and what stands for the machines that it names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
        self.names: list[tuple[str, str]] = []
        (folder / "agents").symlink_to(ROOT / "agents")
        shutil.copy(ROOT / "configs" / "training" / "hawk.yaml", folder / "hawk.yaml")

    def run(self, command: str) -> tuple[int, str]:
        for shown, real in self.names:
            command = command.replace(shown, real)
        words = command.split()
        assert words[0] == "sim2sky"
        done = subprocess.run(  # noqa: PLW1510 - the exit code is compared by the caller
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        printed = done.stdout
        for shown, real in self.names:
            printed = printed.replace(real, shown)
        return done.returncode, printed

    def write_files(self, page: Path) -> None:
        """Every ```yaml block that names its file in the first line."""
        text = page.read_text(encoding="utf-8")
        for shown, real in self.names:
            text = text.replace(shown, real)
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            if named := re.match(r"# (\S+\.yaml)\n", block):
                (self.folder / named[1]).write_text(block, encoding="utf-8")

    def meet(self, server: SshServer) -> None:
        """`pi@raspberrypi.local` is this server; its Python is a Raspberry Pi's, emulated."""
        made = subprocess.run(
            [ROOT / "scripts" / "aarch64_python.sh"], stdout=subprocess.PIPE, text=True, timeout=600, check=True
        )
        there = server.folder / "home_there"
        (there / "controls" / "venv" / "bin").mkdir(parents=True)
        for name in ("python", "python3"):
            (there / "controls" / "venv" / "bin" / name).symlink_to(made.stdout.strip())
        pi = "pi@raspberrypi.local"
        self.names = [
            (f"ssh://{pi}/~/", f"{server.url(there)}/"),
            (f"ssh://{pi}", server.url("")),
            (pi, f"{USER}@127.0.0.1"),
        ]
        self.environment["HOME"] = str(server.home)
        for variable in ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME"):
            self.environment.pop(variable, None)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_does_what_it_shows(page, tmp_path):
    laptop = Laptop(tmp_path)
    assert commands(page)
    with contextlib.ExitStack() as stack:
        if "ssh://" in page.read_text(encoding="utf-8"):
            (tmp_path / "sshd").mkdir()
            laptop.meet(stack.enter_context(ssh_server(tmp_path / "sshd")))
        laptop.write_files(page)
        for command, expected in commands(page):
            code, printed = laptop.run(command)
            wanted = next((c for mark, c in EXITS.items() if mark in f"{command}$"), 0)
            assert code == wanted, f"$ {command}\n{printed}"
            assert matches(expected, printed), f"$ {command}\nexpected:\n{expected}\nprinted:\n{printed}"
    AFTERWARDS.get(page.stem, lambda _: None)(tmp_path)


def the_gap_has_shrunk(folder: Path) -> None:
    """Not only against a simulator that was refitted: the same aircraft is flown better, in the very same flights."""
    analyses = []
    for sim, real in (("sim.h5", "real.h5"), ("sim_again.h5", "real_again.h5")):
        analyzer = SimToRealGapAnalyzer()
        analyzer.load_sim_data(folder / sim)
        analyzer.load_real_data(folder / real)
        analyses.append(analyzer.analyse())
    assert [a.decision for a in analyses] == ["RETRAIN", "DEPLOYED"]
    before, after = (next(m for m in a.metrics if m.metric.name == "tracking_error") for a in analyses)
    assert abs(after.estimate - 1.0) < abs(before.estimate - 1.0) / 2.0
    with read_flight_log(folder / "real.h5") as first, read_flight_log(folder / "real_again.h5") as again:
        assert first.metadata.source == again.metadata.source == "virtual"
        n = len(first)
        assert [e.seed for e in first.episodes] == [e.seed for e in again.episodes[:n]]
        assert sum(e.success for e in again.episodes[:n]) > sum(e.success for e in first.episodes)
    assert len(before.real_values) == n
    better = [a < b for a, b in zip(after.real_values, before.real_values, strict=False)]
    assert sum(better) > 0.7 * n, (before.real_values, after.real_values)


AFTERWARDS: dict[str, Callable[[Path], None]] = {"closing-the-loop": the_gap_has_shrunk}


def test_the_comparison_can_fail():
    assert matches("a ...\nb\n", "a 1\nb\n")
    assert not matches("a ...\nb\n", "a 1\nc\n")
    assert not matches("", "surprise\n")


def test_every_page_has_commands_and_none_is_skipped():
    assert PAGES
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(commands(page)) == len(re.findall(r"^\$ ", text, re.MULTILINE))
