"""The policy as a process: real ones, really killed, stopped, hung and corrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from benchmarks.faulty_policy import KINDS
from tests.export_support import observations, policy
from tests.flight_support import agent_environment, linear_network, make_bundle, sample, settings

from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes
from sim2sky.agent.layers import Dense, Network, evaluate
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.export_torchscript import torchscript_bytes
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import BundleError, ContractError, GoldenMismatchError, NotSupportedError
from sim2sky.runtime import policy_process
from sim2sky.runtime.assembly import DEADLINE, LOCKSTEP_DEADLINE_S, make_agent, supervised_agent
from sim2sky.runtime.inference import load_backend, replay_golden
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.policy_process import LATE_TICKS, RESTARTS, PolicyProcess
from sim2sky.runtime.policy_wire import MAX_PACKET
from sim2sky.runtime.realtime import FLIGHT_PRIORITY, POLICY_PRIORITY
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import PolicyState, Setpoint

FAULTY = "benchmarks.faulty_policy"
OBSERVATION = np.zeros(len(make_contract(settings()).observation_names), np.float32)
SETPOINT = Setpoint(altitude_m=160.0, airspeed_mps=18.0, heading_rad=0.3)
PATIENCE_S = 30.0
ENDS = {"killed", "closed", "exits", "raises", "memory", "segfault"}
LATE = {"stopped", "spins", "slow", "mute", "old_number"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings())


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Sets the plan of the faulty worker; answers the file in which it notes each fault."""

    def plan(*kinds: str, tick: int = 3, **values: float) -> Path:
        log = tmp_path / "faults.txt"
        options = {"kinds": kinds, "seed": 1, "first": tick, "last": tick, "spread_s": 0.0, "slow_s": 1.5}
        monkeypatch.setenv("FAULTS", json.dumps({**options, "log": str(log), **values}))
        return log

    return plan


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def dead(child: int | None) -> bool:
    """A child whose last thread has ended; it is shown as a zombie before that, but cannot yet be waited for."""
    assert child is not None
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_it_answers_as_the_policy_in_this_process_does_bit_for_bit(bundle: Bundle) -> None:
    inside = load_backend(bundle)
    rng = np.random.default_rng(0)
    with PolicyProcess(bundle, deadline_s=PATIENCE_S) as policy:
        assert policy.state is PolicyState.ANSWERED and policy.problem == "" and policy.restarts == 0
        assert replay_golden(policy, bundle.golden()) == replay_golden(inside, bundle.golden())
        for _ in range(50):
            observation = rng.standard_normal(len(OBSERVATION)).astype(np.float32)
            assert np.array_equal(policy(observation), inside(observation))
        pid = policy.pid
        assert pid is not None and psutil.Process(pid).ppid() == os.getpid() and os.getsid(pid) == pid
    assert gone(pid) and policy.state is PolicyState.DEAD
    assert np.isnan(policy(OBSERVATION)).all()
    policy.reset()
    assert policy.state is PolicyState.DEAD and policy.pid is None
    policy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_befalls_the_policy_the_call_returns_in_time_and_a_new_process_takes_over(
    bundle: Bundle, faults: Callable[..., Path], kind: str
) -> None:
    log = faults(kind, *["nan"] * 20)
    deadline_s = 1.0
    with PolicyProcess(bundle, deadline_s=deadline_s, worker=FAULTY) as policy:
        first = policy.pid
        for _ in range(3):
            assert np.isfinite(policy(OBSERVATION)).all() and policy.state is PolicyState.ANSWERED
        states, longest = [], 0.0
        until_fault = time.monotonic() + PATIENCE_S
        while not states or states[-1] is PolicyState.ANSWERED:
            assert time.monotonic() < until_fault
            begun = time.monotonic()
            action = policy(OBSERVATION)
            longest = max(longest, time.monotonic() - begun)
            states.append(policy.state)
            if kind == "nan" and policy.state is PolicyState.ANSWERED and len(states) == 1:
                assert np.isnan(action).all()
            assert (policy.state is PolicyState.ANSWERED) or np.isnan(action).all()
        expected = PolicyState.LATE if kind in LATE else PolicyState.DEAD
        assert states[-1] is expected, policy.problem
        assert log.read_text().split()[1] == kind
        calls = 0
        while policy.pid == first or policy.state is not PolicyState.ANSWERED:  # in flight: nobody resets
            begun = time.monotonic()
            policy(OBSERVATION)
            longest = max(longest, time.monotonic() - begun)
            assert time.monotonic() < until_fault, policy.problem
            calls += 1
            time.sleep(0.002)
        assert policy.restarts == 1 and policy.problem and first is not None
        assert longest < deadline_s + 2.0
        if kind in LATE:
            assert calls >= LATE_TICKS - 1
        until(lambda: gone(first), "the first process to end")


