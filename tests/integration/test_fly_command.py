"""`sim2sky fly` and `python -m sim2sky.runtime.main fly` as processes, against virtual autopilots that are processes,
too: exit codes, words, logs, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.flight_support import agent_environment, make_bundle, settings
from tests.link_support import serial_cable, wait_for

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.contract import Contract
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.telemetry.flight_log import read_flight_log

ENV = agent_environment()
LIMITS = SafetyLimits(max_range_m=3000.0)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings(), limits=LIMITS)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@contextlib.contextmanager
def virtual(*arguments: str, kind: str = "ardupilot") -> Iterator[str]:
    """A virtual autopilot's process; its address."""
    command = [sys.executable, "-m", "sim2sky.hil.virtual_autopilot", *arguments, "--kind", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1].replace("in:", ":")
        finally:
            process.terminate()
            process.wait(20)


def target(bundle: Bundle | Path, vehicle: str, *extra: str) -> list[str]:
    path = bundle if isinstance(bundle, Path) else bundle.path
    return [
        sys.executable, "-m", "sim2sky.runtime.main", "fly", "--bundle", str(path), "--vehicle", vehicle,
        "--connect-timeout", "20", *extra,
    ]  # fmt: skip


def laptop(bundle: Bundle, vehicle: str, *extra: str) -> list[str]:
    return [sys.executable, "-m", "sim2sky", "fly", str(bundle.path), "--vehicle", vehicle, *extra]


