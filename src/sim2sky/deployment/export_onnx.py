"""From a trained agent to an ONNX file that is proven to answer as the trainer does.

Agents of Stable-Baselines3 go through their layer list (`onnx_emitter`); modules of one's own go through `torch.onnx`.
Nothing is written before it has verified.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sim2sky.agent.golden import GoldenVectors, make_golden
from sim2sky.agent.layers import Network
from sim2sky.deployment.onnx_emitter import ACTION, BATCH, PROFILES, emit_onnx, model_to_bytes, resolve_versions
from sim2sky.deployment.verification import Verification, exit_code_of, verify_onnx, write_output
from sim2sky.errors import ConfigError, ContractError, ExportError, MissingExtraError, NotSupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["ExportResult", "check_obs_dim", "export_custom_model_to_onnx", "export_sb3_to_onnx", "main", "verify_onnx"]

DEFAULT_PROFILE = "generic_linux"
OBSERVATION = "observation"
CUSTOM_OPSETS = range(11, 21)
N_RANDOM = 256


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file.
        opset, ir_version: as written; 0 for formats without them.
        max_error: largest error found, relative to the action's scale; None if not verified.
        n_golden: vectors it was verified on.
        n_bytes: size of the file.
    """

    path: Path
    opset: int
    ir_version: int
    max_error: float | None
    n_golden: int
    n_bytes: int


def check_obs_dim(network: Network, obs_dim: int | None) -> None:
    """Refuse an `obs_dim` that is not the agent's; None accepts the agent's own.

    Raises:
        ContractError: they differ.
    """
    have = sum(head.size for head in network.inputs)
    if obs_dim is not None and obs_dim != have:
        raise ContractError(
            f"obs_dim is {obs_dim}, but the agent observes {have} values", hint=f"pass {have}, or leave it out"
        )


def export_sb3_to_onnx(
    model_path: str | Path,
    output_path: str | Path,
    obs_dim: int | None = None,
    verify: bool = True,
    *,
    vecnormalize: str | Path | None = None,
    contract: str | Path | None = None,
    profile: str = DEFAULT_PROFILE,
    opset_version: int | None = None,
    rollout: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
) -> ExportResult:
    """Export a Stable-Baselines3 agent: raw observations in, physical actions out, as `predict(deterministic=True)`.

    Args:
        model_path: the agent's `.zip`.
        output_path: ONNX file to write; replaced only by a verified export.
        obs_dim: number of observed values, checked against the agent; None takes the agent's.
        verify: replay golden vectors and gate on the largest error.
        vecnormalize, contract: files beside the zip are found by themselves.
        profile: target profile, which decides opset and IR version.
        opset_version: overrides the profile's opset (11 is the oldest).
        rollout, seed: from which golden vectors are drawn.

    Raises:
        AgentError: the zip is missing, damaged or hostile.
        ContractError: `obs_dim` is not the agent's.
        GoldenMismatchError: the export differs from Stable-Baselines3's own answers; nothing is written.
        ExportError: the output cannot be written.
    """
    from sim2sky.agent.sb3 import load

    opset, ir_version = resolve_versions(profile, opset_version)
    agent = load(
        Path(model_path),
        vecnormalize=None if vecnormalize is None else Path(vecnormalize),
        contract=None if contract is None else Path(contract),
    )
    check_obs_dim(agent.network, obs_dim)
    data = model_to_bytes(emit_onnx(agent.network, opset=opset, ir_version=ir_version))
    found = verify_onnx(data, make_golden(agent, seed=seed, rollout=rollout)) if verify else None
    return _written(output_path, data, opset, ir_version, found)


def _written(path: str | Path, data: bytes, opset: int, ir_version: int, found: Verification | None) -> ExportResult:
    error, n = (found.max_error, found.n_golden) if found else (None, 0)
    return ExportResult(write_output(path, data), opset, ir_version, error, n, len(data))


