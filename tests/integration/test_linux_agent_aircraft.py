"""`sim2sky-agent fly` as a process on a link, against a virtual autopilot in real time: the pilot's switch, signals, a
cut connection, misuse."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
import pytest
from tests.flight_support import make_bundle, settings
from tests.link_support import serial_cable, wait_for

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment import linux_agent
from sim2sky.deployment.firmware_config import agent_sources
from sim2sky.deployment.linux_agent import build_linux_agent
from sim2sky.hil.virtual_autopilot import VirtualAutopilot
from sim2sky.runtime.channel import SerialChannel
from sim2sky.runtime.clock import RealClock
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import Address, MavlinkLink, open_link

PATIENCE_S = 90.0
# Wide, and data may be old: the machine that runs the tests may be busy, and timing is not what they are about.
LIMITS = SafetyLimits(max_range_m=6000.0, stale_data_ms=2000.0, blind_data_ms=4000.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings(), limits=LIMITS)


@pytest.fixture(scope="module")
def agent(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_linux_agent(bundle, tmp_path_factory.mktemp("agent") / "sim2sky-agent")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


class Aircraft:
    """A virtual autopilot that flies in a thread, and the pilot's hand on its switches."""

    def __init__(self, link: MavlinkLink) -> None:
        self.link = link
        self.autopilot = VirtualAutopilot(link, RealClock())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fly)

    def _fly(self) -> None:
        with contextlib.suppress(Exception):  # the agent has hung up
            while not self._stop.is_set():
                self.autopilot.step(0.004)

    def __enter__(self) -> Aircraft:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def switch(self, on: bool, channel: int = 7) -> None:
        self.autopilot.receiver_us[channel - 1] = 1900 if on else 1100


class Running:
    """The agent's process, and what it has said."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def has_said(self, words: str) -> Callable[[], bool]:
        return lambda: any(words in line for line in self.said)


@contextlib.contextmanager
def running(agent: Path, *arguments: str) -> Generator[Running, None, None]:
    run = Running([str(agent), "fly", *arguments])
    try:
        yield run
    finally:
        run.close()


def engage(aircraft: Aircraft, run: Running) -> None:
    """Move the switch until it is engaged: a busy machine may be refused at first."""
    wait_for(run.has_said("connected: virtual ArduPilot (system 1)"), "a connection", PATIENCE_S)
    time.sleep(1.0)  # the switch has been seen off

    def engaged() -> bool:
        refused = sum("not engaged" in line for line in run.said)
        aircraft.switch(True)
        deadline = time.monotonic() + 15.0
        while time.monotonic() < deadline and sum("not engaged" in line for line in run.said) == refused:
            if aircraft.autopilot.mode == "MANUAL" and "engaged" in run.said:
                return True
            time.sleep(0.05)
        aircraft.switch(False)
        time.sleep(1.0)
        return False

    wait_for(engaged, "it to engage", PATIENCE_S)


@contextlib.contextmanager
def link_over(medium: str) -> Generator[tuple[MavlinkLink, str], None, None]:
    if medium == "serial":
        with serial_cable() as (other, device):
            os.set_blocking(other, False)
            link = MavlinkLink(SerialChannel(os.dup(other)), Address("serial", "here", 0), system=1, component=1)
            try:
                yield link, f"serial:{device}:921600"
            finally:
                link.close()
        return
    with open_link(f"{medium}in:127.0.0.1:0", system=1, component=1) as link:
        yield link, f"{medium}:127.0.0.1:{link.port}"


@pytest.mark.parametrize("medium", ["udp", "tcp", "serial"])
def test_the_switch_engages_and_disengages(medium: str, agent: Path) -> None:
    with (
        link_over(medium) as (link, address),
        Aircraft(link) as aircraft,
        running(agent, "--vehicle", address, "--setpoint", "heading=30", "--hand-back", "rtl") as run,
    ):
        engage(aircraft, run)
        before = aircraft.autopilot.truth()
        time.sleep(3.0)
        after = aircraft.autopilot.truth()
        aircraft.switch(False)
        wait_for(lambda: aircraft.autopilot.mode == "RTL", "RTL", PATIENCE_S)
        wait_for(run.has_said("disengaged: "), "words", PATIENCE_S)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 130
    assert abs(after.altitude_m - before.altitude_m) < 40.0 and abs(after.roll_rad) < 1.0
    assert any(re.match("[1-9] engagements, ", line) for line in run.said) and run.said[-1] == "interrupted"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_hands_back_first(how: signal.Signals, agent: Path) -> None:
    with link_over("udp") as (link, address), Aircraft(link) as aircraft:
        with running(agent, "--vehicle", address) as run:
            engage(aircraft, run)
            run.process.send_signal(how)
            assert run.wait() == 130
        wait_for(lambda: aircraft.autopilot.mode == "LOITER", "LOITER", PATIENCE_S)
    assert run.has_said("disengaged: ")() and run.said[-1] == "interrupted"


def test_a_flight_that_nobody_engages_ends_in_time_and_touches_nothing(agent: Path) -> None:
    with link_over("udp") as (link, address), Aircraft(link) as aircraft:
        aircraft.switch(True)  # left on from the last flight
        with running(agent, "--vehicle", address, "--duration", "3", "--realtime") as run:
            assert run.wait() == 0
        assert aircraft.autopilot.mode == "LOITER" and aircraft.autopilot._sticks is None
    assert "0 engagements, 0 ticks, 0 of them the policy's, 0 late" in run.said


def test_a_cut_connection_is_an_error_and_said(agent: Path) -> None:
    with link_over("tcp") as (link, address), running(agent, "--vehicle", address) as run:
        with Aircraft(link) as aircraft:
            engage(aircraft, run)
        link.close()
        assert run.wait() == 1
    assert run.has_said("disengaged: ")() and run.has_said("nothing can be handed back")()


def test_a_process_that_is_killed_holds_the_sticks_no_longer_than_the_override_time(agent: Path) -> None:
    with link_over("udp") as (link, address), Aircraft(link) as aircraft:
        with running(agent, "--vehicle", address) as run:
            engage(aircraft, run)
            run.process.kill()
            assert run.wait() == -signal.SIGKILL
        autopilot = aircraft.autopilot
        wait_for(
            lambda: autopilot.sticks_us(RealClock().now_ns())[:4] == autopilot.receiver_us[:4], "the pilot", PATIENCE_S
        )


def test_a_policy_that_answers_otherwise_says_nothing_to_the_autopilot(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one weight is another one than when the golden answers were computed."""
    sources = agent_sources(bundle)
    weight = "0x1.99999ap-1f"  # 0.8
    assert sources["policy.c"].count(weight) > 0
    broken = {**sources, "policy.c": sources["policy.c"].replace(weight, "0x1.99999cp-1f", 1)}
    monkeypatch.setattr(linux_agent, "agent_sources", lambda given: broken)
    wrong = build_linux_agent(bundle, tmp_path / "agent")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"udp:127.0.0.1:{listening.getsockname()[1]}"
        done = misused(wrong, "--vehicle", address)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(1)
    assert done.returncode == 1
    assert re.search(r"\d+ of 256 golden vectors differently on this machine", done.stderr)


