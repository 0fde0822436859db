"""A short form of `benchmarks/policy_latency.py`: every rival runs and answers; no time is judged here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from benchmarks import policy_latency as benchmark
from benchmarks.c_rivals import emlearn_net

pytestmark = pytest.mark.slow

TITLES = ("12-64-64-4 tanh", "20-256-256-4 relu")
OURS = ("ours: C, from Python", "ours: C, C loop", "ours: C, int8 weights, C loop", "floor: weights read once, C loop")
EMLEARN = ("emlearn, ctypes", "emlearn, C loop")
OTHERS = ("SB3 predict", "TorchScript frozen", "onnxruntime default", "ours: fp32", "ours: dynamic int8")
MOST_INSTRUCTIONS = {TITLES[0]: 18_000, TITLES[1]: 185_000}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert benchmark.main(["--rounds", "2", "--calls", "3", "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.mark.parametrize("title", TITLES)
def test_all_rivals_are_present(result: dict[str, Any], title: str) -> None:
    rows = result[title]["runtimes"]
    wanted = {*OTHERS, *OURS, *(EMLEARN if emlearn_net is not None else ())}
    assert wanted <= set(rows)
    assert rows["SB3 predict"]["times_faster_than_predict"] == 1.0
    assert rows["ours: fp32"]["max_action_error"] < 1e-5
    assert all(0 < row["median_us"] <= row["p99_us"] for row in rows.values())
    assert set(result[title]["ratios"]) == {
        "C from Python, times faster than tuned onnxruntime",
        "C loop, multiple of the floor",
    }


@pytest.mark.parametrize("title", TITLES)
def test_a_step_on_the_chip_takes_no_more_instructions_than_promised(result: dict[str, Any], title: str) -> None:
    """Exact counts, so that no load of this machine changes them."""
    chip = result[title]["chip"]
    assert chip["float32"]["least"] <= chip["float32"]["instructions"] <= chip["float32"]["most"]
    assert 0 < chip["float32"]["instructions"] <= MOST_INSTRUCTIONS[title]
    assert chip["float32"]["most"] - chip["float32"]["least"] < 50  # no step waits for a branch of the data


@pytest.mark.parametrize("title", TITLES)
def test_int8_is_a_third_of_the_flash(result: dict[str, Any], title: str) -> None:
    chip = result[title]["chip"]
    assert chip["int8"]["constant_bytes"] < chip["int8"]["flash_bytes"] < 0.45 * chip["float32"]["flash_bytes"]
    assert chip["float32"]["constant_bytes"] == result[title]["runtimes"]["ours: C, C loop"]["bytes"]


def test_the_machine_and_the_compilers_are_named(result: dict[str, Any]) -> None:
    assert "onnxruntime" in result["machine"] and "cores" in result["machine"]
    assert [c.split()[0] for c in result["compilers"]][1] == "arm-none-eabi-gcc"


def test_ratios_are_medians_of_rounds() -> None:
    times = {
        "ours: fp32": np.array([[6.0, 6, 90], [8, 8, 8]]),
        "ours: C, from Python": np.array([[2.0, 2, 2], [2, 2, 2]]),
        "ours: C, C loop": np.array([[3.0, 3, 3], [5, 5, 5]]),
        "floor: weights read once, C loop": np.array([[2.0, 2, 2], [2, 2, 80]]),
    }
    assert list(benchmark.ratios(times).values()) == [3.5, 2.0]
