"""Arrays, spaces and normalisers out of decoded pickles, and the generic contract that follows from the spaces.

Works on the records of `sb3_pickle`; builds numpy arrays from raw bytes itself. Imports numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import ActionSignal, Contract, Input, InputKind, Output, Signal
from sim2sky.agent.sb3_pickle import Global, Record
from sim2sky.errors import AgentError, NotSupportedError

__all__ = ["Normaliser", "Space", "as_array", "as_number", "generic_contract", "normaliser_from", "space_from"]

MAX_VALUES = 1 << 22
"""Most scalars a space may have; beyond it is an image or an attack."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """A Gym or Gymnasium space.

    Attributes:
        kind: `box`, `discrete`, `multi_discrete`, `multi_binary` or `dict`.
        low, high: limits of a box, of shape `shape`.
        sizes: categories per variable (flat) of the discrete kinds.
        start: first category per variable.
        children: of a dict, in the order the policy concatenates them.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    sizes: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    children: dict[str, Space] = field(default_factory=dict[str, "Space"])

    @property
    def size(self) -> int:
        """Number of scalars of one flattened value."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_image(self) -> bool:
        """What Stable-Baselines3 takes for an image: three axes of bytes."""
        return self.kind == "box" and len(self.shape) == 3 and self.dtype == np.uint8


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """Statistics of a VecNormalize: `statistics` maps an input key to (mean, var), flattened, float64.

    The key is None where the normaliser belongs to a single space.
    """

    statistics: dict[str | None, tuple[NDArray[np.float64], NDArray[np.float64]]]
    epsilon: float
    clip: float


def _damaged(where: str, what: str) -> AgentError:
    return AgentError(f"{where} is damaged: {what}")


def as_dtype(value: Any, where: str) -> np.dtype[Any]:
    """A numeric numpy dtype from its record.

    Raises:
        AgentError: it is no numeric type.
    """
    name = ""
    order = "="
    if isinstance(value, Record) and value.name == "numpy.dtype" and value.args and isinstance(value.args[0], str):
        name = value.args[0]
        if isinstance(value.state, tuple) and len(value.state) > 1 and value.state[1] in ("<", ">"):
            order = value.state[1]
    elif isinstance(value, Global) and value.name.startswith(("numpy.", "builtins.")):
        name = value.name.split(".", 1)[1].rstrip("_")
    elif isinstance(value, str):
        name = value
    if not re.fullmatch(r"[<>|=]?([bui][1248]|f[248]|bool|u?int(8|16|32|64)?|float(16|32|64)?)", name):
        raise _damaged(where, f"{name or type(value).__name__!r} is no numeric type")
    dtype = np.dtype(name)
    return dtype.newbyteorder(order) if order != "=" else dtype


def as_array(value: Any, where: str) -> NDArray[Any]:
    """A numeric array from its record, built from the raw bytes.

    Raises:
        AgentError: it is no numeric array, or size and bytes do not fit.
    """
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float | Record) for v in value):
        return np.array([as_number(v, where) for v in value])
    if not isinstance(value, Record):
        raise _damaged(where, f"a {type(value).__name__} where an array should be")
    function = value.name.rsplit(".", 1)[-1]
    order: Any = "C"
    if function == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    elif function == "_frombuffer" and len(value.args) == 4:
        raw, dtype, shape, order = value.args
    elif function == "scalar" and len(value.args) == 2:
        dtype, raw = value.args
        shape = ()
    else:
        raise _damaged(where, f"{value.name or 'a call'} where an array should be")
    data = _as_bytes(raw, where)
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= MAX_VALUES for n in shape):
        raise _damaged(where, "malformed array shape")
    kind = as_dtype(dtype, where)
    if len(data) != kind.itemsize * int(np.prod(shape, dtype=object)):
        raise _damaged(where, f"{len(data)} bytes do not make an array of shape {shape}")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(kind.newbyteorder("="))


def _as_bytes(value: Any, where: str) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):  # Python 2
        return value.encode("latin-1", errors="replace")
    if isinstance(value, Record) and value.name == "_codecs.encode" and isinstance((*value.args, 0)[0], str):
        return value.args[0].encode("latin-1", errors="replace")
    if isinstance(value, Record) and value.name in ("builtins.bytearray", "builtins.bytes", "__builtin__.bytes"):
        return _as_bytes(value.args[0], where) if value.args else b""
    raise _damaged(where, "no bytes where an array's content should be")


def as_number(value: Any, where: str) -> float | int:
    """A Python number from a number or a numpy scalar's record."""
    if isinstance(value, int | float):
        return value
    array = as_array(value, where)
    if array.size != 1:
        raise _damaged(where, f"{array.size} values where one number should be")
    return array.reshape(()).item()


