"""The host's side of processor in the loop against peers that answer wrongly, late or not at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import LinkError, TargetError
from sim2sky.hil.chip import serial_board
from sim2sky.hil.pil import PilLink
from sim2sky.hil.qemu import FifoChannel
from sim2sky.runtime.channel import open_serial
from sim2sky.runtime.teensy import FrameReader, encode_frame

Peer = Callable[[bytes], bytes]


@contextmanager
def board(answer: Peer, timeout_s: float = 5.0) -> Iterator[PilLink]:
    """A link over a pseudo-terminal whose other end answers each whole frame with `answer(payload)`."""
    master, slave = os.openpty()
    name, stop = os.ttyname(slave), threading.Event()
    channel = open_serial(name, 115200)
    os.set_blocking(master, False)

    def serve() -> None:
        reader = FrameReader()
        while not stop.is_set():
            try:
                payloads = reader.feed(os.read(master, 4096))
            except OSError:
                time.sleep(0.001)
                continue
            for payload in payloads:
                os.write(master, answer(payload))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield PilLink(channel, name="the board", timeout_s=timeout_s)
    finally:
        stop.set()
        thread.join()
        channel.close()
        os.close(slave)
        os.close(master)


def test_the_answer_to_the_question_comes_through_whatever_pieces_it_comes_in() -> None:
    with board(lambda payload: b"noise \xaa" + encode_frame(b"p" + payload[1:])) as link:
        for n in (0, 1, 100, 254):
            assert link.ask(b"P" + bytes(n)) == b"p" + bytes(n)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: b"", "did not answer within 0.3 s"),
        (lambda _: encode_frame(b"r" * 40)[:-7], "damaged or cut short"),
        (lambda _: encode_frame(b"r")[:-1] + b"!", "damaged or cut short"),
        (lambda _: encode_frame(b"k\x01"), "answered 'R' with b'k'"),
        (lambda _: encode_frame(b"e\x01"), "refused 'R': an unknown question"),
        (lambda _: encode_frame(b"e\x02"), "refused 'R': a question of the wrong length"),
        (lambda _: encode_frame(b"e\x03"), "refused 'R': a damaged frame"),
        (lambda _: encode_frame(b"e\x63"), "refused 'R': error 99"),
    ],
    ids=["silent", "truncated", "check sum", "other answer", "unknown", "length", "damaged", "new error"],
)
def test_a_wrong_answer_says_what_is_wrong_and_what_to_do(answer: Peer, reason: str) -> None:
    with board(answer, timeout_s=0.3) as link, pytest.raises(LinkError, match=reason) as caught:
        link.ask(b"R")
    assert caught.value.hint


def test_a_board_with_another_version_of_the_protocol() -> None:
    with (
        board(lambda _: encode_frame(b"i\x09" + bytes(118))) as link,
        pytest.raises(TargetError, match="another version"),
    ):
        link.identify()


def test_an_identity_of_another_length() -> None:
    with (
        board(lambda _: encode_frame(b"i\x01" + bytes(5))) as link,
        pytest.raises(TargetError, match="another version"),
    ):
        link.identify()


def test_a_board_that_is_unplugged() -> None:
    master, slave = os.openpty()
    channel = open_serial(os.ttyname(slave), 115200)
    link = PilLink(channel, name="the board at /dev/x")
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkError, match="the connection to the board at /dev/x broke"):
        link.ask(b"R")
    channel.close()


def test_no_such_port_and_no_port_at_all(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="No such file"), serial_board(str(tmp_path / "tty")):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(LinkError, match="not a serial port"), serial_board(str(tmp_path / "file")):
        pass


def test_fifos_whose_other_side_never_comes_and_one_that_leaves(tmp_path: Path) -> None:
    channel = FifoChannel(tmp_path / "to", tmp_path / "from")
    link = PilLink(channel, timeout_s=0.2)
    with pytest.raises(LinkError, match="did not answer"):
        link.ask(b"R")
    other = os.open(tmp_path / "from", os.O_WRONLY)
    os.write(other, encode_frame(b"r"))
    assert link.ask(b"R") == b"r"
    os.close(other)
    with pytest.raises(LinkError, match="broke"):
        link.ask(b"R")
    channel.close()


def test_fifos_that_are_full_do_not_block(tmp_path: Path) -> None:
    channel = FifoChannel(tmp_path / "to", tmp_path / "from")
    sent = 0
    while channel.send(bytes(4096)):
        sent += 1
    assert sent > 0
    with pytest.raises(LinkError, match="does not take what it is sent"):
        PilLink(channel).ask(b"R")
    channel.close()


@given(st.binary(min_size=1, max_size=255), st.integers(0, 259), st.integers(1, 255))
def test_no_damaged_byte_passes_for_an_answer(payload: bytes, at: int, flip: int) -> None:
    frame = bytearray(encode_frame(payload))
    frame[at % len(frame)] ^= flip
    found = FrameReader().feed(bytes(frame))
    assert payload not in found or bytes(frame) == encode_frame(payload)
