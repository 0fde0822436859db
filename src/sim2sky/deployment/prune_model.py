"""Smaller policies: weights to zero as the specification has it, and whole neurons removed with the rest retrained.

Zeroed weights change neither an ONNX file's size nor its speed, only how well it compresses; removing neurons does
both. What is removed is chosen on observations of real flights, the remaining weights are refitted by least squares
and then distilled from the original policy. Needs torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.layers import Activation, Affine, Clip, Dense, Layer, MeanQuantile, Network, evaluate
from sim2sky.deployment.onnx_emitter import PROFILES, emit_onnx, model_to_bytes, resolve_versions
from sim2sky.deployment.optimize_model import load_observations
from sim2sky.deployment.prune_neurons import (
    action_errors,
    action_scale,
    checked_rows,
    decision_values,
    dense_at,
    hidden_layers,
    remove_neurons,
    up_to,
)
from sim2sky.deployment.verification import exit_code_of, write_output
from sim2sky.errors import ConfigError, MissingExtraError, NotSupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["METHODS", "PruneResult", "main", "prune_model", "prune_network_neurons"]

METHODS = ("l1", "random")
HELD_OUT = 5  # every fifth observation judges, the others train
CHECK_EVERY = 100


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    return torch


def _check_amount(amount: float) -> None:
    if not 0.0 <= amount < 1.0:
        raise ConfigError(f"pruning amount {amount} is not in [0, 1)", hint="0.3 removes three in ten")


def prune_model(
    model: torch.nn.Module, amount: float = 0.3, method: str = "l1", *, seed: int | None = None
) -> torch.nn.Module:
    """Set a fraction of the weights of every linear and 2-D convolution layer to zero, in place.

    Args:
        model: the module.
        amount: fraction of each layer's weights, [0, 1).
        method: `l1` (the smallest) or `random`.
        seed: of the random choice; None takes torch's generator as it stands.

    Returns:
        The same module, its pruning made permanent.

    Raises:
        ConfigError: `amount` or `method` is out of range; the module is untouched.
    """
    torch = _torch()
    from torch.nn.utils import prune

    _check_amount(amount)
    if method not in METHODS:
        raise ConfigError(f"no pruning method '{method}'", hint=f"choose one of {', '.join(METHODS)}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                if method == "l1":
                    prune.l1_unstructured(module, name="weight", amount=amount)
                else:
                    prune.random_unstructured(module, name="weight", amount=amount)
                prune.remove(module, "weight")
    return model


@dataclass(frozen=True, slots=True, eq=False)
class PruneResult:
    """A smaller policy and how far it is from the original on held-out observations.

    Errors are relative to the size of the action (its clip limits, or its spread); for discrete actions they are 0 or
    1, so that the mean is the fraction of observations on which another action is taken.

    Attributes:
        network: the smaller policy.
        widths_before, widths_after: neurons of every pruned layer.
        max_error_before, mean_error_before: after removing and refitting, before distillation.
        max_error, mean_error: after distillation.
        steps: optimiser steps taken.
    """

    network: Network
    widths_before: tuple[int, ...]
    widths_after: tuple[int, ...]
    max_error_before: float
    mean_error_before: float
    max_error: float
    mean_error: float
    steps: int


def prune_network_neurons(
    network: Network,
    amount: float,
    observations: Mapping[str, NDArray[Any]],
    *,
    seed: int = 0,
    steps: int = 1500,
    batch: int = 256,
    learning_rate: float = 1e-3,
) -> PruneResult:
    """Remove a fraction of the neurons of every hidden dense layer, then distil from the original.

    Those stay whose outputs, as they vary in flight and as strongly as they are read, explain most of the others. The
    readers are refitted by ridge regression to what they read before; then all dense layers are trained (Adam, cosine
    decay) on the original's answers, and the best state on held-out observations is kept.

    Args:
        network: the policy; unchanged.
        amount: fraction of neurons to remove per hidden layer, [0, 1).
        observations: raw observations (n, *shape) per input as they occur in flight, at least 64.
        seed: of the training batches; the same seed gives the same network.
        steps, batch, learning_rate: of the distillation; 0 steps only refits.

    Raises:
        ConfigError: `amount` is out of range, or the observations do not fit.
        NotSupportedError: the policy is recurrent, or has no hidden dense layer.
    """
    _check_amount(amount)
    if network.lstm is not None:
        raise NotSupportedError("removing neurons of a recurrent policy", hint="quantise it instead")
    hidden = hidden_layers(network)
    if not hidden:
        raise NotSupportedError("removing neurons of a policy without hidden dense layers")
    rows = checked_rows(network, observations)
    n = len(next(iter(rows.values())))
    judge = np.arange(n) % HELD_OUT == HELD_OUT - 1
    train, test = ({k: v[pick] for k, v in rows.items()} for pick in (~judge, judge))
    smaller = network
    for index in hidden:
        smaller = remove_neurons(network, smaller, index, amount, train)
    scale = action_scale(network, train)
    before = action_errors(network, smaller, test, scale)
    best = _distil(network, smaller, train, test, scale, seed=seed, steps=steps, batch=batch, rate=learning_rate)
    after = action_errors(network, best, test, scale)
    return PruneResult(
        best,
        tuple(dense_at(network, i).weight.shape[0] for i in hidden),
        tuple(dense_at(best, i).weight.shape[0] for i in hidden),
        float(before.max()),
        float(before.mean()),
        float(after.max()),
        float(after.mean()),
        steps,
    )


def _distil(
    original: Network,
    student: Network,
    train: Mapping[str, NDArray[np.float32]],
    test: Mapping[str, NDArray[np.float32]],
    scale: NDArray[np.float64],
    *,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
) -> Network:
    """Train the student's dense layers on the original's answers; the best state on `test` wins, or the start."""
    torch = _torch()
    start = next(i for i, layer in enumerate(student.layers) if isinstance(layer, Dense))
    # What lies before the first dense layer (normaliser, one-hot) is not trained: evaluate it once.
    inputs = torch.from_numpy(np.asarray(evaluate(up_to(student, start), train)[0], np.float32))
    target = torch.from_numpy(np.asarray(evaluate(decision_values(original), train)[0] / scale, np.float32))
    divide = torch.from_numpy(scale.astype(np.float32))
    body = decision_values(student).layers[start:]
    parameters = {
        i: [torch.tensor(array, requires_grad=True) for array in (layer.weight, layer.bias)]
        for i, layer in enumerate(body)
        if isinstance(layer, Dense)
    }
    flat = [p for pair in parameters.values() for p in pair]
    optimiser = torch.optim.Adam(flat, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    random = torch.Generator().manual_seed(seed)

    def snapshot() -> Network:
        layers = list(student.layers)
        for i, (weight, bias) in parameters.items():
            layers[start + i] = Dense(weight.detach().numpy().copy(), bias.detach().numpy().copy())
        return replace(student, layers=tuple(layers))

    best, lowest = student, float(np.square(action_errors(original, student, test, scale)).mean())
    for step in range(1, steps + 1):
        pick = torch.randint(len(inputs), (min(batch, len(inputs)),), generator=random)
        loss = torch.mean(torch.square(_forward(torch, body, parameters, inputs[pick]) / divide - target[pick]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % CHECK_EVERY == 0 or step == steps:
            candidate = snapshot()
            error = float(np.square(action_errors(original, candidate, test, scale)).mean())
            if error < lowest:
                best, lowest = candidate, error
    return best


def _forward(torch: Any, body: tuple[Layer, ...], parameters: Mapping[int, Any], x: Any) -> Any:
    """The trained layers in torch. A clip lets gradients through, or saturated answers would teach nothing."""
    functional = torch.nn.functional
    plain = {
        "identity": lambda y: y, "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid,
        "silu": functional.silu, "gelu": functional.gelu, "softplus": functional.softplus, "mish": functional.mish,
    }  # fmt: skip
    for i, layer in enumerate(body):
        match layer:
            case Dense():
                x = functional.linear(x, *parameters[i])
            case Affine():
                x = x * torch.from_numpy(layer.scale) + torch.from_numpy(layer.offset)
            case Activation(name="elu"):
                x = functional.elu(x, layer.alpha)
            case Activation(name="leaky_relu"):
                x = functional.leaky_relu(x, layer.alpha)
            case Activation(name="hardtanh"):
                x = functional.hardtanh(x, layer.low, layer.high)
            case Activation():
                x = plain[layer.name](x)
            case Clip():
                limited = torch.minimum(torch.maximum(x, torch.from_numpy(layer.low)), torch.from_numpy(layer.high))
                x = x + (limited - x).detach()
            case MeanQuantile():
                x = x.reshape(-1, layer.n_quantiles, layer.n_actions).mean(dim=1)
            case _:
                raise NotSupportedError(f"distilling through a '{layer.kind}' layer")
    return x


def main(argv: list[str] | None = None) -> int:
    """`python -m sim2sky.deployment.prune_model --model-path M --output O`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="prune_model", description="Remove neurons of an agent; writes ONNX.")
    parser.add_argument("--model-path", required=True, help="the agent's .zip")
    parser.add_argument("--output", required=True, help="ONNX file to write")
    parser.add_argument("--observations", required=True, help=".npz or .npy of raw observations in flight")
    parser.add_argument("--amount", type=float, default=0.3, help="fraction of neurons to remove per layer, [0, 1)")
    parser.add_argument("--vecnormalize", help="VecNormalize file (default: vecnormalize.pkl beside the agent)")
    parser.add_argument("--profile", default="generic_linux", choices=sorted(PROFILES), help="target profile")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    def pruned() -> str:
        from sim2sky.agent.sb3 import load

        opset, ir_version = resolve_versions(args.profile)
        vecnormalize = Path(args.vecnormalize) if args.vecnormalize else None
        agent = load(Path(args.model_path), vecnormalize=vecnormalize)
        result = prune_network_neurons(agent.network, args.amount, load_observations(args.observations), seed=args.seed)
        path = write_output(args.output, model_to_bytes(emit_onnx(result.network, opset=opset, ir_version=ir_version)))
        return (
            f"Model pruned to {path}: neurons {result.widths_before} -> {result.widths_after}\n"
            f"Action error before distilling: max {result.max_error_before:.3g}, mean {result.mean_error_before:.3g}\n"
            f"Action error after distilling:  max {result.max_error:.3g}, mean {result.mean_error:.3g}"
        )

    return exit_code_of(pruned)


if __name__ == "__main__":
    raise SystemExit(main())