def _state(record: Record, where: str) -> dict[str, Any]:
    state = record.state
    if isinstance(state, tuple) and len(state) == 2:  # (dict, slots)
        state = {**(state[0] or {}), **(state[1] or {})} if all(isinstance(s, dict | None) for s in state) else None
    if not isinstance(state, dict):
        raise _damaged(where, f"{record.name} has no content")
    return state


def _integers(value: Any, where: str) -> tuple[int, ...]:
    array = as_array(value, where)
    if array.dtype.kind not in "iub":
        raise _damaged(where, "no whole numbers where sizes should be")
    return tuple(int(n) for n in array.reshape(-1))


def _class_name(record: Record) -> str:
    if record.name.rsplit(".", 1)[-1] == "_reconstructor" and record.args and isinstance(record.args[0], Global):
        return record.args[0].name
    return record.name


def space_from(value: Any, where: str, *, nested: bool = False) -> Space:
    """A space from its record.

    Raises:
        NotSupportedError: a kind of space no policy here takes (Tuple, Text, Graph, nested Dict, ...).
        AgentError: the record is damaged.
    """
    if not isinstance(value, Record):
        raise _damaged(where, f"a {type(value).__name__} where a space should be")
    name = _class_name(value)
    if not name.startswith(("gym.spaces.", "gymnasium.spaces.")):
        raise NotSupportedError(f"{where} is of the class '{name}', not of gym or gymnasium")
    kind, state = name.rsplit(".", 1)[-1], _state(value, where)
    if kind == "Box":
        low, high = as_array(state.get("low"), where), as_array(state.get("high"), where)
        if low.shape != high.shape or low.size > MAX_VALUES:
            raise _damaged(where, f"limits of shapes {low.shape} and {high.shape}")
        if np.isnan(low.astype(np.float64)).any() or np.isnan(high.astype(np.float64)).any() or (low > high).any():
            raise _damaged(where, "its lower limits are not below its upper limits")
        dtype = as_dtype(state["dtype"], where) if state.get("dtype") is not None else low.dtype
        return Space("box", low.shape, dtype, low, high)
    if kind == "Discrete":
        n, start = as_number(state.get("n"), where), as_number(state.get("start", 0), where)
        if not isinstance(n, int) or not isinstance(start, int) or not 1 <= n <= MAX_VALUES:
            raise _damaged(where, f"{n!r} categories")
        return Space("discrete", (), np.dtype(np.int64), sizes=(n,), start=(start,))
    if kind == "MultiDiscrete":
        nvec = as_array(state.get("nvec"), where)
        sizes = _integers(state.get("nvec"), where)
        start = _integers(state["start"], where) if state.get("start") is not None else (0,) * len(sizes)
        if len(start) != len(sizes) or not sizes or min(sizes) < 1 or sum(sizes) > MAX_VALUES:
            raise _damaged(where, f"categories {sizes[:8]}")
        return Space("multi_discrete", nvec.shape, np.dtype(np.int64), sizes=sizes, start=start)
    if kind == "MultiBinary":
        shape = _integers(state.get("n"), where)
        if not shape or min(shape) < 1 or int(np.prod(shape, dtype=object)) > MAX_VALUES:
            raise _damaged(where, f"shape {shape}")
        n = int(np.prod(shape))
        return Space("multi_binary", shape, np.dtype(np.int8), sizes=(2,) * n, start=(0,) * n)
    if kind == "Dict" and not nested:
        pairs = _pairs(state.get("spaces"), where)
        if not pairs:
            raise _damaged(where, "an empty Dict")
        children = {k: space_from(v, f"{where} '{k}'", nested=True) for k, v in pairs.items()}
        return Space("dict", (), np.dtype(np.float32), children=children)
    raise NotSupportedError(
        f"{where} is a {'nested ' if nested else ''}{kind} space", hint="flatten it into Box, Discrete or Dict of these"
    )


