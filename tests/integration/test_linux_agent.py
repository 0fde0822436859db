"""The flight agent without Python: it flies HIL episodes as the Python agent does, and answers every message alike."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.flight_support import agent_command, agent_environment, make_bundle, settings
from tests.link_support import serial_cable

from sim2sky.agent.bundle import Bundle
from sim2sky.cli import run
from sim2sky.deployment import linux_agent
from sim2sky.deployment.firmware_config import agent_sources
from sim2sky.deployment.linux_agent import build_linux_agent
from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.errors import LinkError
from sim2sky.hil.hil_test import compare_with_simulation, run_hil
from sim2sky.runtime import messages
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import MavlinkLink, mavlink, open_link
from sim2sky.runtime.state import Sample, Setpoint

ROOT = Path(__file__).parents[2]
ENV = {**agent_environment(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings())


@pytest.fixture(scope="module")
def agent(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_linux_agent(bundle, tmp_path_factory.mktemp("agent") / "sim2sky-agent")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def twin_command(bundle: Bundle) -> list[str]:
    return [sys.executable, "-m", "tests.twin_agent", "--bundle", str(bundle.path)]


def alone(agent: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(agent), *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


# Flights


def test_episodes_are_those_of_the_python_agent_with_the_same_arithmetic(bundle: Bundle, agent: Path) -> None:
    """To the last bit: tracking errors and action rates included. onnxruntime sums in another order: nearly."""
    env, seeds = settings(), [11, 12, 13]
    ours = run_hil([str(agent)], env, seeds, bundle_digest=bundle.digest)
    assert ours.outcomes == run_hil(twin_command(bundle), env, seeds, environment=ENV).outcomes
    assert ours.success_rate == 1.0
    assert ours.identity.contract_hash == bundle.contract.hash[:16]
    shipped = run_hil(agent_command(bundle), env, seeds, environment=ENV)
    agreement = compare_with_simulation(ours.outcomes, shipped.outcomes)
    assert agreement.agrees and agreement.same_duration == 3
    assert agreement.tracking_rmse_difference["altitude_rmse_m"] < 0.01


@pytest.mark.parametrize("task", ["attitude", "rate"])
def test_the_other_tasks_and_an_agent_that_the_guard_stops_fly_alike_over_tcp(task: str, tmp_path: Path) -> None:
    env = settings(name=task, duration_s=6.0, hold_s=1.0)
    bundle = make_bundle(tmp_path / "b", env, limits=SafetyLimits(roll_max=8.0))
    agent = build_linux_agent(bundle, tmp_path / "agent")
    ours = run_hil([str(agent)], env, [5, 6], link="tcp")
    assert ours.outcomes == run_hil(twin_command(bundle), env, [5, 6], environment=ENV).outcomes
    assert (sum(outcome.interventions for outcome in ours.outcomes) > 0) == (task == "attitude")


def test_real_time_runs_at_the_control_rate(agent: Path) -> None:
    env = settings(duration_s=2.0, hold_s=0.5)
    begun = time.monotonic()
    result = run_hil([str(agent)], env, [3], realtime=True)
    assert time.monotonic() - begun >= 2.0
    assert result.ticks == 40 and result.missed < 40
    assert result.outcomes[0].termination == "completed"


def test_cross_built_for_aarch64_it_flies_the_same_flight(bundle: Bundle, agent: Path, tmp_path: Path) -> None:
    """Under qemu-aarch64: the bits of the host's flight."""
    env = settings(duration_s=6.0, hold_s=1.0)
    other = build_linux_agent(bundle, tmp_path / "agent", "aarch64")
    assert other.read_bytes()[:4] == b"\x7fELF" and other.read_bytes()[18] == 183  # EM_AARCH64
    there = run_hil(["qemu-aarch64", str(other)], env, [7], timeout_s=PATIENCE_S)
    assert there.outcomes == run_hil([str(agent)], env, [7]).outcomes


# Messages


class Conversation:
    """The plant's end of a link, and what the agent answered up to now, without the messages that time alone sends."""

    def __init__(self, link: MavlinkLink) -> None:
        self._link = link
        self._number = 0

    def say(self, *out: Any) -> list[tuple[int, bytes]]:
        """Send, and return all answers: they are complete when a TIMESYNC sent behind them is answered."""
        self._number += 1
        self._link.send(*out, mavlink.MAVLink_timesync_message(0, self._number))
        answers: list[tuple[int, bytes]] = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for m in self._link.receive(1.0):
                number = m.get_msgId()
                if number == mavlink.MAVLINK_MSG_ID_TIMESYNC and m.tc1 != 0 and m.ts1 == self._number:
                    return answers
                if number not in {mavlink.MAVLINK_MSG_ID_HEARTBEAT, mavlink.MAVLINK_MSG_ID_TIMESYNC}:
                    frame = bytes(m.get_msgbuf())
                    answers.append((number, frame[10 : 10 + frame[1]]))
        raise AssertionError("the agent does not answer")


