"""The generated C policy: its four calls, its bits against the numpy twin, what it refuses."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.c_policy_support import Compiled, contract_of, own_golden, rows_of, sources_of
from tests.c_support import build_program
from tests.export_support import ACTIVATIONS, ENDS, dict_policy, golden_of, policy

from sim2sky.agent.layers import Activation, Dense, InputHead, Network
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.deployment.c_functions import hex_float
from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.toolchain import find_compiler
from sim2sky.errors import ExportError, GoldenMismatchError, NotSupportedError

NATIVE, INTERMEDIATE, JITTER, NONFINITE = 1, 2, 4, 8
PERIOD_NS = 20_000_000


def difficult_rows(network: Network, n: int = 2000) -> np.ndarray:
    """Ordinary rows, corners, denormals, zeros of both signs, huge values, and rows that are not finite."""
    rows = rows_of(network, n)
    rng = np.random.default_rng(5)
    values = np.array([0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 1e-20, 3e38, -3e38, 1e30, 1.0, -1.0, 16777217.0], np.float32)
    pick = rng.random(rows.shape) < 0.3
    pick[: n // 2] = False
    rows[pick] = rng.choice(values, int(pick.sum()))
    rows[-1, 0], rows[-2, -1], rows[-3, 0] = np.nan, np.inf, -np.inf
    return rows


def assert_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """NaN where NaN is expected, all else equal and of the same sign."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    ok = ~np.isnan(expected)
    np.testing.assert_array_equal(got[ok].view(np.uint32), expected[ok].view(np.uint32))


@pytest.mark.parametrize("kind", ["gcc", "clang"])
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_c_answers_with_the_twins_bits(tmp_path: Path, kind: str, optimise: str) -> None:
    network = policy(sizes=(12, 64, 33), end="clip")
    compiled = Compiled(sources_of(network), tmp_path, compiler=find_compiler("host", kind), optimise=optimise)  # type: ignore[arg-type]
    assert compiled.test() == (0, 16)
    rows = difficult_rows(network, 10_500)
    assert_same_bits(compiled.rows(rows), CPolicy(network).evaluate(rows))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_the_twins_bits(tmp_path: Path, activation: str) -> None:
    network = policy(3, sizes=(5, 17, 9), activation=activation, end="squash")
    compiled = Compiled(sources_of(network), tmp_path)
    assert compiled.test() == (0, 16)
    rows = difficult_rows(network)
    assert_same_bits(compiled.rows(rows), CPolicy(network).evaluate(rows))


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("end", ENDS)
def test_every_end_has_the_twins_bits(tmp_path: Path, end: str, weights: str) -> None:
    network = policy(4, sizes=(7, 16), end=end)
    compiled = Compiled(sources_of(network, weights=weights), tmp_path)  # type: ignore[arg-type]
    assert compiled.test() == (0, 16)
    rows = difficult_rows(network)
    assert_same_bits(compiled.rows(rows), CPolicy(network, weights).evaluate(rows))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_state_has_the_twins_bits(tmp_path: Path, layers: int, weights: str) -> None:
    network = policy(5, sizes=(6, 11), recurrent=layers)
    compiled = Compiled(sources_of(network, weights=weights), tmp_path)  # type: ignore[arg-type]
    assert compiled.test() == (0, 16)
    rows = difficult_rows(network, 400)
    starts = (np.arange(400) % 37 == 0).astype(np.float32)
    expected = CPolicy(network, weights).evaluate(rows, starts)  # type: ignore[arg-type]
    assert_same_bits(compiled.rows(rows, starts), expected)
    again = CPolicy(network, weights)  # type: ignore[arg-type]
    again.reset()
    assert_same_bits(np.stack([again(row) for row in rows[:30]]), expected[:30])


def test_dict_inputs_are_concatenated_in_order(tmp_path: Path) -> None:
    network = dict_policy()
    compiled = Compiled(sources_of(network, golden=golden_of(network)), tmp_path)
    assert compiled.test() == (0, 256)
    rows = rows_of(network, 500)
    assert_same_bits(compiled.rows(rows), CPolicy(network).evaluate(rows))


