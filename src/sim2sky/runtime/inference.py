"""A loaded policy on some runtime: one observation in, one action out, recurrent state kept inside.

Needs numpy and onnxruntime; torch only where a TorchScript policy is asked for and torch is there.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.golden import GoldenVectors, max_error
from sim2sky.errors import BundleError, ContractError, GoldenMismatchError, NotSupportedError
from sim2sky.runtime.native_policy import installed_backend
from sim2sky.runtime.state import PolicyState

__all__ = [
    "GOLDEN_TOLERANCE",
    "Backend",
    "OnnxBackend",
    "TorchScriptBackend",
    "load_backend",
    "measure_latency",
    "onnx_session",
    "preflight",
    "replay_golden",
    "tolerance_of",
]

GOLDEN_TOLERANCE = 1e-5  # of a float policy, relative to the action's scale

Observation = Mapping[str, NDArray[Any]] | NDArray[Any]

# Names of the recurrent tensors in every exported graph.
STATE = (("state_h", "state_h_out"), ("state_c", "state_c_out"))
EPISODE_START = "episode_start"
ACTION = "action"

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Backend(Protocol):
    """A policy that can be stepped. The first call after `reset` starts an episode."""

    @property
    def state(self) -> PolicyState:
        """What became of the last call; unless it is `ANSWERED`, the action returned is NaN."""
        ...

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """One step: raw observation (n,), or one array per input key; answers (n_actions,), or () for one category."""
        ...

    def reset(self) -> None:
        """Start a new episode: the recurrent state is zeroed."""
        ...


def onnx_session(model: bytes, *, source: str = "the ONNX policy") -> ort.InferenceSession:
    """A session for one small network stepped alone: one thread, no spinning, no chatter.

    Raises:
        BundleError: onnxruntime cannot load the model (damaged, or of a newer opset or IR than it knows).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes here
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"onnxruntime {ort.__version__} cannot load {source}: {reason}",
            hint="export again with the profile of this target",
        ) from error


class OnnxBackend:
    """onnxruntime with every tensor bound once to a fixed buffer, so that a step neither allocates nor looks up names.

    Raises:
        BundleError: the graph's inputs or outputs are not those of an exported policy.
        ContractError: (when called) an observation has another number of values.
    """

    state = PolicyState.ANSWERED

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        inputs = {node.name: node for node in session.get_inputs()}
        outputs = {node.name: node for node in session.get_outputs()}
        state = [pair for pair in STATE if pair[0] in inputs]
        self._recurrent = bool(state)
        if ACTION not in outputs or any(out not in outputs for _, out in state):
            raise BundleError(f"the policy's outputs {sorted(outputs)} are not those of an exported policy")
        reserved = {name for pair in STATE for name in pair} | {EPISODE_START}
        self._buffers = {name: _buffer(node) for name, node in inputs.items() if name not in reserved}
        if not self._buffers:
            raise BundleError(f"the policy's inputs {sorted(inputs)} hold no observation")
        self._flat = {name: buffer.reshape(-1) for name, buffer in self._buffers.items()}
        self._single = next(iter(self._flat.values())) if len(self._flat) == 1 else None
        self._action = _buffer(outputs[ACTION])
        self._start = np.ones(1, np.float32)
        # Two bindings that swap the state's input and output buffers, so that no copy is needed between steps.
        front = [_buffer(inputs[name]) for name, _ in state]
        back = [_buffer(inputs[name]) for name, _ in state]
        self._state = [*front, *back]
        self._bindings = [self._bind(state, front, back), self._bind(state, back, front)]
        self._turn = 0

    def _bind(self, state: list[tuple[str, str]], read: list[NDArray[Any]], write: list[NDArray[Any]]) -> ort.IOBinding:
        binding = self._session.io_binding()

        def attach(bind: Callable[..., None], name: str, array: NDArray[Any]) -> None:
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

        for name, buffer in self._buffers.items():
            attach(binding.bind_input, name, buffer)
        attach(binding.bind_output, ACTION, self._action)
        for (name, out), source, sink in zip(state, read, write, strict=True):
            attach(binding.bind_input, name, source)
            attach(binding.bind_output, out, sink)
        if any(node.name == EPISODE_START for node in self._session.get_inputs()):
            attach(binding.bind_input, EPISODE_START, self._start)
        return binding

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """See `Backend`."""
        if self._single is not None and isinstance(observation, np.ndarray):
            _fill(self._single, observation, "observation")
        elif isinstance(observation, np.ndarray):
            raise BundleError(f"the policy takes several inputs: {', '.join(self._flat)}")
        else:
            for name, buffer in self._flat.items():
                if name not in observation:
                    raise BundleError(f"the observation has no input '{name}'; it has {', '.join(observation)}")
                _fill(buffer, np.asarray(observation[name]), name)
        self._session.run_with_iobinding(self._bindings[self._turn])
        if self._recurrent:
            self._turn ^= 1
            self._start[0] = 0.0
        return self._action[0].copy()

    def reset(self) -> None:
        """See `Backend`."""
        for buffer in self._state:
            buffer.fill(0)
        self._start[0] = 1.0
        self._turn = 0


