"""The journal: every whole frame is found again, whatever stands around it; no bytes whatever crash the reader."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.errors import FlightLogError
from sim2sky.telemetry.journal import MAX_FRAME, JournalEpisode, Kind, TickLayout, frame, json_frame, scan

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=60)), max_size=20)
LAYOUT = TickLayout(3, 2)


def tick(index: int, reward: float = 1.0) -> bytes:
    head = (index, 2, 77, *(float(index),) * 16, *(0.0,) * 8, 1, 2, 3, 0, 5, reward, 0.1, 0.2, 0.3, 0.4)
    return LAYOUT.pack(head, np.full(3, index, np.float32), np.zeros(2, np.float32))


@given(FRAMES)
def test_frames_come_back_as_they_were(frames: list[tuple[Kind, bytes]]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in frames)
    assert scan(data) == (frames, len(data), 0)


@given(FRAMES, st.data())
def test_a_stream_torn_anywhere_gives_the_same_frames(frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(kind, payload) for kind, payload in frames)
    cut = data.draw(st.integers(0, len(stream)))
    first, used, _ = scan(stream[:cut])
    second, _, damaged = scan(stream[used:cut] + stream[cut:])
    assert first + second == frames and damaged == 0


@given(FRAMES, st.binary(max_size=50), FRAMES)
def test_frames_after_damage_are_found(before: list[tuple[Kind, bytes]], junk: bytes, after: list[tuple[Kind, bytes]]):
    """Junk that happens to be a frame cannot be drawn: 2^-32."""
    parts = [b"".join(frame(*f) for f in frames) for frames in (before, after)]
    found, _, damaged = scan(parts[0] + junk + parts[1], complete=True)
    assert found == before + after and damaged <= len(junk)


@given(FRAMES.filter(bool), st.data())
def test_a_flipped_byte_costs_one_frame(frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    packed = [frame(*f) for f in frames]
    stream = bytearray(b"".join(packed))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    hit = next(i for i in range(len(packed)) if at < sum(map(len, packed[: i + 1])))
    found, _, damaged = scan(bytes(stream), complete=True)
    assert found == frames[:hit] + frames[hit + 1 :] and damaged == len(packed[hit])


@settings(max_examples=300)
@given(st.binary(max_size=3000) | st.binary(max_size=300).map(lambda b: b"\xa5S\x02" + b))
def test_nothing_crashes_the_reader(data: bytes) -> None:
    for complete in (False, True):
        frames, used, damaged = scan(data, complete=complete)
        assert 0 <= used <= len(data) and damaged <= len(data) and len(frames) * 9 <= used
    JournalEpisode.read(data).to_data(LAYOUT)


def test_a_frame_larger_than_a_pipe_takes_at_once_is_refused() -> None:
    assert len(frame(Kind.EVENT, bytes(MAX_FRAME - 9))) == MAX_FRAME
    with pytest.raises(FlightLogError, match="larger than the 4087"):
        frame(Kind.EVENT, bytes(MAX_FRAME - 8))


def test_an_episode_is_read_with_its_gaps_counted() -> None:
    data = json_frame(Kind.BEGIN, {"seed": 7, "flight": 2, "segment": 0, "first_tick": 0})
    data += b"".join(tick(i) for i in (0, 1, 2, 5, 6))
    data += json_frame(Kind.EVENT, {"trip": "ATTITUDE", "value": math.nan})
    data += json_frame(Kind.EXTRA, {"deadline_misses": 3})
    data += json_frame(Kind.END, {"success": True, "termination": "completed", "ticks": 9})
    episode = JournalEpisode.read(data).to_data(LAYOUT)
    assert episode is not None and episode.seed == 7 and episode.success and episode.termination == "completed"
    assert episode.arrays["states"][:, 7].tolist() == [0, 1, 2, 5, 6] == episode.arrays["time_s"].tolist()
    assert episode.total_reward == 5.0 and episode.events[0]["trip"] == "ATTITUDE"
    assert episode.extra == {
        "segment": 0, "flight": 2, "dropped_ticks": 4, "recovered": False, "deadline_misses": 3,
    }  # fmt: skip


def test_ticks_say_whose_they_are_where_the_beginning_died_with_a_recorder_process() -> None:
    data = tick(4) + tick(5) + json_frame(Kind.END, {"success": True, "termination": "completed", "ticks": 6})
    episode = JournalEpisode.read(data).to_data(LAYOUT)
    assert episode is not None and episode.seed == 77 and episode.success
    assert set(episode.arrays) & {"index", "flight", "seed"} == set()


def test_an_episode_without_an_end_says_so_and_one_without_ticks_is_none() -> None:
    begin = json_frame(Kind.BEGIN, {"seed": 7, "flight": 0, "segment": 3, "first_tick": 100})
    assert JournalEpisode.read(begin).to_data(LAYOUT) is None
    torn = begin + tick(100, math.nan) + tick(101)[:-1]
    read = JournalEpisode.read(torn)
    episode = read.to_data(LAYOUT)
    assert read.damaged == len(tick(101)) - 1
    assert episode is not None and episode.extra["recovered"] is True and episode.extra["segment"] == 3
    assert episode.extra["dropped_ticks"] == 0 and "rewards" not in episode.arrays and not episode.success


def test_a_tick_that_does_not_fit_is_refused() -> None:
    head = (0, 0, 0, *(0.0,) * 24, 1, 2, 3, 0, 5, 1.0, 0.1, 0.2, 0.3, 0.4)
    with pytest.raises(FlightLogError, match="does not fit the contract"):
        LAYOUT.pack(head, np.zeros(4, np.float32), np.zeros(2, np.float32))
    with pytest.raises(FlightLogError, match="does not fit the flight log"):
        LAYOUT.pack(head[:-1], np.zeros(3, np.float32), np.zeros(2, np.float32))
