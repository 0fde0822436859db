"""A folder as a transport: files arrive whole or not at all, commands are isolated and bounded in time."""

import os
import sys
from pathlib import Path

import pytest

from sim2sky.deployment.local_transport import LocalTransport
from sim2sky.errors import TargetError


@pytest.fixture
def transport(tmp_path: Path) -> LocalTransport:
    transport = LocalTransport(tmp_path / "target")
    transport.prepare()
    return transport


def test_a_file_goes_there_and_back(transport: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    transport.put_file(tmp_path / "a", "deep/er/b")
    transport.get_file("deep/er/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"abc"
    (tmp_path / "a").write_bytes(b"changed")
    transport.put_file(tmp_path / "a", "deep/er/b")
    assert (transport.folder / "deep/er/b").read_bytes() == b"changed"
    assert [p.name for p in (transport.folder / "deep/er").iterdir()] == ["b"]


def test_what_cannot_be_copied_leaves_nothing(transport: LocalTransport, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        transport.get_file("none", tmp_path / "missing")
    with pytest.raises(TargetError, match="No such file"):
        transport.put_file(tmp_path / "none", "x")
    assert not (tmp_path / "missing").exists()
    assert [p.name for p in transport.folder.iterdir()] == ["site"]


def test_a_command_sees_neither_our_environment_nor_our_packages(transport: LocalTransport) -> None:
    os.environ["SIM2SKY_TEST_LEAK"] = "1"
    try:
        code = "import os, sys; print('SIM2SKY_TEST_LEAK' in os.environ, 'site-packages' in ''.join(sys.path))"
        done = transport.run([*transport.python(), "-c", code])
    finally:
        del os.environ["SIM2SKY_TEST_LEAK"]
    assert done.stdout.split() == ["False", "False"]


def test_standard_input_and_exit_code_come_through(transport: LocalTransport) -> None:
    done = transport.run([sys.executable, "-"], stdin=b"import sys; print('said', file=sys.stderr); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "said\n")
    assert transport.run([sys.executable, "-c", "print(input() if False else 'end')"]).stdout == "end\n"


def test_a_command_that_hangs_dies_or_is_not_there_is_a_plain_error(transport: LocalTransport) -> None:
    with pytest.raises(TargetError, match="did not end within"):
        transport.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)
    with pytest.raises(TargetError, match="ended by SIGSEGV"):
        transport.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    with pytest.raises(TargetError, match="No such file"):
        transport.run(["/no/such/program"])


def test_commands_run_before_the_folder_exists(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "later")
    assert transport.run([*transport.python(), "-c", "print(1)"]).stdout == "1\n"
    assert not (tmp_path / "later").exists()


def test_a_folder_that_holds_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(TargetError, match=r"is no target: it holds 'thesis\.txt'"):
        LocalTransport(tmp_path).prepare()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