def _fill(buffer: NDArray[Any], values: NDArray[Any], name: str) -> None:
    if values.size != buffer.size:
        raise ContractError(f"input '{name}' has {values.size} values, the policy takes {buffer.size}")
    buffer[:] = values.reshape(-1)


def _buffer(node: Any) -> NDArray[Any]:
    """A zeroed array for a graph input or output with a batch of one."""
    if node.type not in _TYPES:
        raise BundleError(f"tensor '{node.name}' of the policy has the unexpected type {node.type}")
    shape = [size if isinstance(size, int) else 1 for size in node.shape]
    return np.zeros(shape, _TYPES[node.type])


class TorchScriptBackend:
    """A TorchScript policy. Recurrent ones take and answer the state as the ONNX export does.

    Args:
        module: a loaded script module.
        keys: input keys in the contract's order.
        state_shape: (n_layers, 1, hidden) of a recurrent policy, else None.
    """

    state = PolicyState.ANSWERED

    def __init__(self, module: Any, keys: tuple[str, ...], state_shape: tuple[int, ...] | None) -> None:
        import torch

        self._torch = torch
        self._module = module
        self._keys = keys
        self._shape = state_shape
        self._state: Any = None
        self.reset()

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """See `Backend`."""
        torch = self._torch
        single = isinstance(observation, np.ndarray)
        values: Mapping[str, Any] = {self._keys[0]: observation} if single else dict(observation)
        rows = {k: torch.tensor(np.asarray(values[k], np.float32)).reshape(1, -1) for k in self._keys}
        taken = rows if len(rows) > 1 else next(iter(rows.values()))
        with torch.inference_mode():
            if self._shape is None:
                action = self._module(taken)
            else:
                action, self._state = self._module(taken, self._state, self._start)
                self._start = torch.zeros(1)
        return action[0].numpy().copy()

    def reset(self) -> None:
        """See `Backend`."""
        if self._shape is not None:
            self._state = (self._torch.zeros(self._shape), self._torch.zeros(self._shape))
            self._start = self._torch.ones(1)


