"""The compiled policy as a backend: shapes, types, episodes, and what is no policy of ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.flight_support import settings
from tests.native_support import library, running_sum

from sim2sky.agent.contract import Contract, Input, Output
from sim2sky.deployment.native_build import compile_policy
from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.environments.tasks import make_contract
from sim2sky.errors import BundleError, ContractError, ToolchainError
from sim2sky.runtime.native_policy import BINDING, NativeBackend
from sim2sky.runtime.state import PolicyState

CONTRACT = make_contract(settings())
N = len(CONTRACT.observation_names)


def with_output(kind: str, n: int) -> Contract:
    return dataclasses.replace(CONTRACT, output=Output(kind, (), (9,) * n))  # type: ignore[arg-type]


def with_inputs() -> Contract:
    signals = CONTRACT.inputs[0].signals
    a = Input("achieved", "box", (3,), "float32", signals[:3])
    b = Input("desired", "box", (2, 2), "float32", signals[3:7])
    return dataclasses.replace(CONTRACT, inputs=(a, b))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return library(tmp_path_factory.mktemp("native"), running_sum(CONTRACT))


def test_an_answer_is_the_policys_and_belongs_to_the_caller(compiled: bytes) -> None:
    policy = NativeBackend(compiled, CONTRACT)
    assert policy.state is PolicyState.ANSWERED
    first = policy(np.full(N, 0.5, np.float32))
    assert first.dtype == np.float32
    assert first.tolist() == [N / 2 + i for i in range(4)]
    second = policy(np.ones(N))  # float64
    assert second.tolist() == [1.5 * N + i for i in range(4)]
    assert first[0] == N / 2  # not overwritten by the second call


@hypothesis_settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.one_of(st.just("reset"), st.floats(-8, 8, width=16)), max_size=30))
def test_every_call_is_a_step_and_a_reset_begins_anew(compiled: bytes, rows: list[str | float]) -> None:
    """Negative control of the binding's clock: were a call 'not due yet', it would repeat the last answer."""
    policy = NativeBackend(compiled, CONTRACT)
    total = np.float32(0)
    for row in rows:
        if row == "reset":
            policy.reset()
            total = np.float32(0)
            continue
        observation = np.zeros(N, np.float32)
        observation[-1] = row
        total = np.float32(total + np.float32(row))
        assert policy(observation)[0] == total


@pytest.mark.parametrize("rate_hz", [0.0, 0.3, 7.0, 50.0, 333.0, 1000.0])
def test_no_rate_makes_a_call_come_too_early(tmp_path: Path, rate_hz: float) -> None:
    contract = dataclasses.replace(CONTRACT, rate_hz=rate_hz)
    policy = NativeBackend(library(tmp_path, running_sum(contract)), contract)
    answers = [float(policy(np.eye(1, N, dtype=np.float32)[0])[0]) for _ in range(200)]
    assert answers == list(range(1, 201))


def test_two_backends_of_the_same_bytes_share_nothing(compiled: bytes) -> None:
    a, b = NativeBackend(compiled, CONTRACT), NativeBackend(compiled, CONTRACT)
    a(np.ones(N))
    assert b(np.zeros(N))[0] == 0.0


def test_two_libraries_are_two_whatever_names_the_loader_remembers(compiled: bytes, tmp_path: Path) -> None:
    """Once the second was silently the first: a closed handle's number, and so its path, had come again."""
    wrong = library(tmp_path, running_sum(CONTRACT, wrong=2))
    for _ in range(3):
        assert NativeBackend(compiled, CONTRACT).self_test() == (0, 0)
        assert NativeBackend(wrong, CONTRACT).self_test() == (1, 2)


def test_the_self_test_leaves_a_new_episode(compiled: bytes) -> None:
    policy = NativeBackend(compiled, CONTRACT)
    policy(np.ones(N))
    policy.self_test()
    assert policy(np.zeros(N))[0] == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_answered_with_nan(compiled: bytes, value: float) -> None:
    policy = NativeBackend(compiled, CONTRACT)
    observation = np.ones(N, np.float32)
    observation[3] = value
    assert np.isnan(policy(observation)).all()
    assert np.isfinite(policy(np.ones(N))).all()


