"""The retraining as a whole: promotion, refusal, resuming after Ctrl-C and a kill, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrain_support import PATCH, champion
from sim2sky.agent.sb3 import load
from sim2sky.cli import run as sim2sky
from sim2sky.config.environment import CALIBRATED_BIAS
from sim2sky.config.loader import dump_yaml
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.config.retraining import RealEnvSettings
from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_PASS, ConfigError
from sim2sky.training.continuous_learning import refitted_environment
from sim2sky.training.starting_point import open_starting_point
from sim2sky.validation.promotion import PromotionRules
from sim2sky.validation.retraining import RetrainPlan, render, retrain

SMALL = {"n_steps": "64", "batch_size": "64", "n_envs": "4"}
FEW = PromotionRules(group=6, max_pairs=12)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Path:
    return champion(tmp_path_factory.mktemp("agent"), **SMALL)


@pytest.fixture
def patch(tmp_path) -> Path:
    path = tmp_path / "patch.yaml"
    path.write_text(dump_yaml(PATCH))
    return path


def plan(agent: Path, output: Path, **changes) -> RetrainPlan:
    values = {"rungs": ("refit",), "timesteps": 256, "rules": FEW, "workers": 1}
    return RetrainPlan(agent, PATCH, output, **{**values, **changes})


def test_a_challenger_that_is_not_shown_to_be_better_leaves_the_champion_in_place(agent, tmp_path):
    before = files(agent.parent)
    said = []
    result = retrain(plan(agent, tmp_path / "out"), say=said.append)
    assert result.verdict in ("undecided", "champion stays")
    assert result.model is None
    assert files(agent.parent) == before
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left == {"plan.json", "promotion.json", "promotion.txt", "work"}  # no agent to be mistaken for one
    record = json.loads((tmp_path / "out" / "promotion.json").read_text())
    assert record["verdict"] == result.verdict
    (attempt,) = record["attempts"]
    assert attempt["old"]["pairs"] == attempt["new"]["pairs"] == 12
    assert attempt["reason"] in (tmp_path / "out" / "promotion.txt").read_text()
    assert "CHAMPION STAYS" in render(result)
    assert len(said) == 3


def test_the_same_plan_again_flies_nothing_again(agent, tmp_path):
    first = retrain(plan(agent, tmp_path / "out"))
    journals = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work" / "flights").iterdir()}
    assert len(journals) == 4
    assert retrain(plan(agent, tmp_path / "out")) == first
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work" / "flights").iterdir()} == journals


def test_a_promoted_challenger_is_a_whole_agent(agent, tmp_path, monkeypatch):
    """The rule is replaced, nothing else: what lies in the folder afterwards opens, with contract and normaliser."""
    import sim2sky.validation.promotion as promotion

    monkeypatch.setattr(promotion, "decide", lambda *_, **__: ("promoted", "for the test"))
    result = retrain(plan(agent, tmp_path / "out"))
    assert result.model == tmp_path / "out" / "model.zip"
    made, old = load(result.model), load(agent)
    assert made.contract == old.contract
    assert made.provenance["vecnormalize_sha256"] is not None
    assert made.provenance["zip_sha256"] != old.provenance["zip_sha256"]
    assert json.loads((tmp_path / "out" / "promotion.json").read_text())["verdict"] == "promoted"
    assert "PROMOTED" in (tmp_path / "out" / "promotion.txt").read_text()


def test_a_rung_that_cannot_be_taken_is_said_and_the_next_is_tried(tmp_path):
    agent = champion(tmp_path, **SMALL)
    config = agent.with_name("config.yaml")
    config.write_text(config.read_text().replace("activation: tanh", "activation: relu"))
    # The weights are the same: to the residual the layers are what their configuration says.
    result = retrain(
        plan(agent, tmp_path / "out", rungs=("residual", "refit"), rules=PromotionRules(group=2, max_pairs=2))
    )
    assert [a.rung for a in result.attempts] == ["residual", "refit"]
    assert result.attempts[0].promotion is None
    assert "not supported" in result.attempts[0].note
    assert result.attempts[1].promotion is not None
    assert result.attempts[1].promotion.rules.alpha == pytest.approx(0.025)  # shared among two rungs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rungs": ()}, "needs rungs"),
        ({"rungs": ("refit", "refit")}, "each once"),
        ({"rungs": ("vehicle",)}, "in flight"),
        ({"rungs": ("offline",)}, "flight logs"),
        ({"timesteps": 0}, "no training"),
    ],
)
def test_plans_that_make_no_sense_are_refused(agent, tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        retrain(plan(agent, tmp_path / "out", **changes))


def test_a_patch_that_changes_nothing_is_no_reason_to_retrain(agent, tmp_path):
    with pytest.raises(ConfigError, match="changes nothing"):
        retrain(RetrainPlan(agent, RandomizationPatch(), tmp_path / "out", rungs=("refit",)))


def test_what_no_flight_can_tell_is_drawn_from_what_it_may_be(agent):
    """A sensor's bias: as wide as a calibrated sensor's where the patch is silent, the patch's own where it is not."""
    before = open_starting_point(agent).settings.environment
    said = {"airspeed_mps": [0.5, 0.6]}
    disturbances = {**PATCH.disturbances, "sensors": {"offsets": said}}
    settings = RealEnvSettings(vehicle="virtual", randomization=PATCH.model_copy(update={"disturbances": disturbances}))
    offsets = refitted_environment(settings, before).disturbances.sensors.offsets
    assert offsets["airspeed_mps"] == (0.5, 0.6)
    assert {n: v for n, v in offsets.items() if n != "airspeed_mps"} == {
        n: (-limit, limit) for n, limit in CALIBRATED_BIAS.items() if n != "airspeed_mps"
    }
    assert refitted_environment(RealEnvSettings(vehicle="virtual", logs=("x.h5",)), before) == before