def test_without_fma_units_the_bits_are_the_same(tmp_path: Path) -> None:
    network = policy(6, sizes=(9, 40), end="box")
    compiled = Compiled(sources_of(network), tmp_path, options=["-march=x86-64"])
    rows = difficult_rows(network)
    assert compiled.test() == (0, 16)
    assert_same_bits(compiled.rows(rows), CPolicy(network).evaluate(rows))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gcc", ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
        ("clang", ["-fsanitize=undefined", "-fsanitize-trap=all"]),  # its run-time libraries are a package of their own
    ],
)
def test_sanitizers_find_nothing(tmp_path: Path, kind: str, options: list[str]) -> None:
    """Over all golden rows and rows that overflow inside, recurrent and discrete layers included."""
    network = policy(7, sizes=(5, 13), activation="softplus", end="multi_discrete", recurrent=2)
    sources = sources_of(network)
    (tmp_path / "policy.c").write_text(sources.source)
    (tmp_path / "policy.h").write_text(sources.header)
    main = tmp_path / "main.c"
    main.write_text(
        """#include "policy.h"
        static sim2sky_policy policy;
        int main(void)
        {
            float x[5] = {3e38f, -3e38f, 1e-45f, 0.0f, -1.0f}, y[2];
            uint32_t first, status = 0;
            sim2sky_policy_init(&policy);
            for (uint64_t k = 0; k < 100; ++k) {
                x[k % 5] = -x[k % 5];
                status |= sim2sky_policy_control(&policy, k * 15000000u, x, y);
            }
            return sim2sky_policy_test(&policy, &first) == 0 && status == 7u ? 0 : 1;
        }
"""
    )
    program = build_program(
        [main, tmp_path / "policy.c"],
        tmp_path,
        compiler=find_compiler("host", kind),  # type: ignore[arg-type]
        optimise="-O1",
        options=options,
    )
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(sources_of(policy(8, sizes=(3, 10))), tmp_path_factory.mktemp("policy"))


def test_calls_in_step_are_native(small: Compiled) -> None:
    small.reset()
    twin = CPolicy(policy(8, sizes=(3, 10)))
    for k, row in enumerate(rows_of(policy(8, sizes=(3, 10)), 20)):
        status, action = small.control(7 + k * PERIOD_NS, row)
        assert status == NATIVE
        np.testing.assert_array_equal(action, twin(row))