def export_custom_model_to_onnx(
    model: torch.nn.Module,
    output_path: str | Path,
    input_shape: tuple[int, ...],
    *,
    opset_version: int | None = None,
    profile: str = DEFAULT_PROFILE,
    verify: bool = True,
) -> ExportResult:
    """Export a torch module of one's own, one tensor in, one tensor out; the first axis is the (dynamic) batch.

    Goes through the TorchScript-based exporter of `torch.onnx`, the only one that writes exactly the opset asked for,
    in one file and without local paths. The module is traced in evaluation mode and left in the mode it was in.

    Args:
        model: the module.
        output_path: ONNX file to write; replaced only by a verified export.
        input_shape: shape of one input including the batch axis, e.g. `(1, 12)`.
        opset_version: 11 to 20; None takes the profile's.
        profile: target profile.
        verify: compare with the module on 256 random inputs, as one batch and one by one.

    Raises:
        NotSupportedError: the opset is out of range.
        ConfigError: `input_shape` is no shape.
        ExportError: the module cannot be exported or the output not be written.
        GoldenMismatchError: the export's answers differ from the module's; nothing is written.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    opset, ir_version = resolve_versions(profile, opset_version)
    if opset not in CUSTOM_OPSETS:
        raise NotSupportedError(
            f"opset {opset} for custom modules: torch.onnx writes {CUSTOM_OPSETS.start} to {CUSTOM_OPSETS.stop - 1}",
            hint=f"pass opset_version={CUSTOM_OPSETS.stop - 1} or less",
        )
    if len(input_shape) < 2 or any(int(n) < 1 for n in input_shape):
        raise ConfigError(f"input_shape {input_shape} is no (batch, ...) shape", hint="for 12 observations: (1, 12)")
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(N_RANDOM, *input_shape[1:], generator=random)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecation, and tracing hints that the check settles
            expected = model(inputs)
            if not isinstance(expected, torch.Tensor):
                raise NotSupportedError(f"a module that answers {type(expected).__name__}; it must answer one tensor")
            buffer = io.BytesIO()
            write: Any = torch.onnx.export  # its annotation leaves out the buffer that it takes
            write(
                model,
                (inputs[:1],),
                buffer,
                opset_version=opset,
                dynamo=False,
                input_names=[OBSERVATION],
                output_names=[ACTION],
                dynamic_axes={OBSERVATION: {0: BATCH}, ACTION: {0: BATCH}},
            )
    except NotSupportedError:
        raise
    except Exception as error:  # torch raises many unrelated types, and the module's own code anything
        raise ExportError(f"torch could not export the module: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    parsed = _plain(onnx.load_from_string(buffer.getvalue()), ir_version)
    data = model_to_bytes(parsed)
    found = verify_onnx(data, _golden_of(inputs.numpy(), expected.numpy())) if verify else None
    return _written(output_path, data, opset, ir_version, found)


def _plain(model: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    """Leave out what depends on the machine that exported."""
    model.ir_version = ir_version
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return model


def _golden_of(inputs: NDArray[np.float32], answers: NDArray[Any]) -> GoldenVectors:
    """A module's own answers as golden vectors; errors are relative to max(1, largest answer)."""
    rows = answers.reshape(len(answers), -1)
    scale = None if rows.dtype.kind in "iub" else np.maximum(np.abs(rows.astype(np.float64)).max(axis=0), 1.0)
    return GoldenVectors({OBSERVATION: inputs}, rows, None, np.full(len(rows), "sampled"), scale)


def main(argv: list[str] | None = None) -> int:
    """`python -m sim2sky.deployment.export_onnx --model-path M --output O`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="export_onnx", description="Export a Stable-Baselines3 agent to ONNX.")
    parser.add_argument("--model-path", required=True, help="the agent's .zip")
    parser.add_argument("--output", required=True, help="ONNX file to write")
    parser.add_argument("--obs-dim", type=int, help="number of observed values, checked against the agent")
    parser.add_argument("--vecnormalize", help="VecNormalize file (default: vecnormalize.pkl beside the agent)")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, choices=sorted(PROFILES), help="target profile")
    parser.add_argument("--opset-version", type=int, help="11..21; default: the profile's")
    parser.add_argument("--no-verify", action="store_true", help="do not replay golden vectors")
    args = parser.parse_args(argv)

    def export() -> str:
        result = export_sb3_to_onnx(
            args.model_path,
            args.output,
            args.obs_dim,
            not args.no_verify,
            vecnormalize=args.vecnormalize,
            profile=args.profile,
            opset_version=args.opset_version,
        )
        text = f"Model exported to {result.path} (opset {result.opset}, IR {result.ir_version}, {result.n_bytes} bytes)"
        if result.max_error is None:
            return f"{text}\nNot verified (--no-verify)"
        return f"{text}\nVerified on {result.n_golden} golden vectors: largest error {result.max_error:.2g}"

    return exit_code_of(export)


if __name__ == "__main__":
    raise SystemExit(main())
