"""Conformance cases of the `onnx` package through the C generator: the right numbers, or a refusal that says why.

Every single-node case of the operators that `tests/onnx_to_layers.py` knows is here; both lists are exact, so that no
case can go missing in silence.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from tests.c_policy_support import Compiled, sources_of
from tests.onnx_to_layers import CONVERTERS, Question, Refused, question_of

PASSED = """
    add add_bcast argmax_default_axis_example argmax_default_axis_random argmax_keepdims_example
    argmax_keepdims_random argmax_negative_axis_keepdims_example argmax_negative_axis_keepdims_random
    argmax_no_keepdims_example argmax_no_keepdims_random batchnorm_epsilon batchnorm_example celu clip
    clip_default_inbounds clip_default_inbounds_expanded clip_default_max clip_default_min clip_example
    clip_inbounds clip_min_greater_than_max clip_outbounds clip_splitbounds concat_1d_axis_0
    concat_1d_axis_negative_1 concat_2d_axis_0 concat_2d_axis_1 concat_2d_axis_negative_1 concat_2d_axis_negative_2
    concat_3d_axis_0 concat_3d_axis_1 concat_3d_axis_2 concat_3d_axis_negative_1 concat_3d_axis_negative_2
    concat_3d_axis_negative_3 div div_bcast div_example elu elu_default elu_example gelu_default_1 gelu_default_2
    gemm_all_attributes gemm_alpha gemm_beta gemm_default_no_bias gemm_default_scalar_bias
    gemm_default_single_elem_vector_bias gemm_default_vector_bias gemm_default_zero_bias gemm_transposeA
    gemm_transposeB greater greater_bcast hardsigmoid hardsigmoid_default hardsigmoid_example identity leakyrelu
    leakyrelu_default leakyrelu_example lstm_batchwise lstm_defaults lstm_with_initial_bias matmul_1d_1d
    matmul_1d_3d matmul_2d matmul_3d matmul_4d matmul_4d_1d matmul_bcast mish mul mul_bcast mul_example neg
    neg_example onehot_with_axis onehot_with_negative_axis reduce_mean_default_axes_keepdims_example
    reduce_mean_default_axes_keepdims_random reduce_mean_do_not_keepdims_example reduce_mean_do_not_keepdims_random
    reduce_mean_keepdims_example reduce_mean_keepdims_random reduce_mean_negative_axes_keepdims_example
    reduce_mean_negative_axes_keepdims_random relu selu selu_default selu_example sigmoid sigmoid_example softplus
    softplus_example sub sub_bcast sub_example swish tanh tanh_example
"""
REFUSED = {
    "ArgMax with ties to the last: ours go to the first, as in torch and numpy": """
        argmax_default_axis_example_select_last_index argmax_default_axis_random_select_last_index
        argmax_keepdims_example_select_last_index argmax_keepdims_random_select_last_index
        argmax_negative_axis_keepdims_example_select_last_index
        argmax_negative_axis_keepdims_random_select_last_index argmax_no_keepdims_example_select_last_index
        argmax_no_keepdims_random_select_last_index
    """,
    "BatchNormalization in training: a policy that flies does not learn": """
        batchnorm_epsilon_training_mode batchnorm_example_training_mode
    """,
    "Gelu by the approximation with tanh: ours is the exact one": """
        gelu_tanh_1 gelu_tanh_2
    """,
    "Gemm with another bias in each row: a layer has one bias per output": """
        gemm_default_matrix_bias
    """,
    "HardSwish: no layer multiplies two signals": """
        hardswish
    """,
    "Identity of list: a policy has arrays": """
        identity_opt identity_sequence
    """,
    "LSTM backwards in time: a policy does not know the future": """
        lstm_bidirectional lstm_reverse
    """,
    "LSTM with peepholes: torch has none": """
        lstm_with_peepholes
    """,
    "OneHot of an index outside 0..depth-1: no category has it": """
        onehot_negative_indices onehot_out_of_range_indices
    """,
    "OneHot with values in bfloat16: a policy computes in float32": """
        onehot_with_bfloat16_values
    """,
    "OneHot with values in int32: a policy computes in float32": """
        onehot_without_axis
    """,
    "arithmetic in bfloat16: a policy computes in float32": """
        celu_bfloat16
    """,
    "arithmetic in float16: a policy computes in float32": """
        celu_float16
    """,
    "arithmetic in int16: a policy computes in float32": """
        add_int16 div_int16 greater_int16 mul_int16 sub_int16
    """,
    "arithmetic in int32: a policy computes in float32": """
        div_int32_trunc
    """,
    "arithmetic in int8: a policy computes in float32": """
        add_int8 clip_default_int8_inbounds clip_default_int8_inbounds_expanded clip_default_int8_max
        clip_default_int8_min div_int8 greater_int8 mul_int8 sub_int8
    """,
    "arithmetic in uint16: a policy computes in float32": """
        add_uint16 div_uint16 greater_uint16 mul_uint16 sub_uint16
    """,
    "arithmetic in uint32: a policy computes in float32": """
        add_uint32 div_uint32 greater_uint32 mul_uint32 sub_uint32
    """,
    "arithmetic in uint64: a policy computes in float32": """
        add_uint64 div_uint64 greater_uint64 mul_uint64 sub_uint64
    """,
    "arithmetic in uint8: a policy computes in float32": """
        add_uint8 div_uint8 greater_uint8 mul_uint8 sub_uint8
    """,
}


@functools.cache
def cases() -> dict[str, Any]:
    """Every case whose model is one node that we know, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # some cases divide by zero on purpose while they are made
        found = collect_testcases(None)
    nodes = {case.name: list(case.model.graph.node) for case in found}
    return {c.name: c for c in found if len(nodes[c.name]) == 1 and nodes[c.name][0].op_type in CONVERTERS}