def load_backend(bundle: Bundle, fmt: str | None = None) -> Backend:
    """The bundle's policy, ready to fly.

    Args:
        bundle: a verified bundle; the policy's bytes are compared with the manifest once more.
        fmt: one of the bundle's formats; default the active one. `c` is what was compiled when it was installed.

    Raises:
        BundleError: no such format, or its file cannot be loaded, or was not compiled here.
        NotSupportedError: TorchScript where torch is not installed, or a kind of file no runtime here knows.
    """
    name = bundle.policy_file(fmt)
    suffix = name.rpartition(".")[2]
    if suffix == "onnx":
        return OnnxBackend(onnx_session(bundle.read(name), source=str(bundle.path / name)))
    if suffix == "c":
        return installed_backend(bundle)
    if suffix not in {"pt", "ts"}:
        raise NotSupportedError(
            f"a policy in the file '{name}'",
            hint="formats that fly: .onnx, .pt (TorchScript), .c where it was compiled",
        )
    try:
        import torch
    except ImportError as error:
        raise NotSupportedError(
            "a TorchScript policy where torch is not installed", hint="use the bundle's onnx format"
        ) from error
    data = bundle.read(name)
    try:
        module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"torch {torch.__version__} cannot load {bundle.path / name}: {error}") from error
    lstm = bundle.network().lstm
    keys = tuple(spec.key for spec in bundle.contract.inputs)
    return TorchScriptBackend(module, keys, None if lstm is None else (lstm.n_layers, 1, lstm.hidden_size))


def tolerance_of(bundle: Bundle, default: float = GOLDEN_TOLERANCE) -> float:
    """Largest golden error allowed: what an optimisation recorded in the bundle's provenance, else `default`.

    Raises:
        BundleError: what is recorded is no number.
    """
    recorded = bundle.provenance.get("golden_tolerance", default)
    if isinstance(recorded, bool) or not isinstance(recorded, int | float):
        raise BundleError(f"the bundle's golden_tolerance is no number: {recorded!r}")
    return float(recorded)


def preflight(error: float, tolerance: float) -> None:
    """Refuse a policy whose error on the golden vectors is above `tolerance`.

    Raises:
        GoldenMismatchError: it is.
    """
    if not error <= tolerance:
        raise GoldenMismatchError(
            f"the policy differs from its golden vectors by {error:.3g}, allowed are {tolerance:.3g}",
            hint="install the bundle again, or export it for this target",
        )


def replay_golden(backend: Backend | ort.InferenceSession, golden: GoldenVectors) -> float:
    """Largest error of a runtime on the golden vectors, stepped one by one as in flight.

    Returns:
        As `golden.max_error`: relative to the action's scale; infinite where an answer is not finite.
    """
    policy: Backend = OnnxBackend(backend) if isinstance(backend, ort.InferenceSession) else backend
    policy.reset()
    starts = golden.episode_start
    answers = []
    for row in range(len(golden)):
        if starts is not None and starts[row]:
            policy.reset()
        answers.append(policy({key: values[row] for key, values in golden.observations.items()}))
    policy.reset()
    return max_error(golden, np.stack(answers))


def measure_latency(
    backend: Backend,
    golden: GoldenVectors,
    *,
    n: int = 3000,
    warmup: int = 100,
    deadline_ms: float = 20.0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float]:
    """Time of single steps over the golden observations, in turn.

    Args:
        backend: the policy.
        golden: where the observations come from.
        n: measured calls; below 2995 a p99.9 could not be shown, below 299 not even a p99.
        warmup: calls before, not counted.
        deadline_ms: a call that takes longer is a miss.
        clock_ns: time source, nanoseconds.

    Returns:
        `mean_ms`, `p50_ms`, `p95_ms`, `p99_ms`, `max_ms`, `deadline_ms`, `deadline_miss_rate`, `n`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rows = [{key: values[i] for key, values in golden.observations.items()} for i in range(min(len(golden), 256))]
    backend.reset()
    for i in range(warmup):
        backend(rows[i % len(rows)])
    took = np.empty(n)
    for i in range(n):
        row = rows[i % len(rows)]
        start = clock_ns()
        backend(row)
        took[i] = clock_ns() - start
    backend.reset()
    took *= 1e-6
    p50, p95, p99 = (float(v) for v in np.percentile(took, (50, 95, 99)))
    return {
        "mean_ms": float(took.mean()),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": float(took.max()),
        "deadline_ms": float(deadline_ms),
        "deadline_miss_rate": float((took > deadline_ms).mean()),
        "n": float(n),
    }