def run_conversation(command: Sequence[str], script: Sequence[Sequence[Any]]) -> list[list[tuple[int, bytes]]]:
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        full = [*command, "--link", f"udp:127.0.0.1:{link.port}"]
        with subprocess.Popen(full, env=ENV, stderr=subprocess.PIPE, text=True) as process:
            try:
                deadline = time.monotonic() + PATIENCE_S
                while not link.receive(0.5):
                    assert time.monotonic() < deadline and process.poll() is None
                conversation = Conversation(link)
                answers = [conversation.say(*out) for out in script]
                shutdown = messages.command_long(mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN, 0.0, 2.0)
                answers.append(conversation.say(shutdown)[:1])
            finally:
                try:
                    code = process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
            assert process.stderr is not None
            assert code == 0, process.stderr.read()
    return answers


def random_sample(rng: random.Random) -> Sample:
    wide = rng.random() < 0.3
    roll, pitch = (rng.gauss(0.0, 1.0 if wide else 0.2) for _ in range(2))
    nan = float("nan")
    values = [
        roll, max(min(pitch, 1.5), -1.5), rng.uniform(-3.1, 3.1), *(rng.gauss(0.0, 0.3) for _ in range(3)),
        rng.gauss(18.0, 6.0 if wide else 1.0), rng.gauss(150.0, 80.0 if wide else 10.0), rng.gauss(0.0, 2.0),
        rng.gauss(0.0, 500.0), rng.gauss(0.0, 500.0), rng.gauss(0.0, 15.0), rng.gauss(0.0, 15.0),
    ]  # fmt: skip
    if rng.random() < 0.03:
        values[rng.randrange(13)] = nan
    return Sample(0, *values)


def random_command(rng: random.Random, episode: int, rate_hz: float) -> Any:
    arm, stop = mavlink.MAV_CMD_COMPONENT_ARM_DISARM, mavlink.MAV_CMD_DO_FLIGHTTERMINATION
    speed, altitude, heading = messages.SPEED, messages.ALTITUDE, messages.HEADING
    choices: list[tuple[int, tuple[float, ...]]] = [
        (arm, (1.0,)), (arm, (0.0,)), (arm, (2.0,)), (stop, (0.0,)), (speed, (0.0, rng.uniform(10.0, 25.0))),
        (speed, (1.0, 20.0)), (altitude, (rng.uniform(50.0, 300.0), 3.0)), (altitude, (100.0, 0.0)),
        (heading, (1.0, rng.uniform(-400.0, 400.0))), (heading, (1.0, float("nan"))), (heading, (float("inf"), 1.0)),
        (messages.EPISODE_START, (episode, 1.0, 2.0, 3.0, 4.0, rate_hz)),
        (messages.EPISODE_START, (episode + 0.7, 0.0, 0.0, 0.0, 0.0, rate_hz * (1.0 + 5e-7))),
        (messages.EPISODE_START, (episode, 0.0, 0.0, 0.0, 0.0, rate_hz * 1.01)),
        (messages.EPISODE_END, (episode - 1, 1.0)),
        (mavlink.MAV_CMD_REQUEST_MESSAGE, (148.0,)), (mavlink.MAV_CMD_REQUEST_MESSAGE, (147.0,)),
        (mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN, (0.0, 1.0)), (rng.randrange(65536), (rng.random(),)),
    ]  # fmt: skip
    command, parameters = rng.choice(choices)
    return messages.command_long(command, *map(float, parameters))


def random_script(rng: random.Random, rate_hz: float, length: int) -> list[list[Any]]:
    """Episodes with states, doubled and old states, told times, setpoints and commands of every kind; a kill."""
    usec, episode, script = 1_000_000, 0, []
    told = False
    for k in range(length):
        out: list[Any] = []
        if k % 60 == 0:
            episode, told = episode + 1, rng.random() < 0.4
            out.append(messages.episode_start(episode, rng.randrange(2**63), rate_hz))
        if rng.random() < 0.2:
            out.append(random_command(rng, episode, rate_hz))
        if rng.random() < 0.1:
            attitude = Setpoint(
                roll_rad=rng.gauss(0.0, 0.3), pitch_rad=rng.gauss(0.0, 0.2), p_radps=rng.gauss(0.0, 0.2)
            )
            out.append(messages.setpoint_messages(attitude, rng.randrange(2**32))[messages.ATTITUDE_RECEIPT])
        if rng.random() < 0.01:
            out.append(mavlink.MAVLink_set_attitude_target_message(1, 1, 191, 7, [0.0] * 4, 1.0, 2.0, 3.0, 0.5))
        usec += rng.choice([round(1e6 / rate_hz)] * 12 + [0, 0, -20_000, 3_000_000])
        if rng.random() < 0.9:
            ahead = rng.choice([0] * 10 + [500_000]) if told else 0
            out.append(messages.hil_state(random_sample(rng), max(usec + ahead, 0)))
        if told:
            out.append(mavlink.MAVLink_system_time_message(max(usec, 0), 0))
        if rng.random() < 0.05:
            out.append(mavlink.MAVLink_statustext_message(6, b"over"))
        if k % 60 == 59 and rng.random() < 0.5:
            out.append(messages.command_long(messages.EPISODE_END, float(episode), 1.0))
        if k == length - 40:
            out.append(messages.command_long(mavlink.MAV_CMD_DO_FLIGHTTERMINATION, 1.0))
        script.append(out)
    return script