def test_a_late_answer_is_never_taken_for_the_answer_to_a_later_question(
    bundle: Bundle, faults: Callable[..., Path]
) -> None:
    """Each observation is another one, so an answer that was late would be seen."""
    faults("slow", tick=1, slow_s=0.08)
    inside = load_backend(bundle)
    answered = late = 0
    rng = np.random.default_rng(3)
    with PolicyProcess(bundle, deadline_s=0.02, worker=FAULTY) as policy:
        policy(OBSERVATION)
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and policy.restarts == 0:
            observation = rng.standard_normal(len(OBSERVATION)).astype(np.float32)
            action = policy(observation)
            if policy.state is PolicyState.ANSWERED:
                answered += 1
                assert np.array_equal(action, inside(observation))
            else:
                late += 1
            time.sleep(0.03)
    assert late > 5


def test_while_an_answer_is_outstanding_nothing_waits_for_it(bundle: Bundle) -> None:
    with PolicyProcess(bundle, deadline_s=0.3) as policy:
        policy(OBSERVATION)
        assert policy.pid is not None
        os.kill(policy.pid, signal.SIGSTOP)
        policy(OBSERVATION)
        begun = time.monotonic()
        for _ in range(LATE_TICKS - 2):
            policy(OBSERVATION)
            assert policy.state is PolicyState.LATE
        assert time.monotonic() - begun < 0.3 * (LATE_TICKS - 2) / 2


def test_a_stopped_process_that_goes_on_is_asked_again(bundle: Bundle) -> None:
    with PolicyProcess(bundle, deadline_s=0.05) as policy:
        policy(OBSERVATION)
        pid = policy.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        policy(OBSERVATION)
        assert policy.state is PolicyState.LATE
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        until(lambda: np.isfinite(policy(OBSERVATION)).all(), "an answer")
        assert policy.pid == pid or policy.restarts  # a loaded machine may have needed the second process


def test_what_keeps_dying_is_left_dead(bundle: Bundle, faults: Callable[..., Path]) -> None:
    log = faults("exits", tick=0)
    with PolicyProcess(bundle, deadline_s=1.0, worker=FAULTY) as policy:
        until(lambda: (policy(OBSERVATION), len(log.read_text().splitlines()) == 1 + RESTARTS)[1], "all restarts")
        until(lambda: (policy(OBSERVATION), policy.pid is None)[1], "the last one to end")
        for _ in range(50):
            assert np.isnan(policy(OBSERVATION)).all() and policy.state is PolicyState.DEAD
        assert policy.restarts == RESTARTS and len(log.read_text().splitlines()) == 1 + RESTARTS
        policy.reset()  # a new episode, on the ground: once more
        assert policy.state is PolicyState.ANSWERED and policy.restarts == RESTARTS + 1


def test_between_episodes_a_dead_or_hung_process_is_replaced(bundle: Bundle) -> None:
    with PolicyProcess(bundle, deadline_s=0.2) as policy:
        for sign in (signal.SIGKILL, signal.SIGSTOP):
            policy(OBSERVATION)
            pid = policy.pid
            assert pid is not None and policy.state is PolicyState.ANSWERED
            os.kill(pid, sign)
            if sign == signal.SIGSTOP:
                policy(OBSERVATION)
            else:
                until(lambda pid=pid: dead(pid), "its death")
            policy.reset()
            assert policy.state is PolicyState.ANSWERED and policy.pid != pid
            assert np.isfinite(policy(OBSERVATION)).all()


