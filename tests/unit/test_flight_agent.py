"""One tick of the agent: what the policy sees, what it may not see, and what is remembered."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.flight_support import NAN, linear_network, make_bundle, sample, settings

from sim2sky.agent.contract import Output
from sim2sky.agent.layers import Dense, Network
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import BundleError, ConfigError, ContractError, GoldenMismatchError
from sim2sky.runtime.assembly import make_agent, make_monitor
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.flight_agent import FlightAgent, Tick
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.observation import ObservationBuilder
from sim2sky.runtime.safety import Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import CHANNELS, PolicyState, Setpoint

CONTRACT = make_contract(settings())
SETPOINT = Setpoint(altitude_m=160.0, airspeed_mps=18.0, heading_rad=0.3)


class Policy:
    """Answers what it is told to and remembers what it saw."""

    state = PolicyState.ANSWERED

    def __init__(self, answer: list[float] | None = None) -> None:
        self.answer = answer or [0.1, -0.2, 0.05, 0.3]
        self.seen: list[NDArray[Any]] = []
        self.resets = 0

    def __call__(self, observation: Any) -> NDArray[Any]:
        self.seen.append(np.array(observation))
        return np.array(self.answer, np.float32)

    def reset(self) -> None:
        self.resets += 1


def make(policy: Policy, **limits: object) -> FlightAgent:
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    monitor = SafetyMonitor.for_contract(SafetyLimits.from_json({"recovery_s": 0.0, **limits}), law, CONTRACT)
    return FlightAgent(CONTRACT, policy, monitor)


def test_the_command_is_the_contracts_mapping_of_the_action_bit_for_bit() -> None:
    policy = Policy()
    tick = make(policy).tick(sample(), SETPOINT, 0)
    expected = CONTRACT.commands(np.array(policy.answer, np.float32))
    assert tick.command._asdict() == expected and (tick.guard, tick.trips) == (0, 0)
    assert tick.action.tolist() == np.array(policy.answer, np.float32).tolist()


def test_the_policy_sees_the_contracts_observation_with_its_own_past() -> None:
    policy, builder = Policy(), ObservationBuilder(CONTRACT)
    agent = make(policy)
    for k in range(5):
        state = sample(roll_rad=0.1 * k)
        expected = builder.build(state, SETPOINT)
        builder.record(np.array(policy.answer, np.float32).tolist())
        assert np.array_equal(agent.tick(state, SETPOINT, 0).observation, expected)
        assert np.array_equal(policy.seen[-1], expected)
        policy.answer = [0.01 * k] * 4


def test_a_state_with_nan_never_reaches_the_policy() -> None:
    policy = Policy()
    agent = make(policy)
    agent.tick(sample(), SETPOINT, 0)
    tick = agent.tick(sample(p_radps=NAN), SETPOINT, 0)
    assert len(policy.seen) == 1 and np.isnan(tick.action).all() and np.isnan(tick.observation).any()
    assert tick.guard == Mode.HOLD and all(map(math.isfinite, tick.command))
    assert tick.trips == Trip.NONFINITE_STATE | Trip.NONFINITE_ACTION | Trip.BRIDGED
    assert agent.tick(sample(), SETPOINT, 0).guard == Mode.POLICY


def test_a_policy_that_answers_nan_is_overruled_and_its_state_forgotten() -> None:
    policy = Policy([NAN, 0.0, 0.0, 0.0])
    agent = make(policy)
    resets = policy.resets
    tick = agent.tick(sample(), SETPOINT, 0)
    assert tick.guard == Mode.HOLD and policy.resets == resets + 1
    policy.answer = [0.0] * 4
    # What the fallback law commanded is what the policy is told it did: finite, so the next observation is, too.
    assert np.isfinite(agent.tick(sample(), SETPOINT, 0).observation).all()


def test_during_fallback_the_history_holds_what_was_flown() -> None:
    agent = make(policy := Policy())
    tick = agent.tick(sample(roll_rad=1.3), SETPOINT, 0)
    flown = [s.action(c) for s, c in zip(CONTRACT.output.signals, tick.command, strict=True)]
    following = agent.tick(sample(roll_rad=1.3), SETPOINT, 0).observation
    start = CONTRACT.observation_names.index("previous_aileron_1")
    assert following[start : start + 4] == pytest.approx(flown, abs=1e-6)
    assert flown != pytest.approx(policy.answer)


def test_reset_starts_an_episode_afresh_but_keeps_a_kill() -> None:
    agent = make(policy := Policy())
    first = agent.tick(sample(), SETPOINT, 0)
    agent.tick(sample(), SETPOINT, 0)
    agent.reset()
    assert np.array_equal(agent.tick(sample(), SETPOINT, 0).observation, first.observation) and policy.resets == 2
    agent.monitor.kill()
    agent.reset()
    assert agent.tick(sample(), SETPOINT, 0).command == (0.0, 0.0, 0.0, 0.0)


def test_ticks_are_a_function_of_what_comes_in() -> None:
    def run() -> list[Tick]:
        agent = make(Policy())
        states = [sample(roll_rad=0.3 * k, altitude_m=150.0 - 30 * k) for k in range(8)]
        return [agent.tick(s, SETPOINT, 0) for s in states]

    for a, b in zip(run(), run(), strict=True):
        assert a.command == b.command and np.array_equal(a.observation, b.observation) and a[3:] == b[3:]


def test_contracts_that_cannot_be_flown_are_refused() -> None:
    monitor = make(Policy()).monitor
    reordered = replace(CONTRACT, output=replace(CONTRACT.output, signals=CONTRACT.output.signals[::-1]))
    discrete = replace(CONTRACT, output=Output("discrete", sizes=(3,)))
    for contract in (reordered, discrete):
        with pytest.raises(ContractError, match="aileron, elevator, rudder, throttle"):
            FlightAgent(contract, Policy(), monitor)
    with pytest.raises(ContractError, match="shape"):
        make(Policy([0.0, 0.0])).tick(sample(), SETPOINT, 0)
    assert tuple(s.name for s in CONTRACT.output.signals) == CHANNELS


def test_a_bundle_flies_only_within_its_golden_tolerance(tmp_path: Path) -> None:
    good = linear_network(CONTRACT)
    dense = good.layers[0]
    assert isinstance(dense, Dense)
    coarse = Network(good.inputs, (Dense(dense.weight + 1e-4, dense.bias), *good.layers[1:]))
    strict = make_bundle(tmp_path / "strict", settings(), network=coarse, golden_of=good)
    with pytest.raises(GoldenMismatchError, match="differs from its golden vectors"):
        make_agent(strict)
    assert make_agent(strict, tolerance=0.1).contract == CONTRACT
    recorded = {"golden_tolerance": 0.1}
    make_agent(make_bundle(tmp_path / "tolerant", settings(), network=coarse, golden_of=good, provenance=recorded))
    for wrong in ("0.1", True, [1]):
        bundle = make_bundle(tmp_path / repr(wrong)[:2], settings(), provenance={"golden_tolerance": wrong}, agent="a")
        with pytest.raises(BundleError, match="golden_tolerance is no number"):
            make_agent(bundle)
    unchecked = SafetyLimits(preflight_checks_required=False)
    make_agent(make_bundle(tmp_path / "unchecked", settings(), network=coarse, golden_of=good, limits=unchecked))


def test_a_bundle_without_limits_or_fallback_law_does_not_fly(tmp_path: Path) -> None:
    for safety in (None, {"roll_max": 60.0}):
        with pytest.raises(BundleError, match="fallback law"):
            make_monitor(safety, CONTRACT)
    gains = airframe("ultrastick25e").gains.to_json()
    with pytest.raises(ConfigError, match="did you mean 'roll_max'"):
        make_monitor({"rol_max": 60.0, "fallback": gains}, CONTRACT)
    with pytest.raises(ConfigError, match="gains"):
        make_monitor({"fallback": {"roll_p": 1.0}}, CONTRACT)
