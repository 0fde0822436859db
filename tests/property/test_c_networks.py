"""Random networks of every layer kind: the generated C has the twin's bits, and the twin answers as the reference."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.c_policy_support import Compiled, rows_of, sources_of
from tests.export_support import observations
from tests.property.test_onnx_networks import _decided, networks

from sim2sky.agent.layers import Network, evaluate
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.deployment.toolchain import find_compiler

COMPILERS = [find_compiler("host", kind) for kind in ("gcc", "clang")]
BUILDS = st.tuples(st.sampled_from(COMPILERS), st.sampled_from(("-O0", "-O1", "-O2", "-O3")))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), BUILDS, st.sampled_from(("float32", "int8")), st.integers(0, 2**32 - 1))
def test_c_has_the_twins_bits(network: Network, build: tuple, weights: str, seed: int) -> None:
    compiler, optimise = build
    with tempfile.TemporaryDirectory() as folder:
        sources = sources_of(network, weights=weights, n=8)  # type: ignore[arg-type]
        compiled = Compiled(sources, Path(folder), compiler=compiler, optimise=optimise)
        assert compiled.test() == (0, 8)
        rows = rows_of(network, 80, seed)
        rng = np.random.default_rng(seed)
        pick = rng.random(rows.shape) < 0.1
        rows[pick] = rng.choice(np.array([0.0, -0.0, 1e-42, -3e38, 3e38], np.float32), int(pick.sum()))
        starts = (rng.random(80) < 0.1).astype(np.float32)
        got = compiled.rows(rows, starts)
        expected = CPolicy(network, weights).evaluate(rows, starts)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        numbers = ~np.isnan(got)
        np.testing.assert_array_equal(got[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@settings(max_examples=150, deadline=None)
@given(networks(), st.integers(1, 12))
def test_the_twin_answers_as_the_reference(network: Network, n: int) -> None:
    rows = observations(network, n)
    expected, state = evaluate(network, rows) if network.lstm is None else (None, None)
    if network.lstm is not None:  # one sequence in time
        answers = []
        for t in range(n):
            one, state = evaluate(network, {k: v[t : t + 1] for k, v in rows.items()}, state)
            answers.append(one)
        expected = np.concatenate(answers)
    got = CPolicy(network).evaluate(np.concatenate([rows[h.key] for h in network.inputs], axis=1))
    assert expected is not None
    if expected.dtype == np.int64:
        if network.lstm is None:
            clear = _decided(network, rows, None, None)
            np.testing.assert_array_equal(got.reshape(expected.shape)[clear], expected[clear])
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)
