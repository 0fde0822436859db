"""A short form of `benchmarks/native_backend.py`: every binding runs and gives equal bits; no time is judged here."""

from __future__ import annotations

import json

import pytest
from benchmarks import native_backend as benchmark


@pytest.mark.slow
def test_every_binding_answers_with_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--rounds", "2", "--calls", "3", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result) == set(benchmark.NETWORKS)
    for found in result.values():
        assert len(found["bindings"]) == 5
        assert found["times_faster_than_onnxruntime"] > 0
