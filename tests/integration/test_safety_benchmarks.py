"""Short forms of the long benchmarks of the guard, with their negative controls; and the generated table."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fence_approaches, guard_fuzz, guarded_flight, kill_switch

from sim2sky.runtime.safety import Guarded, Mode, Trip
from sim2sky.runtime.state import Command

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import safety_table  # noqa: E402


def test_the_documented_ladder_is_the_shipped_one() -> None:
    page = safety_table.PAGE.read_text(encoding="utf-8")
    assert safety_table.page_with(safety_table.render(), page) == page, "run python scripts/safety_table.py"


def test_a_ladder_with_a_hole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one more trip, and the policy has the aircraft again."""
    sound = safety_table.answers()
    assert safety_table.problems(sound) == []
    broken = sound.copy()
    broken[int(np.flatnonzero(sound == safety_table.Action.RETURN)[7])] = safety_table.Action.POLICY
    assert any("gives control back" in text for text in safety_table.problems(broken))
    with pytest.raises(AssertionError):
        safety_table.rows(broken)
    monkeypatch.setattr(safety_table, "answers", lambda: broken)
    with pytest.raises(AssertionError, match="control"):
        safety_table.render()


def test_no_adversary_crosses_fence_floor_or_ceiling() -> None:
    flights = fence_approaches.campaign(60, 11, workers=1)
    assert [f for f in flights if f.crossed] == []
    assert sum(f.tripped for f in flights) > 50 and all(f.alive for f in flights)
    assert {(f.aircraft, f.kind) for f in flights} == {
        (a, k) for a in fence_approaches.AIRCRAFT for k in fence_approaches.KINDS
    }


def test_without_prediction_they_do_cross() -> None:
    flights = fence_approaches.campaign(20, 11, workers=1, predict=False)
    assert sum(f.crossed for f in flights) >= 5


def test_every_fuzzed_command_is_within_limits_and_slew_and_every_mode_is_reached() -> None:
    report = guard_fuzz.fuzz(25_000, 3)
    assert report.violations == [] and report.pairs >= 25_000
    assert all(report.modes[mode.name] > 0 for mode in Mode), report.modes


@pytest.mark.parametrize(
    ("command", "mode"),
    [
        (Command(float("nan"), 0.0, 0.0, 0.0), Mode.POLICY),
        (Command(0.0, 0.0, 0.0, 1.5), Mode.HOLD),
        (Command(1.0, 0.0, 0.0, 0.5), Mode.HOLD),
        (Command(0.0, 0.0, 0.0, 0.1), Mode.KILLED),
    ],
)
def test_the_fuzz_would_see_a_command_that_breaks_a_rule(command: Command, mode: Mode) -> None:
    guard = guard_fuzz.monitors(random.Random(0))[2]
    assert guard_fuzz.violation(guard, Guarded(command, mode, Trip(0)), Command(0.0, 0.0, 0.0, 0.5))
    still = Guarded(Command(0.0, 0.0, 0.0, 0.5), Mode.HOLD, Trip(0))
    assert not guard_fuzz.violation(guard, still, Command(0.0, 0.0, 0.0, 0.5))


def test_no_thrust_after_a_kill_without_disarming_and_arming() -> None:
    counts, violations = kill_switch.sequences(400, 5)
    assert violations == [] and counts["ticks stopped"] > 500 and counts["ticks flown"] > 500


def test_a_kill_switch_that_a_new_episode_clears_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monitor = guard_fuzz.SafetyMonitor
    reset = monitor.reset

    def forgetful(self: guard_fuzz.SafetyMonitor) -> None:
        reset(self)
        self.disarm()
        self.arm()

    monkeypatch.setattr(monitor, "reset", forgetful)
    assert kill_switch.sequences(100, 5)[1]


def test_the_guard_costs_the_shipped_agent_nothing() -> None:
    flights = guarded_flight.campaign("hawk", 6, 17, workers=1)
    s = guarded_flight.summary(flights)
    assert s["success_guarded"] >= s["success_unguarded"] >= 5
    assert s["ticks_relieved"] == 0 and s["ticks"] == 6 * 400
    assert 0.0 < s["share_relieved_upper"] < 2e-3 and s["episodes_relieved_upper"] < 0.5
