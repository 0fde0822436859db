"""Short forms of `benchmarks/log_import.py`: damaged files neither crash an import nor go unnamed; large ones too."""

from __future__ import annotations

import random

import pytest
from benchmarks import log_import as benchmark

from sim2sky.errors import FlightLogError


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_damaged_files_are_salvaged_or_refused_by_name(seed):
    """15 per format and seed; warnings are errors here, so that no parser hides one."""
    results = []
    for results in benchmark.damage(75, seed):  # noqa: B007 - the last one
        pass
    assert {r.name for r in results} == {"ULog", "dataflash", "tlog", "MCAP", "CSV"}
    for r in results:
        assert r.crashes == [], r.name
        assert r.files == r.salvaged + r.refused.total() == 15
    assert sum(r.salvaged for r in results) >= 35
    assert sum(r.refused.total() for r in results) >= 3


@pytest.mark.parametrize("error", [KeyError("x"), FlightLogError("something is damaged")])
def test_a_crash_and_an_unnamed_refusal_are_counted(tmp_path, monkeypatch, error):
    """Negative control."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(benchmark, "import_log", broken)
    result = benchmark.Damage("x")
    benchmark.try_import(tmp_path / "none.ulg", tmp_path / "out.h5", result, "file 0")
    assert len(result.crashes) == 1


def test_the_damage_is_of_all_kinds_and_repeatable():
    data = bytes(range(256)) * 100
    kinds = {benchmark.damaged(data, random.Random(i))[0] for i in range(60)}
    assert kinds == {"cut", "bits", "noise", "zeros", "hole", "cut and bits"}
    assert benchmark.damaged(data, random.Random(5)) == benchmark.damaged(data, random.Random(5))
    assert all(benchmark.damaged(data, random.Random(i))[1] != data for i in range(60))


def test_large_logs_import_whole():
    for format_, size, took, _, ticks in benchmark.speed(2.0, rivals=False):
        assert 1.0 < size < 4.0, format_
        assert ticks > 1000, format_
        assert took > 0.0
