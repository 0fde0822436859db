"""The excitation a flight agent adds: bounded, reproducible, and never from a damaged or foreign plan."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.flight_support import sample, settings
from tests.unit.test_flight_agent import CONTRACT, SETPOINT, Policy

from sim2sky.environments.airframes import airframe
from sim2sky.errors import ConfigError
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.excitation import FADE_S, LARGEST, Excitation, Sine
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode, SafetyMonitor
from sim2sky.runtime.state import CHANNELS, Command

STEADY = Sine("aileron", 0.2, 0.5, 0.5, 0.3, 1.0, 9.0)
SWEEP = Sine("rudder", 0.3, 0.2, 2.0, 0.0, 2.0, 10.0)
PLAN = Excitation("ultrastick25e", (STEADY, SWEEP), {"roll_deg": 50.0}, {"Clda": 0.05})
TRIM = Command(0.0, 0.1, 0.0, 0.6)

sines = st.builds(
    Sine,
    channel=st.sampled_from(CHANNELS),
    amplitude=st.floats(0.0, 0.14),
    from_hz=st.floats(0.05, 3.0),
    to_hz=st.floats(0.05, 3.0),
    phase_rad=st.floats(-4.0, 4.0),
    start_s=st.floats(0.0, 2.0),
    end_s=st.floats(3.0, 6.0),
)
plans = st.lists(sines, max_size=4).map(lambda s: Excitation("aerosonde", tuple(s)))


def write(path, plan, **changes):
    path.write_text(json.dumps(plan.to_json() | changes), encoding="utf-8")
    return path


# What it adds ---------------------------------------------------------------------------------------------------------


def test_a_steady_sine_is_that_sine_between_its_fades():
    for time_s in np.linspace(1.0 + FADE_S, 9.0 - FADE_S, 40):
        expected = 0.2 * math.sin(2 * math.pi * 0.5 * (time_s - 1.0) + 0.3)
        assert PLAN.at(time_s)[0] == pytest.approx(expected, abs=1e-12)


def test_a_sweep_moves_from_the_first_to_the_last_frequency():
    times = np.arange(2.0, 10.0, 1e-3)
    wave = np.array([PLAN.at(t)[2] for t in times])
    crossings = times[1:][np.diff(np.sign(wave)) != 0]
    periods = 2 * np.diff(crossings)
    assert 1 / periods[0] == pytest.approx(0.4, abs=0.2)
    assert 1 / periods[-1] == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("time_s", [-1.0, 0.0, 0.999, 10.0, 11.0, 1e6])
def test_before_and_after_nothing_is_added(time_s):
    assert PLAN.at(time_s).tolist() == [0.0] * 4
    assert PLAN.add(TRIM, time_s) == TRIM


def test_it_fades_in_and_out_without_a_step():
    times = np.arange(0.0, 11.0, 0.001)
    jumps = np.abs(np.diff([PLAN.at(t) for t in times], axis=0)).max(axis=0)
    assert (jumps[[0, 2]] < 0.01).all()


@given(plan=plans, time_s=st.floats(-1.0, 8.0), command=st.tuples(*[st.floats(-1.0, 1.0)] * 3, st.floats(0.0, 1.0)))
def test_a_command_stays_within_the_travel_whatever_is_added(plan, time_s, command):
    flown = plan.add(Command(*command), time_s)
    assert all(low <= c <= 1.0 for c, low in zip(flown, (-1.0, -1.0, -1.0, 0.0), strict=True))
    assert np.abs(np.array(flown) - command).max() <= LARGEST


def test_a_command_that_is_no_number_stays_none():
    flown = PLAN.add(Command(math.nan, 0.0, math.nan, math.nan), 3.0)
    assert [math.isnan(c) for c in flown] == [True, False, True, True]


@pytest.mark.parametrize(
    ("sine", "problem"),
    [
        (replace(STEADY, channel="flaps"), "no channel 'flaps'"),
        (replace(STEADY, amplitude=0.7), "aileron by 0.70"),
        (replace(STEADY, amplitude=math.nan), "not finite"),
        (replace(STEADY, from_hz=0.0), "no frequency"),
        (replace(STEADY, end_s=1.0), "no time"),
        (replace(STEADY, end_s=math.inf), "not finite"),
        (replace(STEADY, start_s=-1.0), "no time"),
    ],
)
def test_a_sine_out_of_range_is_refused(sine, problem):
    with pytest.raises(ConfigError, match=problem):
        Excitation("ultrastick25e", (sine,))


def test_sines_that_are_small_alone_and_large_together_are_refused():
    many = tuple(replace(STEADY, phase_rad=0.0) for _ in range(4))
    with pytest.raises(ConfigError, match="more than"):
        Excitation("ultrastick25e", many)
    Excitation("ultrastick25e", many[:2])


# Files ----------------------------------------------------------------------------------------------------------------


@given(plan=plans)
def test_a_plan_survives_its_file(tmp_path_factory, plan):
    path = write(tmp_path_factory.mktemp("plan") / "plan.json", plan)
    loaded = Excitation.load(path, aircraft="aerosonde")
    assert loaded == plan
    assert loaded.digest == plan.digest
    assert loaded.at(4.0).tolist() == plan.at(4.0).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"aircraft": "aerosonde"},
        {"sines": []},
        {"limits": {}},
        {"predicted": {"Clda": 0.001}},
        {"digest": "0" * 64},
        {"digest": None},
    ],
)
def test_a_plan_that_somebody_has_changed_is_refused(tmp_path, changes):
    with pytest.raises(ConfigError, match="damaged"):
        Excitation.load(write(tmp_path / "plan.json", PLAN, **changes))


def test_every_flipped_character_of_a_plan_is_refused(tmp_path):
    path = write(tmp_path / "plan.json", PLAN)
    text = path.read_text(encoding="utf-8")
    for i in range(0, len(text), 7):
        flipped = chr(ord(text[i]) ^ 1)
        path.write_text(text[:i] + flipped + text[i + 1 :], encoding="utf-8")
        with pytest.raises(ConfigError):
            Excitation.load(path)


def test_a_plan_for_another_aircraft_is_refused(tmp_path):
    path = write(tmp_path / "plan.json", PLAN)
    assert Excitation.load(path, aircraft="ultrastick25e") == PLAN
    with pytest.raises(ConfigError, match="planned for 'ultrastick25e'"):
        Excitation.load(path, aircraft="aerosonde")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "something else"}', "\x00"])
def test_what_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not an excitation plan"):
        Excitation.load(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="cannot read"):
        Excitation.load(tmp_path / "missing.json")


# In the flight agent --------------------------------------------------------------------------------------------------


def agent(excitation, policy=None):
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    limits = SafetyLimits.from_json({"recovery_s": 0.0})
    return FlightAgent(CONTRACT, policy or Policy(), SafetyMonitor.for_contract(limits, law, CONTRACT), excitation)


def fly(pilot, ticks=60, start_ns=0, **change):
    period = round(1e9 / settings().rate_hz)
    return [
        pilot.tick(sample(time_ns=start_ns + k * period, **change), SETPOINT, start_ns + k * period)
        for k in range(ticks)
    ]


def test_it_is_added_to_what_the_policy_says_and_the_policy_does_not_see_it():
    plain, excited = Policy(), Policy()
    without, with_it = fly(agent(None, plain)), fly(agent(PLAN, excited))
    for k, (a, b) in enumerate(zip(without, with_it, strict=True)):
        assert b.command == PLAN.add(a.command, k * 50_000_000 / 1e9)
        assert (b.action == a.action).all()
        assert (b.observation == a.observation).all()
    assert any(a.command != b.command for a, b in zip(without, with_it, strict=True))


def test_without_one_nothing_changes_and_after_a_reset_it_begins_again():
    pilot = agent(PLAN)
    first = fly(pilot, start_ns=0)
    pilot.reset()
    again = fly(pilot, start_ns=77_000_000_000)
    assert [t.command for t in again] == [t.command for t in first]
    assert [t.command for t in fly(agent(Excitation("ultrastick25e", ())))] == [t.command for t in fly(agent(None))]


def test_the_guard_has_the_last_word():
    """Where the guard flies itself, or limits, the excitation does not pass."""
    steep = fly(agent(PLAN), roll_rad=1.3)
    quiet = fly(agent(None), roll_rad=1.3)
    assert steep[-1].guard != Mode.POLICY
    assert [t.command for t in steep] == [t.command for t in quiet]
    jump = Excitation("ultrastick25e", (Sine("aileron", 0.6, 10.0, 10.0, 1.57, 0.0, 5.0),))
    law = Autopilot(airframe("ultrastick25e").gains, 0.05)
    limits = SafetyLimits.from_json({"surface_slew_per_s": 1.0, "recovery_s": 0.0})
    slow = FlightAgent(CONTRACT, Policy(), SafetyMonitor.for_contract(limits, law, CONTRACT), jump)
    commands = np.array([t.command for t in fly(slow)])
    assert np.abs(np.diff(commands[:, 0])).max() <= 0.05 + 1e-9
