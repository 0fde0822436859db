"""The agent in C against `FlightAgent` over the numpy twin of its policy: the same bits, whatever happens."""

from __future__ import annotations

import functools
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.agent_support import LIMITS, Moment, bundle_of, differs, moments, step
from tests.c_support import build_program
from tests.flight_support import sample
from tests.twin_agent import ArithmeticBackend

from sim2sky.agent.bundle import Bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.environments.episode import EpisodeOutcome, fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.native_agent import NativeAgent
from sim2sky.hil.native_library import native_library
from sim2sky.runtime.assembly import make_agent, make_monitor
from sim2sky.runtime.flight_agent import FlightAgent, Tick
from sim2sky.runtime.safety import Mode, Trip
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.validation.flight import environment_for, safety_of

AGENTS = Path(__file__).resolve().parents[2] / "agents"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiled libraries of this module go nowhere near those of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Twin(ArithmeticBackend):
    """Counts how often it is asked."""

    asked = 0

    def __call__(self, observation: NDArray[Any]) -> NDArray[Any]:
        self.asked += 1
        return super().__call__(observation)


def twin_of(bundle: Bundle) -> tuple[FlightAgent, Twin]:
    backend = Twin(bundle.network())
    return FlightAgent(bundle.contract, backend, make_monitor(bundle.safety(), bundle.contract)), backend


def compare(bundle: Bundle, seed: int, n: int) -> dict[str, int]:
    """Fly both through the same moments; what happened, or an assertion."""
    python, backend = twin_of(bundle)
    native = NativeAgent(bundle)
    seen: dict[str, int] = {"asked": 0, "trips": 0}
    with np.errstate(over="ignore"):  # 1e300 m is no float32: infinite, and then clipped
        for number, moment in enumerate(moments(seed, n)):
            expected, got = step(python, moment), step(native, moment)
            if not isinstance(expected, Tick):
                assert got is expected and native.monitor.killed is python.monitor.killed, (number, moment)
                continue
            assert isinstance(got, Tick)
            assert not (problem := differs(expected, got)), f"seed {seed}, moment {number}: {problem}\n{moment}"
            seen[Mode(got.guard).name] = seen.get(Mode(got.guard).name, 0) + 1
            seen["trips"] |= got.trips
    seen["asked"] = backend.asked
    assert list(python.monitor.events) == list(native.monitor.events)
    return seen


KINDS = ("tanh", "relu", "lstm", "wild")


@pytest.mark.parametrize("kind", KINDS)
def test_random_flights_have_the_same_bits(kind: str, tmp_path: Path) -> None:
    seen = compare(bundle_of(tmp_path / "b", kind), seed=1, n=1500)
    assert seen["POLICY"] > 50 and seen["HOLD"] > 50 and seen["asked"] > 500, seen


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("tanh", 8_000), ("relu", 8_000), ("lstm", 4_000), ("wild", 80_000)])
def test_a_hundred_thousand_ticks_have_the_same_bits(kind: str, n: int, tmp_path: Path) -> None:
    seen = compare(bundle_of(tmp_path / "b", kind), seed=2, n=n)
    assert seen["POLICY"] > 200 and seen["HOLD"] > 200, seen
    assert not seen["trips"] & int(Trip.POLICY_LATE | Trip.POLICY_DEAD)  # in one program it is neither
    if n > 50_000:  # enough for everything to have happened
        assert all(seen[mode.name] > 20 for mode in Mode), seen
        missing = [t.name for t in Trip if not t & seen["trips"] and t not in {Trip.POLICY_LATE, Trip.POLICY_DEAD}]
        assert not missing, missing


UNDEFINED = ["-fsanitize=undefined,float-divide-by-zero", "-fsanitize-trap=all", "-O1"]
"""Traps where C leaves the behaviour open; needs no run-time library."""


@pytest.mark.parametrize("options", [[], ["-O0"], UNDEFINED], ids=["O3", "O0", "undefined"])
def test_another_compiler_gives_the_same_bits_and_finds_nothing_undefined(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "clang")
    built = functools.partial(native_library, options=["-Werror", *options])
    monkeypatch.setattr("sim2sky.hil.native_agent.native_library", built)
    for kind in ("lstm", "wild"):
        assert compare(bundle_of(tmp_path / kind, kind), seed=4, n=500)["POLICY"] > 10


def test_the_sanitiser_would_trap(tmp_path: Path) -> None:
    """A shift by more than the width ends the program, so silence above means something."""
    source = tmp_path / "shift.c"
    source.write_text("int main(int n, char **v) { (void)v; return 1 << (n + 40); }\n")
    program = build_program([source], tmp_path, compiler=find_compiler("host", "clang"), options=UNDEFINED)
    assert subprocess.run([str(program)], timeout=20, check=False).returncode < 0