def test_a_call_before_its_time_answers_the_last_action_again(small: Compiled) -> None:
    small.reset()
    one, other = rows_of(policy(8, sizes=(3, 10)), 2)
    status, first = small.control(0, one)
    assert status == NATIVE
    for time_ns in (0, 1, PERIOD_NS // 2, PERIOD_NS - PERIOD_NS // 10 - 1):
        status, action = small.control(time_ns, other)
        assert status == INTERMEDIATE
        np.testing.assert_array_equal(action, first)
    status, action = small.control(PERIOD_NS - PERIOD_NS // 10, other)
    assert status == NATIVE
    assert not np.array_equal(action, first)


@pytest.mark.parametrize(
    ("interval_ns", "expected"),
    [
        (PERIOD_NS - PERIOD_NS // 10, NATIVE),
        (PERIOD_NS + PERIOD_NS // 10, NATIVE),
        (PERIOD_NS + PERIOD_NS // 10 + 1, NATIVE | JITTER),
        (10**15, NATIVE | JITTER),
        (-1, NATIVE | JITTER),  # the clock jumped back
    ],
)
def test_an_interval_off_by_more_than_a_tenth_is_jitter(small: Compiled, interval_ns: int, expected: int) -> None:
    small.reset()
    row = rows_of(policy(8, sizes=(3, 10)), 1)[0]
    start = 10**12
    assert small.control(start, row)[0] == NATIVE
    assert small.control(start + interval_ns, row)[0] == expected
    jitter_ns = int.from_bytes(small.memory.raw[8:16], "little", signed=True)
    assert jitter_ns == interval_ns - PERIOD_NS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_not_run(small: Compiled, value: float) -> None:
    small.reset()
    row = rows_of(policy(8, sizes=(3, 10)), 1)[0]
    _, good = small.control(0, row)
    for i in range(3):
        bad = row.copy()
        bad[i] = value
        status, action = small.control(PERIOD_NS, bad)
        assert status == NONFINITE
        assert np.isnan(action).all()
    assert small.control(PERIOD_NS, row)[0] == NATIVE  # the refused call took no time slot
    np.testing.assert_array_equal(small.control(PERIOD_NS + 5, row)[1], good)


def test_without_a_rate_every_call_is_native(tmp_path: Path) -> None:
    network = policy(8, sizes=(3, 10))
    compiled = Compiled(sources_of(network, rate_hz=0.0), tmp_path)
    row = rows_of(network, 1)[0]
    assert [compiled.control(t, row)[0] for t in (0, 0, 1, 10**9, 5)] == [NATIVE] * 5


def test_intermediate_and_refused_calls_leave_the_recurrent_state(tmp_path: Path) -> None:
    network = policy(9, sizes=(4, 8), recurrent=1)
    compiled = Compiled(sources_of(network), tmp_path)
    twin = CPolicy(network)
    bad = np.full(4, np.nan, np.float32)
    for k, row in enumerate(rows_of(network, 30)):
        status, action = compiled.control(k * PERIOD_NS, row)
        assert status == NATIVE
        np.testing.assert_array_equal(action, twin(row))
        assert compiled.control(k * PERIOD_NS + 1000, row)[0] == INTERMEDIATE
        assert compiled.control((k + 1) * PERIOD_NS, bad)[0] == NONFINITE


def test_a_flipped_bit_of_one_weight_is_found(tmp_path: Path) -> None:
    """The golden replay must fail when the arithmetic is not the one they were made with."""
    sources = sources_of(policy(10, sizes=(6, 16)), n=64)
    start = sources.source.index("weight_2[")
    old = re.search(r"-?0x1\.[0-9a-f]+p[+-]\d+f", sources.source[start:])
    assert old is not None
    value = np.float32(float.fromhex(old.group().rstrip("f")))
    new = hex_float((value.view(np.uint32) ^ np.uint32(1 << 12)).view(np.float32))
    broken = sources.source[:start] + sources.source[start:].replace(old.group(), new, 1)
    compiled = Compiled(replace(sources, source=broken), tmp_path)
    different, first = compiled.test()
    assert 0 < different <= 64
    assert first < 64


def test_the_replay_counts_and_names_the_first_difference(tmp_path: Path) -> None:
    network = policy(10, sizes=(6, 16), end="squash")  # no limit at which answers coincide
    golden = own_golden(network, 8)
    sources = sources_of(network, golden=golden)
    answers = CPolicy(network).evaluate(rows_of(network, 8))
    start = sources.source.index("golden_action[")
    text = sources.source[start:]
    for k in (5, 2):
        value = answers[k, 1]
        text = text.replace(hex_float(value), hex_float(np.nextafter(value, np.float32(9))), 1)
    compiled = Compiled(replace(sources, source=sources.source[:start] + text), tmp_path)
    assert compiled.test() == (2, 2)


def test_the_header_says_whose_policy_it_is() -> None:
    network = policy(11, sizes=(4, 12))
    golden = golden_of(network)
    contract = contract_of(network, 20.0)
    sources = c_sources(network, contract, golden)
    macros = dict(re.findall(r"#define SIM2SKY_POLICY_(\w+) (\S+)", sources.header))
    assert macros["N_OBSERVATION"] == "4"
    assert macros["N_ACTION"] == "4"
    assert macros["N_GOLDEN"] == "256"
    assert float(macros["RATE_HZ"]) == 20.0
    assert macros["PERIOD_NS"] == "50000000u"
    assert macros["CONTRACT_HASH"] == f'"{contract.hash}"'
    assert macros["DIGEST"] == f'"{hashlib.sha256(network_to_bytes(network)).hexdigest()}"'
    assert float(macros["GOLDEN_ERROR"]) == sources.max_error
    assert 0 < sources.max_error < 1e-5
    assert c_sources(network, contract, golden) == sources  # the same bytes again


def test_weights_read_back_exactly() -> None:
    network = policy(12, sizes=(6, 24))
    source = sources_of(network).source
    first = network.layers[0]
    assert isinstance(first, Dense)
    body = source[source.index("weight_2[") :]
    body = body[body.index("{") + 1 : body.index("}")]
    values = np.array([float.fromhex(v.strip().rstrip("f")) for v in body.split(",")], np.float32)
    np.testing.assert_array_equal(values.reshape(3, 6, 8).transpose(0, 2, 1).reshape(24, 6), first.weight)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, 1e-45, 3.4028235e38, 0.1, 1.1754944e-38])
def test_hexadecimal_floats_are_exact(value: float) -> None:
    number = np.float32(value)
    back = np.float32(float.fromhex(hex_float(number).rstrip("f")))
    assert back.view(np.uint32) == number.view(np.uint32)


def test_int8_is_a_quarter_of_the_size_and_says_its_error() -> None:
    network = policy(13, sizes=(12, 64, 64))
    golden = golden_of(network)
    contract = contract_of(network)
    full, small = c_sources(network, contract, golden), c_sources(network, contract, golden, weights="int8")
    assert full.max_error < 1e-5 < small.max_error < 0.2
    assert small.weight_bytes < 0.32 * full.weight_bytes
    assert 'SIM2SKY_POLICY_WEIGHTS "int8"' in small.header
    assert f"SIM2SKY_POLICY_GOLDEN_ERROR {small.max_error!r}" in small.header


def test_a_layer_the_generator_does_not_know_is_named() -> None:
    network = Network((InputHead("observation", 3),), (Activation("swishy"),))  # type: ignore[arg-type]
    with pytest.raises(NotSupportedError, match=r"layer 0 \(activation\).*'swishy'"):
        c_sources(network, contract_of(network), golden_of(policy(0, sizes=(3, 9))))


def test_a_dense_layer_before_the_inputs_are_joined_is_named() -> None:
    dense = Dense(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    network = Network((InputHead("camera", 3, (dense,)),), (dense,))
    with pytest.raises(NotSupportedError, match="input 'camera': layer 'dense'"):
        c_sources(network, contract_of(network), golden_of(policy(0, sizes=(3, 9))))


def test_layers_that_do_not_fit_are_refused() -> None:
    good = policy(0, sizes=(3, 9))
    network = Network(good.inputs, (Dense(np.ones((2, 4), np.float32), np.zeros(2, np.float32)),))
    with pytest.raises(ExportError, match=r"layer 0 \(dense\) takes 4 values but is given 3"):
        c_sources(network, contract_of(network), golden_of(good))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    good = policy(0, sizes=(3, 9))
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = np.nan
    network = Network(good.inputs, (Dense(weight, np.zeros(2, np.float32)),))
    with pytest.raises(ExportError, match="not finite"):
        c_sources(network, contract_of(network), golden_of(good))


def test_answers_other_than_the_trainers_are_refused() -> None:
    network = policy(0, sizes=(3, 9))
    with pytest.raises(GoldenMismatchError, match="differ from the trainer's"):
        c_sources(network, contract_of(network), golden_of(policy(1, sizes=(3, 9))))


def test_a_contract_of_another_agent_is_refused() -> None:
    network = policy(0, sizes=(3, 9))
    with pytest.raises(ExportError, match="inputs"):
        c_sources(network, contract_of(dict_policy()), golden_of(dict_policy()))
