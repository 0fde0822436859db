"""Short form of benchmarks/hil_exchange.py: both agents, both links."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.flight_support import agent_environment, make_bundle, settings

SCRIPT = Path(__file__).parents[2] / "benchmarks/hil_exchange.py"


@pytest.mark.slow
def test_the_benchmark_flies_both_agents_to_the_same_end(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "hand", settings())
    command = [sys.executable, str(SCRIPT), str(bundle.path), "--episodes", "1", "--json"]
    done = subprocess.run(command, env=agent_environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    links = json.loads(done.stdout)["links"]
    assert len(links) == 4 and sum(name.startswith("without Python") for name in links) == 2
    for row in links.values():
        assert row["success"] == row["same_success"] == row["same_termination"] == row["same_duration"] == 1
        assert row["exchange_us"]["n"] > 0 and row["tracking_rmse_difference"]["altitude_rmse_m"] < 0.05
