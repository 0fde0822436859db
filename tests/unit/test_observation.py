"""Observation: names, order, limits, history; and that nothing hides a NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.agent.contract import Contract, Input
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import ContractError
from sim2sky.runtime.observation import SIGNALS, ObservationBuilder, signal
from sim2sky.runtime.real import wrap_angle
from sim2sky.runtime.state import Sample, Setpoint

LEVEL = Sample(0, 0.1, 0.05, 1.0, 0.2, 0.3, 0.4, 17.0, 140.0, 1.5, 10.0, 20.0)
TARGET = Setpoint(altitude_m=150.0, airspeed_mps=18.0, heading_rad=1.5, roll_rad=0.3, pitch_rad=0.1, p_radps=1.0)


def contract(task="hsa", signals=None) -> Contract:
    base = make_contract(EnvironmentSettings.model_validate({"task": {"name": task}}))
    if signals is None:
        return base
    entry = Input("observation", "box", (len(signals),), "float32", tuple(signals))
    return replace(base, inputs=(entry,))


def by_name(task, sample=LEVEL, setpoint=TARGET):
    c = contract(task)
    return dict(zip(c.observation_names, ObservationBuilder(c).build(sample, setpoint).tolist(), strict=True))


def test_hsa_values():
    o = by_name("hsa")
    assert o["altitude_error_m"] == pytest.approx(10.0)
    assert o["airspeed_error_mps"] == pytest.approx(1.0)
    assert o["heading_error_rad"] == pytest.approx(0.5)
    assert o["climb_rate_error_mps"] == pytest.approx(3.0 - 1.5)  # 0.4 * 10 is limited to 3 m/s
    assert o["bank_error_rad"] == pytest.approx(1.2 * 0.5 - 0.1)
    assert o["roll_rad"] == pytest.approx(0.1)
    assert o["q_radps"] == pytest.approx(0.3)


def test_attitude_and_rate_values():
    assert by_name("attitude")["roll_error_rad"] == pytest.approx(0.2)
    assert by_name("attitude")["pitch_error_rad"] == pytest.approx(0.05)
    assert by_name("rate")["p_error_radps"] == pytest.approx(0.8)
    assert by_name("rate")["r_error_radps"] == pytest.approx(-0.4)


@given(st.floats(-100, 100))
def test_wrap_angle(angle):
    wrapped = wrap_angle(angle)
    assert -math.pi <= wrapped < math.pi
    assert math.isclose(math.sin(wrapped), math.sin(angle), abs_tol=1e-9)
    assert math.isclose(math.cos(wrapped), math.cos(angle), abs_tol=1e-9)


@given(st.builds(replace, st.just(LEVEL), altitude_m=st.floats(-1e4, 1e4), airspeed_mps=st.floats(0, 1e3)))
def test_observation_stays_within_the_contract(sample):
    c = contract()
    o = ObservationBuilder(c).build(sample, TARGET)
    assert o.dtype == np.float32
    for value, s in zip(o, c.inputs[0].signals, strict=True):
        assert np.float32(s.low) <= value <= np.float32(s.high)


@pytest.mark.parametrize("field", ["roll_rad", "airspeed_mps", "altitude_m", "q_radps"])
def test_nan_in_the_state_is_nan_in_the_observation(field):
    o = ObservationBuilder(contract()).build(replace(LEVEL, **{field: math.nan}), TARGET)
    assert np.isnan(o).any()


def test_history_is_newest_first_and_reset_forgets():
    c = contract()
    builder = ObservationBuilder(c)
    for k in range(1, 5):
        builder.record([k / 10, k / 10 + 0.01, k / 10 + 0.02, k / 10 + 0.03])
    o = dict(zip(c.observation_names, builder.build(LEVEL, TARGET).tolist(), strict=True))
    assert o["previous_aileron_1"] == pytest.approx(0.4)
    assert o["previous_throttle_1"] == pytest.approx(0.43)
    assert o["previous_elevator_3"] == pytest.approx(0.21)
    builder.reset()
    o = dict(zip(c.observation_names, builder.build(LEVEL, TARGET).tolist(), strict=True))
    assert [o[f"previous_aileron_{k}"] for k in (1, 2, 3)] == [0, 0, 0]


def test_a_contract_may_name_a_part_of_the_history_in_its_own_order():
    c = contract(signals=[signal("roll_rad"), signal("previous_throttle_2"), signal("previous_aileron_1")])
    builder = ObservationBuilder(c)
    builder.record([0.1, 0.2, 0.3, 0.4])
    builder.record([0.5, 0.6, 0.7, 0.8])
    assert builder.build(LEVEL, TARGET).tolist() == pytest.approx([0.1, 0.4, 0.5])


@pytest.mark.parametrize("name", ["roll_deg", "previous_flaps_1", "previous_aileron_4", "previous_aileron_0", ""])
def test_unknown_signal_is_refused_by_name(name):
    with pytest.raises(ContractError, match="cannot compute") as caught:
        signal(name)
    assert "roll_rad" in caught.value.hint


def test_contracts_that_cannot_fly_are_refused():
    with pytest.raises(ContractError, match="single box"):
        ObservationBuilder(replace(contract(), inputs=()))
    with pytest.raises(ContractError, match="after all measured"):
        ObservationBuilder(contract(signals=[signal("previous_aileron_1"), signal("roll_rad")]))


@pytest.mark.parametrize("task", ["hsa", "attitude", "rate"])
def test_every_task_observes_only_known_signals(task):
    names = contract(task).observation_names
    assert len(set(names)) == len(names)
    assert all(n in SIGNALS or n.startswith("previous_") for n in names)