@pytest.mark.parametrize("seed", range(3))
def test_every_message_is_answered_with_the_bytes_of_python(bundle: Bundle, agent: Path, seed: int) -> None:
    script = random_script(random.Random(seed), bundle.contract.rate_hz, 600)
    ours = run_conversation([str(agent)], script)
    theirs = run_conversation(twin_command(bundle), script)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a == b, f"exchange {k}: {script[k] if k < len(script) else 'shutdown'}"
    numbers = [number for answers in ours for number, _ in answers]
    assert numbers.count(mavlink.MAVLINK_MSG_ID_HIL_ACTUATOR_CONTROLS) > 300
    assert {mavlink.MAVLINK_MSG_ID_COMMAND_ACK, mavlink.MAVLINK_MSG_ID_ATTITUDE_TARGET,
            mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION} <= set(numbers)  # fmt: skip


def test_garbage_among_the_messages_changes_nothing_under_sanitizers(bundle: Bundle, tmp_path: Path) -> None:
    folders = [firmware_folder() / "core", firmware_folder() / "ports/linux", tmp_path]
    for name, text in agent_sources(bundle).items():
        (tmp_path / name).write_text(text)
    sources = [source for folder in folders for source in sorted(folder.glob("*.c"))]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-Werror"]
    gcc = find_compiler("host", "gcc")
    checked = compile_c(
        gcc, sources, tmp_path / "agent", product="program", include=folders, optimise="-O1", options=checks
    )

    class Raw:
        """Bytes that are no message, with a message's interface."""

        def __init__(self, data: bytes) -> None:
            self._data = data

        def pack(self, packer: Any) -> bytes:
            return self._data

    rng = random.Random(8)
    script = random_script(rng, bundle.contract.rate_hz, 300)
    dirty = [[*out, Raw(rng.randbytes(rng.randrange(200)))] if rng.random() < 0.5 else out for out in script]
    for hostile in (2**63 - 1, -(2**63), 2**62):
        dirty[5].append(mavlink.MAVLink_timesync_message(hostile, -hostile - 1))
        dirty[6].append(messages.hil_state(random_sample(rng), 2**64 - 1))
    assert run_conversation([str(checked)], dirty)[:-1] == run_conversation([str(checked)], script)[:-1]


def test_a_serial_port_carries_it_too(agent: Path) -> None:
    packer = mavlink.MAVLink(None, srcSystem=1, srcComponent=1)
    shutdown = messages.command_long(mavlink.MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN, 0.0, 2.0).pack(packer)
    with (
        serial_cable() as (other, device),
        subprocess.Popen([str(agent), "--link", f"serial:{device}:115200"], stderr=subprocess.DEVNULL) as process,
    ):
        assert os.read(other, 1) == b"\xfd"  # its heartbeat
        os.write(other, b"\x00garbage" + shutdown[:-1] + shutdown * 3)
        assert process.wait(PATIENCE_S) == 0


