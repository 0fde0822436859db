"""The machine that reads pickles: equal to the standard one on plain data, silent and inert on everything else."""

from __future__ import annotations

import collections
import contextlib
import pickle
import sys
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sim2sky.agent.sb3_pickle import Global, Record, decode, scan_stream
from sim2sky.agent.sb3_spaces import as_array, as_number
from sim2sky.errors import AgentError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples()
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    content = decode(pickle.dumps(value, protocol), "x")
    assert content.value == value
    assert content.names <= {"_codecs.encode"}


@given(value=st.sets(st.integers()) | st.frozensets(st.text()) | st.builds(bytearray, st.binary()))
def test_sets_and_bytearrays(value: Any) -> None:
    assert decode(pickle.dumps(value, 5), "x").value == value


@given(
    array=hnp.arrays(
        st.sampled_from(["f4", "f8", ">f4", "i8", "u1", "?", "i4"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    fortran=st.booleans(),
    protocol=st.integers(2, 5),
)
def test_arrays_are_rebuilt_from_their_bytes(array: Any, fortran: bool, protocol: int) -> None:
    array = np.asfortranarray(array) if fortran else array
    for dump in (pickle.dumps, cloudpickle.dumps):
        rebuilt = as_array(decode(dump(array, protocol), "x").value, "x")
        assert rebuilt.shape == array.shape
        assert np.array_equal(rebuilt, array, equal_nan=array.dtype.kind == "f")
        assert rebuilt.dtype == array.dtype.newbyteorder("=")


@given(value=st.floats(width=32, allow_nan=False) | st.integers(-(2**31), 2**31 - 1))
def test_numpy_scalars(value: float | int) -> None:
    scalar = np.float32(value) if isinstance(value, float) else np.int64(value)
    assert as_number(decode(pickle.dumps(scalar), "x").value, "x") == value


@settings(max_examples=400)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_value_or_an_agent_error(data: bytes) -> None:
    before = set(sys.modules)
    for where in (decode, scan_stream):
        with contextlib.suppress(AgentError):
            where(data, "x")
    assert set(sys.modules) == before


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_gives_a_value_or_an_agent_error(data: st.DataObject) -> None:
    good = bytearray(pickle.dumps({"a": np.arange(4.0), "b": [collections.OrderedDict(x=1)]}))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = decode(bytes(good), "x").value
        as_array(value["a"], "x")
    except (AgentError, TypeError, KeyError):
        pass


def test_nothing_is_looked_up() -> None:
    content = decode(b"cno_such_module_at_all\nThing\n)R.", "x")
    assert isinstance(content.value, Record)
    assert content.value.function == Global("no_such_module_at_all.Thing")
    assert "no_such_module_at_all" not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x01.",  # an extension code, resolved through the machine's own registry
        b"Pevil\n.",  # a persistent identifier
        b"\x97.",  # an out-of-band buffer
        b"(.",  # a mark as the value
        b"K\x01K\x02R.",  # a number is called
        b"K\x01)\x81.",
        b"]K\x01b.",  # a list is given a state
        b"h\x05.",  # the memo is empty
        b"\x96" + (2**40).to_bytes(8, "little") + b".",  # a byte array of a terabyte
        b"\x8e" + (2**62).to_bytes(8, "little") + b".",
        b"0.",  # pop from nothing
        b"K\x01",  # no end
    ],
)
def test_programs_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(AgentError, match="x is damaged"):
        decode(data, "x")


def test_references_to_references_take_no_memory() -> None:
    """Thirty doublings: two to the thirtieth leaves, if anyone followed them."""
    data = (
        b"]" + b"q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(30))
    )
    assert isinstance(decode(data + b".", "x").value, list)


def test_keys_that_take_forever_to_hash_are_refused() -> None:
    doubled = (b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0" for i in range(60))
    shared = b"K\x01q\x000" + b"".join(doubled)
    for program in (b"}" + b"h\x3cK\x01s.", b"\x8f(h\x3c\x90.", b"(h\x3c\x91.", b"(h\x3cK\x01d."):
        with pytest.raises(AgentError, match="nested too deeply"):
            decode(shared + program, "x")


@pytest.mark.parametrize("name", ["os.system", "posix.system", "nt.system", "builtins.eval", "__builtin__.execfile"])
@pytest.mark.parametrize("called", [False, True])
def test_a_dangerous_name_is_enough(name: str, called: bool) -> None:
    module, _, function = name.rpartition(".")
    data = f"c{module}\n{function}\n".encode() + (b")R." if called else b".")
    with pytest.raises(AgentError, match=name.replace(".", r"\.")):
        decode(data, "x")
