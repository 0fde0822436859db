"""MAVLink 2 signing: a wrong key, a missing signature, replay, restarts; and that pymavlink agrees with us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.link_support import wait_for

from sim2sky.errors import ConfigError
from sim2sky.runtime import signing
from sim2sky.runtime.link import MavlinkLink, mavlink, open_link
from sim2sky.runtime.signing import NEW_STREAM_TICKS, RESERVE_TICKS, Signer, TimestampFile, open_signer, read_key

KEY = bytes(range(32))
NOW = 10_000_000_000


def signer(key: bytes = KEY, floor: int = 0, now: int = NOW) -> Signer:
    return Signer(key, floor=floor, now_ticks=lambda: now)


def frame(stamp: int, key: bytes = KEY, *, system: int = 1, link: int = 0) -> bytes:
    """A frame signed by pymavlink itself."""
    mav = mavlink.MAVLink(None, system, 1)
    mav.signing.secret_key, mav.signing.sign_outgoing = key, True
    mav.signing.timestamp, mav.signing.link_id = stamp, link
    return bytes(mavlink.MAVLink_heartbeat_message(1, 2, 3, 4, 5, 3).pack(mav))


def test_a_frame_that_pymavlink_signed_is_accepted_once() -> None:
    s = signer()
    assert s.accepts(frame(NOW)) and s.newest == NOW
    assert not s.accepts(frame(NOW))
    assert not s.accepts(frame(NOW - 1)) and s.accepts(frame(NOW + 1))


def test_pymavlink_accepts_what_we_sign() -> None:
    reader = mavlink.MAVLink(None)
    reader.signing.secret_key = KEY
    with (
        open_link("udpin:127.0.0.1:0", system=1, component=1) as far,
        open_link(f"udp:127.0.0.1:{far.port}", system=1, component=191, signer=signer()) as near,
    ):
        near.send(mavlink.MAVLink_heartbeat_message(1, 2, 3, 4, 5, 3), mavlink.MAVLink_timesync_message(0, 3))
        data = far._channel.receive(2.0)
    messages = reader.parse_buffer(data)
    assert messages is not None and len(messages) == 2 and reader.signing.goodsig_count == 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(1, 255))
def test_no_byte_of_a_signed_frame_can_be_changed(at: int, flip: int) -> None:
    data = bytearray(frame(NOW))
    data[at % len(data)] ^= flip
    s = signer()
    assert not s.accepts(data) and s.newest == 0 and s.accepts(frame(NOW))


def test_another_key_and_no_signature_are_refused() -> None:
    s = signer()
    assert not s.accepts(frame(NOW, bytes(32)))
    assert not s.accepts(bytes(mavlink.MAVLink_heartbeat_message(1, 2, 3, 4, 5, 3).pack(mavlink.MAVLink(None, 1, 1))))


def test_streams_are_told_apart_and_a_new_one_must_be_of_today() -> None:
    s = signer()
    assert s.accepts(frame(NOW + 5)) and s.accepts(frame(NOW, system=255)) and s.accepts(frame(NOW, link=1))
    newest = s.newest
    assert not s.accepts(frame(newest - NEW_STREAM_TICKS - 1, system=2))
    assert s.accepts(frame(newest - NEW_STREAM_TICKS + 1, system=2))


def test_the_number_of_streams_is_bounded() -> None:
    s = signer()
    accepted = [s.accepts(frame(NOW + i, system=i)) for i in range(1, 60)]
    assert sum(accepted) == signing.MAX_STREAMS and all(accepted[: signing.MAX_STREAMS])


def test_what_was_recorded_before_a_restart_is_refused_after_it() -> None:
    s = signer()
    recorded = [frame(NOW + i) for i in range(5)]
    assert all(s.accepts(f) for f in recorded)
    restarted = signer(floor=s.newest)
    assert not any(restarted.accepts(f) for f in recorded) and restarted.accepts(frame(NOW + 5))


def test_our_own_stamps_only_grow_whatever_the_wall_clock_does() -> None:
    now = [NOW]
    s = Signer(KEY, now_ticks=lambda: now[0])
    stamps = [s.stamp(), s.stamp()]
    now[0] = 0
    stamps += [s.stamp()]
    assert s.accepts(frame(NOW + 1000))
    stamps += [s.stamp()]
    now[0] = NOW * 2
    stamps += [s.stamp()]
    assert stamps == [NOW, NOW + 1, NOW + 2, NOW + 1001, NOW * 2]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "signing.key"
    path.touch(mode=0o600)
    path.write_text(KEY.hex() + "\n")
    return path


def test_the_newest_timestamp_lives_beside_the_key(key_file: Path) -> None:
    kept = key_file.with_name("signing.key.timestamp")
    with open_signer(key_file) as s:
        assert int(kept.read_text()) >= s.newest + RESERVE_TICKS // 2  # ahead while we run: a kill -9 leaves this
        start = s.newest
        assert s.accepts(frame(start + 100 * RESERVE_TICKS))
        wait_for(lambda: int(kept.read_text()) > s.newest, "the file follows the signer")
        newest = s.newest
    assert int(kept.read_text()) == newest
    with open_signer(key_file) as s:
        assert s.floor == newest and not s.accepts(frame(newest)) and s.stamp() > newest


def test_a_killed_process_left_its_reserve_and_nothing_older_passes(key_file: Path) -> None:
    file = TimestampFile(key_file.with_name("t"))
    s = Signer(KEY)
    file.follow(s)
    seen = frame(s.stamp())
    assert s.accepts(seen)
    # Killed here: no `finish`.
    again = Signer(KEY, floor=TimestampFile(key_file.with_name("t")).load())
    assert not again.accepts(seen) and again.accepts(frame(again.floor + 1))
    file.finish(s)


@pytest.mark.parametrize("text", ["", "12ab", "-5", "\xff"])
def test_a_damaged_timestamp_is_refused_not_guessed(key_file: Path, text: str) -> None:
    kept = key_file.with_name("signing.key.timestamp")
    kept.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="damaged"), open_signer(key_file):
        pass
    assert kept.read_bytes() == text.encode("latin-1")


def test_a_timestamp_that_cannot_be_kept_ends_it_before_it_began(key_file: Path) -> None:
    key_file.with_name("signing.key.timestamp.new").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"), open_signer(key_file):
        pass


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("00" * 31, 0o600, "64 hexadecimal"),
        ("zz" * 32, 0o600, "64 hexadecimal"),
        ("\xff" * 64, 0o600, "64 hexadecimal"),
        ("00" * 32, 0o640, "others can read it"),
        ("00" * 32, 0o604, "others can read it"),
    ],
)
def test_an_unfit_key_file_is_explained(tmp_path: Path, content: str, mode: int, message: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(mode)
    with pytest.raises(ConfigError, match=message):
        read_key(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_key(tmp_path / "absent")


@pytest.fixture
def signed_server() -> Iterator[MavlinkLink]:
    with open_link("udpin:127.0.0.1:0", system=1, component=1, signer=Signer(KEY)) as server:
        yield server


def test_a_signed_link_refuses_unsigned_and_foreign_frames_and_answers_no_stranger(signed_server: MavlinkLink) -> None:
    beat = mavlink.MAVLink_heartbeat_message(1, 2, 3, 4, 5, 3)
    where = f"udp:127.0.0.1:{signed_server.port}"
    with (
        open_link(where, system=1, component=191) as unsigned,
        open_link(where, system=1, component=191, signer=Signer(bytes(32))) as foreign,
        open_link(where, system=1, component=191, signer=Signer(KEY)) as friend,
    ):
        for stranger in (unsigned, foreign):
            stranger.send(beat)
            assert signed_server.receive(2.0) == []
        assert signed_server.statistics.refused == 2 and signed_server.statistics.frames_in == 0
        signed_server.send(beat)
        assert signed_server.statistics.frames_out == 0  # neither of them became the peer
        friend.send(beat)
        assert len(signed_server.receive(2.0)) == 1
        signed_server.send(beat)
        assert len(friend.receive(2.0)) == 1


def test_a_replayed_datagram_is_refused_on_the_link(signed_server: MavlinkLink) -> None:
    data = frame(Signer(KEY).stamp())
    assert len(signed_server._frames(data, complete=True)[0]) == 1
    assert signed_server._frames(data, complete=True)[0] == [] and signed_server.statistics.refused == 1


def test_signed_frames_pass_a_stream_that_is_cut_anywhere() -> None:
    base = signing.wall_ticks()
    data = b"".join(frame(base + i) for i in range(4))
    for cut in range(1, len(data), 7):
        with open_link("udpin:127.0.0.1:0", system=1, component=1, signer=Signer(KEY)) as link:
            pending = bytearray(data[:cut])
            messages, used = link._frames(pending, complete=False)
            rest = bytes(pending[used:]) + data[cut:]
            assert len(messages) + len(link._frames(rest, complete=False)[0]) == 4
