"""Each fault does what its name says, when it says, as often as it says, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flight_support import sample
from tests.flight_support import settings as environment

from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.fault_schedule import Fault
from sim2sky.hil.faults import CorruptedMessage, FaultyChannel, FaultyVehicle, damage
from sim2sky.runtime import messages
from sim2sky.runtime.link import mavlink, open_link
from sim2sky.runtime.state import Command

PERIOD = 0.05


def channel(*faults: dict[str, Any], direction: str = "states", seed: int = 0) -> tuple[FaultyChannel, Counter[str]]:
    applied: Counter[str] = Counter()
    script = [Fault.model_validate({"start_s": 1.0, **fault}) for fault in faults]
    return FaultyChannel(script, direction, np.random.default_rng(seed), applied), applied


def carried(line: FaultyChannel, ticks: int = 100) -> list[list[int]]:
    """Numbers of the packets that arrive at each tick; packet k is sent at tick k."""
    return [[p[0] for p in line.carry([k], k * PERIOD)] for k in range(ticks)]


def test_a_channel_without_faults_carries_everything_at_once() -> None:
    line, applied = channel({"kind": "stuck", "channels": ["rudder"]}, {"kind": "drop", "direction": "commands"})
    assert carried(line) == [[k] for k in range(100)] and not applied


@pytest.mark.parametrize("kind", ["drop", "dropout"])
def test_lost_packets_never_arrive_and_only_while_the_fault_is_there(kind: str) -> None:
    line, applied = channel({"kind": kind, "duration_s": 1.0})
    arrived = carried(line)
    assert arrived == [[] if 20 <= k < 40 else [k] for k in range(100)] and applied == {kind: 20}


def test_a_sensor_dropout_is_none_of_the_commands_business() -> None:
    line, applied = channel({"kind": "dropout"}, direction="commands")
    assert carried(line) == [[k] for k in range(100)] and not applied


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_probability_is_kept(seed: int, probability: float) -> None:
    line, applied = channel({"kind": "drop", "probability": probability}, seed=seed)
    arrived = [p for tick in carried(line, 2020) for p in tick]
    sigma = math.sqrt(2000 * probability * (1 - probability))
    assert abs(applied["drop"] - 2000 * probability) < 6 * sigma and len(arrived) == 2020 - applied["drop"]


def test_the_same_seed_loses_the_same_packets() -> None:
    runs = [carried(channel({"kind": "drop", "probability": 0.5}, seed=seed)[0]) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_delay_is_a_delay_of_so_many_periods_in_order() -> None:
    line, applied = channel({"kind": "delay", "delay_s": 0.15, "duration_s": 1.0})
    arrived = carried(line)
    assert [t for t, packets in enumerate(arrived) for p in packets if p == 25] == [28]
    assert arrived[20:23] == [[], [], []] and arrived[23] == [20]
    assert arrived[40:43] == [[37, 40], [38, 41], [39, 42]] and applied == {"delay": 20}
    assert sorted(p for tick in arrived for p in tick) == list(range(100))


def test_jitter_stays_below_its_longest_and_reordering_overtakes() -> None:
    line, _ = channel({"kind": "jitter", "delay_s": 0.2})
    late = {p: tick - p for tick, packets in enumerate(carried(line, 300)) for p in packets}
    assert set(late.values()) == {0, 1, 2, 3, 4}
    line, applied = channel({"kind": "reorder", "probability": 0.3, "delay_s": 0.1})
    order = [p for tick in carried(line) for p in tick]
    assert order != sorted(order) and applied["reorder"] > 10


def test_duplicates_come_twice() -> None:
    line, applied = channel({"kind": "duplicate", "duration_s": 1.0})
    assert carried(line) == [[k, k] if 20 <= k < 40 else [k] for k in range(100)] and applied == {"duplicate": 20}


@given(st.binary(min_size=3, max_size=300), st.integers(0, 2**32 - 1))
def test_damage_changes_one_to_three_bytes(data: bytes, seed: int) -> None:
    damaged = damage(data, np.random.default_rng(seed))
    assert len(damaged) == len(data) and 1 <= sum(a != b for a, b in zip(data, damaged, strict=True)) <= 3


def test_a_corrupted_state_is_dropped_by_the_real_parser_and_the_next_is_read() -> None:
    rng = np.random.default_rng(0)
    with (
        open_link("udpin:127.0.0.1:0", system=1, component=191) as agent,
        open_link(f"udp:127.0.0.1:{agent.port}", system=1, component=1) as plant,
    ):
        seen = 0
        for k in range(200):
            plant.send(CorruptedMessage(messages.hil_state(sample(), 50_000 * k), rng))
            plant.send(messages.hil_state(sample(), 7))
            while not (got := agent.receive(5.0)) or got[-1].time_usec != 7:
                seen += len(got)
            seen += len(got) - 1
        # A CRC of 16 bits lets one damaged frame in 65,000 pass; a damaged sequence number is caught by it as well.
        assert seen <= 1 and agent.statistics.damaged >= 199


def test_a_corrupted_command_is_caught_by_the_checksum() -> None:
    rng = np.random.default_rng(0)
    sender = mavlink.MAVLink(None, srcSystem=1, srcComponent=191)
    packed = messages.actuator_controls(Command(0.1, 0.2, 0.3, 0.4), 50_000, 0, 0, lockstep=True).pack(sender)
    received = mavlink.MAVLink(None).decode(bytearray(packed))
    assert [CorruptedMessage.received(received, rng) for _ in range(300)].count(None) >= 299
    line, applied = channel({"kind": "corrupt"}, direction="commands")
    assert line.carry([received], 0.5) == [[received]] and line.carry([received], 1.5) == [[]]
    assert applied == {"corrupt": 1}


def fly(
    *faults: dict[str, Any], commands: Any = None, ticks: int = 60
) -> tuple[list[Any], FaultyVehicle, Counter[str]]:
    """What the sensors say at each tick, on a fixed seed and calm air."""
    vehicle = FaultyVehicle(environment())
    applied: Counter[str] = Counter()
    vehicle.inject([Fault.model_validate({"start_s": 1.0, **fault}) for fault in faults], applied)
    samples = [vehicle.reset(4)]
    samples += [vehicle.step(vehicle.airframe.trim) for _ in range(ticks)]
    return samples, vehicle, applied


def test_without_faults_it_is_the_simulated_aircraft_to_the_bit() -> None:
    samples, _, applied = fly()
    plain = SimVehicle(environment())
    expected = [plain.reset(4), *(plain.step(plain.airframe.trim) for _ in range(60))]
    assert samples == expected and not applied


def test_a_bias_is_added_to_its_signal_alone() -> None:
    (clean, _, _), (biased, _, applied) = fly(), fly({"kind": "bias", "signals": ["roll_rad"], "offset": 0.2})
    for k, (a, b) in enumerate(zip(clean, biased, strict=True)):
        assert b.roll_rad - a.roll_rad == pytest.approx(0.2 if k >= 20 else 0.0)
        assert (a.pitch_rad, a.airspeed_mps, a.time_ns) == (b.pitch_rad, b.airspeed_mps, b.time_ns)
    assert applied["bias"] == 41


def test_frozen_values_stay_while_time_goes_on() -> None:
    clean, _, _ = fly()
    frozen, _, _ = fly({"kind": "freeze", "duration_s": 1.0})
    assert len({(s.roll_rad, s.altitude_m) for s in frozen[20:40]}) == 1
    assert frozen[20].roll_rad == clean[20].roll_rad and frozen[40:] == clean[40:]
    assert [s.time_ns for s in frozen] == [s.time_ns for s in clean]


def test_nan_is_nan_while_it_lasts() -> None:
    samples, _, _ = fly({"kind": "nan", "signals": ["q_radps"], "duration_s": 0.5})
    assert [math.isnan(s.q_radps) for s in samples] == [20 <= k < 30 for k in range(61)]
    assert not any(math.isnan(s.p_radps) for s in samples)


def wiggle(k: int) -> Command:
    return Command(0.2 * math.sin(k), 0.1, 0.3 * math.cos(k), 0.5 + 0.2 * math.sin(k))


def surfaces(*faults: dict[str, Any]) -> list[Command]:
    """What reached the actuators."""
    vehicle = FaultyVehicle(environment())
    vehicle.inject([Fault.model_validate({"start_s": 1.0, **fault}) for fault in faults], Counter())
    vehicle.reset(4)
    return [vehicle._actuated(wiggle(k), k * PERIOD) for k in range(60)]


def test_stuck_reversed_and_slow_actuators() -> None:
    asked = [wiggle(k) for k in range(60)]
    stuck = surfaces({"kind": "stuck", "channels": ["rudder"], "duration_s": 1.0})
    assert {c.rudder for c in stuck[20:40]} == {asked[19].rudder} and stuck[40:] == asked[40:]
    assert [c.aileron for c in stuck] == [c.aileron for c in asked]
    hard_over = surfaces({"kind": "stuck", "channels": ["elevator"], "position": 1.0})
    assert {c.elevator for c in hard_over[20:]} == {1.0} and {c.elevator for c in hard_over[:20]} == {0.1}
    backwards = surfaces({"kind": "reversed", "channels": ["aileron"]})
    assert [c.aileron for c in backwards[20:]] == [-c.aileron for c in asked[20:]]
    slow = surfaces({"kind": "slow", "channels": ["rudder"], "rate_per_s": 0.5})
    steps = np.abs(np.diff([c.rudder for c in slow[19:]]))
    assert steps.max() == pytest.approx(0.5 * PERIOD) and [c.throttle for c in slow] == [c.throttle for c in asked]


def test_thrust_loss_slows_the_aircraft_and_ends_with_the_flight() -> None:
    clean, _, _ = fly(ticks=120)
    dead, vehicle, applied = fly({"kind": "thrust_loss", "factor": 0.0}, ticks=120)
    energy = [9.81 * s[-1].altitude_m + 0.5 * s[-1].airspeed_mps ** 2 for s in (clean, dead)]
    assert energy[1] < energy[0] - 50.0 and applied["thrust_loss"] == 100
    assert dead[:21] == clean[:21]
    vehicle.inject([], Counter())
    again = [vehicle.reset(4), *(vehicle.step(vehicle.airframe.trim) for _ in range(120))]
    assert again == clean
