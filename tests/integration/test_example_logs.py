"""The example logs: what they are, what gap analysis says of them, and that their generator makes them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim2sky.cli import run
from sim2sky.hil.virtual_aircraft import flight_seeds
from sim2sky.telemetry.flight_log import read_flight_log

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "examples" / "logs"
SIM, VIRTUAL = LOGS / "sim.h5", LOGS / "virtual.h5"
OF_THE_CLOCK = {"timing"}
"""Tables that differ from run to run."""


def test_they_are_small_and_say_what_they_are():
    assert sum(path.stat().st_size for path in LOGS.iterdir()) < 3e6
    with read_flight_log(SIM) as sim, read_flight_log(VIRTUAL) as virtual:
        assert (sim.metadata.source, virtual.metadata.source) == ("sim", "virtual")
        assert len(sim) == len(virtual) == 10
        assert sim.metadata.bundle_digest == virtual.metadata.bundle_digest
        assert sim.metadata.config["environment"]["aircraft"] == "ultrastick25e"
        assert virtual.metadata.config == {
            "vehicle": "ultrastick25e", "task": "hsa", "virtual_aircraft": {"seed": 18},
        }  # fmt: skip
        assert [e.seed for e in virtual.episodes] == flight_seeds(18, 10)
        assert all(len(e) == 400 for log in (sim, virtual) for e in log.episodes)


def test_gap_analysis_says_what_the_documentation_says(capsys: pytest.CaptureFixture[str]):
    assert run(["gap", str(SIM), str(VIRTUAL), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["decision"]) == ("gap", "RETRAIN")
    assert run(["gap", str(SIM), str(SIM)]) != 1  # negative control: none between a log and itself


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between two logs beyond rounding and the clock."""
    different: list[str] = []
    with read_flight_log(ours) as a, read_flight_log(theirs) as b:
        if (a.metadata.source, a.metadata.config) != (b.metadata.source, b.metadata.config) or len(a) != len(b):
            return ["metadata"]
        for left, right in zip(a.episodes, b.episodes, strict=True):
            if repr(left.attrs) != repr(right.attrs):  # a reward that is not known is NaN
                different.append(f"{left.name} attributes")
            for table in sorted({*left.datasets, *right.datasets} - OF_THE_CLOCK):
                x, y = left[table].astype(np.float64), right[table].astype(np.float64)
                if x.shape != y.shape or not np.allclose(x, y, rtol=1e-3, atol=2e-3, equal_nan=True):
                    different.append(f"{left.name} {table}")
    return different


@pytest.mark.slow
def test_the_generator_makes_them_again(tmp_path: Path):
    environment = {**os.environ, "PYTHON": sys.executable}
    script = ROOT / "scripts" / "make_example_logs.sh"
    done = subprocess.run([script, tmp_path], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sim.h5", "virtual.h5"]
    for name in ("sim.h5", "virtual.h5"):
        assert compare(LOGS / name, tmp_path / name) == []


def test_the_comparison_sees_another_aircraft():
    """Negative control."""
    assert compare(SIM, VIRTUAL) == ["metadata"]


def test_the_comparison_sees_another_number(tmp_path: Path):
    import h5py

    other = tmp_path / "other.h5"
    other.write_bytes(SIM.read_bytes())
    assert compare(SIM, other) == []
    with h5py.File(other, "r+") as file:
        file["episode_0003/actions"][17, 2] += 0.01
    assert compare(SIM, other) == ["episode_0003 actions"]
