"""Evaluation of training runs: what is flown, beside whom, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim2sky.config import dump_yaml, parse_settings
from sim2sky.config.training import TrainingSettings
from sim2sky.errors import AgentError, ConfigError
from sim2sky.validation.evaluation import evaluate_agent, render_evaluation, save_evaluation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows():
    return evaluate_agent(ROOT / "agents" / "hawk", episodes=12, workers=1)


def test_agent_and_autopilot_fly_every_condition(rows):
    assert [(r.pilot, r.conditions) for r in rows] == [
        (pilot, conditions)
        for conditions in ("as trained", "no action delay", "action delay 100 ms")
        for pilot in ("hawk", "autopilot")
    ]
    for row in rows:
        assert row.episodes == 12
        assert 0 <= row.lower_bound < row.successes / row.episodes
        assert set(row.tracking_rmse) == {"altitude_rmse_m", "airspeed_rmse_mps", "heading_rmse_rad"}
        assert row.action_rate > 0


def test_the_shipped_hawk_flies(rows):
    assert all(r.successes >= 11 for r in rows)


def test_same_episodes_same_numbers(rows):
    assert evaluate_agent(ROOT / "agents" / "hawk", episodes=12, workers=2) == rows


def test_table_and_file_hold_every_row(rows, tmp_path):
    text = render_evaluation(rows)
    assert text.count("12/12") == sum(r.successes == 12 for r in rows)
    assert "one-sided 95 % lower bound" in text
    save_evaluation(rows, tmp_path / "evaluation.json")
    assert [r["pilot"] for r in json.loads((tmp_path / "evaluation.json").read_text())] == [r.pilot for r in rows]


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no finished training run"):
        evaluate_agent(tmp_path)


def test_a_lost_normaliser_is_noticed(tmp_path):
    """The run's own settings name a normaliser; without its file the agent must not be judged as if it had none."""
    for name in ("model.zip", "contract.json", "config.yaml", "run.json"):
        (tmp_path / name).write_bytes((ROOT / "agents" / "hawk" / name).read_bytes())
    with pytest.raises(AgentError, match="normalis"):
        evaluate_agent(tmp_path, episodes=2, workers=1)


@pytest.mark.parametrize("name", ["hawk", "kite"])
def test_shipped_agents_carry_their_provenance(name):
    folder = ROOT / "agents" / name
    record = json.loads((folder / "run.json").read_text())
    settings = parse_settings((folder / "config.yaml").read_text(), TrainingSettings, source="config.yaml")
    shipped = parse_settings((ROOT / f"configs/training/{name}.yaml").read_text(), TrainingSettings, source="shipped")
    assert dump_yaml(settings) == dump_yaml(shipped)  # `make train-agents` trains what is committed
    assert record["algorithm"] == settings.algorithm
    assert record["timesteps"] >= settings.total_timesteps
    assert {"torch", "stable-baselines3", "jsbsim"} <= set(record["versions"])
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert {r["pilot"] for r in evaluation} == {name, "autopilot"}