@pytest.mark.parametrize("shape", [(1, N), (N, 1), (1, N, 1)])
def test_any_shape_of_the_right_size_is_flattened_as_onnxruntime_does(compiled: bytes, shape: tuple[int, ...]) -> None:
    assert NativeBackend(compiled, CONTRACT)(np.ones(shape))[0] == N


@pytest.mark.parametrize("shape", [(), (1,), (N - 1,), (N + 1,), (2, N)])
def test_a_wrong_size_is_refused_and_never_spread_over_the_buffer(compiled: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=f"the policy takes {N}"):
        NativeBackend(compiled, CONTRACT)(np.ones(shape))


def test_several_inputs_are_put_one_after_the_other_in_the_contracts_order(tmp_path: Path) -> None:
    contract = with_inputs()
    policy = NativeBackend(library(tmp_path, running_sum(contract)), contract)
    row = {"desired": np.full((2, 2), 0.25), "achieved": np.array([1.0, 2.0, 3.0])}
    assert policy(row)[0] == 7.0
    assert policy._observation.tolist() == [1.0, 2.0, 3.0, 0.25, 0.25, 0.25, 0.25]
    with pytest.raises(BundleError, match="no input 'desired'"):
        policy({"achieved": np.ones(3)})
    with pytest.raises(BundleError, match="several inputs: achieved, desired"):
        policy(np.ones(6))
    with pytest.raises(ContractError, match="'desired' has 3 values"):
        policy({"achieved": np.ones(3), "desired": np.ones(3)})


def test_one_input_may_come_by_its_key(compiled: bytes) -> None:
    assert NativeBackend(compiled, CONTRACT)({"observation": np.ones(N)})[0] == N


@pytest.mark.parametrize(("kind", "n", "shape"), [("discrete", 1, ()), ("multi_discrete", 2, (2,))])
def test_categories_are_whole_numbers(tmp_path: Path, kind: str, n: int, shape: tuple[int, ...]) -> None:
    contract = with_output(kind, n)
    policy = NativeBackend(library(tmp_path, running_sum(contract, discrete=True)), contract)
    answer = policy(np.eye(1, N)[0] * 3.75)
    assert (answer.dtype, answer.shape) == (np.int64, shape)
    assert answer.reshape(-1)[0] == 3
    with pytest.raises(ContractError, match="no category stands for that"):
        policy(np.full(N, np.nan))


def test_another_contracts_library_is_refused(compiled: bytes) -> None:
    other = dataclasses.replace(CONTRACT, rate_hz=25.0)
    with pytest.raises(BundleError, match="another contract"):
        NativeBackend(compiled, other)


@pytest.mark.parametrize("damage", ["empty", "text", "header only"])
def test_what_is_no_library_is_refused(compiled: bytes, damage: str) -> None:
    data = {"empty": b"", "text": b"#!/bin/sh\n", "header only": compiled[:64]}[damage]
    with pytest.raises(BundleError, match="cannot be loaded here"):
        NativeBackend(data, CONTRACT)


def test_a_library_of_something_else_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 1; }\n")

    made = compile_c(
        find_compiler(), [source], tmp_path / "other.so", product="shared", options=["-Wno-missing-prototypes"]
    )
    with pytest.raises(BundleError, match="none of ours"):
        NativeBackend(made.read_bytes(), CONTRACT)


def test_a_source_that_does_not_compile_leaves_nothing(tmp_path: Path) -> None:
    source, header = running_sum(CONTRACT)
    with pytest.raises(ToolchainError, match=r"policy\.c:\d+"):
        compile_policy(source.replace("p->sum +=", "p->nothing +="), header, tmp_path / "policy.so", find_compiler())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_the_binding_has_no_warning_with_either_compiler(tmp_path: Path, kind: str) -> None:
    compiler = find_compiler(kind=kind)  # type: ignore[arg-type]

    (tmp_path / "policy.h").write_text(running_sum(CONTRACT)[1])
    (tmp_path / "binding.c").write_text(BINDING)
    compile_c(
        compiler, [tmp_path / "binding.c"], tmp_path / "binding.o", product="object", include=[tmp_path],
        options=["-Werror"],
    )  # fmt: skip
