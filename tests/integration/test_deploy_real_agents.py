"""Agents of other people, which fly none of our aircraft: they export, install, answer as trained, and do not pass."""

from pathlib import Path

import pytest
from tests.deploy_support import deliver, local_target

from sim2sky import cli
from sim2sky.agent.bundle import open_bundle

AGENTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "agents"
NAMES = ("dlr_a2c_pendulum", "dlr_dqn_cartpole", "dlr_tqc_pandareach", "plume_recurrentppo_shaping")


@pytest.mark.skipif(not AGENTS.is_dir(), reason="the folder with other people's agents is not here")
@pytest.mark.parametrize("name", NAMES)
def test_agents_of_others_export_install_and_are_refused_for_flight(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    assert cli.run(["export", str(AGENTS / name / "model.zip"), "-o", str(bundle)]) == 0
    assert "nothing can be flown" in capsys.readouterr().out
    report = deliver(local_target(tmp_path / "target"), open_bundle(bundle))
    assert report["golden_max_error"] <= 1e-5
    assert cli.run(["test-inference", f"local:{tmp_path / 'target'}"]) == 0
    capsys.readouterr()
    assert cli.run(["validate", str(bundle)]) == 1
    text = capsys.readouterr().out
    assert "✓ PASS - Model Export" in text
    assert "✓ PASS - Inference Latency" in text
    assert "✗ NOT SUPPORTED - Simulation Performance" in text
    assert "✗ NOT SUPPORTED - HIL Performance" in text
    assert "READY FOR DEPLOYMENT" not in text


@pytest.mark.skipif(not AGENTS.is_dir(), reason="the folder with other people's agents is not here")
def test_deploying_one_stops_at_step_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zip_path = AGENTS / "dlr_sac_pendulum" / "model.zip"
    assert cli.run(["deploy", "pendulum", str(zip_path), "-o", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().out
    assert "✗ Validation failed. Aborting deployment." in text
    assert "[4/6]" not in text
    assert not (tmp_path / "out" / "target").exists()
