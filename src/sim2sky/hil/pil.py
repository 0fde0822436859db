"""Processor in the loop: the flight agent on a microcontroller, real or emulated, asked step by step.

The protocol is that of `firmware/core/pil.h`. Doubles travel as doubles, so the chip flies exactly what the simulator
flies, and its answers are those of the same C on any other machine, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from struct import Struct
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract
from sim2sky.errors import LinkError, TargetError
from sim2sky.runtime.channel import Channel
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.state import CHANNELS, Command, PolicyState, Sample, Setpoint
from sim2sky.runtime.teensy import FrameReader, encode_frame

__all__ = ["ChipAgent", "ChipGuard", "ChipIdentity", "PilLink", "PolicyAnswer", "SelfTest"]

VERSION = 1
_STEP_FLOATS = 1 + 4 + 4 + 8 + 8 * len(CHANNELS)
ANSWER_S = 10.0
"""No question takes so long: replaying the golden vectors of a large net over a UART is the longest."""

_STEP = Struct("<cqq22d")
_IDENTITY = Struct("<cB32s32s32sHHIdI")
_TEST = Struct("<cIII")
_MEASURED = attrgetter(*(f.name for f in fields(Sample)))
_FOLLOWED = attrgetter(*(f.name for f in fields(Setpoint)))
_REFUSALS = {1: "an unknown question", 2: "a question of the wrong length", 3: "a damaged frame"}


@dataclass(frozen=True, slots=True)
class ChipIdentity:
    """What the firmware says it is.

    Attributes:
        contract_hash, bundle_digest: of the bundle it was built from, hexadecimal.
        policy_digest: sha256 of that bundle's network.
        observations, actions: sizes of the policy.
        golden: how many golden vectors it holds.
        rate_hz: control rate.
        damaged: frames it has received with a wrong check sum.
    """

    contract_hash: str
    bundle_digest: str
    policy_digest: str
    observations: int
    actions: int
    golden: int
    rate_hz: float
    damaged: int


class SelfTest(NamedTuple):
    """Golden vectors compared with `==` on the chip; `first` is the number of the first that differs."""

    compared: int
    different: int
    first: int


class PolicyAnswer(NamedTuple):
    """What the policy alone answered, and how many instructions it took; 0 where they are not counted."""

    status: int
    action: NDArray[np.float32]
    instructions: int


class PilLink:
    """Questions to the firmware and its answers.

    Args:
        channel: to it.
        ended: says why it can answer no more, or nothing.
        name: of the chip, for errors.
        timeout_s: an answer takes no longer.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        ended: Callable[[], str] = lambda: "",
        name: str = "the board",
        timeout_s: float = ANSWER_S,
    ) -> None:
        self._channel = channel
        self._ended = ended
        self._name = name
        self._timeout_s = timeout_s
        self._reader = FrameReader()

    def ask(self, question: bytes) -> bytes:
        """The payload that answers a payload.

        Raises:
            LinkError: no answer, a damaged one, an answer to something else, or the chip has ended.
        """
        try:
            if not self._channel.send(encode_frame(question)):
                raise LinkError(self._ended() or f"{self._name} does not take what it is sent", hint="reset it")
            answer = self._answer()
        except (OSError, EOFError) as error:
            time.sleep(0.05)  # until its end can be told
            reason = self._ended() or f"the connection to {self._name} broke"
            raise LinkError(reason, hint="was it unplugged, or reset?") from error
        if answer[:1] == b"e" and len(answer) == 2:
            raise LinkError(
                f"{self._name} refused {question[:1].decode()!r}: {_REFUSALS.get(answer[1], f'error {answer[1]}')}",
                hint="is the baud rate right on both sides, and the firmware of this version?",
            )
        if answer[:1] != question[:1].lower():
            raise LinkError(f"{self._name} answered {question[:1].decode()!r} with {answer[:1]!r}", hint="reset it")
        return answer

    def _answer(self) -> bytes:
        reader, damaged = self._reader, self._reader.damaged
        payloads = reader.feed(self._channel.receive(self._timeout_s))
        if not payloads:
            deadline = time.monotonic() + self._timeout_s
            while not payloads and (left := deadline - time.monotonic()) > 0.0 and not self._ended():
                payloads = reader.feed(self._channel.receive(min(left, 0.1)))
        if not payloads:
            raise self._silence(damaged)
        return payloads[0]

    def _silence(self, damaged: int) -> LinkError:
        if reason := self._ended():
            return LinkError(reason)
        if self._reader.damaged > damaged or self._reader.pending > 0:
            return LinkError(
                f"what {self._name} answered is damaged or cut short (it did not pass its check sum)",
                hint="is the baud rate right on both sides, and the cable short?",
            )
        return LinkError(
            f"{self._name} did not answer within {self._timeout_s:g} s",
            hint="is our firmware on it (sim2sky firmware BUNDLE -o FOLDER --port teensy41), and the baud rate right?",
        )

    def identify(self) -> ChipIdentity:
        """What the firmware was built from.

        Raises:
            LinkError: see `ask`.
            TargetError: firmware of another version of this protocol.
        """
        answer = self.ask(b"I")
        if len(answer) != _IDENTITY.size or answer[1] != VERSION:
            raise TargetError(
                f"{self._name} speaks another version of the protocol than this sim2sky", hint="flash it again"
            )
        _, _, contract, bundle, policy, *rest = _IDENTITY.unpack(answer)
        return ChipIdentity(contract.hex(), bundle.hex(), policy.hex(), *rest)

    def self_test(self) -> SelfTest:
        """Let it replay its golden vectors. Raises LinkError."""
        _, compared, different, first = _TEST.unpack(self.ask(b"T"))
        return SelfTest(compared, different, first)

    def forget(self) -> None:
        """Reset the policy's recurrent state. Raises LinkError."""
        self.ask(b"F")

    def policy(self, observation: NDArray[np.float32], time_ns: int) -> PolicyAnswer:
        """Ask the policy alone, without a guard.

        Args:
            observation: (n,) float32.
            time_ns: of this question; a question before the next control period is due repeats the last answer.

        Raises:
            LinkError: see `ask`; the size of the observation is another.
        """
        answer = self.ask(b"P" + time_ns.to_bytes(8, "little") + observation.astype("<f4").tobytes())
        status, instructions = int.from_bytes(answer[1:5], "little"), int.from_bytes(answer[-8:], "little")
        return PolicyAnswer(status, np.frombuffer(answer[5:-8], "<f4"), instructions)

    def switch(self, kind: bytes) -> bool:
        """Kill, disarm or arm: `K`, `D`, `A`; whether it was done. Raises LinkError."""
        return self.ask(kind)[1:] == b"\x01"

    def end(self) -> None:
        """Tell an emulated chip to end. Raises LinkError."""
        self.ask(b"Q")


