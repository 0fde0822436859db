"""The flight agent without Python under injected faults: outcome and commander of every tick are those of its twin."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.flight_support import agent_environment, make_bundle, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.linux_agent import build_linux_agent
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.hil.fault_schedule import Fault
from sim2sky.hil.faulty_plant import FaultPlan
from sim2sky.hil.hil_test import run_hil
from sim2sky.runtime.safety import Mode

ROOT = Path(__file__).parents[2]
ENV = {**agent_environment(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
SCRIPTS: dict[str, list[Fault]] = {
    "dropout": [Fault(kind="dropout", start_s=3.0, duration_s=1.5)],
    "nan": [Fault(kind="nan", signals=("q_radps",), start_s=3.0, duration_s=2.0)],
    "frozen": [Fault(kind="freeze", start_s=4.0)],
    "jump of the clock": [Fault(kind="clock_jump", offset=-2.0, start_s=4.0, duration_s=2.0)],
    "late and damaged": [
        Fault(kind="delay", delay_s=0.12, direction="states", start_s=2.0),
        Fault(kind="corrupt", probability=0.2, direction="states", start_s=3.0),
        Fault(kind="duplicate", probability=0.3, direction="states", start_s=3.0),
    ],
    "restart": [Fault(kind="restart", start_s=3.0, down_s=1.0)],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings(duration_s=10.0, hold_s=2.0))


def fly(command: Sequence[str]) -> tuple[list[EpisodeOutcome], list[list[int | None]]]:
    plan = FaultPlan(list(SCRIPTS.values()), 3)
    env = settings(duration_s=10.0, hold_s=2.0)
    result = run_hil(command, env, [21] * len(SCRIPTS), faults=plan, environment=ENV, timeout_s=30.0)
    assert all(report.applied for report in plan.reports)
    return result.outcomes, [report.modes for report in plan.reports]


def test_faults_are_met_as_the_python_agent_meets_them(bundle: Bundle, tmp_path: Path) -> None:
    outcomes, modes = fly([str(build_linux_agent(bundle, tmp_path / "agent"))])
    expected, their_modes = fly([sys.executable, "-m", "tests.twin_agent", "--bundle", str(bundle.path)])
    for name, ours, theirs in zip(SCRIPTS, modes, their_modes, strict=True):
        assert ours == theirs, name
    assert outcomes == expected
    flown = dict(zip(SCRIPTS, modes, strict=True))
    assert Mode.POLICY in flown["dropout"][-20:] and any(m not in {None, Mode.POLICY} for m in flown["dropout"])
    assert None in flown["restart"] and flown["restart"][-1] is not None