def test_after_an_answer_that_is_not_finite_reset_waits_for_nothing(
    bundle: Bundle, faults: Callable[..., Path]
) -> None:
    """The agent resets in flight then; even if the process dies in that very moment nothing may be waited for."""
    faults("nan", tick=0)
    with PolicyProcess(bundle, deadline_s=2.0, worker=FAULTY) as policy:
        assert np.isnan(policy(OBSERVATION)).all() and policy.state is PolicyState.ANSWERED
        pid = policy.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: dead(pid), "its death")
        policy.reset()
        assert policy.pid == pid and policy.restarts == 0
        policy(OBSERVATION)
        assert policy.state is PolicyState.DEAD


def test_a_policy_that_does_not_come_back_is_dead_after_reset_and_says_why(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    with supervised_agent(bundle) as (agent, policy):
        assert policy.pid is not None
        os.kill(policy.pid, signal.SIGKILL)
        model = bundle.path / "policy.onnx"
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(bytes(data))
        until(lambda: dead(policy.pid), "its death")
        agent.reset()
        assert agent.policy_state is PolicyState.DEAD and "sha256" in policy.problem
        tick = agent.tick(sample(), SETPOINT, 0)
        assert tick.guard != Mode.POLICY and tick.trips & Trip.POLICY_LATE and all(map(np.isfinite, tick.command))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_the_fallback_law_commands_within_three_ticks_and_hands_back(bundle: Bundle, sign: signal.Signals) -> None:
    period_s = 1.0 / bundle.contract.rate_hz
    with supervised_agent(bundle, paced=False) as (agent, policy):  # so that a loaded machine is no late policy
        for k in range(10):
            assert agent.tick(sample(time_ns=int(k * period_s * 1e9)), SETPOINT, int(k * period_s * 1e9)).guard == 0
        assert policy.pid is not None
        os.kill(policy.pid, sign)
        guards, k = [], 10
        deadline = time.monotonic() + PATIENCE_S
        while not guards or (guards[-1] != Mode.POLICY) or len(guards) < 5:
            now = int(k * period_s * 1e9)
            started = time.monotonic()
            tick = agent.tick(sample(time_ns=now), SETPOINT, now)
            assert time.monotonic() - started < LOCKSTEP_DEADLINE_S + 2.0 and all(map(np.isfinite, tick.command))
            guards.append(tick.guard)
            k += 1
            assert time.monotonic() < deadline, policy.problem
            time.sleep(0.002)
        assert any(guard >= Mode.HOLD for guard in guards[:3])
        assert policy.restarts == 1


def test_without_a_process_of_its_own_the_same_death_takes_the_flight_with_it(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: the same fault in this process ends the process that should have flown on."""
    code = """
import sys
from benchmarks.faulty_policy import Faulty
from sim2sky.agent.bundle import open_bundle
from sim2sky.runtime.assembly import make_agent
from sim2sky.runtime.state import Setpoint
from tests.flight_support import sample
from pathlib import Path
agent = make_agent(open_bundle(Path(sys.argv[1])))
agent._policy = Faulty(agent._policy, None)
for k in range(10):
    agent.tick(sample(), Setpoint(160.0, 18.0, 0.3), 0)
    print(k, flush=True)
"""
    plan = {
        "kinds": ["exits"],
        "seed": 1,
        "first": 4,
        "last": 4,
        "spread_s": 0,
        "slow_s": 0,
        "log": str(tmp_path / "l"),
    }
    env = {**agent_environment(), "FAULTS": json.dumps(plan)}
    env["PYTHONPATH"] += os.pathsep + str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", code, str(bundle.path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3 and result.stdout.split() == ["0", "1", "2", "3"], result.stderr


@pytest.mark.parametrize("kind", ["spins", "stopped", "idle"])
def test_an_orphaned_policy_process_ends_when_the_flight_process_is_killed(
    bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    code = """
import sys, time
from pathlib import Path
import numpy as np
from sim2sky.agent.bundle import open_bundle
from sim2sky.runtime.policy_process import PolicyProcess
bundle = open_bundle(Path(sys.argv[1]))
policy = PolicyProcess(bundle, deadline_s=0.1, worker="benchmarks.faulty_policy")
policy(np.zeros(len(bundle.contract.observation_names), np.float32))
print(policy.pid, flush=True)
time.sleep(60)
"""
    log = tmp_path / "faults.txt"
    tick = 10**6 if kind == "idle" else 0
    kinds = ["exits" if kind == "idle" else kind]
    plan = {"kinds": kinds, "seed": 1, "first": tick, "last": tick, "spread_s": 0, "slow_s": 0, "log": str(log)}
    env = {**agent_environment(), "FAULTS": json.dumps(plan)}
    env["PYTHONPATH"] += os.pathsep + str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", code, str(bundle.path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as flight:
        assert flight.stdout is not None
        child = psutil.Process(int(flight.stdout.readline()))
        if kind != "idle":
            until(log.exists, "the fault")
        flight.send_signal(signal.SIGKILL)
        flight.wait(PATIENCE_S)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the orphan's end")


def test_a_wrong_policy_never_gets_to_answer(tmp_path: Path) -> None:
    """Swapped channels with golden vectors of the right policy: refused at the start, unless nobody asked for it."""
    good = linear_network(make_contract(settings()))
    dense = good.layers[0]
    assert isinstance(dense, Dense)
    swapped = Network(good.inputs, (Dense(dense.weight[[1, 0, 2, 3]], dense.bias), *good.layers[1:]))
    bundle = make_bundle(tmp_path / "b", settings(), network=swapped, golden_of=good)
    with pytest.raises(GoldenMismatchError, match="differs from its golden vectors"), supervised_agent(bundle):
        pass
    unchecked = SafetyLimits(preflight_checks_required=False)
    free = make_bundle(tmp_path / "free", settings(), network=swapped, golden_of=good, limits=unchecked)
    with supervised_agent(free) as (agent, _):
        assert agent.policy_state is PolicyState.ANSWERED


def test_what_cannot_be_loaded_is_the_same_plain_error_as_in_this_process(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    with pytest.raises(BundleError, match="no format 'torchscript'"):
        PolicyProcess(bundle, "torchscript", deadline_s=1.0)
    object.__setattr__(bundle, "formats", {**bundle.formats, "tflite": "policy.tflite"})
    object.__setattr__(bundle, "digest", "0" * 64)
    with pytest.raises(BundleError, match="expected 000000000000"):
        PolicyProcess(bundle, deadline_s=1.0)
    with pytest.raises(ContractError, match="deadline"):
        PolicyProcess(bundle, deadline_s=0.0)


def test_a_worker_that_is_none_is_a_plain_error(bundle: Bundle) -> None:
    for module in ("no.such.module", "this", "json.tool"):  # ends at once, prints and ends, is no worker
        with pytest.raises(BundleError, match="ended while starting"):
            PolicyProcess(bundle, deadline_s=1.0, worker=module)


def test_a_worker_that_never_gets_ready_is_given_up(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_process, "START_S", 0.01)
    with pytest.raises(BundleError, match=r"does not start: it was not ready after 0\.01 s"):
        PolicyProcess(bundle, deadline_s=1.0)


def test_when_no_process_can_be_started_the_tick_goes_on(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of processes or of file descriptors in flight."""
    with PolicyProcess(bundle, deadline_s=1.0) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: (process(OBSERVATION), process.state is PolicyState.DEAD)[1], "its death")
        monkeypatch.setattr(process, "_command", ["/nowhere/python"])
        assert np.isnan(process(OBSERVATION)).all() and process.problem.startswith("its process cannot be started")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files")))
            assert np.isnan(process(OBSERVATION)).all() and process.problem.endswith("Too many open files")
        process.reset()
        assert process.state is PolicyState.DEAD and process.pid is None


def test_elsewhere_than_on_linux_it_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotSupportedError, match="it needs Linux"):
        PolicyProcess(bundle, deadline_s=1.0)