def test_a_patch_for_another_aircraft_is_refused(agent, tmp_path):
    patch = RandomizationPatch(aircraft="aerosonde", randomization={"thrust_scale": [0.8, 0.9]})
    with pytest.raises(ConfigError, match="aerosonde"):
        retrain(RetrainPlan(agent, patch, tmp_path / "out", rungs=("refit",)))


def test_output_must_not_be_the_champions_folder_nor_anothers(agent, tmp_path):
    with pytest.raises(ConfigError, match="own folder"):
        retrain(plan(agent, agent.parent))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        retrain(plan(agent, tmp_path / "mine"))
    with pytest.raises(ConfigError, match="no training"):
        retrain(plan(agent, tmp_path / "out", timesteps=0))
    with pytest.raises(ConfigError, match="another agent, patch or settings"):
        retrain(plan(agent, tmp_path / "out", seed=1))


# The command ----------------------------------------------------------------------------------------------------------


def command(agent: Path, patch: Path, output: Path, *more: str) -> list[str]:
    few = ["--timesteps", "256", "--pairs", "4", "--workers", "1", "--rungs", "refit"]
    return ["retrain", str(agent), "--randomization", str(patch), "-o", str(output), *few, *more]


def test_the_command_prints_a_verdict_and_its_exit_code(agent, patch, tmp_path, capsys):
    code = sim2sky(command(agent, patch, tmp_path / "out", "--json"))
    out, err = capsys.readouterr()
    verdict = json.loads(out)["verdict"]
    assert code == {"promoted": EXIT_PASS, "champion stays": EXIT_FAIL, "undecided": EXIT_INCONCLUSIVE}[verdict]
    assert "refit: training" in err
    assert sim2sky(command(agent, patch, tmp_path / "out")) == code
    assert "CHAMPION STAYS" in capsys.readouterr().out


def test_a_wrong_rung_or_patch_is_a_plain_error(agent, patch, tmp_path, capsys):
    line = command(agent, patch, tmp_path / "out")
    assert sim2sky([*line[:-1], "refit,magic"]) == 2
    assert "no rung 'magic'" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("randomisation: {}\n")
    assert sim2sky(command(agent, tmp_path / "broken.yaml", tmp_path / "out")) == 2
    assert "did you mean 'randomization'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def interrupted(line: list[str], mark: Path) -> str:
    """Start the command, interrupt it half a second after `mark` has appeared, and give what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2sky", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        deadline = time.monotonic() + 120.0
        while time.monotonic() < deadline and not mark.exists():
            time.sleep(0.02)
        assert mark.exists()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == EXIT_INTERRUPTED, err
    assert "Traceback" not in err
    return err


def test_ctrl_c_while_training_and_the_same_command_goes_on(tmp_path, patch):
    agent, output = champion(tmp_path), tmp_path / "out"
    line = command(agent, patch, output)
    line[line.index("--timesteps") + 1] = "40000"
    err = interrupted(line, output / "work/refit/contract.json")
    assert "goes on where this one stopped" in err
    state = json.loads((output / "work/refit/checkpoint/state.json").read_text())
    assert 0 < state["timesteps"] < 40_000
    assert {p.name for p in output.iterdir()} == {"plan.json", "work"}
    seen = []
    retrain(plan(agent, output, timesteps=40_000), on_training=lambda p: seen.append(p.timesteps))
    assert min(seen) > state["timesteps"]  # not from the beginning
    assert json.loads((output / "work/refit/run.json").read_text())["timesteps"] >= 40_000
    assert not (output / "work/refit/checkpoint").exists()


def test_ctrl_c_while_flying_and_the_same_command_goes_on(tmp_path, patch, capsys):
    agent, output = champion(tmp_path, **SMALL), tmp_path / "out"
    line = command(agent, patch, output)
    line[line.index("--pairs") + 1] = "400"
    interrupted(line, output / "work/flights")
    flights = output / "work/flights"
    flown = {p.name: p.read_bytes() for p in flights.iterdir()}
    assert sum(content.count(b"\n") for content in flown.values()) > 0
    assert {p.name for p in output.iterdir()} == {"plan.json", "work"}
    trained = (output / "work/refit/model.zip").read_bytes()
    line[line.index("--pairs") + 1] = "4"  # how many pairs may be flown is no part of the plan
    assert sim2sky(line) in (EXIT_FAIL, EXIT_INCONCLUSIVE)
    assert (output / "work/refit/model.zip").read_bytes() == trained
    assert all((flights / name).read_bytes().startswith(content) for name, content in flown.items())
    capsys.readouterr()
