"""Random and damaged packets into every link: nothing may crash, and nothing may become a command.

    python benchmarks/link_fuzz.py [PACKETS]

PACKETS (default 1,000,000) go into each of six receivers: the MAVLink vehicle over datagrams and over a stream,
unsigned and signed; the HIL link; the Teensy. Half of them are random bytes, half are good packets that were damaged:
bytes changed, cut out, put in, cut off, two of them mixed. A checksum of 16 bits lets 1 damaged packet in 65,536 pass;
those are counted, and what became of them. Where pieces in a stream happen to make up a whole good packet again, byte
for byte, that is no damage: such packets are taken out and counted as `whole`. With signing on none may pass.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import describe_machine

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output
from sim2sky.runtime import messages
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.link import Address, MavlinkLink, mavlink
from sim2sky.runtime.loop import WANTED as HIL_WANTED
from sim2sky.runtime.mavlink_vehicle import COMPONENT, WANTED, MavlinkVehicle
from sim2sky.runtime.observation import signal
from sim2sky.runtime.signing import Signer
from sim2sky.runtime.state import Command, Sample, Setpoint
from sim2sky.runtime.teensy import TeensyState, TeensyVehicle, state_frame
from sim2sky.runtime.vehicle import Control

KEY = bytes(range(32))
ASKED_USEC = 51_000
HIL_COMMANDS = {
    messages.EPISODE_START, messages.EPISODE_END, mavlink.MAV_CMD_DO_FLIGHTTERMINATION,
    mavlink.MAV_CMD_COMPONENT_ARM_DISARM, mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN,
}  # fmt: skip
LEVEL = Sample(0, 0.1, 0.05, 0.3, 0.0, 0.0, 0.0, 18.0, 150.0, 0.0, 10.0, 20.0, 15.0, 3.0)


class Feed:
    """A channel that delivers what it is given and swallows what is sent."""

    foreign = dropped = 0

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.data = b""
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> bool:
        self.sent.append(data)
        del self.sent[:-4]
        return True

    def receive(self, timeout_s: float) -> bytes:  # noqa: ARG002
        data, self.data = self.data, b""
        return data

    def accept(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Result:
    """What became of the packets of one receiver.

    Attributes:
        packets: fed, damaged or random.
        whole: good packets that came about again in spite of all; taken out.
        passed: damaged frames whose checksum (and signature) held.
        states: of these, how many changed the state estimate.
        commands: how many became a command or request.
        control: how often they changed who has control.
    """

    name: str
    packets: int = 0
    whole: int = 0
    passed: int = 0
    states: int = 0
    commands: int = 0
    control: int = 0
    seconds: float = 0.0


def damaged(rng: random.Random, good: list[bytes]) -> bytes:
    """A good packet with something wrong."""
    data = bytearray(rng.choice(good))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= rng.randint(1, 255)
    elif kind == 1:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        at = rng.randrange(len(data))
        del data[at : at + rng.randint(1, 8)]
    elif kind == 3:
        at = rng.randrange(len(data) + 1)
        data[at:at] = rng.randbytes(rng.randint(1, 8))
    elif kind == 4:
        del data[rng.randrange(len(data)) :]
    else:
        other = rng.choice(good)
        data = data[: rng.randrange(len(data))] + bytearray(other[rng.randrange(len(other)) :])
    return bytes(data)


def packets(rng: random.Random, good: list[bytes], n: int, result: Result) -> Any:
    """`n` packets of which none holds a good one."""
    while result.packets < n:
        if result.packets % 2:
            data = damaged(rng, good)
            if any(whole in data for whole in good):
                result.whole += 1
                continue
        else:
            data = rng.randbytes(rng.randint(0, 300))
        result.packets += 1
        yield data


class FuzzLink(MavlinkLink):
    """A link that takes good packets out and counts what else passes."""

    good: frozenset[bytes] = frozenset()
    result = Result("")

    def receive(self, timeout_s: float) -> list[Any]:
        """As `MavlinkLink`."""
        messages = super().receive(timeout_s)
        damaged = [m for m in messages if bytes(m.get_msgbuf()) not in self.good]
        self.result.whole += len(messages) - len(damaged)
        self.result.passed += len(damaged)
        return damaged


def good_packets(signer: Signer | None = None) -> list[bytes]:
    """Everything an autopilot or a ground station could send us, as valid frames."""
    packer = mavlink.MAVLink(None, 1, 1)
    station = mavlink.MAVLink(None, 255, 190)
    for p in (packer, station):
        if signer is not None:
            p.signing.secret_key, p.signing.sign_outgoing, p.signing.timestamp = KEY, True, signer.stamp()
    q = [1.0, 0.0, 0.0, 0.0]
    ours = [
        mavlink.MAVLink_heartbeat_message(1, 3, 161, 12, 4, 3),
        mavlink.MAVLink_home_position_message(473977420, 85455940, 488000, 0, 0, 0, q, 0, 0, 0),
        mavlink.MAVLink_attitude_message(1000, 0.1, 0.05, 0.3, 0.0, 0.0, 0.0),
        mavlink.MAVLink_attitude_quaternion_message(1000, *q, 0.0, 0.0, 0.0),
        mavlink.MAVLink_global_position_int_message(1000, 473977420, 85455940, 638000, 150000, 1500, 300, 0, 1700),
        mavlink.MAVLink_local_position_ned_message(1000, 1.0, 2.0, -150.0, 15.0, 3.0, 0.0),
        mavlink.MAVLink_vfr_hud_message(18.0, 17.0, 17, 60, 638.0, 0.0),
        mavlink.MAVLink_rc_channels_message(1000, 16, *(1500,) * 18, 255),
        mavlink.MAVLink_servo_output_raw_message(1000, 0, *(1500,) * 8),
        mavlink.MAVLink_sys_status_message(0, 0, 0, 100, 12100, -1, 80, 0, 0, 0, 0, 0, 0),
        mavlink.MAVLink_timesync_message(1_010_000_000, 990_000_000),
        mavlink.MAVLink_param_value_message(b"SYSID_MYGCS", 1.0, 9, 1, 0),
        mavlink.MAVLink_command_ack_message(mavlink.MAV_CMD_DO_SET_MODE, 0),
    ]
    theirs: list[Any] = [
        mavlink.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3),
        *(
            mavlink.MAVLink_command_long_message(1, COMPONENT, number, 0, 1.0, 0, 0, 0, 0, 0, 0)
            for number in (
                mavlink.MAV_CMD_NAV_GUIDED_ENABLE,
                mavlink.MAV_CMD_DO_FLIGHTTERMINATION,
                mavlink.MAV_CMD_COMPONENT_ARM_DISARM,
                mavlink.MAV_CMD_DO_CHANGE_ALTITUDE,
            )
        ),
    ]
    return [bytes(m.pack(packer)) for m in ours] + [bytes(m.pack(station)) for m in theirs]


def fuzz_vehicle(n: int, seed: int, *, whole: bool, signed: bool) -> Result:
    """The MAVLink vehicle, connected and in control, with a ground station announced."""
    name = f"MAVLink {'signed ' if signed else ''}{'datagrams' if whole else 'stream'}"
    rng, result, clock = random.Random(seed), Result(name), ManualClock(10**9)
    signer = Signer(KEY, now_ticks=lambda: 10**10) if signed else None
    channel = Feed(whole=whole)
    link = FuzzLink(channel, Address("udp", "fuzz", 1), system=1, component=COMPONENT, wanted=WANTED, signer=signer)
    vehicle = MavlinkVehicle(link, clock, 20.0)
    good = good_packets(signer)
    for data in good:  # all that makes it identified, with a state, and a station known
        channel.data = data
        vehicle.receive(0.0)
    vehicle.requests()
    vehicle.reading.control = Control.OURS
    link.good, link.result = frozenset(good), result
    began = time.perf_counter()
    state, passed = vehicle.telemetry.sample(), 0
    for data in packets(rng, good, n, result):
        channel.data = data
        clock.time_ns += 1000
        vehicle.receive(0.0)
        if vehicle.reading.control is not Control.OURS:
            result.control += 1
            vehicle.reading.control = Control.OURS
        result.commands += len(vehicle.requests())
        if result.passed != passed:
            passed = result.passed
            if vehicle.telemetry.sample() != state:
                state = vehicle.telemetry.sample()
                result.states += 1
    result.seconds = time.perf_counter() - began
    return result


def fuzz_hil(n: int, seed: int) -> Result:
    """The decoders behind the HIL loop's link: states, setpoints, commands; and the plant's for what comes back."""
    rng, result = random.Random(seed), Result("HIL datagrams")
    channel = Feed(whole=True)
    wanted = {*HIL_WANTED, mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS}
    link = FuzzLink(channel, Address("udp", "fuzz", 1), system=1, component=191, wanted=wanted)
    packer = mavlink.MAVLink(None, 1, 1)
    sent = [
        messages.hil_state(LEVEL, 1000),
        messages.actuator_controls(Command(0.1, 0.2, 0.3, 0.4), 1000, 0, lockstep=True),
        messages.episode_start(1, 7, 20.0),
        *messages.episode_end(1, success=True, termination="completed"),
        *messages.setpoint_messages(Setpoint(150.0, 18.0, 0.3), 1000).values(),
    ]
    good = [bytes(m.pack(packer)) for m in sent]
    link.good, link.result = frozenset(good), result
    began = time.perf_counter()
    for data in packets(rng, good, n, result):
        channel.data = data
        for message in link.receive(0.0):
            number = message.get_msgId()
            if number == mavlink.MAVLINK_MSG_ID_HIL_STATE_QUATERNION:
                messages.sample_from(message, 0)
                result.states += 1
            elif number == mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS:
                # The plant takes the answer to its last question only.
                result.commands += message.time_usec == ASKED_USEC
            elif number == mavlink.MAVLINK_MSG_ID_COMMAND_LONG:
                setpoint = messages.decode_command_setpoint(message) is not None
                result.commands += setpoint or message.command in HIL_COMMANDS
    result.seconds = time.perf_counter() - began
    return result


def fuzz_teensy(n: int, seed: int) -> Result:
    """The Teensy vehicle: its stream of states."""
    actions = tuple(ActionSignal(c, "1", -1.0, 1.0, -1.0, 0.0, 1.0, 0.4) for c in ("aileron", "elevator", "rudder"))
    box = Input("observation", "box", (1,), "float32", (signal("roll_rad"),))
    contract = Contract("x", "rate", 20.0, (box,), Output("continuous", actions))
    rng, result, channel = random.Random(seed), Result("Teensy stream"), Feed(whole=False)
    vehicle = TeensyVehicle(channel, ManualClock(10**9), contract, airspeed_mps=18.0)
    levels = [TeensyState(float(k), 0.1, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, -9.8, 47.0, 8.0, 500.0) for k in (1, 2, 7)]
    good = [state_frame(level) for level in levels]
    feed, payloads = vehicle.reader.feed, {frame[3:-2] for frame in good}

    def without_whole_ones(data: bytes) -> list[bytes]:
        found = feed(data)
        damaged = [payload for payload in found if payload not in payloads]
        result.whole += len(found) - len(damaged)
        result.passed += len(damaged)
        return damaged

    vehicle.reader.feed = without_whole_ones  # type: ignore[method-assign]
    began = time.perf_counter()
    for data in packets(rng, good, n, result):
        channel.data = data
        before = vehicle.reading.sample
        vehicle.receive(0.0)
        result.states += vehicle.reading.sample is not before
    result.seconds = time.perf_counter() - began
    return result


RECEIVERS: dict[str, Callable[[int, int], Result]] = {
    "datagrams": lambda n, seed: fuzz_vehicle(n, seed, whole=True, signed=False),
    "stream": lambda n, seed: fuzz_vehicle(n, seed, whole=False, signed=False),
    "signed": lambda n, seed: fuzz_vehicle(n, seed, whole=True, signed=True),
    "signed stream": lambda n, seed: fuzz_vehicle(n, seed, whole=False, signed=True),
    "hil": fuzz_hil,
    "teensy": fuzz_teensy,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packets", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(describe_machine("pymavlink"))
    columns = ("packets", "whole", "passed", "states", "commands", "control", "us each")
    print(f"{'receiver':<26}" + "".join(f"{column:>10}" for column in columns))
    for fuzz in RECEIVERS.values():
        r = fuzz(options.packets, options.seed)
        counts = (r.packets, r.whole, r.passed, r.states, r.commands, r.control)
        counts = (r.packets, r.whole, r.passed, r.states, r.commands, r.control)
        each = r.seconds / max(r.packets, 1) * 1e6
        print(f"{r.name:<26}" + "".join(f"{count:>10}" for count in counts) + f"{each:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