@pytest.mark.parametrize(("task", "rate_hz"), [("attitude", 50.0), ("rate", 30.0)])
def test_other_tasks_and_rates(task: str, rate_hz: float, tmp_path: Path) -> None:
    env = EnvironmentSettings.model_validate({"task": {"name": task}, "rate_hz": rate_hz, "physics_hz": 4 * rate_hz})
    assert compare(bundle_of(tmp_path / "b", "lstm", env), seed=3, n=800)["asked"] > 300


def test_a_recurrent_state_survives_ticks_without_a_question_and_dies_with_an_answer_that_is_none(
    tmp_path: Path,
) -> None:
    bundle = bundle_of(tmp_path / "b", "lstm")
    agent = NativeAgent(bundle)
    wanted = Setpoint(altitude_m=150.0, airspeed_mps=18.0)
    first = agent.tick(sample(), wanted, 0)
    second = agent.tick(sample(), wanted, 0)
    assert not np.array_equal(first.action, second.action)  # it remembers
    agent.reset()
    assert np.array_equal(agent.tick(sample(), wanted, 0).action, first.action)
    lost = agent.tick(sample(roll_rad=math.nan), wanted, 0)
    assert np.isnan(lost.action).all() and np.isnan(lost.observation).any()


# Whole episodes of the shipped agents.


@pytest.fixture(scope="module", params=["hawk", "kite"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = AGENTS / request.param
    vehicle = json.loads((folder / "contract.json").read_text())["vehicle"]
    return export_bundle(
        folder / "model.zip",
        tmp_path_factory.mktemp("shipped") / request.param,
        agent_name=request.param,
        safety=lambda _: safety_of(LIMITS.to_json(), vehicle),
    ).bundle


def conditions(bundle: Bundle) -> EnvironmentSettings:
    base = EnvironmentSettings.model_validate(
        {"disturbances": {"wind_mps": [3.0, 9.0], "action_delay_s": [0.0, 0.05]}, "task": {"duration_s": 10.0}}
    )
    return environment_for(bundle.contract, base)


def fly(agent: FlightAgent | NativeAgent, vehicle: SimVehicle, seed: int) -> tuple[EpisodeOutcome, list[Tick]]:
    agent.reset()
    ticks: list[Tick] = []

    def pilot(s: Sample, t: Setpoint, now_ns: int) -> Any:
        ticks.append(agent.tick(s, t, now_ns))
        return ticks[-1].command

    return fly_episode(vehicle, pilot, seed), ticks


def test_whole_episodes_have_the_same_bits_and_those_of_onnxruntime_the_same_outcome(shipped: Bundle) -> None:
    vehicle = SimVehicle(conditions(shipped))
    python, native, onnx = twin_of(shipped)[0], NativeAgent(shipped), make_agent(shipped)
    for seed in (1, 2, 3):
        expected, expected_ticks = fly(python, vehicle, seed)
        got, ticks = fly(native, vehicle, seed)
        other, other_ticks = fly(onnx, vehicle, seed)
        assert got == expected and len(ticks) == len(expected_ticks) > 50
        for number, (a, b) in enumerate(zip(expected_ticks, ticks, strict=True)):
            assert not (problem := differs(a, b)), f"seed {seed}, tick {number}: {problem}"
        assert (other.success, other.termination) == (got.success, got.termination)
        apart = max(float(np.abs(a.action - b.action).max()) for a, b in zip(ticks, other_ticks, strict=True))
        assert apart < 1e-4  # in closed loop the policies' 1e-5 come back as states that differ


def test_on_the_same_states_the_answers_are_those_of_onnxruntime_within_rounding(shipped: Bundle) -> None:
    vehicle = SimVehicle(conditions(shipped))
    native, onnx = NativeAgent(shipped), make_agent(shipped)
    native.reset()
    onnx.reset()
    state, apart = vehicle.reset(5), 0.0
    while not vehicle.done:
        tick, other = (agent.tick(state, vehicle.setpoint, state.time_ns) for agent in (native, onnx))
        if tick.guard == other.guard == Mode.POLICY:
            apart = max(apart, float(np.abs(tick.action - other.action).max()))
        state = vehicle.step(tick.command)
    assert 0.0 < apart <= 1e-5


# Negative controls: what is broken is refused or seen.


def test_the_comparison_sees_a_limit_that_differs_by_one_bit(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", "tanh")
    safety = dict(bundle.safety() or {})
    edge = math.radians(LIMITS.roll_max)
    while math.radians(safety["roll_max"]) == edge:
        safety["roll_max"] = math.nextafter(safety["roll_max"], 0.0)
    assert math.radians(safety["roll_max"]) == math.nextafter(edge, 0.0)
    native = NativeAgent(bundle)
    python = FlightAgent(bundle.contract, Twin(bundle.network()), make_monitor(safety, bundle.contract))
    moment = Moment("tick", sample(roll_rad=edge), Setpoint(150.0, 18.0), 0)
    a, b = (step(agent, moment) for agent in (native, python))
    assert isinstance(a, Tick) and isinstance(b, Tick) and "mode or trips" in differs(a, b)