def _pairs(value: Any, where: str) -> dict[str, Any]:
    pairs: Any = value
    if isinstance(value, Record) and value.name == "collections.OrderedDict":
        first = value.args[0] if value.args else []
        if not isinstance(first, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in first):
            raise _damaged(where, "malformed mapping")
        pairs = dict([*map(tuple, first), *value.pairs])
    if not isinstance(pairs, dict) or not all(isinstance(k, str) for k in pairs):
        raise _damaged(where, "its content is not a mapping by name")
    return pairs


def normaliser_from(value: Any, where: str) -> Normaliser | None:
    """Statistics from the record of a VecNormalize; None where it does not touch observations.

    Old files lack `norm_obs_keys`, which means all keys.

    Raises:
        AgentError: it is not a VecNormalize, or its statistics are damaged.
    """
    if not isinstance(value, Record) or not _class_name(value).startswith("stable_baselines3.common.vec_env."):
        raise AgentError(f"{where} does not hold a Stable-Baselines3 VecNormalize")
    if not _class_name(value).endswith(".VecNormalize"):
        raise AgentError(f"{where} holds a {_class_name(value)}, not a VecNormalize")
    state = _state(value, where)
    if state.get("norm_obs", True) is False:
        return None
    clip = float(as_number(state.get("clip_obs", 10.0), where))
    epsilon = float(as_number(state.get("epsilon", 1e-8), where))
    if not clip > 0 or not 0 <= epsilon < np.inf:
        raise _damaged(where, f"clip_obs {clip}, epsilon {epsilon}")
    moments = state.get("obs_rms")
    if isinstance(moments, Record) and moments.name.endswith(".RunningMeanStd"):
        return Normaliser({None: _moments(moments, where)}, epsilon, clip)
    by_key = _pairs(moments, where)
    keys = state.get("norm_obs_keys")
    keys = list(by_key) if keys is None else keys
    if not isinstance(keys, list) or not set(keys) <= set(by_key):
        raise _damaged(where, "norm_obs_keys are not keys of its statistics")
    return Normaliser({k: _moments(by_key[k], f"{where} '{k}'") for k in keys}, epsilon, clip)


def _moments(record: Any, where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not isinstance(record, Record) or not record.name.endswith(".RunningMeanStd"):
        raise _damaged(where, "no running mean and variance")
    state = _state(record, where)
    mean, var = (as_array(state.get(k), where).astype(np.float64).reshape(-1) for k in ("mean", "var"))
    if mean.shape != var.shape or not np.isfinite(mean).all() or not np.isfinite(var).all() or (var < 0).any():
        raise _damaged(where, "mean and variance are not finite, or differ in shape")
    return mean, var


def _signals(space: Space, prefix: str) -> tuple[Signal, ...]:
    if space.low is None or space.high is None:
        ends = [(float(a), float(a + n - 1)) for a, n in zip(space.start, space.sizes, strict=True)]
    else:
        ends = list(zip(space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float), strict=True))
    return tuple(Signal(f"{prefix}_{i}", "", "", float(low), float(high)) for i, (low, high) in enumerate(ends))


def generic_contract(observation: Space, action: Space) -> Contract:
    """What the spaces alone say: no vehicle, no rate, numbered signals, and the action itself as the command."""
    children: Mapping[str, Space] = observation.children or {"observation": observation}
    kinds: dict[str, InputKind] = {
        "box": "box",
        "discrete": "discrete",
        "multi_discrete": "multi_discrete",
        "multi_binary": "multi_binary",
    }
    inputs = tuple(
        Input(key, kinds[s.kind], s.shape, s.dtype.name, _signals(s, key), s.sizes) for key, s in children.items()
    )
    if action.low is None or action.high is None:
        kind = kinds[action.kind]
        return Contract("", "", 0.0, inputs, Output("discrete" if kind == "box" else kind, (), action.sizes))
    signals: list[ActionSignal] = []
    for i, (low, high) in enumerate(zip(action.low.reshape(-1), action.high.reshape(-1), strict=True)):
        a, b = float(low), float(high)
        middle = 0.5 * (a + b) if np.isfinite(a) and np.isfinite(b) else 0.0
        signals.append(ActionSignal(f"action_{i}", "", a, b, a, middle, b))
    return Contract("", "", 0.0, inputs, Output("continuous", tuple(signals)))
