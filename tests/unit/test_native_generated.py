"""Generated C as a backend: types, shapes and values of onnxruntime's for every kind of policy; and the verdicts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.c_policy_support import contract_of
from tests.export_support import dict_policy, golden_of, observations, policy

from sim2sky.agent.contract import Output
from sim2sky.agent.layers import ArgMax, Network
from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.native_build import compile_policy, verdict
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.targets import runtime_lines
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.errors import BundleError
from sim2sky.runtime.inference import OnnxBackend, onnx_session, replay_golden
from sim2sky.runtime.native_policy import NativeBackend
from sim2sky.runtime.native_record import LIBRARY, RECORD, cpu_features, folder_of, read_record, which_flies


def both(network: Network, folder: Path) -> tuple[NativeBackend, OnnxBackend]:
    contract, last = contract_of(network), network.layers[-1]
    if isinstance(last, ArgMax) and not last.vector:  # one category: an answer without an axis
        contract = dataclasses.replace(contract, output=Output("discrete", (), last.sizes))
    made = c_sources(network, contract, golden_of(network))
    library = compile_policy(made.source, made.header, folder / LIBRARY, find_compiler())
    native = NativeBackend(library.read_bytes(), contract)
    assert native.self_test()[0] == 0
    assert native.n_vectors > 0
    return native, OnnxBackend(onnx_session(model_to_bytes(emit_onnx(network))))


def rows_of(network: Network, n: int = 60) -> list[Any]:
    columns = observations(network, n, seed=7)
    rows = [{key: values[i] for key, values in columns.items()} for i in range(n)]
    return rows if len(columns) > 1 else [next(iter(row.values())) for row in rows]


KINDS = {
    **{end: policy(1, end=end) for end in ("box", "clip", "squash")},
    **{end: policy(2, (6, 16), end=end) for end in ("argmax", "multi_discrete", "threshold")},
    "lstm": policy(3, recurrent=1),
    "lstm of two layers": policy(4, (12, 16), recurrent=2),
    "dict": dict_policy(5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_as_onnxruntime_does(tmp_path: Path, kind: str) -> None:
    network = KINDS[kind]
    native, onnx = both(network, tmp_path)
    for i, row in enumerate(rows_of(network)):
        if i in (20, 21, 40):
            native.reset()
            onnx.reset()
        a, b = native(row), onnx(row)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if b.dtype == np.int64:
            assert np.array_equal(a, b)
        else:
            assert np.abs(a - b).max() <= 1e-5 * max(1.0, float(np.abs(b).max()))
    assert replay_golden(native, golden_of(network)) <= 1e-5


def test_a_recurrent_policys_state_is_its_own(tmp_path: Path) -> None:
    """Negative control of the resets above: without one the answers differ."""
    network = KINDS["lstm"]
    native, _ = both(network, tmp_path)
    rows = rows_of(network)
    first = native(rows[0])
    assert not np.array_equal(native(rows[0]), first)
    native.reset()
    assert np.array_equal(native(rows[0]), first)


GOOD = {
    "vectors": 300, "differing": 0, "first": 300,
    "active": {"golden_max_error": 1e-7, "p50_us": 4.0, "p99_us": 5.0},
    "native": {"golden_max_error": 2e-7, "p50_us": 0.8, "p99_us": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "flies", "why"),
    [
        ({}, True, "bit-identical, 5.0 times as fast as onnxruntime"),
        ({"differing": 2, "first": 17}, False, "not bit-identical: 2 of 300 vectors, first 17"),
        ({"native": {**GOOD["native"], "p50_us": 4.0}}, False, "not faster: 4.00 us, onnxruntime 4.00 us"),  # type: ignore[dict-item]
        ({"native": {**GOOD["native"], "golden_max_error": 1.1e-5}}, False, "golden vectors differ by 1.1e-05"),  # type: ignore[dict-item]
        ({"native": {**GOOD["native"], "golden_max_error": "inf"}}, False, "golden vectors differ by inf"),  # type: ignore[dict-item]
        ({"error": "its trial was ended by SIGILL"}, False, "its trial was ended by SIGILL"),
    ],
)
def test_the_verdict_on_a_trial(change: dict[str, Any], flies: bool, why: str) -> None:
    found = verdict({**GOOD, **change})
    assert found[0] is flies
    assert why in found[1]


def test_where_a_library_belongs(tmp_path: Path) -> None:
    bundle = tmp_path / "releases" / "ab-1" / "bundle"
    bundle.mkdir(parents=True)
    assert folder_of(bundle) == tmp_path / "native" / "ab-1"
    (tmp_path / "current").symlink_to("releases/ab-1")
    assert folder_of(tmp_path / "current" / "bundle") == tmp_path / "native" / "ab-1"
    assert folder_of(tmp_path / "bundle") is None
    assert "compiled where a release is installed" in which_flies(tmp_path / "bundle", "0")["why"]


def test_this_cpu_has_features() -> None:
    assert cpu_features() == sorted(set(cpu_features()))
    assert cpu_features()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_record_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{}")
    os.chown(tmp_path / RECORD, 12345, -1)
    with pytest.raises(BundleError, match="can be written by somebody else"):
        read_record(tmp_path, "0")


def test_the_table_shows_what_was_not_measured_as_a_dash() -> None:
    row: dict[str, Any] = {"runtime": "onnxruntime", "golden_max_error": "inf", "p50_us": 4.0, "p99_us": 5.0}
    none = {"runtime": "C, not compiled", "golden_max_error": None, "p50_us": None, "p99_us": None}
    lines = runtime_lines([{**row, "flies": True, "why": ""}, {**none, "flies": False, "why": "no C compiler"}])
    assert lines[1].split() == ["onnxruntime", "inf", "4.00", "5.00", "flies"]
    assert lines[2].split()[:7] == ["C,", "not", "compiled", "-", "-", "-", "(no"]
    assert runtime_lines([]) == []
