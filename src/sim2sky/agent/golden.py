"""Golden vectors: observations and the trainer's own answers that travel with the weights.

Every runtime replays them and refuses to fly on a mismatch. Imports numpy only, because the flight computer replays
them too; it never loads a pickle.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import Contract, Input
from sim2sky.agent.layers import ArgMax, Network, Normalise, Threshold, evaluate
from sim2sky.errors import AgentError, GoldenMismatchError

if TYPE_CHECKING:
    from sim2sky.agent.sb3 import TrainedAgent

__all__ = [
    "MINIMUM",
    "GoldenVectors",
    "golden_from_bytes",
    "golden_to_bytes",
    "load_golden",
    "make_golden",
    "max_error",
    "save_golden",
]

MINIMUM = 256
"""Fewest vectors a golden set may hold."""

MAX_BYTES = 256 * 1024 * 1024
"""A golden file whose arrays would take more than this is refused before it is read."""

HUGE = 1e6
"""A bound beyond this (some spaces use the largest float) says nothing about plausible values."""

MIN_MARGIN = 1e-4
"""A discrete choice whose best two values are closer than this, relative to their size, is no fair test: float32
runtimes that add in another order may answer either."""

MAX_ROUNDING = 2e-6
"""A row on which float32 and float64 arithmetic differ by more than this (relative to the action scale) tests
rounding, not the export."""

_SPARE = 4


@dataclass(frozen=True, slots=True, eq=False)
class GoldenVectors:
    """Observations and answers.

    Attributes:
        observations: per input key (n, *shape); float32 for real values, integers for categories.
        action: (n, n_actions) float32, or int64 (n,) / (n, n_variables) for discrete answers.
        episode_start: (n,) float32, 1 where the recurrent state is zeroed first; None for policies without state.
            Where present, the rows are one sequence in time.
        kind: (n,) where each row comes from: `rollout`, `sampled`, `corner`, `saturating` or `out_of_range`.
        scale: (n_actions,) size of the action box, by which errors are divided; None for discrete answers.
    """

    observations: dict[str, NDArray[Any]]
    action: NDArray[Any]
    episode_start: NDArray[np.float32] | None
    kind: NDArray[np.str_]
    scale: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.action)


def max_error(golden: GoldenVectors, actions: NDArray[Any]) -> float:
    """Largest difference between `actions` and the golden ones.

    Args:
        golden: the vectors.
        actions: a runtime's answers, (n, n_actions) or (n,).

    Returns:
        Continuous: largest |difference| / scale of the action. Discrete: largest difference of indices, so 0 or >= 1.
        Infinite where an answer is not finite.

    Raises:
        GoldenMismatchError: the answers have another number of rows or columns.
    """
    expected = golden.action.reshape(len(golden), -1).astype(np.float64)
    try:
        got = np.asarray(actions, dtype=np.float64).reshape(len(golden), -1)
    except (TypeError, ValueError) as error:
        raise GoldenMismatchError(f"{np.shape(actions)} answers for {golden.action.shape} golden actions") from error
    if got.shape != expected.shape:
        raise GoldenMismatchError(f"answers of shape {np.shape(actions)} for golden actions {golden.action.shape}")
    if not np.isfinite(got).all():
        return float("inf")
    difference = np.abs(got - expected)
    if golden.scale is not None:
        difference = difference / golden.scale
    return float(difference.max(initial=0.0))


def make_golden(
    agent: TrainedAgent, *, n: int = MINIMUM, seed: int, rollout: Mapping[str, NDArray[Any]] | None = None
) -> GoldenVectors:
    """Choose observations and let Stable-Baselines3's own policy answer them.

    Args:
        agent: the loaded agent.
        n: number of vectors, at least 256.
        seed: of the random generator; the same seed gives the same vectors.
        rollout: raw observations per input key (m, *shape) that occurred in flight, in order; about two thirds of the
            vectors are then taken from them. For recurrent policies it may hold `episode_start` (m,).

    Returns:
        The vectors. Rows on which float32 arithmetic itself is ambiguous are replaced by others.

    Raises:
        AgentError: `n` is too small, or the rollout does not fit the agent's observation space.
    """
    if n < MINIMUM:
        raise AgentError(f"{n} golden vectors are too few", hint=f"ask for at least {MINIMUM}")
    rng = np.random.default_rng(seed)
    network, contract = agent.network, agent.contract
    recurrent = network.lstm is not None
    n_rollout = 0
    total = n + n // _SPARE
    columns: dict[str, list[NDArray[Any]]] = {i.key: [] for i in contract.inputs}
    starts = np.zeros(total, np.float32)
    kinds: list[str] = []
    if rollout is not None:
        rows, length = _check_rollout(contract, rollout)
        n_rollout = min(length, 2 * total // 3)
        # A recurrent policy needs rows that follow each other; for the others, spread over the whole flight.
        take = np.arange(n_rollout) if recurrent else np.linspace(0, length - 1, n_rollout).astype(np.int64)
        for key, values in rows.items():
            columns[key].append(values[take])
        if "episode_start" in rollout and "episode_start" not in columns:
            starts[:n_rollout] = np.asarray(rollout["episode_start"], np.float32).reshape(-1)[take] != 0
        kinds += ["rollout"] * n_rollout
    rest = total - n_rollout
    shares = {"corner": rest // 6, "saturating": rest // 6, "out_of_range": rest // 6}
    shares = {"sampled": rest - sum(shares.values()), **shares}
    heads = {h.key: h for h in network.inputs}
    for kind, count in shares.items():
        kinds += [kind] * count
        for spec in contract.inputs:
            normaliser = next((la for la in heads[spec.key].layers if isinstance(la, Normalise)), None)
            columns[spec.key].append(_draw(spec, normaliser, kind, count, rng))
    observations = {key: np.concatenate(parts) for key, parts in columns.items()}
    kind_array = np.array(kinds)
    if recurrent:
        starts[n_rollout:] = rng.random(rest) < 0.03
        starts[[0, n_rollout]] = 1.0
        middle = n_rollout + rest // 3
        starts[middle : middle + 2] = 1.0  # two resets in a row
    else:  # a prefix of the rows must already hold every kind
        order = rng.permutation(total)
        observations = {k: v[order] for k, v in observations.items()}
        kind_array = kind_array[order]
    keep = _well_conditioned(network, contract, observations, starts if recurrent else None, n)
    observations = {k: np.ascontiguousarray(v[keep]) for k, v in observations.items()}
    episode_start = np.ascontiguousarray(starts[keep]) if recurrent else None
    if episode_start is not None:
        episode_start[0] = 1.0
    action = np.asarray(agent.sb3_predict(observations, episode_start))
    scale = None
    if contract.output.kind == "continuous":
        action = action.reshape(n, -1).astype(np.float32)
        scale = _scale(contract, action)
    return GoldenVectors(observations, action, episode_start, np.ascontiguousarray(kind_array[keep]), scale)


def _scale(contract: Contract, action: NDArray[np.float32]) -> NDArray[np.float64]:
    """Size of the action box; where the box is unlimited or huge, of the answers themselves, at least 1."""
    box = np.array([max(abs(s.low), abs(s.high)) for s in contract.output.signals])
    seen = np.maximum(np.abs(action.astype(np.float64)).max(axis=0), 1.0)
    scale = np.minimum(box, seen)
    return np.where(scale > 0, scale, 1.0)


def _check_rollout(contract: Contract, rollout: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int]:
    rows: dict[str, NDArray[Any]] = {}
    for spec in contract.inputs:
        if spec.key not in rollout:
            raise AgentError(f"the rollout has no observations '{spec.key}'; it has {sorted(rollout)}")
        values = np.asarray(rollout[spec.key])
        if values.shape[1:] != spec.shape and values.size != len(values) * int(np.prod(spec.shape, dtype=int)):
            raise AgentError(f"rollout observations '{spec.key}' have shape {values.shape[1:]}, not {spec.shape}")
        if not np.isfinite(values.astype(np.float64)).all():
            raise AgentError(f"rollout observations '{spec.key}' are not all finite")
        rows[spec.key] = values.reshape(len(values), *spec.shape).astype(_stored_type(spec))
    lengths = {len(v) for v in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise AgentError(f"the rollout's observations have {sorted(lengths)} rows; they must agree and not be empty")
    return rows, lengths.pop()


def _stored_type(spec: Input) -> Any:
    return np.float32 if spec.kind == "box" else np.int64


def _draw(spec: Input, normaliser: Normalise | None, kind: str, count: int, rng: np.random.Generator) -> NDArray[Any]:
    if spec.kind != "box":
        sizes = np.array(spec.sizes or (2,) * len(spec.signals), dtype=np.int64)
        starts = np.array([s.low for s in spec.signals], dtype=np.int64)
        values = rng.integers(0, sizes, (count, len(sizes)))
        if kind == "corner":  # first and last category of every variable
            values = rng.integers(0, 2, (count, len(sizes))) * (sizes - 1)
        elif kind == "sampled":  # every category at least once
            values[:] = (np.arange(count)[:, None] + values[:1]) % sizes
        return (values + starts).reshape(count, *spec.shape).astype(np.int64)
    low = np.array([s.low for s in spec.signals], dtype=np.float64)
    high = np.array([s.high for s in spec.signals], dtype=np.float64)
    bounded = (np.abs(low) < HUGE) & (np.abs(high) < HUGE)
    middle, half = np.zeros(len(low)), np.ones(len(low))
    if normaliser is not None:
        middle, half = normaliser.mean, 3.0 * np.sqrt(normaliser.var + normaliser.epsilon)
    middle = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, middle)
    half = np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, half)
    size = (count, len(low))
    if normaliser is not None and kind in ("sampled", "saturating"):
        middle, half = normaliser.mean, np.sqrt(normaliser.var + normaliser.epsilon)
        reach = 1.0 if kind == "sampled" else 2.0 * min(normaliser.clip, 20.0)
        values = middle + half * reach * (rng.standard_normal(size) if kind == "sampled" else rng.uniform(-1, 1, size))
    elif kind == "sampled":
        values = middle + half * rng.uniform(-1, 1, size)
    elif kind == "corner":
        values = middle + half * rng.choice((-1.0, 1.0), size)
    else:  # one variable at a time saturates, or lies outside its box
        values = middle + half * rng.uniform(-1, 1, size)
        reach = 8.0 if kind == "saturating" else 2.0
        pick = rng.random(size) < max(1.0 / size[1], 0.2)
        values = np.where(pick, middle + half * reach * rng.choice((-1.0, 1.0), size), values)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iub":  # integers: stay inside the type, whatever the kind of row
        limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        values = np.clip(np.rint(values), max(limits[0], -(2**24)), min(limits[1], 2**24))
    return values.astype(np.float32).reshape(count, *spec.shape)


def _well_conditioned(
    network: Network,
    contract: Contract,
    observations: dict[str, NDArray[Any]],
    starts: NDArray[np.float32] | None,
    n: int,
) -> NDArray[np.int64]:
    """Indices of `n` rows, in order, on which float32 arithmetic has one right answer.

    Judged by the layer list alone, not by agreement with Stable-Baselines3, so that a wrong export is not hidden.
    """
    total = len(next(iter(observations.values())))
    keep = np.arange(total)
    for _ in range(6):  # in a sequence, leaving a row out changes the state of those after it: look again
        score = _ambiguity(
            network, contract, {k: v[keep] for k, v in observations.items()}, None if starts is None else starts[keep]
        )
        spare = len(keep) - n
        bad = np.flatnonzero(score > 1.0)
        if len(bad) == 0 or spare == 0:
            break
        worst = bad[np.argsort(-score[bad], kind="stable")][:spare]
        keep = np.delete(keep, worst)
    return keep[:n]


def _ambiguity(
    network: Network,
    contract: Contract,
    observations: dict[str, NDArray[Any]],
    starts: NDArray[np.float32] | None,
) -> NDArray[np.float64]:
    """Above 1 where a row is ambiguous in float32."""
    last = network.layers[-1] if network.layers else None
    discrete = isinstance(last, ArgMax | Threshold)
    raw = Network(network.inputs, network.layers[:-1]) if discrete else network
    exact, rounded = (_run(raw, observations, starts, dtype) for dtype in (np.float64, np.float32))
    size = np.maximum(np.abs(exact), 1.0)
    if not isinstance(last, ArgMax | Threshold):
        limits = np.array([max(abs(s.low), abs(s.high), 1e-9) for s in contract.output.signals])
        return (np.abs(exact - rounded) / np.minimum(limits, size)).max(axis=1) / MAX_ROUNDING
    if isinstance(last, Threshold):
        margin = (np.abs(exact) / size).min(axis=1)
    else:
        groups = np.split(exact, np.cumsum(last.sizes)[:-1], axis=1)
        margin = np.full(len(exact), np.inf)
        for group in groups:
            if group.shape[1] > 1:
                top = np.sort(group, axis=1)[:, -2:]
                margin = np.minimum(margin, (top[:, 1] - top[:, 0]) / np.maximum(np.abs(top).max(axis=1), 1.0))
    return MIN_MARGIN / np.maximum(margin, 1e-12)


def _run(
    network: Network, observations: dict[str, NDArray[Any]], starts: NDArray[np.float32] | None, dtype: Any
) -> NDArray[np.float64]:
    if starts is None:
        return np.asarray(evaluate(network, observations, dtype=dtype)[0], np.float64)
    rows: list[NDArray[Any]] = []
    state = None
    for t in range(len(starts)):
        row = {k: v[t : t + 1] for k, v in observations.items()}
        answer, state = evaluate(network, row, state, starts[t : t + 1], dtype=dtype)
        rows.append(answer)
    return np.concatenate(rows).astype(np.float64)


def golden_to_bytes(golden: GoldenVectors) -> bytes:
    """Serialise to an uncompressed `.npz`; equal vectors give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {f"observation/{k}": v for k, v in sorted(golden.observations.items())}
    arrays["order"] = np.array(list(golden.observations))
    arrays["action"] = golden.action
    arrays["kind"] = golden.kind
    if golden.episode_start is not None:
        arrays["episode_start"] = golden.episode_start
    if golden.scale is not None:
        arrays["scale"] = golden.scale
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def golden_from_bytes(data: bytes) -> GoldenVectors:
    """Inverse of `golden_to_bytes`; loads no pickle.

    Raises:
        AgentError: the bytes are no golden vectors, or their arrays do not fit together.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise AgentError(f"the golden vectors would take more than {MAX_BYTES} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = GoldenVectors(
                {str(key): arrays[f"observation/{key}"] for key in arrays["order"]},
                arrays["action"],
                arrays["episode_start"] if "episode_start" in arrays.files else None,
                arrays["kind"],
                arrays["scale"] if "scale" in arrays.files else None,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise AgentError(f"the golden vectors cannot be read: {error!r}") from error
    columns = [*golden.observations.values(), golden.kind]
    columns += [] if golden.episode_start is None else [golden.episode_start]
    n = len(golden.action) if golden.action.ndim else 0
    if n < 1 or not golden.observations or any(c.ndim == 0 or len(c) != n for c in columns):
        raise AgentError("the golden vectors' arrays differ in length")
    if golden.scale is not None and (
        golden.action.ndim != 2 or golden.scale.shape != golden.action.shape[1:] or not (golden.scale > 0).all()
    ):
        raise AgentError("the golden vectors' action scale does not fit the actions")
    return golden


def save_golden(golden: GoldenVectors, path: Path) -> None:
    """Write a `.npz` file, complete or not at all.

    Raises:
        AgentError: the folder is missing, read-only or full.
    """
    data = golden_to_bytes(golden)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def load_golden(path: Path) -> GoldenVectors:
    """Read what `save_golden` wrote.

    Raises:
        AgentError: missing, damaged, or no golden vectors.
    """
    try:
        return golden_from_bytes(path.read_bytes())
    except OSError as error:
        raise AgentError(f"cannot read {path}: {error.strerror}") from error