class ChipGuard:
    """The switches of the guard on the chip; see `SafetyMonitor`."""

    def __init__(self, link: PilLink) -> None:
        self._link = link

    def kill(self) -> bool:
        """Latch the kill switch; False where the limits disable it."""
        return self._link.switch(b"K")

    def disarm(self) -> None:
        """Stop commanding; the first of the two steps back after a kill."""
        self._link.switch(b"D")

    def arm(self) -> bool:
        """Command again; False while a kill is latched."""
        return self._link.switch(b"A")


class ChipAgent:
    """`FlightAgent` on a chip: same `reset`, `tick` and answers.

    Args:
        link: to it.
        contract: of the bundle it must have been built from.

    Attributes:
        contract: as given.
        identity: what the firmware said.
        instructions: of the last tick; 0 where they are not counted.
        monitor: the switches of its guard.

    Raises:
        TargetError: the firmware was built for another contract.
        LinkError: see `PilLink.ask`.
    """

    policy_state = PolicyState.ANSWERED  # in one program with the agent, the policy is neither late nor dead

    def __init__(self, link: PilLink, contract: Contract) -> None:
        self.contract = contract
        self.identity = link.identify()
        if self.identity.contract_hash != contract.hash:
            raise TargetError(
                f"the firmware was built for contract {self.identity.contract_hash[:16]}, not {contract.hash[:16]}",
                hint="build and flash it again for this bundle",
            )
        self.monitor = ChipGuard(link)
        self.instructions = 0
        self._ask = link.ask
        self._answer = Struct(f"<ciIQ4d4f{self.identity.observations}f")

    def reset(self) -> None:
        """See `FlightAgent`."""
        self._ask(b"R")

    def tick(self, sample: Sample, setpoint: Setpoint, now_ns: int, *, battery_v: float = math.nan) -> Tick:
        """See `FlightAgent`."""
        question = _STEP.pack(b"S", now_ns, *_MEASURED(sample), *_FOLLOWED(setpoint), battery_v)
        answer = self._ask(question)
        _, mode, trips, self.instructions, a, e, r, t, *_ = self._answer.unpack(answer)
        floats = np.frombuffer(answer, "<f4", offset=_STEP_FLOATS)
        return Tick(Command(a, e, r, t), floats[: len(CHANNELS)], floats[len(CHANNELS) :], mode, trips)

    @classmethod
    def expecting(cls, link: PilLink, contract: Contract, bundle_digest: str) -> Self:
        """As the constructor, and the firmware must have been built from this very bundle.

        Raises:
            TargetError: it was not.
        """
        agent = cls(link, contract)
        if agent.identity.bundle_digest != bundle_digest:
            raise TargetError(
                f"the firmware was built from bundle {agent.identity.bundle_digest[:16]}, not {bundle_digest[:16]}",
                hint="sim2sky firmware BUNDLE -o FOLDER --port teensy41, then build and flash it",
            )
        return agent
