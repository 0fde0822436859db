"""Rung "residual": a correction of at most 10 % of the action's half range, on a champion that stays as it is.

Champion and correction are merged into one wider net, so that what comes out is an ordinary agent and exports as one:
hidden layers block-diagonal, output weights side by side. Hidden units answer tanh, hence at most 1 in size; so with
the absolute values of each output row of the correction adding up to at most 0.1 of the half range, the correction can
never be larger, whatever is observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from sim2sky.config.training import TrainingSettings
from sim2sky.errors import NotSupportedError
from sim2sky.training.refit import continue_training
from sim2sky.training.starting_point import StartingPoint
from sim2sky.training.train import Progress, TrainingResult

__all__ = ["AUTHORITY", "bind_residual", "train_residual", "widened"]

AUTHORITY = 0.1
"""Largest correction, of half the action's range."""
WIDTH = 16
LEARNING_RATE = 1e-3  # of fresh weights behind an output that starts at nothing
_NET = "mlp_extractor.policy_net"
_OUTPUT = "action_net.weight"


def train_residual(
    start: StartingPoint,
    run: TrainingSettings,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train the correction in the run's environments; goes on after an interruption.

    Args:
        start: the champion.
        run: as for the rung "refit"; its learning rate is replaced.
        folder: of the run.
        on_progress: told after each rollout.

    Raises:
        NotSupportedError: an architecture on which the bound cannot hold by construction.
        As `train`.
    """
    wide, champion = widened(start, seed=run.seed), start.net_arch["pi"]
    settings = run.model_copy(update={"learning_rate": LEARNING_RATE})

    def bind(model: BaseAlgorithm) -> None:
        bind_residual(model, champion)

    return continue_training(wide, settings, folder, on_model=bind, on_progress=on_progress)


def widened(start: StartingPoint, *, seed: int) -> StartingPoint:
    """The champion with room for a correction in every hidden layer; its answers are the same as before.

    Raises:
        NotSupportedError: not PPO with tanh layers and an action box around its middle.
    """
    if start.settings.algorithm != "PPO" or start.settings.activation != "tanh":
        raise NotSupportedError(
            f"a residual on an agent of {start.settings.algorithm} with {start.settings.activation} layers: only tanh "
            "units of PPO keep it within its authority by construction",
            hint="take the rung refit or offline",
        )
    rng = np.random.default_rng([0x5245, seed])
    state, widths = dict(start.state), start.net_arch["pi"]
    inputs, before = state[f"{_NET}.0.weight"].shape[1], 0
    for i, width in enumerate(widths):
        name = f"{_NET}.{2 * i}"
        fan_in = inputs if i == 0 else WIDTH
        fresh = rng.standard_normal((WIDTH, fan_in)) / np.sqrt(fan_in)
        wide = np.zeros((width + WIDTH, inputs if i == 0 else before + WIDTH), np.float32)
        wide[:width, : inputs if i == 0 else before] = state[f"{name}.weight"]
        wide[width:, 0 if i == 0 else before :] = fresh
        state[f"{name}.weight"] = wide
        state[f"{name}.bias"] = np.concatenate([state[f"{name}.bias"], np.zeros(WIDTH, np.float32)])
        before = width
    state[_OUTPUT] = np.pad(state[_OUTPUT], ((0, 0), (0, WIDTH)))
    arch = {**start.net_arch, "pi": [width + WIDTH for width in widths]}
    return replace(start, state=state, net_arch=arch)


def bind_residual(model: BaseAlgorithm, champion: list[int]) -> None:
    """Let the optimiser move nothing but the correction (and the critic), and keep it within its authority.

    Args:
        model: PPO, of a widened agent.
        champion: widths of the champion's hidden layers.
    """
    policy: Any = model.policy
    parameters: dict[str, Any] = dict(policy.named_parameters())
    for i, width in enumerate(champion):
        rows, columns = slice(width, None), slice(0 if i == 0 else champion[i - 1], None)
        _only(parameters[f"{_NET}.{2 * i}.weight"], (rows, columns))
        _only(parameters[f"{_NET}.{2 * i}.bias"], (rows,))
    output, width = parameters[_OUTPUT], champion[-1]
    _only(output, (slice(None), slice(width, None)))
    _only(parameters["action_net.bias"], (slice(0, 0),))
    space: Any = model.action_space
    half_range: NDArray[Any] = 0.5 * (np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64))
    allowed = torch.from_numpy(AUTHORITY * (1.0 - 1e-6) * half_range).float()

    def project(*_: object) -> None:
        with torch.no_grad():
            size = output[:, width:].abs().sum(dim=1)
            output[:, width:] *= torch.clamp(allowed / torch.clamp(size, min=1e-12), max=1.0)[:, None]

    policy.optimizer.register_step_post_hook(project)


def _only(parameter: Any, free: tuple[slice, ...]) -> None:
    """Gradients outside `free` are none, and Adam leaves a weight whose gradient has always been none where it is."""
    mask = torch.zeros_like(parameter)
    mask[free] = 1.0
    parameter.register_hook(lambda gradient: gradient * mask)
