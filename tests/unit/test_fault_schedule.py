"""Fault files: every mistake is named with its line; each kind takes its own parameters and no others."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim2sky.config.loader import default_path, load_settings, parse_settings
from sim2sky.errors import ConfigError
from sim2sky.hil.fault_schedule import PARAMETERS, Case, Expectation, Fault, FaultSettings, Kind, Signal
from sim2sky.runtime.state import Sample

VALUES: dict[str, Any] = {
    "probability": 0.5, "direction": "states", "delay_s": 0.1, "signals": ["roll_rad"], "offset": 1.0,
    "channels": ["rudder"], "position": 0.2, "rate_per_s": 1.0, "factor": 0.5, "down_s": 1.0,
}  # fmt: skip


def test_every_kind_has_its_parameters_and_signals_are_the_samples() -> None:
    assert set(PARAMETERS) == set(get_args(Kind)) and len(PARAMETERS) == 16
    assert list(get_args(Signal)) == [f.name for f in fields(Sample) if f.name != "time_ns"]
    assert {name for pair in PARAMETERS.values() for names in pair for name in names} == set(VALUES)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_kind_takes_what_it_needs_and_nothing_else(kind: str) -> None:
    required, optional = PARAMETERS[kind]
    whole = {name: VALUES[name] for name in (*required, *optional)}
    assert Fault.model_validate({"kind": kind, **whole}).kind == kind
    assert Fault.model_validate({"kind": kind, **{name: VALUES[name] for name in required}}).kind == kind
    for name in required:
        with pytest.raises(ValidationError, match=f"'{kind}' needs '{name}'"):
            Fault.model_validate({"kind": kind, **{k: v for k, v in whole.items() if k != name}})
    for name in set(VALUES) - set(whole):
        with pytest.raises(ValidationError, match=f"'{kind}' does not take '{name}'"):
            Fault.model_validate({"kind": kind, **whole, name: VALUES[name]})


@given(st.floats(0.05, 100), st.floats(0.05, 100) | st.none(), st.floats(0, 300))
def test_a_fault_is_there_from_its_start_to_its_end(start: float, duration: float | None, time: float) -> None:
    fault = Fault(kind="dropout", start_s=start, duration_s=duration)
    expected = time >= start and (duration is None or time < start + duration)
    near = min(abs(time - start), abs(time - start - (duration or 0.0))) < 1e-6
    assert near or fault.active(time) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gremlin"}, "Input should be 'drop'"),
        ({"kind": "drop", "probability": 1.5}, "less than or equal to 1"),
        ({"kind": "drop", "start_s": 0}, "greater than 0"),
        ({"kind": "drop", "chance": 0.5}, "unknown key 'faults.cases.0.faults.0.chance'"),
        ({"kind": "nan", "signals": ["temperature"]}, "Input should be 'roll_rad'"),
        ({"kind": "nan", "signals": []}, "at least 1 item"),
        ({"kind": "stuck", "channels": ["flaps"]}, "Input should be 'aileron'"),
        ({"kind": "reversed", "channels": ["throttle"]}, "a throttle cannot be reversed"),
        ({"kind": "restart", "duration_s": 2}, "not 'duration_s'"),
        ({"kind": "drop", "start_s": 25}, "after the end of the flight"),
    ],
)
def test_a_mistake_is_named_with_its_line(change: dict[str, Any], message: str) -> None:
    fault = ", ".join(f"{k}: {v}" for k, v in change.items())
    text = f"faults:\n  cases:\n    - name: a\n      expect: completes\n      faults:\n        - {{{fault}}}\n"
    with pytest.raises(ConfigError, match=r"file\.yaml:[0-9]+: ") as caught:
        parse_settings(text, FaultSettings, source="file.yaml", section="faults")
    assert message in caught.value.message


def test_cases_have_distinct_names_one_restart_and_sensible_times() -> None:
    case = {"name": "a", "expect": "completes", "faults": [{"kind": "dropout"}]}
    with pytest.raises(ValidationError, match="two cases are called 'a'"):
        FaultSettings.model_validate({"cases": [case, case]})
    with pytest.raises(ValidationError, match="one restart"):
        Case.model_validate({**case, "faults": [{"kind": "restart"}] * 2})
    with pytest.raises(ValidationError, match="expects no takeover"):
        Case.model_validate({**case, "within_s": 1.0})
    with pytest.raises(ValidationError, match="at least 1 item"):
        FaultSettings.model_validate({"cases": []})


def test_the_shipped_matrix_has_every_kind_in_three_severities() -> None:
    settings = load_settings(default_path("hil", "faults"), FaultSettings, section="faults")
    kinds = {fault.kind for case in settings.cases for fault in case.faults}
    assert kinds == set(get_args(Kind))
    names = {case.name for case in settings.cases}
    for name in names:
        assert [c.severity for c in settings.cases if c.name == name] == ["mild", "moderate", "severe"], name
    assert len(settings.cases) == 3 * len(names) >= 48
    assert {case.expect for case in settings.cases} == set(get_args(Expectation))


def test_a_missing_file_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", FaultSettings, section="faults")
