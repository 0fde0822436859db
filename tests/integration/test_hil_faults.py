"""Faults in real HIL runs: two processes, real packets, a real SIGKILL; and the matrix on the shipped agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.flight_support import agent_command, agent_environment, make_bundle, settings

from sim2sky import cli
from sim2sky.agent.bundle import Bundle
from sim2sky.config.loader import default_path, load_settings
from sim2sky.deployment.targets import open_target
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError, LinkError, NotSupportedError
from sim2sky.hil.fault_matrix import CaseResult, fly_cases, render
from sim2sky.hil.fault_schedule import Fault, FaultSettings
from sim2sky.hil.faulty_plant import FaultPlan
from sim2sky.hil.hil_test import compare_with_simulation, run_hil
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode
from sim2sky.telemetry.flight_log import read_flight_log

ENV = agent_environment()
FLIGHT = settings(duration_s=10.0, hold_s=1.0)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", FLIGHT)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def script(*cases: dict[str, Any], seed: int = 3) -> FaultSettings:
    task = FLIGHT.model_dump()["task"]
    return FaultSettings.model_validate({"environment": {"task": task}, "seed": seed, "cases": list(cases)})


def case(expect: str, *faults: dict[str, Any], name: str = "c", **more: Any) -> dict[str, Any]:
    return {"name": name, "expect": expect, "faults": [{"start_s": 3.0, **fault} for fault in faults], **more}


def fly(bundle: Bundle, *cases: dict[str, Any], **how: Any) -> list[CaseResult]:
    return fly_cases(agent_command(bundle), script(*cases), environment=ENV, **how)


def test_the_time_told_instead_of_states_changes_nothing_in_itself(bundle: Bundle) -> None:
    """A script whose only fault never strikes flies the same flight as a plain run."""
    never = Fault(kind="duplicate", start_s=100.0)
    plan = FaultPlan([[never]] * 2)
    faulty = run_hil(agent_command(bundle), FLIGHT, [7, 8], environment=ENV, faults=plan)
    plain = run_hil(agent_command(bundle), FLIGHT, [7, 8], environment=ENV)
    assert faulty.outcomes == plain.outcomes and compare_with_simulation(faulty.outcomes, plain.outcomes).agrees
    assert [len(r.modes) for r in plan.reports] == [FLIGHT.ticks] * 2 and not any(r.guarded for r in plan.reports)


def test_one_fault_of_each_place_goes_as_expected(bundle: Bundle) -> None:
    results = fly(
        bundle,
        case("recovers", {"kind": "drop", "direction": "states", "duration_s": 1}, name="drop", within_s=0.35),
        case("completes", {"kind": "corrupt", "probability": 0.1}, name="corrupt"),
        case("recovers", {"kind": "clock_jump", "offset": 3, "duration_s": 1}, name="future", within_s=0.35),
        case("recovers", {"kind": "clock_jump", "offset": -3, "duration_s": 1}, name="past", within_s=0.35),
        case("recovers", {"kind": "nan", "signals": ["roll_rad"], "duration_s": 1}, name="nan", within_s=0.35),
        case("lost", {"kind": "stuck", "channels": ["elevator"], "position": 1}, name="stuck"),
        case("completes", {"kind": "restart", "down_s": 0.5}, name="restart"),
        case("completes", {"kind": "duplicate", "duration_s": 2}, {"kind": "jitter", "delay_s": 0.05}, name="two"),
    )
    assert all(r.passed for r in results), render(results)
    by_name = {r.case.name: r for r in results}
    # 200 ms is the limit: the fifth period without a state is the first beyond it.
    assert by_name["drop"].takeover_s == pytest.approx(0.2)
    assert by_name["restart"].applied == {"restart": 1}


def test_a_run_is_repeatable(bundle: Bundle) -> None:
    faults = case("recovers", {"kind": "jitter", "delay_s": 0.4}, {"kind": "corrupt", "probability": 0.3})
    first, second = (fly(bundle, faults)[0].to_json() for _ in range(2))
    assert first == second and first["guarded_s"] > 0


def test_the_matrix_sees_a_guard_that_is_switched_off(tmp_path: Path) -> None:
    """Negative control: with limits that never trip the same cases do not go as expected."""
    blind = SafetyLimits(stale_data_ms=1e9, blind_data_ms=1e9)
    try:
        bundle = make_bundle(tmp_path / "b", FLIGHT, limits=blind)
    except ConfigError:
        pytest.fail("the limits for the negative control must be allowed")
    results = fly(
        bundle,
        case("recovers", {"kind": "drop", "direction": "states", "duration_s": 1}, name="drop", within_s=0.35),
        case("recovers", {"kind": "clock_jump", "offset": -3, "duration_s": 1}, name="past"),
        case("completes", {"kind": "duplicate"}, name="duplicate"),
    )
    assert [r.passed for r in results] == [False, False, True]
    assert "the fallback law took over never" in results[0].why


def test_an_agent_that_never_comes_back_ends_the_run_and_the_next_case_gets_a_new_one(bundle: Bundle) -> None:
    seen: list[str] = []
    results = fly(
        bundle,
        case("completes", {"kind": "duplicate"}, name="before"),
        case("ends", {"kind": "restart"}, name="gone"),
        case("completes", {"kind": "duplicate"}, name="after"),
        progress=lambda r: seen.append(r.case.name),
    )
    assert [r.passed for r in results] == [True, True, True] and seen == ["before", "gone", "after"]
    assert "code -9" in results[1].detail and "\n" not in results[1].detail


def test_a_restarted_agent_flies_on_and_keeps_a_log_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    results = fly(bundle, case("completes", {"kind": "restart", "down_s": 1.0}), log_dir=tmp_path)
    assert results[0].passed, render(results)
    folder = tmp_path / "run_0"
    with read_flight_log(folder / "hil_plant.h5") as log:
        assert len(log.episodes[0]) == FLIGHT.ticks
    with read_flight_log(folder / "hil_agent_1.h5") as log:
        (episode,) = log.episodes
        assert len(episode) == FLIGHT.ticks - 80  # 3 s before the kill, 1 s without an agent
        assert episode.termination == "completed" and (episode.column("guard", "mode") == Mode.POLICY).all()
    with read_flight_log(folder / "hil_agent.h5") as log:
        assert len(log.episodes[0]) >= 55 and log.episodes[0].termination == "flight process ended"


def test_an_agent_that_cannot_start_is_an_error_not_a_result(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no bundle at"):
        fly_cases(
            agent_command(tmp_path / "none"),
            script(case("ends", {"kind": "restart"})),
            environment=ENV,
            log_dir=tmp_path,
        )
    plan = FaultPlan([[Fault(kind="dropout")]])
    with pytest.raises(NotSupportedError, match="not supported: faults in real time"):
        run_hil(agent_command(bundle), FLIGHT, [1], faults=plan, realtime=True)
    with pytest.raises(ConfigError, match="2 flights have 1 fault scripts"):
        run_hil(agent_command(bundle), FLIGHT, [1, 2], faults=plan)


def test_stale_states_are_seen_as_old_in_the_agents_log(bundle: Bundle, tmp_path: Path) -> None:
    """The agent ticks through a second without states, on data whose age the guard judges."""
    plan = FaultPlan([[Fault(kind="dropout", start_s=3.0, duration_s=1.0)]])
    outcomes: list[EpisodeOutcome] = []
    run_hil(
        agent_command(bundle), FLIGHT, [3], log_dir=tmp_path, environment=ENV, faults=plan,
        progress=lambda _, o: outcomes.append(o),
    )  # fmt: skip
    with read_flight_log(tmp_path / "hil_agent.h5") as log:
        (episode,) = log.episodes
        assert len(episode) == FLIGHT.ticks
        assert np.allclose(np.diff(episode["time_s"]), 0.05)
        roll = episode.column("states", "roll")
        assert len(set(roll[60:80])) == 1 and len(set(roll[:60])) == 60
        reasons = {reason for event in episode.events for reason in event["reasons"]}
        assert {"stale_data", "blind"} <= reasons
    assert outcomes[0].termination == "completed"


# the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped agent, exported and installed."""
    folder = tmp_path_factory.mktemp("hawk")
    agent = ROOT / "agents" / "hawk" / "model.zip"
    assert cli.run(["export", str(agent), "-o", str(folder / "bundle"), "--name", "hawk"]) == 0
    from tests.deploy_support import deliver

    from sim2sky.agent.bundle import open_bundle

    url = f"local:{folder / 'target'}"
    deliver(open_target(url), open_bundle(folder / "bundle"))
    return url


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_flies_a_file_and_its_exit_code_is_the_verdict(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(
        "faults:\n  environment:\n    task: {duration_s: 8, hold_s: 1}\n  cases:\n"
        "    - {name: silence, expect: recovers, within_s: 0.35,\n"
        "       faults: [{kind: dropout, start_s: 3, duration_s: 1}]}\n"
    )
    code, out, err = run(capsys, "hil", target, "--faults", file)
    assert code == 0 and "✓ recovers 0.20 s" in out and "1 of 1 as expected" in out, err
    file.write_text(file.read_text().replace("recovers, within_s: 0.35", "completes"))
    code, out, _ = run(capsys, "hil", target, "--faults", file, "--json")
    data = json.loads(out)
    assert code == 1 and data["verdict"] == "fail" and data["cases"][0]["why"] == "recovers instead of completes"
    code, _, err = run(capsys, "hil", target, "--faults", file, "--episodes", 3)
    assert code == 2 and "--episodes does not go with --faults" in err
    code, _, err = run(capsys, "hil", target, "--faults", tmp_path / "none.yaml")
    assert code == 2 and "cannot be read" in err


@pytest.mark.slow
def test_the_whole_matrix_goes_as_expected(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = default_path("hil", "faults")
    code, out, err = run(capsys, "hil", target, "--faults", file, "--json")
    data = json.loads(out)
    failed = [f"{c['name']} {c['severity']}: {c['why']} {c['detail']}" for c in data["cases"] if not c["passed"]]
    assert failed == [] and code == 0, err
    assert len(data["cases"]) == len(load_settings(file, FaultSettings, section="faults").cases)
