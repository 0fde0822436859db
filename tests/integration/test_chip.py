"""The flight agent's firmware on the emulated Cortex-M7, against the same agent in Python over the numpy twin of its
policy: the same bits. And all that can go wrong between a host and a chip."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tests.agent_support import differs, moments, network_of, step
from tests.deploy_support import flying_bundle
from tests.flight_support import make_bundle, sample, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.layers import Activation, Clip, Dense, InputHead, Network
from sim2sky.deployment import firmware_build, firmware_config
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.deployment.export_c import golden_rows
from sim2sky.deployment.firmware_build import TEENSY41, Image, build_agent, image_size
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import (
    GoldenMismatchError,
    LinkError,
    MissingExtraError,
    NotSupportedError,
    TargetError,
    ToolchainError,
)
from sim2sky.hil import chip as chips
from sim2sky.hil.chip import emulated_chip, require_golden, serial_board
from sim2sky.hil.pil import ChipAgent, PilLink
from sim2sky.hil.pil_flight import fly_chip, measure_steps
from sim2sky.hil.qemu import EmulatedChip
from sim2sky.hil.unicorn_chip import UnicornChip
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.flight_agent import FlightAgent, Tick
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import PolicyState, Setpoint
from sim2sky.runtime.teensy import FrameReader, encode_frame
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.validation.flight import environment_for

KINDS = ("tanh", "lstm")
LIMITS = SafetyLimits(airspeed_min_mps=12.0, airspeed_max_mps=30.0, sink_max_mps=8.0, battery_min_voltage=10.0)
WANTED = Setpoint(altitude_m=150.0, airspeed_mps=18.0, heading_rad=0.3)

Built = tuple[Bundle, Image]


class Twin:
    """The numpy twin of the C policy as a backend."""

    state = PolicyState.ANSWERED

    def __init__(self, bundle: Bundle) -> None:
        self._policy = CPolicy(bundle.network())

    def __call__(self, observation: NDArray[Any]) -> NDArray[Any]:
        return self._policy(observation)

    def reset(self) -> None:
        self._policy.reset()


def twin_of(bundle: Bundle) -> FlightAgent:
    return FlightAgent(bundle.contract, Twin(bundle), make_monitor(bundle.safety(), bundle.contract))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("chip")
    env = settings()
    found = {}
    for kind in KINDS:
        network = network_of(make_contract(env), kind)
        bundle = make_bundle(folder / kind, env, network=network, limits=LIMITS)
        found[kind] = (bundle, build_agent(bundle, folder / f"{kind}.elf"))
    return found


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A bundle that flies."""
    folder = tmp_path_factory.mktemp("linear")
    bundle = flying_bundle(folder / "bundle")
    return bundle, build_agent(bundle, folder / "firmware.elf")


@pytest.fixture
def running(linear: Built) -> Iterator[tuple[EmulatedChip, PilLink]]:
    with EmulatedChip(linear[1].elf) as chip:
        yield chip, PilLink(chip.channel, ended=lambda: chip.ended, name="the emulated chip", timeout_s=20.0)


# The same bits


