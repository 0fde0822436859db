"""The judge of the fault matrix: every way of not going as expected is seen, and what was not flown has failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.hil.fault_matrix import classify, judge, render
from sim2sky.hil.fault_schedule import Case
from sim2sky.hil.faulty_plant import FaultReport
from sim2sky.runtime.safety import Mode

POLICY, HOLD = int(Mode.POLICY), int(Mode.HOLD)


def case(expect: str = "completes", **more: Any) -> Case:
    fault = {"kind": "drop", "start_s": 1.0}
    return Case.model_validate({"name": "drop", "severity": "mild", "faults": [fault], "expect": expect, **more})


def report(modes: list[int | None], termination: str | None = "completed", struck: int = 5) -> FaultReport:
    outcome = None if termination is None else EpisodeOutcome(1, True, termination, len(modes) / 20, {}, 0.0)
    return FaultReport(20.0, Counter({"drop": struck}), list(modes), outcome)


CALM = report([POLICY] * 60)
BACK = report([POLICY] * 25 + [HOLD] * 10 + [POLICY] * 25)
HELD = report([POLICY] * 25 + [HOLD] * 35)
DOWN = report([POLICY] * 25 + [HOLD] * 5, "envelope: bank angle beyond 80 degrees")
OVER = report([POLICY] * 25, None)


@pytest.mark.parametrize(
    ("flight", "word"), [(CALM, "completes"), (BACK, "recovers"), (HELD, "guarded"), (DOWN, "lost"), (OVER, "ends")]
)
def test_a_flight_passes_where_its_own_word_is_expected_and_nowhere_else(flight: FaultReport, word: str) -> None:
    assert classify(flight) == word
    for expect in ("completes", "recovers", "guarded", "lost", "ends"):
        result = judge(case(expect), flight, "the agent is gone" if word == "ends" else "")
        assert result.passed == (expect == word) and result.outcome == word
        assert result.passed or f"{word} instead of {expect}" in result.why


def test_what_was_not_flown_has_not_passed() -> None:
    result = judge(case(), None, "no flight agent came")
    assert not result.passed and result.outcome == "not flown" and result.why == "no flight agent came"
    assert judge(case(), None).why == "not flown"


def test_a_fault_that_never_struck_is_no_test() -> None:
    result = judge(case(), report([POLICY] * 60, struck=0))
    assert not result.passed and "'drop' never struck" in result.why


def test_a_fallback_that_comes_late_fails() -> None:
    assert BACK.takeover_s(1.0) == pytest.approx(0.25) and CALM.takeover_s(1.0) is None
    assert judge(case("recovers", within_s=0.25), BACK).passed
    late = judge(case("recovers", within_s=0.2), BACK)
    assert not late.passed and "after 0.25 s, not within 0.2 s" in late.why
    never = judge(case("recovers", within_s=0.2), CALM)
    assert "never" in never.why and "completes instead of recovers" in never.why


def test_ticks_without_an_agent_are_nobodys_command() -> None:
    gone = report([POLICY] * 20 + [None] * 20 + [POLICY] * 20)
    assert classify(gone) == "completes" and gone.guarded == 0 and gone.takeover_s(1.0) is None


def test_the_table_shows_every_case_and_names_what_failed() -> None:
    results = [
        judge(case(), CALM),
        judge(case(severity="severe"), DOWN),
        judge(Case.model_validate({**case().model_dump(exclude_unset=True), "name": "other"}), None),
    ]
    text = render(results)
    lines = text.splitlines()
    assert lines[0].split() == ["fault", "mild", "severe"]
    assert lines[1].split() == ["drop", "✓", "completes", "✗", "lost", "0.25", "s"]
    assert lines[2].split() == ["other", "✗", "not", "flown", "-"]
    assert "✗ drop severe: lost instead of completes (envelope: bank angle beyond 80 degrees)" in text
    assert lines[-1] == "1 of 3 as expected"
    assert results[1].to_json() == {
        "name": "drop", "severity": "severe", "expected": "completes", "outcome": "lost", "passed": False,
        "why": "lost instead of completes", "takeover_s": 0.25, "guarded_s": 0.25, "applied": {"drop": 5},
        "detail": "envelope: bank angle beyond 80 degrees",
    }  # fmt: skip
