"""Commands, uploads and downloads over a real OpenSSH server: exact arguments, bounded time, resumed uploads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ssh_support import SshServer, wait_for

from sim2sky.deployment.ssh_address import SshAddress
from sim2sky.deployment.ssh_session import CHUNK, Limits, SshSession
from sim2sky.errors import TargetError


@pytest.fixture
def session(laptop: SshServer, tmp_path: Path) -> Iterator[SshSession]:
    with_path = SshSession(SshAddress.parse(laptop.url(tmp_path / "target")))
    yield with_path
    with_path.close()


@pytest.fixture(scope="module")
def kept(sshd: SshServer) -> Iterator[SshSession]:
    """One connection for many small commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(sshd.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        session = SshSession(SshAddress.parse(sshd.url("/tmp/unused")))
        session.run(["true"])
        yield session
        session.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), min_size=1, max_size=4
    ),
    data=st.binary(max_size=200),
)
def test_arguments_and_input_arrive_as_they_are(kept: SshSession, arguments: list[str], data: bytes) -> None:
    script = "import sys; sys.stdout.write(repr((sys.argv[1:], sys.stdin.buffer.read())))"
    done = kept.run(["python3", "-X", "utf8", "-c", script, *arguments], stdin=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == repr((arguments, data))


@pytest.mark.parametrize("code", [0, 1, 7, 127])
def test_exit_code_and_both_outputs(session: SshSession, code: int) -> None:
    done = session.run(["sh", "-c", f"echo out; echo err >&2; exit {code}"])
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")


def test_a_missing_program_is_an_exit_code(session: SshSession) -> None:
    done = session.run(["no-such-program"])
    assert done.returncode == 127
    assert "no-such-program" in done.stderr


def test_only_the_wanted_environment_is_added(session: SshSession) -> None:
    text = session.run(["env"]).stdout
    assert "OMP_NUM_THREADS=1" in text
    assert "LC_ALL=C.UTF-8" in text
    assert "PYTHONPATH" not in text


def test_a_command_that_a_signal_ended(session: SshSession) -> None:
    with pytest.raises(TargetError, match="ended by SIGKILL"):
        session.run(["sh", "-c", "kill -KILL $$"])


def test_a_command_that_hangs_is_ended(session: SshSession, laptop: SshServer) -> None:
    start = time.monotonic()
    with pytest.raises(TargetError, match=r"did not end within 0\.5 s"):
        session.run(["sleep", "4711"], timeout_s=0.5)
    assert time.monotonic() - start < 10
    wait_for(lambda: not any("4711" in command for command in laptop.commands()), "its end")
    assert session.run(["echo", "still here"]).stdout == "still here\n"


def test_a_command_that_prints_without_end_is_ended(session: SshSession, laptop: SshServer) -> None:
    with pytest.raises(TargetError, match="printed more than 16 MiB"):
        session.run(["yes"], timeout_s=60)
    wait_for(lambda: not any(command.endswith("yes") for command in laptop.commands()), "its end")


def test_a_connection_that_broke_between_two_calls_is_made_again(session: SshSession, laptop: SshServer) -> None:
    assert session.run(["echo", "1"]).stdout == "1\n"
    assert laptop.break_connections() > 0
    wait_for(lambda: not laptop.children(), "the sessions' end")
    wait_for(lambda: session._connection is None or session._connection.is_closed(), "the news to arrive")
    assert session.run(["echo", "2"]).stdout == "2\n"


def test_a_connection_that_breaks_under_a_command_says_so(session: SshSession, laptop: SshServer) -> None:
    session.run(["true"])
    before = {c.pid for c in laptop.children()}

    def breaker() -> None:
        wait_for(lambda: {c.pid for c in laptop.children()} - before, "the command")
        laptop.break_connections()

    thread = threading.Thread(target=breaker)
    thread.start()
    with pytest.raises(TargetError, match="connection broke"):
        session.run(["sleep", "30"])
    thread.join()


def test_upload_and_download(session: SshSession, tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK + 17)
    (tmp_path / "a").write_bytes(data)
    there = tmp_path / "target" / "deep er" / "it's"
    session.upload(tmp_path / "a", str(there))
    assert there.read_bytes() == data
    assert session.bytes_sent == len(data)
    assert [p.name for p in there.parent.iterdir()] == ["it's"]
    session.download(str(there), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    assert not (tmp_path / ".b.tmp").exists()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_every_size_arrives(session: SshSession, tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * size)
    session.upload(tmp_path / "a", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"x" * size


def test_what_is_there_already_is_not_sent_again(session: SshSession, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    session.upload(tmp_path / "a", str(tmp_path / "b"))
    session.upload(tmp_path / "a", str(tmp_path / "b"))
    assert session.bytes_sent == 5
    (tmp_path / "b").write_bytes(b"1234X")  # the same size, another content
    session.upload(tmp_path / "a", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"12345"
    assert session.bytes_sent == 10


def part_of(folder: Path) -> Path | None:
    return next(iter(folder.glob(".*.part")), None) if folder.is_dir() else None


def broken_upload(session: SshSession, laptop: SshServer, source: Path, there: Path, at: int) -> int:
    """Kill the session's server when `at` bytes have arrived; how many lie there."""
    session.run(["true"])
    pids = [c.pid for c in laptop.children() if c.name() == "sshd"]

    def breaker() -> None:
        def arrived() -> bool:
            part = part_of(there.parent)
            return part is not None and part.stat().st_size >= at

        wait_for(arrived, "the upload")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=breaker)
    thread.start()
    with pytest.raises(TargetError, match="the connection broke") as caught:
        session.upload(source, str(there))
    thread.join()
    assert "goes on" in caught.value.hint
    assert not there.exists()
    part = part_of(there.parent)
    assert part is not None
    return part.stat().st_size


def test_a_broken_upload_goes_on_at_its_offset(session: SshSession, laptop: SshServer, tmp_path: Path) -> None:
    data = os.urandom(48 << 20)
    (tmp_path / "a").write_bytes(data)
    there = tmp_path / "target" / "b"
    lies_there = broken_upload(session, laptop, tmp_path / "a", there, at=4 << 20)
    assert 4 << 20 <= lies_there < len(data)
    again = SshSession(session.address)
    again.upload(tmp_path / "a", str(there))
    again.close()
    assert there.read_bytes() == data
    assert again.bytes_sent == len(data) - lies_there
    assert part_of(there.parent) is None


def test_a_part_that_was_damaged_is_sent_anew(session: SshSession, laptop: SshServer, tmp_path: Path) -> None:
    data = os.urandom(24 << 20)
    (tmp_path / "a").write_bytes(data)
    there = tmp_path / "target" / "b"
    lies_there = broken_upload(session, laptop, tmp_path / "a", there, at=2 << 20)
    part = part_of(there.parent)
    assert part is not None
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(bytes([data[1000] ^ 1]))
    session.upload(tmp_path / "a", str(there))
    assert there.read_bytes() == data
    assert part_of(there.parent) is None
    assert session.bytes_sent > len(data) - lies_there + len(data) - CHUNK


def test_a_part_that_is_too_long_is_cut(session: SshSession, tmp_path: Path) -> None:
    import hashlib

    data = os.urandom(1000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / f".{hashlib.sha256(data).hexdigest()[:32]}.part").write_bytes(data + b"more")
    session.upload(tmp_path / "a", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == data
    assert session.bytes_sent == 0


def test_a_reader_never_sees_a_half_written_file(session: SshSession, tmp_path: Path) -> None:
    old, new = os.urandom(8 << 20), os.urandom(8 << 20)
    there = tmp_path / "b"
    there.write_bytes(old)
    (tmp_path / "a").write_bytes(new)
    seen: set[bytes] = set()
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            seen.add(there.read_bytes())

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        session.upload(tmp_path / "a", str(there))
    finally:
        done.set()
        thread.join()
    assert seen <= {old, new}
    assert there.read_bytes() == new


def test_downloading_nothing_leaves_nothing(session: SshSession, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file"):
        session.download(str(tmp_path / "missing"), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stops_taking_is_given_up(session: SshSession, laptop: SshServer, tmp_path: Path) -> None:
    impatient = SshSession(session.address, limits=Limits(idle_s=1.0))
    (tmp_path / "a").write_bytes(os.urandom(48 << 20))
    impatient.run(["true"])
    stopped = [c for c in laptop.children() if c.name() == "sshd"]

    def stopper() -> None:
        wait_for(lambda: (p := part_of(tmp_path / "target")) is not None and p.stat().st_size > 1 << 20, "the upload")
        for process in stopped:
            process.suspend()

    thread = threading.Thread(target=stopper)
    thread.start()
    try:
        with pytest.raises(TargetError, match="took nothing for 1 s"):
            impatient.upload(tmp_path / "a", str(tmp_path / "target" / "b"))
    finally:
        thread.join()
        for process in stopped:
            process.kill()
    assert not (tmp_path / "target" / "b").exists()


def test_folders(session: SshSession, tmp_path: Path) -> None:
    assert session.make_folder(str(tmp_path / "x" / "y")) == []
    (tmp_path / "x" / "y" / "name").touch()
    assert session.make_folder(str(tmp_path / "x" / "y")) == ["name"]
    assert session.home() == session.run(["pwd", "-P"]).stdout.strip()