@pytest.mark.parametrize("kind", KINDS)
def test_identity_and_golden_vectors(kind: str, built: dict[str, Built]) -> None:
    bundle, image = built[kind]
    with emulated_chip(image.elf) as link:
        identity = link.identify()
        test = link.self_test()
        require_golden(link, bundle)
    assert (identity.bundle_digest, identity.contract_hash) == (bundle.digest, bundle.contract.hash)
    assert (identity.observations, identity.actions) == (len(bundle.contract.observation_names), 4)
    assert (identity.golden, identity.rate_hz, identity.damaged) == (len(bundle.golden()), bundle.contract.rate_hz, 0)
    assert (test.compared, test.different) == (len(bundle.golden()), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_random_flights_have_the_same_bits(kind: str, built: dict[str, Built]) -> None:
    bundle, image = built[kind]
    python, seen = twin_of(bundle), dict.fromkeys(Mode, 0)
    with emulated_chip(image.elf) as link, np.errstate(over="ignore"):
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        for number, moment in enumerate(moments(1, 2000)):
            expected, got = step(python, moment), step(agent, moment)
            if not isinstance(expected, Tick):
                assert got is expected, (number, moment)
                continue
            assert isinstance(got, Tick)
            assert not (problem := differs(expected, got)), f"moment {number}: {problem}\n{moment}"
            seen[Mode(got.guard)] += 1
    assert seen[Mode.POLICY] > 10 and seen[Mode.HOLD] > 30, seen


def test_the_policy_alone_answers_the_bits_of_its_twin(built: dict[str, Built]) -> None:
    bundle, image = built["lstm"]
    rows = golden_rows(bundle.golden(), bundle.contract)[:50]
    expected = CPolicy(bundle.network()).evaluate(rows)
    period_ns = int(1e9 / bundle.contract.rate_hz) + 1
    with emulated_chip(image.elf) as link:
        for _ in range(2):  # from the beginning, also the second time
            link.forget()
            for i, row in enumerate(rows):
                answer = link.policy(row, i * period_ns)
                assert answer.action.tobytes() == expected[i].tobytes() and answer.instructions == 0
        again = link.policy(rows[0], (len(rows) - 1) * period_ns + 1)  # before the next period is due
        assert again.action.tobytes() == expected[-1].tobytes()
        nothing = link.policy(rows[0] * np.nan, len(rows) * period_ns)
        assert np.isnan(nothing.action).all()


def test_episodes_on_the_chip_are_those_of_the_twin_in_this_process(linear: Built, tmp_path: Path) -> None:
    bundle, image = linear
    env = environment_for(bundle.contract, settings(duration_s=8.0))
    told: list[int] = []
    with emulated_chip(image.elf) as link:
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        chip = fly_chip(agent, bundle, env, [3, 4], log_dir=tmp_path, progress=lambda i, _: told.append(i))
        bare = fly_chip(agent, bundle, env, [3, 4])
        python = twin_of(bundle)
        python.identity = agent.identity  # type: ignore[attr-defined]
        here = fly_chip(python, bundle, env, [3, 4])  # type: ignore[arg-type]
    assert chip.outcomes == here.outcomes == bare.outcomes
    assert told == [0, 1] and chip.ticks == chip.exchange_us["n"] > 100 and bare.agent_log is None
    assert chip.identity.bundle_digest == bundle.digest[:16] and not chip.problem
    assert chip.agent_log is not None
    with read_flight_log(chip.agent_log) as log:
        assert [e.seed for e in log.episodes] == [3, 4] and log.metadata.source == "hil"
        assert log.metadata.bundle_digest == bundle.digest
        assert sum(len(e) for e in log.episodes) == chip.ticks


def test_instructions_are_counted_and_are_the_same_each_time(linear: Built) -> None:
    bundle, image = linear
    env = environment_for(bundle.contract, settings(duration_s=8.0))
    found = []
    for _ in range(2):
        with emulated_chip(image.elf, icount=True) as link:
            require_golden(link, bundle)
            found.append(measure_steps(link, bundle, env, 5, ticks=30))
    cost = found[0]
    assert found[1] == cost
    weights = sum(a.size for a in (bundle.network().layers[0].weight,))  # type: ignore[union-attr]
    assert weights < cost.policy < cost.step <= cost.step_max < 20_000


# Bad input


def test_what_the_firmware_does_with_damaged_and_strange_frames(running: tuple[EmulatedChip, PilLink]) -> None:
    chip, link = running
    for question, reason in ((b"Z", "unknown"), (b"\x00" * 52, "unknown"), (b"S" * 10, "length"), (b"I1", "length")):
        with pytest.raises(LinkError, match=reason):
            link.ask(question)
    frame = bytearray(encode_frame(b"R"))
    frame[-1] ^= 1
    chip.channel.send(bytes(frame))
    answers = FrameReader().feed(chip.channel.receive(20.0))
    assert answers[0] == b"e\x03"
    assert link.identify().damaged >= 1
    assert link.ask(b"R") == b"r"


def test_a_truncated_frame_is_waited_for_and_the_next_whole_one_is_found(
    running: tuple[EmulatedChip, PilLink],
) -> None:
    chip, _ = running
    chip.channel.send(encode_frame(bytes(200))[:100])
    assert chip.channel.receive(0.3) == b""
    reader, answers = FrameReader(), []
    deadline = time.monotonic() + 60.0
    while b"r" not in answers and time.monotonic() < deadline:
        chip.channel.send(encode_frame(b"R"))  # the first ones are taken for the rest of the frame that broke off
        answers += reader.feed(chip.channel.receive(0.2))
    assert b"r" in answers
    chip.channel.send(encode_frame(b"I"))  # behind the answers that are still on their way
    while not any(a[:1] == b"i" for a in answers) and time.monotonic() < deadline:
        answers += reader.feed(chip.channel.receive(0.2))
    assert answers[-1][:1] == b"i" and int.from_bytes(answers[-1][-4:], "little") >= 1  # damaged frames


def test_a_chip_that_dies_in_the_middle(linear: Built) -> None:
    bundle, image = linear
    env = environment_for(bundle.contract, settings(duration_s=8.0))
    with EmulatedChip(image.elf) as chip:
        link = PilLink(chip.channel, ended=lambda: chip.ended, name="the emulated chip")
        agent = ChipAgent(link, bundle.contract)

        def kill(*_: object) -> None:
            os.kill(chip.pid, signal.SIGKILL)

        with pytest.raises(LinkError, match=r"the emulated chip ended \(signal 9\)"):
            fly_chip(agent, bundle, env, [1, 2, 3], progress=kill)
        pid = chip.pid
    assert not psutil.pid_exists(pid)


def test_a_chip_that_hangs(linear: Built) -> None:
    with EmulatedChip(linear[1].elf) as chip:
        link = PilLink(chip.channel, ended=lambda: chip.ended, name="the emulated chip", timeout_s=1.0)
        link.identify()
        os.kill(chip.pid, signal.SIGSTOP)
        while psutil.Process(chip.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with pytest.raises(LinkError, match="did not answer within 1 s"):
            link.ask(b"R")
        pid = chip.pid
    assert not psutil.pid_exists(pid)


def test_the_emulator_ends_with_its_host_and_when_told(linear: Built) -> None:
    with EmulatedChip(linear[1].elf) as chip:
        link = PilLink(chip.channel, ended=lambda: chip.ended)
        link.end()
        deadline = time.monotonic() + 20.0
        while not chip.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert chip.ended == "the emulated chip ended (exit 0)"
        with pytest.raises(LinkError, match=r"exit 0"):
            link.identify()
    with EmulatedChip(linear[1].elf) as chip:
        PilLink(chip.channel).identify()
        process = psutil.Process(chip.pid)
        chip.channel.close()  # as if the host had died: the firmware reads the end of its file
        process.wait(20.0)


def test_firmware_of_another_bundle_or_contract(linear: Built, built: dict[str, Built]) -> None:
    bundle, image = linear
    other = built["tanh"][0]
    with emulated_chip(image.elf) as link:
        with pytest.raises(TargetError, match="built from bundle"):
            ChipAgent.expecting(link, bundle.contract, other.digest)
        contract = replace(bundle.contract, rate_hz=33.0)
        with pytest.raises(TargetError, match="built for contract"):
            ChipAgent(link, contract)


def test_a_golden_mismatch_names_the_vector_and_both_answers(
    built: dict[str, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the compiler had got one weight wrong."""
    bundle, _ = built["lstm"]
    sources = firmware_config.agent_sources(bundle)
    weights = re.search(r"static const float \w*(?:weight|w)\w*\[[^=]*= \{\s*(-?0x[0-9a-fp.+-]+)f", sources["policy.c"])
    assert weights is not None
    wrong = sources["policy.c"][: weights.start(1)] + "0x1.8p+3" + sources["policy.c"][weights.end(1) :]
    monkeypatch.setattr(firmware_config, "agent_sources", lambda _: {**sources, "policy.c": wrong})
    image = build_agent(bundle, tmp_path / "wrong.elf")
    with emulated_chip(image.elf) as link:
        different = link.self_test()
        assert 0 < different.different <= len(bundle.golden())
        with pytest.raises(GoldenMismatchError) as caught:
            require_golden(link, bundle)
    assert f"the first is number {different.first}" in caught.value.message
    said, right = re.findall(r"(?:answers|right is) \[([^\]]*)\]", caught.value.message)
    assert said != right and len(said.split(",")) == 4


def test_a_net_that_does_not_fit_the_flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Built) -> None:
    bundle, _ = linear
    with monkeypatch.context() as patch:
        patch.setattr(firmware_build, "TEENSY41", replace(TEENSY41, flash=40_000))
        with pytest.raises(TargetError, match=r"the firmware takes [\d,]+ bytes of flash; the Teensy 4.1 has 40,000"):
            build_agent(bundle, tmp_path / "firmware.elf")
        patch.setattr(firmware_build, "TEENSY41", replace(TEENSY41, flash=100))
        with pytest.raises(TargetError, match="the policy's weights alone take"):
            build_agent(bundle, tmp_path / "firmware.elf")
        patch.setattr(firmware_build, "TEENSY41", replace(TEENSY41, ram=1000))
        with pytest.raises(TargetError, match=r"bytes of RAM; the Teensy 4.1 has 1,000"):
            build_agent(bundle, tmp_path / "firmware.elf")


def test_a_large_net_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    env, contract = settings(), make_contract(settings())
    n, rng = len(contract.inputs[0].signals), np.random.default_rng(0)

    def dense(inputs: int, outputs: int) -> Dense:
        weight = rng.normal(0.0, 0.1 / inputs**0.5, (outputs, inputs)).astype(np.float32)
        return Dense(weight, np.zeros(outputs, np.float32))

    ones = np.ones(4, np.float32)
    layers = (dense(n, 1024), Activation("tanh"), dense(1024, 1024), dense(1024, 4), Clip(-ones, ones))
    bundle = make_bundle(tmp_path / "large", env, network=Network((InputHead("observation", n),), layers))
    with pytest.raises(
        TargetError, match=r"weights alone take 4,\d{3},\d{3} bytes .* the emulated board has 4,194,304"
    ) as caught:
        build_agent(bundle, tmp_path / "firmware.elf")
    assert "c_weights: int8" in caught.value.hint
    firmware_build.require_weights_fit(replace(bundle, provenance={"c_weights": "int8"}))  # a quarter


def test_a_program_that_overflows_the_code_memory(tmp_path: Path) -> None:
    source = tmp_path / "main.c"
    source.write_text(
        "extern const unsigned char large[5 << 20];\nconst unsigned char large[5 << 20] = {1};\n"
        "int main(int n, char **v) { (void)v; return large[n]; }\n"
    )
    with pytest.raises(ToolchainError, match=r"will not fit in region .code."):
        firmware_build.build_program(source, [], tmp_path / "program.elf")


def test_the_size_of_an_image_is_what_the_linker_made(linear: Built, tmp_path: Path) -> None:
    import subprocess

    flash, ram = image_size(linear[1].elf)
    assert (flash, ram + linear[1].stack) == (linear[1].flash, linear[1].ram) and 500 < linear[1].stack < 8_192
    said = subprocess.run(["arm-none-eabi-size", str(linear[1].elf)], capture_output=True, text=True, check=True)
    text, data, bss = (int(n) for n in said.stdout.splitlines()[1].split()[:3])
    assert abs(flash - (text + data)) <= 8 and abs(ram - (data + bss)) <= 8
    (tmp_path / "text").write_text("no program")
    with pytest.raises(TargetError, match="no program for a 32-bit processor"):
        image_size(tmp_path / "text")


# UART


def test_a_uart_speaks_the_same_protocol(linear: Built) -> None:
    bundle, image = linear
    python = twin_of(bundle)
    with EmulatedChip(image.elf, uart=True) as chip:
        assert chip.device.startswith("/dev/")
        chip.channel.close()
        with serial_board(chip.device) as link:
            require_golden(link, bundle)
            agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
            for i in range(20):
                now = i * 50_000_000
                args = (sample(time_ns=now, roll_rad=0.01 * i), WANTED, now)
                assert not differs(python.tick(*args), agent.tick(*args))


# Without QEMU


def test_unicorn_answers_the_same_bits(built: dict[str, Built]) -> None:
    for kind in KINDS:
        bundle, image = built[kind]
        with EmulatedChip(image.elf) as qemu, UnicornChip(image.elf) as other:
            agents = []
            for chip in (qemu, other):
                link = PilLink(chip.channel, ended=lambda chip=chip: chip.ended, timeout_s=60.0)
                require_golden(link, bundle)
                agents.append(ChipAgent(link, bundle.contract))
            for moment in moments(4, 300):
                expected, got = step(agents[0], moment), step(agents[1], moment)
                assert not differs(expected, got) if isinstance(expected, Tick) else expected is got  # type: ignore[arg-type]


def test_unicorn_takes_over_where_qemu_is_missing(
    linear: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, image = linear
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("qemu-system-arm") is None and not chips.can_count()
    env = environment_for(bundle.contract, settings(duration_s=6.0))
    with emulated_chip(image.elf) as link:
        agent = ChipAgent.expecting(link, bundle.contract, bundle.digest)
        python = twin_of(bundle)
        python.identity = agent.identity  # type: ignore[attr-defined]
        assert fly_chip(agent, bundle, env, [7]).outcomes == fly_chip(python, bundle, env, [7]).outcomes  # type: ignore[arg-type]
    with (
        pytest.raises(NotSupportedError, match="counting instructions on unicorn"),
        emulated_chip(image.elf, icount=True),
    ):
        pass


def test_unicorn_says_that_its_program_has_ended(linear: Built) -> None:
    with UnicornChip(linear[1].elf) as chip:
        link = PilLink(chip.channel, ended=lambda: chip.ended)
        link.end()
        with pytest.raises(LinkError, match=r"the emulated chip ended \(exit 0\)"):
            link.identify()


def test_unicorn_refuses_what_is_no_firmware(tmp_path: Path) -> None:
    (tmp_path / "x.elf").write_bytes(b"\x7fELF")
    with pytest.raises(TargetError, match="is no firmware"):
        UnicornChip(tmp_path / "x.elf")
    with pytest.raises(NotSupportedError, match="a UART on unicorn"):
        UnicornChip(tmp_path / "x.elf", uart=True)


def test_no_emulator_at_all(linear: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(MissingExtraError, match=r"sim2sky\[mcu\]"):
        UnicornChip(linear[1].elf)
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TargetError, match="no emulator for the Cortex-M7") as caught, emulated_chip(linear[1].elf):
        pass
    assert "apt-get install qemu-system-arm" in caught.value.hint and "sim2sky[mcu]" in caught.value.hint


# benchmarks/pil.py in short


def test_the_benchmark_measures_every_medium_and_compares_outcomes(linear: Built) -> None:
    from benchmarks import pil

    found = pil.measure(linear[0], exchanges=20, fast_episodes=1, episodes=2)
    assert set(found["exchange_us"]) == set(pil.MEDIA)
    for rows in found["exchange_us"].values():
        assert 0.0 < rows["bare"]["median"] <= rows["bare"]["p99"] and rows["step"]["median"] > 0.0
    assert found["episode"]["steps"] == 1000 and found["episode"]["seconds"] > 0.0
    assert found["outcomes"]["same_success"] == found["outcomes"]["same_termination"] == 2
    assert 0 < found["instructions"]["policy"] < found["instructions"]["step"]