def misused(agent: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(agent), "fly", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


NOWHERE = "udp:127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--vehicle is missing"),
        (["--vehicle", "udp"], 2, "is not KIND:HOST:PORT"),
        (["--vehicle", "teensy:/dev/ttyACM0:115200"], 2, "not supported: a Teensy"),
        (["--vehicle", "udpin:0.0.0.0:7"], 2, "not supported: listening"),
        (["--vehicle", NOWHERE, "--engage", "now"], 2, "not supported: --engage now"),
        (["--vehicle", NOWHERE, "--engage", "mavlink"], 2, "not supported: --engage mavlink"),
        (["--vehicle", NOWHERE, "--engage", "rc:4"], 2, "receiver channel 4 is a stick"),
        (["--vehicle", NOWHERE, "--engage", "rc:19"], 2, "is no receiver channel"),
        (["--vehicle", NOWHERE, "--engage", "rc:"], 2, "is no receiver channel"),
        (["--vehicle", NOWHERE, "--engage", "rc:7x"], 2, "is no receiver channel"),
        (["--vehicle", NOWHERE, "--engage", "x"], 2, "is no receiver channel"),
        (["--vehicle", NOWHERE, "--kill", "rc:7"], 2, "receiver channel 7 cannot both engage and kill"),
        (["--vehicle", NOWHERE, "--setpoint", "altitud=1"], 2, "there is no 'altitud' to follow"),
        (["--vehicle", NOWHERE, "--setpoint", "altitude=x"], 2, "'altitude=x' is no number"),
        (["--vehicle", NOWHERE, "--setpoint", "altitude=nan"], 2, "is no number"),
        (["--vehicle", NOWHERE, "--setpoint", "altitude="], 2, "is no number"),
        (["--vehicle", NOWHERE, "--setpoint", "altitude"], 2, "is no number"),
        (["--vehicle", NOWHERE, "--setpoint", "airspeed=18,heading=1e999"], 2, "is no number"),
        (["--vehicle", NOWHERE, "--hand-back", "guided"], 2, "--hand-back guided: not known"),
        (["--vehicle", NOWHERE, "--duration", "-3"], 2, "--duration -3 is no time"),
        (["--vehicle", NOWHERE, "--log", "f.h5"], 2, "not supported: --log"),
        (["--vehicle", NOWHERE, "--signing-key", "k"], 2, "not supported: --signing-key"),
        (["--vehicle", NOWHERE, "--excitation", "p"], 2, "not supported: --excitation"),
        (["--vehicle", NOWHERE, "--bundle", "b"], 2, "not supported: --bundle"),
        (["--vehicle", NOWHERE, "--bogus"], 2, "unknown option"),
        (["--vehicle", NOWHERE, "more"], 2, "unknown argument 'more'"),
        (["--vehicle", NOWHERE, "--connect-timeout", "0.3"], 1, "nothing came in 0.3 s"),
        (["--vehicle", "tcp:127.0.0.1:9", "--connect-timeout", "0.3"], 1, "nobody answers"),
        (["--vehicle", "serial:/dev/null:57600"], 1, "is not a serial port"),
    ],
)
def test_misuse_and_silence_are_explained(agent: Path, arguments: list[str], code: int, message: str) -> None:
    done = misused(agent, *arguments)
    assert done.returncode == code and message in done.stderr and "\n  -> " in done.stderr, done.stderr


def test_help_says_what_there_is(agent: Path) -> None:
    done = misused(agent, "--help")
    assert done.returncode == 0 and "--hand-back" in done.stdout and "--kill" in done.stdout


def test_rubbish_on_the_line_is_told_to_be_of_another_baud_rate(agent: Path) -> None:
    with serial_cable() as (other, device):
        stop = threading.Event()

        def rubbish() -> None:
            while not stop.wait(0.05):
                os.write(other, b"\x00\x80\xf8\x78" * 8)

        thread = threading.Thread(target=rubbish)
        thread.start()
        try:
            done = misused(agent, "--vehicle", f"serial:{device}:57600", "--connect-timeout", "3")
        finally:
            stop.set()
            thread.join()
    assert done.returncode == 1 and "no MAVLink" in done.stderr and "baud rate" in done.stderr
