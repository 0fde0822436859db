"""Whatever bytes come out of a policy process, a call returns in time with the answer to its question, or with NaN."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flight_support import make_bundle
from tests.flight_support import settings as env_settings

from sim2sky.agent.bundle import Bundle
from sim2sky.runtime.policy_process import FLOOD, RESTARTS, PolicyProcess, _Worker
from sim2sky.runtime.policy_wire import Kind, Packet, pack, pack_values, unpack
from sim2sky.runtime.state import PolicyState

OBSERVATION = np.zeros(5)
numbers = st.lists(st.floats(width=32), min_size=4, max_size=4)

# What a policy process may send: its kind, and the bytes as a function of the number asked for.
messages = st.one_of(
    st.tuples(st.just("answer"), numbers),
    st.tuples(st.just("old"), numbers),
    st.tuples(st.just("future"), numbers),
    st.tuples(st.just("short"), st.lists(st.floats(width=32), max_size=3)),
    st.tuples(st.just("kind"), st.sampled_from([k for k in Kind if k is not Kind.ACTION])),
    st.tuples(st.just("bytes"), st.binary(min_size=1, max_size=80)),
    st.tuples(st.just("flipped"), st.integers(0, 10_000)),
)


class Puppet(PolicyProcess):
    """The real thing, except that the test holds the worker's end of the socket; the process is one that sleeps."""

    other: socket.socket | None = None

    def _spawn(self) -> None:
        if self.other is not None:
            self.other.close()
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(["sleep", "600"])
        self._worker = _Worker(process, ours, self._clock.now_ns())
        self._waiting, self._fresh, self.state = False, True, PolicyState.DEAD
        self.other.send(pack_values(Kind.READY, 0, [0.0]))

    def close(self) -> None:
        super().close()
        if self.other is not None:
            self.other.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundle")
    return make_bundle(folder / "hand", env_settings())


@pytest.fixture
def puppet(bundle: Bundle) -> Iterator[Puppet]:
    with Puppet(bundle, deadline_s=0.002) as process:
        yield process


def encode(kind: str, content: object, number: int) -> bytes:
    match kind:
        case "answer":
            return pack_values(Kind.ACTION, number, content)  # type: ignore[arg-type]
        case "old":
            return pack_values(Kind.ACTION, number - 1, content)  # type: ignore[arg-type]
        case "future":
            return pack_values(Kind.ACTION, number + 1, content)  # type: ignore[arg-type]
        case "short":
            return pack_values(Kind.ACTION, number, content)  # type: ignore[arg-type]
        case "kind":
            return pack(Packet(content, number, False, b"\0" * 32))  # type: ignore[arg-type]
        case "bytes":
            assert isinstance(content, bytes)
            return content
    packed = bytearray(pack_values(Kind.ACTION, number, [0.5] * 4))
    assert isinstance(content, int)
    position = content % (len(packed) * 8)
    packed[position // 8] ^= 1 << position % 8
    return bytes(packed)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(messages, max_size=6))
def test_only_the_answer_to_the_question_is_ever_flown(puppet: Puppet, script: list[tuple[str, object]]) -> None:
    puppet.reset()
    assert puppet.state is PolicyState.ANSWERED and puppet.other is not None
    number = puppet._sequence + 1
    expected: object = None
    state = PolicyState.LATE
    for kind, content in script:
        puppet.other.send(encode(kind, content, number))
        if state is not PolicyState.LATE:
            continue
        if kind == "answer":
            expected, state = content, PolicyState.ANSWERED
        elif kind != "old":
            state = PolicyState.DEAD
    begun = time.monotonic()
    action = puppet(OBSERVATION)
    assert time.monotonic() - begun < 2.0
    assert puppet.state is state, puppet.problem
    assert np.array_equal(action, np.array(expected if expected is not None else [np.nan] * 4), equal_nan=True)
    question = unpack(puppet.other.recv(65536)) if state is not PolicyState.DEAD else None
    assert question is None or (question.kind, question.sequence) == (Kind.OBSERVATION, number)
    if puppet.state is PolicyState.ANSWERED and not np.isfinite(action).all():
        puppet.reset()  # as the agent does after an answer that is not finite


@pytest.mark.parametrize("extra", [0, 1])
def test_a_flood_of_old_answers_ends_the_process_not_the_tick(puppet: Puppet, extra: int) -> None:
    assert puppet.other is not None
    for _ in range(FLOOD - 1 + extra):
        puppet.other.send(pack_values(Kind.ACTION, 0, [0.0] * 4))
    puppet.other.send(pack_values(Kind.ACTION, puppet._sequence + 1, [0.25] * 4))
    action = puppet(OBSERVATION)
    assert (puppet.state is PolicyState.ANSWERED) == (extra == 0) and (action == 0.25).all() == (extra == 0)
    if extra:
        assert "nobody asked" in puppet.problem


def test_in_flight_at_most_so_many_processes_are_started(puppet: Puppet) -> None:
    for _ in range(40):
        if puppet.other is not None and puppet.pid is not None:
            puppet.other.send(b"nonsense")
        assert np.isnan(puppet(OBSERVATION)).all()
    assert puppet.restarts == RESTARTS and puppet.pid is None
