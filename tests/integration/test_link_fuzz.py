"""Short form of `benchmarks/link_fuzz.py`: no crash, no command; and that the fuzz would see one."""

from __future__ import annotations

import random

import pytest
from benchmarks import link_fuzz
from benchmarks.link_fuzz import RECEIVERS, Feed, Result, damaged, good_packets, packets

from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.link import Address, MavlinkLink
from sim2sky.runtime.mavlink_vehicle import COMPONENT, WANTED, MavlinkVehicle
from sim2sky.runtime.signing import Signer
from sim2sky.runtime.vehicle import Request

N = 6000


@pytest.mark.parametrize("name", RECEIVERS)
def test_damaged_and_random_packets_do_nothing(name: str) -> None:
    result = RECEIVERS[name](N, 1)
    assert result.packets == N
    assert (result.commands, result.control) == (0, 0)
    # A checksum of 16 bits lets 1 of 65,536 damaged packets pass: of these 3,000 more than two in 1 of 60,000 runs.
    assert result.states <= result.passed <= (0 if "signed" in name else 2)


def test_good_packets_would_have_been_seen() -> None:
    """Negative control: what is damaged there does become identity, state and commands when it is whole."""
    channel, clock = Feed(whole=True), ManualClock(10**9)
    link = MavlinkLink(channel, Address("udp", "fuzz", 1), system=1, component=COMPONENT, wanted=WANTED)
    vehicle = MavlinkVehicle(link, clock, 20.0)
    requests = []
    for data in good_packets():
        channel.data = data
        vehicle.receive(0.0)
        requests += [asked.request for asked in vehicle.requests()]
    assert vehicle.reading.sample is not None and vehicle.kind is not None
    assert {Request.ENGAGE, Request.KILL, Request.ARM} <= set(requests)


def test_a_checksum_that_is_not_looked_at_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with MAVLink's checksum switched off, damaged packets pass."""
    monkeypatch.setattr("pymavlink.dialects.v20.common.MAVLINK_IGNORE_CRC", True)
    assert link_fuzz.fuzz_vehicle(2000, 1, whole=True, signed=False).passed > 50


def test_a_signature_catches_what_a_checksum_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymavlink.dialects.v20.common.MAVLINK_IGNORE_CRC", True)
    result = link_fuzz.fuzz_vehicle(2000, 1, whole=True, signed=True)
    assert (result.passed, result.states, result.commands) == (0, 0, 0)


def test_no_fed_packet_holds_a_good_one() -> None:
    good, result = good_packets(Signer(link_fuzz.KEY)), Result("x")
    for data in packets(random.Random(3), good, 500, result):
        assert not any(whole in data for whole in good)
    assert any(damaged(random.Random(k), good) not in good for k in range(5)) and result.packets == 500
