"""Serial ports (pseudo-terminals) and TCP streams: raw bytes, bounded waits, plain errors."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from pathlib import Path

import pytest
from tests.link_support import serial_cable, wait_for

from sim2sky.errors import ConfigError, LinkError
from sim2sky.runtime.channel import BAUD_RATES, SerialChannel, TcpChannel, open_serial
from sim2sky.runtime.link import mavlink, open_link


def test_every_byte_passes_a_serial_port_both_ways_untranslated() -> None:
    everything = bytes(range(256)) * 3
    with serial_cable() as (other, device):
        channel = open_serial(device, 57600)
        assert channel.send(everything)
        got = b""
        while len(got) < len(everything):
            got += os.read(other, 4096)
        assert got == everything
        os.write(other, everything)
        got = b""
        while len(got) < len(everything):
            got += channel.receive(5.0)
        assert got == everything
        channel.close()
        channel.close()  # twice does no harm


def test_silence_on_a_serial_port_takes_as_long_as_asked_for_and_no_longer() -> None:
    with serial_cable() as (_, device):
        channel = open_serial(device, 115200)
        started = time.monotonic()
        assert channel.receive(0.05) == b"" and time.monotonic() - started >= 0.045
        assert channel.receive(0.0) == b""
        channel.close()


def test_a_line_that_takes_nothing_more_drops_whole_messages_and_never_blocks() -> None:
    with serial_cable() as (other, device):
        channel = open_serial(device, 57600)
        message = bytes(range(200)) * 5
        # The kernel moves bytes from one buffer of the cable to the next when it likes, so that a line which
        # refused a message may take the one after it. What counts is that each refusal is counted.
        sent = refused = 0
        while refused < 2:
            if channel.send(message):
                sent += 1
            else:
                refused += 1
            assert channel.dropped == refused and sent < 10_000
        # The last message accepted may have been begun only: its rest comes before anything new.
        os.set_blocking(other, False)
        data, accepted = bytearray(), False

        def drained() -> bool:
            nonlocal accepted
            accepted = accepted or channel.send(b"next")
            with contextlib.suppress(BlockingIOError):
                data.extend(os.read(other, 65536))
            return data.endswith(b"next")

        wait_for(drained, "the port takes messages again")
        assert data == message * sent + b"next"
        channel.close()


def test_an_unplugged_serial_port_is_an_error_not_silence() -> None:
    with serial_cable() as (other, device), open_link(f"serial:{device}:57600", system=1, component=1) as link:
        os.close(other)
        with pytest.raises(LinkError, match=r"broke|closed"):
            for _ in range(100):
                link.receive(0.1)


def test_a_port_has_one_user() -> None:
    with serial_cable() as (_, device):
        first = open_serial(device, 57600)
        with pytest.raises(LinkError, match="another program has it") as caught:
            open_serial(device, 57600)
        assert "fuser" in caught.value.hint
        first.close()
        open_serial(device, 57600).close()


def test_what_is_no_serial_port_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="No such file") as caught:
        open_serial(str(tmp_path / "ttyACM0"), 57600)
    assert "/dev/serial/by-id" in caught.value.hint
    file = tmp_path / "file"
    file.touch()
    for path in (str(file), "/dev/null"):
        with pytest.raises(LinkError, match="is not a serial port"):
            open_serial(path, 57600)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_forbidden_port_names_the_group(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.touch(mode=stat.S_IRUSR)
    file.chmod(0)
    with pytest.raises(LinkError) as caught:
        open_serial(str(file), 57600)
    assert "dialout" in caught.value.hint


def test_a_forbidden_port_names_the_group_also_where_root_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LinkError, match="Permission denied") as caught:
        open_serial("/dev/ttyACM0", 57600)
    assert "usermod -aG dialout" in caught.value.hint


@pytest.mark.parametrize("baud", [0, 12345, 10**9])
def test_a_baud_rate_that_does_not_exist_is_refused_before_anything_is_opened(baud: int) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        open_serial("/no/such/device", baud)
    assert {57600, 115200, 921600} <= set(BAUD_RATES)


def test_mavlink_flows_over_a_serial_port() -> None:
    with serial_cable() as (other, device), open_link(f"serial:{device}:57600", system=1, component=191) as link:
        far = SerialChannel(os.dup(other))
        os.set_blocking(other, False)
        packer = mavlink.MAVLink(None, 1, 1)
        data = mavlink.MAVLink_timesync_message(0, 7).pack(packer)
        for byte in data:  # one byte at a time, as a slow line delivers them
            far.send(bytes((byte,)))
        got: list[object] = []
        wait_for(lambda: got.extend(link.receive(0.1)) or got, "the message")
        assert got[0].ts1 == 7  # type: ignore[attr-defined]
        link.send(mavlink.MAVLink_timesync_message(1, 8))
        assert select.select([other], [], [], 5.0)[0]
        assert far.receive(1.0)[0] == 0xFD
        far.close()


def test_a_tcp_peer_that_does_not_read_costs_messages_not_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        channel = TcpChannel(socket.create_connection(server.getsockname()), listening=False)
        peer, _ = server.accept()
        message = bytes(10_000)
        started = time.monotonic()
        for _ in range(10_000):
            if not channel.send(message):
                break
        assert channel.dropped == 1 and time.monotonic() - started < 10.0
        peer.close()
        channel.close()
