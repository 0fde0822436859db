"""Does an exported model answer as the trainer did? Replays golden vectors through onnxruntime; writes what passed.

Imports no torch. What every exporter and optimiser of this package ends with.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from sim2sky.agent.golden import GoldenVectors, max_error
from sim2sky.deployment.onnx_emitter import ACTION, EPISODE_START, STATE_INPUTS
from sim2sky.errors import EXIT_PASS, BundleError, ExportError, GoldenMismatchError, Sim2SkyError
from sim2sky.runtime.inference import onnx_session

__all__ = [
    "TOLERANCE",
    "Verification",
    "exit_code_of",
    "feeds",
    "golden_actions",
    "open_session",
    "parse_model",
    "read_model",
    "step_feeds",
    "verify_onnx",
    "write_output",
]

TOLERANCE = 1e-5
"""Largest error of a float export on any golden vector, relative to the action's scale."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a replay found: versions of the model, largest error on the golden vectors and their number."""

    opset: int
    ir_version: int
    max_error: float
    n_golden: int


def parse_model(data: bytes, source: str = "the model") -> onnx.ModelProto:
    """Parse and check ONNX bytes.

    Raises:
        ExportError: not ONNX, structurally invalid, or with weights in a second file.
    """
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's error type depends on its implementation
        raise ExportError(f"{source} is not an ONNX model: {error}") from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise ExportError(
            f"{source} keeps its weights in a second file", hint="export it with external_data=False, as one file"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference raise unrelated types
        raise ExportError(f"{source} does not pass the ONNX checker: {error}") from error
    return model


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ExportError: it is missing, unreadable or no valid single-file ONNX model.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}", hint="give the path of an .onnx file") from error
    return parse_model(data, str(path))


def open_session(model: bytes) -> ort.InferenceSession:
    """The single-threaded session that flies.

    Raises:
        ExportError: onnxruntime does not load the model.
    """
    try:
        return onnx_session(model, source="the model")
    except BundleError as error:
        raise ExportError(error.message, hint=error.hint) from error


def feeds(session: ort.InferenceSession, observation: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Observations (n, *shape) as the model's inputs: float32, each row in the shape the model takes."""
    shapes = {i.name: i.shape[1:] for i in session.get_inputs()}
    return {
        key: np.ascontiguousarray(np.asarray(v).reshape(len(v), *shapes[key]), np.float32)
        for key, v in observation.items()
    }


def step_feeds(
    session: ort.InferenceSession, observation: Mapping[str, NDArray[Any]], episode_start: NDArray[Any] | None
) -> Iterator[tuple[dict[str, NDArray[np.float32]], NDArray[Any]]]:
    """Run the rows one by one, carrying the recurrent state; yields each row's inputs and its action."""
    rows = feeds(session, observation)
    n = len(next(iter(rows.values())))
    shapes = {i.name: i.shape for i in session.get_inputs()}
    state: dict[str, NDArray[np.float32]] = {}
    if EPISODE_START in shapes:
        state = {name: np.zeros((shapes[name][0], 1, shapes[name][2]), np.float32) for name in STATE_INPUTS}
    for t in range(n):
        row = {key: values[t : t + 1] for key, values in rows.items()}
        if state:
            start = 0.0 if episode_start is None else float(episode_start[t])
            row |= {**state, EPISODE_START: np.array([start], np.float32)}
        action, *new = (np.asarray(value) for value in session.run(None, row))
        yield row, action
        state = dict(zip(STATE_INPUTS, new, strict=False)) if state else state


def golden_actions(session: ort.InferenceSession, golden: GoldenVectors) -> NDArray[Any]:
    """The model's answers to the golden observations, row by row as a controller asks.

    Raises:
        GoldenMismatchError: the model's inputs are not those of the golden vectors.
    """
    names = {i.name for i in session.get_inputs()}
    wanted = set(golden.observations)
    if golden.episode_start is not None:
        wanted |= {*STATE_INPUTS, EPISODE_START}
    if names != wanted or session.get_outputs()[0].name != ACTION:
        raise GoldenMismatchError(f"the model takes {sorted(names)}, the golden vectors are for {sorted(wanted)}")
    with _mapped():
        return np.concatenate([a for _, a in step_feeds(session, golden.observations, golden.episode_start)])


@contextlib.contextmanager
def _mapped() -> Generator[None, None, None]:
    try:
        yield
    except Sim2SkyError:
        raise
    except Exception as error:  # onnxruntime raises many unrelated types
        raise GoldenMismatchError(f"the model does not run on the golden vectors: {error}") from error


def verify_onnx(model: bytes, golden: GoldenVectors, *, tolerance: float = TOLERANCE) -> Verification:
    """Check the model and replay the golden vectors, row by row and, without recurrence, also as one batch.

    Args:
        model: ONNX bytes.
        golden: observations and the trainer's own answers.
        tolerance: largest error allowed on any vector, relative to the action's scale; infinity only measures.

    Raises:
        ExportError: the model is invalid.
        GoldenMismatchError: an answer differs by more than `tolerance`, or is not finite where the trainer's is.
    """
    parsed = parse_model(model)
    session = open_session(model)
    worst = max_error(golden, golden_actions(session, golden))
    if golden.episode_start is None:
        with _mapped():
            worst = max(worst, max_error(golden, np.asarray(session.run(None, feeds(session, golden.observations))[0])))
    if not worst <= tolerance:
        raise GoldenMismatchError(
            f"the exported model differs from the trainer's answers by {worst:.3g} of the action scale; "
            f"{tolerance:.3g} is allowed",
            hint="the export is wrong or for another agent: is the normaliser the one of this training run?",
        )
    opset = next((o.version for o in parsed.opset_import if o.domain in ("", "ai.onnx")), 0)
    return Verification(opset, parsed.ir_version, worst, len(golden))


def write_output(path: str | Path, data: bytes) -> Path:
    """Write a file completely or not at all; creates missing folders.

    Raises:
        ExportError: the folder is read-only, full, or the path is a folder.
    """
    target = Path(path)
    temporary = None
    try:
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error.strerror}", hint="choose a folder you may write to, with room in it"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return target


def exit_code_of(action: Callable[[], str]) -> int:
    """Run a command's body; its text goes to stdout, a user's mistake to stderr as its exit code."""
    try:
        text = action()
    except Sim2SkyError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(text)  # noqa: T201
    return EXIT_PASS