def run(command: list[str], timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.parametrize(("where", "kind", "link"), [(target, "ardupilot", "udpin"), (laptop, "px4", "tcpin")])
def test_it_flies_hands_back_logs_and_sums_up(
    bundle: Bundle, where: object, kind: str, link: str, tmp_path: Path
) -> None:
    with virtual(f"{link}:127.0.0.1:0", kind=kind) as address:
        done = run(
            where(  # type: ignore[operator]
                bundle, address, "--engage", "now", "--duration", "6", "--setpoint", "heading=0", "--log",
                str(tmp_path / "f.h5"), "--json",
            )
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ended"] == ["the time is up"] and summary["ticks"] > 40 and summary["policy_ticks"] > 0
    assert summary["vehicle"].startswith("virtual ")
    with read_flight_log(tmp_path / "f.h5") as log:
        assert log.metadata.source == "virtual" and log.metadata.bundle_digest == bundle.digest
        assert len(log.episodes) == 1 and log.episodes[0].termination == "the time is up"


def test_a_virtual_flight_cannot_be_labelled_real(bundle: Bundle, tmp_path: Path) -> None:
    with virtual("udpin:127.0.0.1:0") as address:
        log = tmp_path / "f.h5"
        done = run(target(bundle, address, "--engage", "now", "--source", "real", "--log", str(log)))
    assert done.returncode == 2 and "cannot be labelled real" in done.stderr and not log.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_hands_back_and_closes_the_log(bundle: Bundle, how: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "f.h5"
    with virtual("udpin:127.0.0.1:0") as address:
        command = target(bundle, address, "--engage", "now", "--log", str(log))
        with subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said: list[str] = []
            reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
            reader.start()
            wait_for(lambda: "engaged\n" in said, "it to engage", 60.0)
            time.sleep(0.5)  # something to log
            process.send_signal(how)
            assert process.wait(30) == 130
            reader.join()
    assert "disengaged: interrupted\n" in said and said[-1] == "interrupted\n"
    with read_flight_log(log) as flown:
        assert flown.episodes[0].termination == "interrupted" and len(flown.episodes[0]) > 3


def test_a_broken_connection_is_said_and_the_log_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "f.h5"
    with contextlib.ExitStack() as stack:
        autopilot = stack.enter_context(contextlib.ExitStack())
        address = autopilot.enter_context(virtual("tcpin:127.0.0.1:0"))
        command = target(bundle, address, "--engage", "now", "--log", str(log))
        process = stack.enter_context(subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True))
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        wait_for(lambda: "engaged\n" in said, "it to engage", 60.0)
        autopilot.close()  # the autopilot is gone
        assert process.wait(30) == 1
        reader.join()
    assert any("nothing can be handed back" in line for line in said), said
    with read_flight_log(log) as flown:
        assert flown.episodes[0].termination == "the link broke" and not flown.episodes[0].success


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize(
    ("vehicle", "extra", "code", "words"),
    [
        ("udp:127.0.0.1:{free}", [], 1, "nothing came"),
        ("tcp:127.0.0.1:{free}", [], 1, "nobody answers"),
        ("serial:/dev/no-such-port:57600", [], 1, "No such file"),
        ("serial:/dev/null:57600", [], 1, "not a serial port"),
        ("serial:/dev/null:12345", [], 2, "does not exist"),
        ("udp:127.0.0.1", [], 2, "not KIND:HOST:PORT"),
        ("usb:0:1", [], 2, "unknown kind"),
        ("udp:127.0.0.1:{free}", ["--engage", "tomorrow"], 2, "not known"),
        ("udp:127.0.0.1:{free}", ["--setpoint", "altitud=1"], 2, "did you mean"),
        ("udp:127.0.0.1:{free}", ["--signing-key", "/no/such/key"], 2, "signing key"),
        ("teensy:/dev/null:115200", [], 2, "Teensy has no"),
    ],
)
def test_bad_input_is_a_plain_error(bundle: Bundle, vehicle: str, extra: list[str], code: int, words: str) -> None:
    address = vehicle.format(free=free_port())
    done = run([*target(bundle, address), "--connect-timeout", "0.5", *extra])
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "->" in done.stderr  # a remedy


def test_an_agent_that_observes_airspeed_is_not_supported_on_a_teensy(bundle: Bundle) -> None:
    with serial_cable() as (_, device):
        done = run(target(bundle, f"teensy:{device}:115200", "--engage", "now"))
    assert done.returncode == 2 and "not supported: flying this agent with a Teensy" in done.stderr


def test_a_serial_line_that_talks_rubbish_is_told_to_be_of_another_baud_rate(bundle: Bundle) -> None:
    with serial_cable() as (other, device):
        stop = threading.Event()

        def rubbish() -> None:
            while not stop.wait(0.05):
                os.write(other, b"\x00\x80\xf8\x78" * 8)

        thread = threading.Thread(target=rubbish)
        thread.start()
        try:
            done = run([*target(bundle, f"serial:{device}:57600"), "--connect-timeout", "3"])
        finally:
            stop.set()
            thread.join()
    assert done.returncode == 1 and "no MAVLink" in done.stderr and "baud rate" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ardupilot", "px4"])
def test_the_shipped_agent_flies_half_a_minute_in_real_time(kind: str, tmp_path: Path) -> None:
    """hawk over UDP, with the sensor noise it was trained with: it reaches its setpoint and holds it."""
    hawk = tmp_path / "hawk"
    limits = (REPOSITORY / "configs/safety/default.yaml").read_text()
    wide = tmp_path / "wide.yaml"  # half a minute straight on leads beyond the shipped 500 m
    wide.write_text(limits.replace("max_range_m: 500", "max_range_m: 3000"))
    model = str(REPOSITORY / "agents/hawk/model.zip")
    export = [sys.executable, "-m", "sim2sky", "export", model, "-o", str(hawk), "--safety", str(wide)]
    done = run(export, 180.0)
    assert done.returncode == 0 and "max_range_m: 3000" in wide.read_text(), done.stderr
    log = tmp_path / "f.h5"
    with virtual("udpin:127.0.0.1:0", "--wind", "2", kind=kind) as address:
        done = run(
            target(
                hawk, address, "--engage", "now", "--duration", "30", "--setpoint",
                "altitude=165,airspeed=18,heading=60", "--log", str(log), "--json",
            )
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    contract = Contract.from_json(json.loads((REPOSITORY / "agents/hawk/contract.json").read_text()))
    with read_flight_log(log) as flown:
        episode = flown.episodes[0]
        n = int(5 * contract.rate_hz)
        altitude, airspeed, yaw = (episode.column("states", c)[-n:] for c in ("altitude", "airspeed", "yaw"))
    heading = np.array([math.remainder(v - math.radians(60.0), math.tau) for v in yaw])
    rmse = [float(np.sqrt(np.mean(np.square(e)))) for e in (altitude - 165.0, airspeed - 18.0, heading)]
    assert rmse[0] < 10.0 and rmse[1] < 2.0 and rmse[2] < math.radians(10.0), rmse
    assert summary["policy_ticks"] > 0.9 * summary["ticks"], summary
