"""Contract: JSON round trip, hash, and the map from actions to commands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal, canonical_json
from sim2sky.errors import ContractError

finite = st.floats(-1e6, 1e6, allow_nan=False)
names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
signals = st.builds(Signal, names, st.sampled_from(["rad", "m/s", "1"]), names, finite, st.just(math.inf))


@st.composite
def action_signals(draw):
    low = draw(st.floats(-10, 0))
    high = draw(st.floats(0.1, 10))
    neutral = draw(st.floats(-0.5, 0.5))
    down, up = draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))
    return ActionSignal(draw(names), "1", low, high, neutral - down, neutral, neutral + up, 0.4)


contracts = st.builds(
    Contract,
    names,
    st.sampled_from(["hsa", "attitude", "rate", ""]),
    st.floats(0, 1000),
    st.lists(
        st.builds(
            Input,
            names,
            st.just("box"),
            st.tuples(st.integers(1, 5)),
            st.just("float32"),
            st.lists(signals, max_size=4).map(tuple),
            st.just(()),
        ),
        max_size=3,
    ).map(tuple),
    st.builds(Output, st.just("continuous"), st.lists(action_signals(), max_size=4).map(tuple), st.just(())),
)


@given(contracts)
def test_round_trip_keeps_everything_and_the_hash(contract):
    again = Contract.from_json(contract.to_json())
    assert again == contract
    assert again.hash == contract.hash
    canonical_json(contract.to_json())  # infinities are written as words, so this never fails


def test_hash_changes_with_order_unit_limit_and_rate():
    a, b = Signal("a", "m", "", -1, 1), Signal("b", "m", "", -1, 1)

    def contract(*signals, rate=20.0):
        entry = Input("observation", "box", (len(signals),), "float32", signals)
        return Contract("x", "hsa", rate, (entry,), Output("continuous")).hash

    base = contract(a, b)
    assert contract(b, a) != base
    assert contract(Signal("a", "ft", "", -1, 1), b) != base
    assert contract(Signal("a", "m", "", -2, 1), b) != base
    assert contract(a, b, rate=50.0) != base


@given(action_signals(), st.floats(0, 1))
def test_command_and_action_are_inverse_within_the_range(signal, fraction):
    action = signal.low + fraction * (signal.high - signal.low)
    command = signal.command(action)
    assert signal.command_low - 1e-9 <= command <= signal.command_high + 1e-9
    assert signal.action(command) == pytest.approx(action, abs=1e-6 * (signal.high - signal.low) + 1e-9)


@given(action_signals())
def test_three_points_of_the_command_map(signal):
    assert signal.command(signal.low) == pytest.approx(signal.command_low)
    assert signal.command(signal.middle) == pytest.approx(signal.command_neutral)
    assert signal.command(signal.high) == pytest.approx(signal.command_high)
    assert signal.command(signal.high + 5) == pytest.approx(signal.command_high)


def test_commands_refuses_a_wrong_length_and_discrete_outputs():
    output = Output("continuous", (ActionSignal("aileron", "1", -1, 1, -1, 0, 1),))
    contract = Contract("", "", 0.0, (), output)
    assert contract.commands(np.array([0.5])) == {"aileron": 0.5}
    with pytest.raises(ContractError, match="length 2"):
        contract.commands(np.zeros(2))
    with pytest.raises(ContractError, match="discrete"):
        Contract("", "", 0.0, (), Output("discrete", (), (3,))).commands(np.zeros(1))


@pytest.mark.parametrize("damage", [{"schema": 7}, {"rate_hz": "fast"}, {"inputs": [{"key": "x"}]}, {"output": None}])
def test_malformed_contract_is_refused(damage):
    good = Contract("", "", 0.0, (), Output("continuous")).to_json()
    with pytest.raises(ContractError):
        Contract.from_json({**good, **damage})
