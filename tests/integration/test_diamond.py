"""The diamond benchmark's short form: one aircraft through the whole turn, resumed, and its figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def diamond():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("diamond", BENCHMARKS / "diamond.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.slow
def test_one_turn_and_its_resumption(diamond, tmp_path, monkeypatch):
    monkeypatch.setattr(diamond, "FLIGHTS", 2)
    size = ["--timesteps", "4096", "--pairs", "4", "--fresh", "4", "--seed", "909", "--patch", "truth"]
    options = diamond.parse(["--aircraft", "1", *size, "--output", str(tmp_path)])
    (result,) = diamond.run(options)
    assert result["outcome"] in ("undecided", "champion stays", "promoted")
    assert result["first"]["decision"] in ("RETRAIN", "FLY MORE")
    for side in ("first", "again", "before", "after"):
        assert result[side]["real_error"] > 0.0
        assert result[side]["error_ratio"] == pytest.approx(result[side]["real_error"] / result[side]["sim_error"])
    if result["outcome"] != "promoted":  # four pairs show nothing: the champion flies on, and no truth is asked
        assert "truth" not in result
    (line,) = (tmp_path / "hawk-truth.jsonl").read_text().splitlines()
    assert json.loads(line) == json.loads(json.dumps(result))
    monkeypatch.setattr(diamond, "turn", lambda *_: pytest.fail("flown again"))
    assert diamond.run(options) == [json.loads(line)]
    assert "within 20 % of the refitted simulation after it" in "\n".join(diamond.summary([result]))


def side(success_diff=0.0, error_ratio=1.0):
    values = {"success_diff": success_diff, "error_ratio": error_ratio, "error_ratio_to_first": error_ratio}
    values |= {"success_diff_to_first": success_diff, "sim_success": 1.0, "real_success": 1.0 + success_diff}
    return {**values, "sim_error": 0.2, "real_error": 0.2 * error_ratio}


def truth(success_high=0.05, ratio_low=0.9):
    bounds = {"success_low": -0.05, "success_high": success_high, "ratio_low": ratio_low, "ratio_high": 1.1}
    return {"pairs": 100, "champion": 98, "challenger": 98, "error_ratio": 1.0, **bounds}


def test_what_counts(diamond):
    assert diamond.within(side(error_ratio=0.5))
    assert diamond.within(side(-0.2, 1.2))
    assert not diamond.within(side(error_ratio=1.21))
    assert not diamond.within(side(success_diff=-0.21))
    assert not diamond.worse({"truth": truth()})
    assert diamond.worse({"truth": truth(success_high=-0.01)})
    assert diamond.worse({"truth": truth(ratio_low=1.01)})


def test_figures_carry_their_bounds(diamond):
    row = {"aircraft": 1, "before": side(error_ratio=1.4), "after": side(), "outcome": "promoted", "seconds": 1.0}
    row |= {"truth": truth(), "rungs": [["refit", "promoted"]]}
    text = "\n".join(diamond.summary([row, {**row, "aircraft": 2}]))
    assert "before the turn: 0 of 2 (exact 95 % interval 0.00 to 0.84)" in text
    assert "refitted simulation after it: 2 of 2 (exact 95 % interval 0.16 to 1.00)" in text
    assert "worse on the truth: 0 of 2 (exact 95 % interval 0.00 to 0.78)" in text


def test_the_truth_as_a_patch_holds_the_truth(diamond):
    from sim2sky.config.environment import EnvironmentSettings
    from sim2sky.environments.hidden_aircraft import hidden_aircraft, nominal_aircraft

    base = nominal_aircraft(EnvironmentSettings())
    hidden = hidden_aircraft(3, base)
    made = diamond.truth_patch(hidden, base).apply(base)
    for name in ("thrust_scale", "mass_offset_kg"):
        low, high = getattr(made.randomization, name)
        assert low < getattr(hidden.randomization, name)[0] < high
    low, high = made.randomization.coefficient_scales["Cmde"]
    assert low < hidden.randomization.coefficient_scales["Cmde"][0] < high
    assert made.disturbances.sensors.offsets == {}  # no flight tells a bias of the sensors
