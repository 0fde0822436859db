"""MAVLink links over real sockets: loss, damage, strangers, closing, addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim2sky.errors import ConfigError, LinkError
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.link import Address, MavlinkLink, mavlink, open_link, parse_address

HEARTBEAT = mavlink.MAVLINK_MSG_ID_HEARTBEAT
SYNC = mavlink.MAVLINK_MSG_ID_TIMESYNC


def heartbeat() -> mavlink.MAVLink_heartbeat_message:
    return mavlink.MAVLink_heartbeat_message(1, 2, 3, 4, 5, 3)


def sync(value: int) -> mavlink.MAVLink_timesync_message:
    return mavlink.MAVLink_timesync_message(0, value)


@pytest.fixture(params=["udp", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[MavlinkLink, MavlinkLink]]:
    with ExitStack() as stack:
        server = stack.enter_context(open_link(f"{request.param}in:127.0.0.1:0", system=1, component=1))
        client = stack.enter_context(open_link(f"{request.param}:127.0.0.1:{server.port}", system=1, component=191))
        client.send(heartbeat())
        assert [m.get_msgId() for m in server.receive(2.0)] == [HEARTBEAT]
        yield server, client


def test_messages_arrive_in_order_with_sender_and_sequence(pair: tuple[MavlinkLink, MavlinkLink]) -> None:
    server, client = pair
    server.send(sync(1), sync(2), heartbeat())
    got = []
    while len(got) < 3:
        got += client.receive(2.0)
    assert [m.get_msgId() for m in got] == [SYNC, SYNC, HEARTBEAT] and [m.ts1 for m in got[:2]] == [1, 2]
    assert [m.get_seq() for m in got] == [0, 1, 2]
    assert (got[0].get_srcSystem(), got[0].get_srcComponent()) == (1, 1)


def test_silence_is_an_empty_answer(pair: tuple[MavlinkLink, MavlinkLink]) -> None:
    assert pair[0].receive(0.01) == [] and pair[0].receive(0.0) == []


def test_unwanted_messages_are_skipped_but_checked() -> None:
    with (
        open_link("udpin:127.0.0.1:0", system=1, component=1, wanted={SYNC}) as server,
        open_link(f"udp:127.0.0.1:{server.port}", system=1, component=191) as client,
    ):
        client.send(heartbeat(), sync(5), heartbeat())
        assert [m.get_msgId() for m in server.receive(2.0)] == [SYNC]
        assert server.statistics.frames_in == 1 and server.statistics.damaged == 0


def test_a_closed_tcp_peer_is_an_error_but_a_vanished_udp_peer_is_silence() -> None:
    with open_link("tcpin:127.0.0.1:0", system=1, component=1) as server:
        client = open_link(f"tcp:127.0.0.1:{server.port}", system=1, component=191)
        client.send(heartbeat())
        assert server.receive(2.0)
        client.close()
        with pytest.raises(LinkError, match="closed the connection"):
            server.receive(2.0)
    free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with open_link(f"udp:127.0.0.1:{port}", system=1, component=191, clock=ManualClock()) as client:
        for _ in range(3):
            client.send(heartbeat())
            assert client.receive(0.01) == []


def test_a_stranger_cannot_take_over_a_udp_link() -> None:
    with (
        open_link("udpin:127.0.0.1:0", system=1, component=1) as server,
        open_link(f"udp:127.0.0.1:{server.port}", system=1, component=191) as client,
        open_link(f"udp:127.0.0.1:{server.port}", system=1, component=191) as stranger,
    ):
        stranger._channel.send(b"\xfd not mavlink")  # noise first: it must not become the peer
        assert server.receive(0.2) == []
        client.send(heartbeat())
        assert server.receive(2.0)
        stranger.send(sync(666))
        assert server.receive(0.2) == [] and server.foreign == 1
        server.send(sync(1))
        assert client.receive(2.0) and stranger.receive(0.05) == []


def test_nothing_is_sent_before_somebody_spoke() -> None:
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as server:
        server.send(heartbeat())
        assert server.statistics.frames_out == 0


def frames(*messages: mavlink.MAVLink_message) -> bytes:
    mav = mavlink.MAVLink(None, 1, 191)
    return b"".join(m.pack(mav) for m in messages)


@pytest.fixture(scope="module")
def receiver() -> Iterator[MavlinkLink]:
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        yield link


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_at_all_raise_nothing(receiver: MavlinkLink, data: bytes) -> None:
    messages, used = receiver._frames(data, complete=True)
    assert used == len(data) and all(m.get_msgId() in mavlink.mavlink_map for m in messages)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(1, 255), st.integers(1, 2**60))
def test_a_flipped_byte_loses_its_own_frame_only(receiver: MavlinkLink, at: int, flip: int, value: int) -> None:
    first, second = frames(sync(value)), frames(sync(value + 1))
    data = bytearray(first)
    data[at % len(first)] ^= flip
    got = receiver._frames(bytes(data) + second, complete=True)[0]
    # A damaged message number may name one that does not exist: then the whole frame is skipped, too.
    assert [m.ts1 for m in got] == [value + 1]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40), max_size=20))
def test_a_tcp_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    data = frames(sync(1), heartbeat(), sync(2), sync(3))
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        got, pending, rest = [], bytearray(), data
        for cut in [*cuts, len(data)]:
            pending += rest[:cut]
            rest = rest[cut:]
            messages, used = link._frames(pending, complete=False)
            del pending[:used]
            got += messages
        assert [m.get_msgId() for m in got] == [SYNC, HEARTBEAT, SYNC, SYNC]


def test_a_signed_frame_is_measured_with_its_signature() -> None:
    mav = mavlink.MAVLink(None, 1, 191)
    mav.signing.secret_key = b"k" * 32
    mav.signing.sign_outgoing = True
    data = sync(9).pack(mav) + frames(sync(10))
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        assert [m.ts1 for m in link._frames(data, complete=True)[0]] == [9, 10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serial:/dev/ttyUSB0", "not serial:DEVICE:BAUD"),
        ("usb:0:1", "unknown kind 'usb'"),
        ("udp:127.0.0.1", "not KIND:HOST:PORT"),
        ("udp:127.0.0.1:x", "not KIND:HOST:PORT"),
        ("udp:127.0.0.1:70000", "not KIND:HOST:PORT"),
        ("udp:127.0.0.1:0", "port 0"),
        ("", "unknown kind ''"),
    ],
)
def test_a_wrong_address_is_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_address(text)


def test_addresses_take_the_usual_names() -> None:
    assert parse_address("udpout:10.0.0.1:14550") == Address("udp", "10.0.0.1", 14550)
    assert str(parse_address("tcpin:0.0.0.0:5760")) == "tcpin:0.0.0.0:5760"


def test_a_taken_port_an_unknown_host_and_a_deaf_port_are_plain_errors() -> None:
    with open_link("tcpin:127.0.0.1:0", system=1, component=1) as server:
        with pytest.raises(LinkError, match="in use"):
            open_link(f"tcpin:127.0.0.1:{server.port}", system=1, component=1)
        port = server.port
    with pytest.raises(LinkError, match="nobody answers"):
        open_link(f"tcp:127.0.0.1:{port}", system=1, component=1, connect_timeout_s=0.2)
    with pytest.raises(LinkError, match="unknown host"):
        open_link("udp:no-such-host.invalid:14550", system=1, component=1)