# Misuse and mishap


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--link is missing"),
        (["--lnk", "udp:1.2.3.4:5"], 2, "unknown option"),
        (["--link"], 2, "unknown option, or one without its value: --link"),
        (["somewhere"], 2, "unknown argument 'somewhere'"),
        (["--link", "udp:127.0.0.1:1", "--peer-timeout", "soon"], 2, "--peer-timeout soon is no time"),
        (["--link", "udp:127.0.0.1:1", "--connect-timeout", "-1"], 2, "--connect-timeout -1 is no time"),
        (["--link", "udp"], 2, "is not KIND:HOST:PORT"),
        (["--link", "carrier:pigeon:7"], 2, "unknown kind 'carrier'"),
        (["--link", "udp:127.0.0.1:70000"], 2, "no such port"),
        (["--link", "udp:127.0.0.1:0"], 2, "no such port"),
        (["--link", "udp:127.0.0.1:7x"], 2, "is not KIND:HOST:PORT"),
        (["--link", f"udp:{'9' * 400}:7"], 2, "is not KIND:HOST:PORT"),
        (["--link", "udp:aircraft.example:7"], 2, "not supported: host names"),
        (["--link", "tcpin:0.0.0.0:7"], 2, "not supported: listening (tcpin)"),
        (["--link", "udp:127.0.0.1:7", "--log", "flight.h5"], 2, "not supported: --log"),
        (["--link", "udp:127.0.0.1:7", "--excitation", "plan.json"], 2, "not supported: --excitation"),
        (["fly", "--link", "udp:127.0.0.1:7"], 2, "unknown option, or one without its value: --link"),
        (["--link", "serial:/dev/null:115200"], 1, "/dev/null is not a serial port"),
        (["--link", "serial:/dev/nothing:115200"], 1, "No such file or directory"),
        (["--link", "serial:/dev/null:1234"], 2, "the baud rate 1234 does not exist"),
        (["--link", "udp:127.0.0.1:9", "--connect-timeout", "0.3"], 1, "the plant never spoke"),
        (["--link", "tcp:127.0.0.1:9", "--connect-timeout", "0.3"], 1, "nobody answers: Connection refused"),
    ],
)
def test_misuse_and_an_unreachable_plant_are_explained(
    agent: Path, arguments: list[str], code: int, message: str
) -> None:
    done = alone(agent, *arguments)
    assert done.returncode == code and message in done.stderr
    assert done.stderr.startswith(("error: ", "256 golden vectors")) and "\n  -> " in done.stderr


def test_help_says_what_there_is(agent: Path) -> None:
    done = alone(agent, "--help")
    assert done.returncode == 0 and "--realtime" in done.stdout


def test_a_plant_that_falls_silent_or_hangs_up_ends_the_run(agent: Path) -> None:
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        address = f"udp:127.0.0.1:{link.port}"
        command = [str(agent), "--link", address, "--peer-timeout", "0.2", "--connect-timeout", "60"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not link.receive(1.0):
                assert process.poll() is None
            link.send(mavlink.MAVLink_timesync_message(0, 1))
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and "the plant fell silent for 0.2 s after 0 ticks" in said
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen([str(agent), "--link", address], stderr=subprocess.PIPE, text=True) as process:
            connection, _ = server.accept()
            connection.close()
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "the other side closed the connection" in said or "the connection broke" in said or "cannot send" in said


def test_ctrl_c_is_an_interrupt(agent: Path) -> None:
    with open_link("udpin:127.0.0.1:0", system=1, component=1) as link:
        command = [str(agent), "--link", f"udp:127.0.0.1:{link.port}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not link.receive(1.0):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and said.endswith("interrupted\n")


def test_a_policy_that_answers_otherwise_does_not_fly(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one weight is another one than when the golden answers were computed."""
    sources = agent_sources(bundle)
    weight = "0x1.99999ap-1f"  # 0.8
    assert sources["policy.c"].count(weight) > 0
    broken = {**sources, "policy.c": sources["policy.c"].replace(weight, "0x1.99999cp-1f", 1)}
    monkeypatch.setattr(linux_agent, "agent_sources", lambda given: broken)
    agent = build_linux_agent(bundle, tmp_path / "agent")
    done = alone(agent, "--link", "udp:127.0.0.1:9")
    assert done.returncode == 1
    assert re.search(r"\d+ of 256 golden vectors differently on this machine, the first is row \d+", done.stderr)
    with pytest.raises(LinkError, match="golden vectors differently"):
        run_hil([str(agent)], settings(), [1])


def test_the_command_builds_it(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "sim2sky-agent"
    assert run(["firmware", str(bundle.path), "-o", str(made)]) == 0
    assert str(made) in capsys.readouterr().out
    assert os.access(made, os.X_OK) and alone(made, "--help").returncode == 0
    assert run(["firmware", str(tmp_path / "none"), "-o", str(tmp_path / "x")]) == 2
    assert "no bundle at" in capsys.readouterr().err
    assert run(["firmware", str(bundle.path), "-o", str(tmp_path / "no/such/x")]) == 1
    assert "cannot compile to" in capsys.readouterr().err
    assert run(["firmware", str(bundle.path), "-o", str(tmp_path / "x"), "--machine", "z80"]) == 2
    assert not (tmp_path / "x").exists()
    assert (
        run(["firmware", str(bundle.path), "-o", str(tmp_path / "x"), "--port", "teensy41", "--machine", "host"]) == 2
    )
    assert "--machine does not go with --port teensy41" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert run(["firmware", str(bundle.path), "-o", str(tmp_path / "project"), "--port", "teensy41"]) == 0
    assert (tmp_path / "project/platformio.ini").is_file() and "complete in itself" in capsys.readouterr().out