def test_no_file_descriptor_and_no_process_is_left_after_many(bundle: Bundle, faults: Callable[..., Path]) -> None:
    faults("killed", "spins", "closed", tick=1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with PolicyProcess(bundle, deadline_s=0.05, worker=FAULTY) as policy:
            until(lambda policy=policy: (policy(OBSERVATION), policy.restarts >= 2)[1], "two deaths")
    assert len(os.listdir("/proc/self/fd")) == before


def test_in_lockstep_a_slow_machine_is_no_late_policy(bundle: Bundle) -> None:
    """A policy that needs longer than a control period flies in lockstep, as it does in simulation."""
    with supervised_agent(bundle, paced=False) as (agent, policy):
        assert policy.pid is not None
        child = psutil.Process(policy.pid)
        inside = make_agent(bundle)
        for _ in range(3):
            child.suspend()
            resume = threading.Timer(0.1, child.resume)
            resume.start()
            tick = agent.tick(sample(), SETPOINT, 0)
            assert tick.guard == Mode.POLICY and tick.command == inside.tick(sample(), SETPOINT, 0).command
            resume.join()


def test_the_worker_refuses_what_is_no_observation(bundle: Bundle) -> None:
    """The other direction: a flight process of another version must not be answered."""
    with PolicyProcess(bundle, deadline_s=0.5) as policy:
        policy(np.zeros(3, np.float32))
        assert policy.state in {PolicyState.DEAD, PolicyState.LATE}


def test_a_socket_that_closed_while_idle_is_found_before_the_next_episode(bundle: Bundle) -> None:
    with PolicyProcess(bundle, deadline_s=1.0) as policy:
        pid = policy.pid
        assert policy._worker is not None
        policy._worker.channel.shutdown(socket.SHUT_RD)  # reads as if the other end were closed
        policy.reset()
        assert policy.state is PolicyState.ANSWERED and policy.pid != pid and policy.restarts == 1
        assert "closed its socket" in policy.problem


def recurrent_bundle(out: Path, fmt: str) -> Bundle:
    """A bundle with an LSTM between the contract's observation and its actions."""
    contract = make_contract(settings())
    network = policy(3, (len(contract.observation_names), 16), end="box", recurrent=1)
    rows = observations(network, 60)
    starts = np.zeros(60, np.float32)
    starts[[0, 20, 21]] = 1.0
    state, answers = None, []
    for t in range(60):
        answer, state = evaluate(network, {k: v[t : t + 1] for k, v in rows.items()}, state, starts[t : t + 1])
        answers.append(answer[0])
    golden = GoldenVectors(rows, np.stack(answers).astype(np.float32), starts, np.array(["sampled"] * 60), np.ones(4))
    name, data = (
        ("policy.onnx", model_to_bytes(emit_onnx(network)))
        if fmt == "onnx"
        else ("policy.pt", torchscript_bytes(network))
    )
    safety = {**SafetyLimits().to_json(), "fallback": airframe("ultrastick25e").gains.to_json()}
    files = {
        "network.npz": network_to_bytes(network),
        "golden.npz": golden_to_bytes(golden),
        name: data,
        "safety.json": canonical_json(safety),
    }
    return write_bundle(out, agent="lstm", contract=contract, formats={fmt: name}, active=fmt, files=files)


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_a_recurrent_policy_keeps_its_state_there_and_loses_it_with_reset_or_death(tmp_path: Path, fmt: str) -> None:
    if fmt == "torchscript":
        pytest.importorskip("torch")
    bundle = recurrent_bundle(tmp_path / "b", fmt)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4, len(OBSERVATION))).astype(np.float32)
    with PolicyProcess(bundle, deadline_s=PATIENCE_S, tolerance=1e-5) as there:
        assert replay_golden(there, bundle.golden()) <= 1e-5
        fresh = [there(row) for row in rows]
        assert not np.array_equal(there(rows[0]), fresh[0])  # it remembers
        there.reset()
        assert [a.tolist() for a in map(there, rows)] == [a.tolist() for a in fresh]
        assert there.pid is not None
        os.kill(there.pid, signal.SIGKILL)
        until(lambda: dead(there.pid), "its death")
        until(lambda: np.isfinite(there(rows[0])).all(), "the next process")
        assert [a.tolist() for a in map(there, rows[1:])] == [a.tolist() for a in fresh[1:]]


def test_the_documented_numbers_are_the_codes() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "supervisor.md").read_text()
    assert f"**{DEADLINE:.0%} of\nthe control period**".replace("60%", "60 %") in text
    assert f"after {LATE_TICKS} of them in a row" in text and f"{len(KINDS)} kinds of death" in text
    assert (RESTARTS, LOCKSTEP_DEADLINE_S, MAX_PACKET) == (3, 1.0, 65536)  # written as words
    assert "After **three** restarts" in text and "the deadline there is one second" in text
    assert f"flight process {FLIGHT_PRIORITY}, policy process {POLICY_PRIORITY}" in text