def refusals() -> dict[str, str]:
    """Reason by case, of those that are no layer of a policy."""
    reasons = {}
    for name, case in cases().items():
        try:
            for given, wanted in case.data_sets:
                question_of(case.model, list(given), list(wanted))
        except Refused as reason:
            reasons[name] = str(reason)
    return reasons


def answers(question: Question, folder: Path) -> np.ndarray:
    """The compiled policy's answers, each row from a fresh state."""
    compiled = Compiled(sources_of(question.network), folder)
    assert compiled.test()[0] == 0
    return compiled.rows(question.rows, np.ones(len(question.rows)))


def test_every_case_is_on_one_of_the_lists_and_none_on_both() -> None:
    listed = [*PASSED.split(), *(name for names in REFUSED.values() for name in names.split())]
    assert [name for name, n in Counter(listed).items() if n > 1] == []
    assert sorted(f"test_{name}" for name in listed) == sorted(cases())
    assert (len(PASSED.split()), len(listed)) == (102, 162)


def test_what_is_refused_is_refused_for_the_reason_on_the_list() -> None:
    expected = {f"test_{name}": reason for reason, names in REFUSED.items() for name in names.split()}
    assert refusals() == expected


@pytest.mark.parametrize("name", PASSED.split())
def test_the_generated_c_gives_the_numbers_of_the_case(name: str, tmp_path: Path) -> None:
    case = cases()[f"test_{name}"]
    assert len(case.data_sets) == 1
    given, wanted = (list(values) for values in case.data_sets[0])
    question = question_of(case.model, given, wanted)
    got = question.arrange(answers(question, tmp_path))
    assert got.shape == wanted[-1].shape
    np.testing.assert_allclose(got, wanted[-1].astype(np.float64), rtol=case.rtol, atol=case.atol)


def test_every_operator_is_among_those_that_pass() -> None:
    """All but HardSwish, which no policy of ours has."""
    passed = {cases()[f"test_{name}"].model.graph.node[0].op_type for name in PASSED.split()}
    assert set(CONVERTERS) - passed == {"HardSwish"}


def one(kind: str, inputs: list[np.ndarray], **attributes: object) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    names = [f"i{k}" for k in range(len(inputs))]
    node = helper.make_node(kind, names, ["o"], **attributes)  # type: ignore[arg-type]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, list(i.shape)) for n, i in zip(names, inputs, strict=True)
    ]
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "g", values, [out])), inputs


@pytest.mark.parametrize(
    ("kind", "attributes", "what"),
    [
        ("Gemm", {"transB": 1}, "a transposed weight taken as it stands"),
        ("LeakyRelu", {"alpha": 0.5}, "another slope"),
        ("Elu", {"alpha": 2.0}, "another scale"),
        ("Add", {}, "another operand"),
    ],
)
def test_the_comparison_fails_where_the_number_is_wrong(
    kind: str, attributes: dict[str, object], what: str, tmp_path: Path
) -> None:
    """Negative control: the answer of the node asked about is not that of a slightly different one."""
    rng = np.random.default_rng(0)
    x = -np.abs(rng.normal(size=(2, 3))).astype(np.float32)
    second = [rng.normal(size=(3, 3)).astype(np.float32)] if kind == "Gemm" else []
    second = [np.ones((2, 3), np.float32)] if kind == "Add" else second
    nothing = np.zeros((2, 3), np.float32)
    right = question_of(*one(kind, [x, *second], **attributes), [nothing])
    changed = [s + np.float32(0.01) for s in second] if kind == "Add" else second
    different = {"Gemm": {}, "LeakyRelu": {"alpha": 0.51}, "Elu": {"alpha": 2.01}, "Add": {}}[kind]
    wrong = question_of(*one(kind, [x, *changed], **different), [nothing])
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            answers(right, tmp_path / "right"), answers(wrong, tmp_path / "wrong"), rtol=1e-3, atol=1e-7
        )
