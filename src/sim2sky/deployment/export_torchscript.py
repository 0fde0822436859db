"""From a trained agent to a TorchScript file that is proven, after reloading, to answer as the trainer does.

The file loads with `torch.jit.load` alone, in Python or C++, without any code of this project.
"""

from __future__ import annotations

import argparse
import io
import re
import warnings
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.golden import GoldenVectors, make_golden, max_error
from sim2sky.agent.layers import Network
from sim2sky.deployment.export_onnx import ExportResult, check_obs_dim
from sim2sky.deployment.verification import TOLERANCE, exit_code_of, write_output
from sim2sky.errors import ExportError, GoldenMismatchError, MissingExtraError

__all__ = ["export_to_torchscript", "main", "torchscript_actions", "torchscript_bytes", "verify_torchscript"]


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """torch deprecates TorchScript in each of its functions; it stays the specification's second format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _is_single(network: Network) -> bool:
    """Whether the policy is called with one tensor, not with a dict of them."""
    return len(network.inputs) == 1


def torchscript_bytes(network: Network) -> bytes:
    """The network as a frozen TorchScript module.

    Called with one tensor (batch, size), or a dict of them where there are several inputs, it answers the action.
    Recurrent policies are called with `(observation, (hidden, cell), episode_start)` and answer
    `(action, (hidden, cell))`.

    Raises:
        MissingExtraError: torch is not installed.
        ExportError: the network cannot be traced.
    """
    try:
        import torch

        from sim2sky.agent.policy import DeterministicPolicy
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    policy = DeterministicPolicy(network).eval()
    tensors = {head.key: torch.zeros(2, head.size) for head in network.inputs}
    example: tuple[Any, ...] = (next(iter(tensors.values())) if _is_single(network) else tensors,)
    if (lstm := network.lstm) is not None:
        zeros = torch.zeros(lstm.n_layers, 2, lstm.hidden_size)
        example += ((zeros, zeros), torch.zeros(2))
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            traced = torch.jit.trace(policy, example, strict=False)
            torch.jit.save(torch.jit.freeze(traced), buffer)
    except Exception as error:  # torch raises many unrelated types
        raise ExportError(f"torch could not trace the policy: {error}") from error
    return _plain(buffer.getvalue())


def _plain(data: bytes) -> bytes:
    """Leave out what depends on the machine and the process: equal networks give equal bytes.

    `torch.jit.save` writes the source paths of the exporting machine (`*.debug_pkl`, for tracebacks only), a random
    serialisation id, and class names that count how many were traced before (`___torch_mangle_N`).
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        names = [n for n in old.namelist() if not n.endswith((".debug_pkl", "/serialization_id"))]
        code = [n for n in names if "/code/" in n]
        for name in names:
            content = old.read(name)
            if len(code) == 1:  # a frozen policy is one class; with more, the numbers tell them apart
                name = re.sub(r"/___torch_mangle_\d+", "", name)  # noqa: PLW2901
                if name.endswith((".pkl", ".py")):
                    content = re.sub(rb"\.___torch_mangle_\d+", b"", content)
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def torchscript_actions(data: bytes, network: Network, golden: GoldenVectors) -> NDArray[Any]:
    """Answers of a TorchScript file to the golden observations, row by row as a controller asks.

    Raises:
        GoldenMismatchError: the module cannot be loaded or run on them.
    """
    import torch

    rows = {
        key: torch.from_numpy(np.ascontiguousarray(v.reshape(len(v), -1), np.float32))
        for key, v in golden.observations.items()
    }
    single = _is_single(network)
    state: Any = None
    if (lstm := network.lstm) is not None:
        state = (torch.zeros(lstm.n_layers, 1, lstm.hidden_size), torch.zeros(lstm.n_layers, 1, lstm.hidden_size))
    starts = torch.zeros(len(golden)) if golden.episode_start is None else torch.from_numpy(golden.episode_start)
    answers: list[NDArray[Any]] = []
    try:
        with _quiet(), torch.no_grad():
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")
            for t in range(len(golden)):
                row = {key: v[t : t + 1] for key, v in rows.items()}
                observation: Any = next(iter(row.values())) if single else row
                if state is None:
                    action = module(observation)
                else:
                    action, state = module(observation, state, starts[t : t + 1].float())
                answers.append(action.numpy())
    except Exception as error:  # torch raises many unrelated types
        raise GoldenMismatchError(f"the TorchScript file does not run on the golden vectors: {error}") from error
    return np.concatenate(answers)


def verify_torchscript(data: bytes, network: Network, golden: GoldenVectors, *, tolerance: float = TOLERANCE) -> float:
    """Reload the file and replay the golden vectors; the largest error, relative to the action's scale.

    Raises:
        GoldenMismatchError: it exceeds `tolerance`.
    """
    worst = max_error(golden, torchscript_actions(data, network, golden))
    if not worst <= tolerance:
        raise GoldenMismatchError(
            f"the TorchScript file differs from the trainer's answers by {worst:.3g} of the action scale; "
            f"{tolerance:.3g} is allowed"
        )
    return worst


def export_to_torchscript(
    model_path: str | Path,
    output_path: str | Path,
    *,
    obs_dim: int | None = None,
    vecnormalize: str | Path | None = None,
    contract: str | Path | None = None,
    rollout: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
) -> ExportResult:
    """Export a Stable-Baselines3 agent to TorchScript: raw observations in, physical actions out.

    Args:
        model_path: the agent's `.zip`.
        output_path: file to write; replaced only by an export that verified after reloading.
        obs_dim, vecnormalize, contract, rollout, seed: as `export_sb3_to_onnx` takes them.

    Raises:
        AgentError: the zip is missing, damaged or hostile.
        ContractError: `obs_dim` is not the agent's.
        GoldenMismatchError: the reloaded file differs from Stable-Baselines3's own answers; nothing is written.
        ExportError: the output cannot be written.
    """
    from sim2sky.agent.sb3 import load

    agent = load(
        Path(model_path),
        vecnormalize=None if vecnormalize is None else Path(vecnormalize),
        contract=None if contract is None else Path(contract),
    )
    check_obs_dim(agent.network, obs_dim)
    data = torchscript_bytes(agent.network)
    golden = make_golden(agent, seed=seed, rollout=rollout)
    worst = verify_torchscript(data, agent.network, golden)
    return ExportResult(write_output(output_path, data), 0, 0, worst, len(golden), len(data))


def main(argv: list[str] | None = None) -> int:
    """`python -m sim2sky.deployment.export_torchscript --model-path M --output O`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="export_torchscript", description="Export an SB3 agent to TorchScript.")
    parser.add_argument("--model-path", required=True, help="the agent's .zip")
    parser.add_argument("--output", required=True, help="TorchScript file to write")
    parser.add_argument("--obs-dim", type=int, help="number of observed values, checked against the agent")
    parser.add_argument("--vecnormalize", help="VecNormalize file (default: vecnormalize.pkl beside the agent)")
    args = parser.parse_args(argv)

    def export() -> str:
        result = export_to_torchscript(
            args.model_path, args.output, obs_dim=args.obs_dim, vecnormalize=args.vecnormalize
        )
        return (
            f"TorchScript model saved to {result.path} ({result.n_bytes} bytes)\n"
            f"Verified on {result.n_golden} golden vectors: largest error {result.max_error:.2g}"
        )

    return exit_code_of(export)


if __name__ == "__main__":
    raise SystemExit(main())
