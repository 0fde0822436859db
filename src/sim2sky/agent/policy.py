"""The layer list as a torch module: raw observations in, physical actions out, equal to `predict(deterministic=True)`.

It computes in float32 as every other runtime does; the normaliser's mean is split in two float32 parts, so that large
means cost no accuracy. Made for `torch.jit.trace`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    Layer,
    Lstm,
    MeanQuantile,
    Network,
    Normalise,
    OneHot,
    Threshold,
)
from sim2sky.errors import ExportError

__all__ = ["DeterministicPolicy"]


def _tensor(array: Any) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


class _Normalise(nn.Module):
    mean_high: Tensor
    mean_low: Tensor
    scale: Tensor

    def __init__(self, layer: Normalise) -> None:
        super().__init__()
        self.register_buffer("mean_high", _tensor(layer.mean_high))
        self.register_buffer("mean_low", _tensor(layer.mean_low))
        self.register_buffer("scale", _tensor(layer.scale))
        self.clip = float(layer.clip)

    def forward(self, x: Tensor) -> Tensor:
        return (((x - self.mean_high) - self.mean_low) * self.scale).clamp(-self.clip, self.clip)


class _OneHot(nn.Module):
    offsets: Tensor

    def __init__(self, layer: OneHot) -> None:
        super().__init__()
        self.width = sum(layer.sizes)
        ends = torch.cumsum(torch.tensor(layer.sizes), 0)
        self.register_buffer("offsets", torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]]))

    def forward(self, x: Tensor) -> Tensor:
        places = x.to(torch.int64) + self.offsets
        return torch.zeros(x.shape[0], self.width, device=x.device).scatter(1, places, 1.0)


class _Affine(nn.Module):
    factor: Tensor
    offset: Tensor

    def __init__(self, layer: Affine) -> None:
        super().__init__()
        self.register_buffer("factor", _tensor(layer.scale))
        self.register_buffer("offset", _tensor(layer.offset))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


class _Clip(nn.Module):
    low: Tensor
    high: Tensor

    def __init__(self, layer: Clip) -> None:
        super().__init__()
        self.register_buffer("low", _tensor(layer.low))
        self.register_buffer("high", _tensor(layer.high))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(x, self.high), self.low)


class _MeanQuantile(nn.Module):
    def __init__(self, layer: MeanQuantile) -> None:
        super().__init__()
        self.n_quantiles = layer.n_quantiles
        self.n_actions = layer.n_actions

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.n_quantiles, self.n_actions).mean(dim=1)


class _ArgMax(nn.Module):
    def __init__(self, layer: ArgMax) -> None:
        super().__init__()
        self.sizes = list(layer.sizes)
        self.start = layer.start
        self.vector = layer.vector

    def forward(self, x: Tensor) -> Tensor:
        picks = torch.stack([part.argmax(dim=1) for part in x.split(self.sizes, dim=1)], dim=1) + self.start
        return picks if self.vector or len(self.sizes) > 1 else picks[:, 0]


class _Threshold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(torch.int64)


class _Mish(nn.Module):
    """torch's own Mish, spelled out for the runtimes that lack it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(nn.functional.softplus(x))


class _Lstm(nn.Module):
    """One time step, spelled out: torch's own LSTM traces with its batch size and warns."""

    def __init__(self, layer: Lstm) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_dense(w, b) for w, b in zip(layer.weight_ih, layer.bias, strict=True))
        self.memories = nn.ModuleList(_dense(w, None) for w in layer.weight_hh)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden: list[Tensor] = []
        cells: list[Tensor] = []
        for i, (from_input, from_memory) in enumerate(zip(self.inputs, self.memories, strict=True)):
            entry, forget, candidate, output = (from_input(x) + from_memory(state[0][i])).chunk(4, dim=-1)
            cell = forget.sigmoid() * state[1][i] + entry.sigmoid() * candidate.tanh()
            x = output.sigmoid() * cell.tanh()
            hidden.append(x)
            cells.append(cell)
        return x, (torch.stack(hidden), torch.stack(cells))


def _dense(weight: Any, bias: Any) -> nn.Module:
    dense = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    state = {"weight": _tensor(weight)} if bias is None else {"weight": _tensor(weight), "bias": _tensor(bias)}
    dense.load_state_dict(state)
    return dense


def _activation(layer: Activation) -> nn.Module:
    match layer.name:
        case "elu":
            return nn.ELU(layer.alpha)
        case "leaky_relu":
            return nn.LeakyReLU(layer.alpha)
        case "hardtanh":
            return nn.Hardtanh(layer.low, layer.high)
        case "softplus":
            return nn.Softplus()
        case "mish":
            return _Mish()
        case _:
            plain = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "gelu": nn.GELU}
            return plain[layer.name]() if layer.name != "identity" else nn.Identity()


def _module(layer: Layer) -> nn.Module:
    match layer:
        case Dense():
            return _dense(layer.weight, layer.bias)
        case Lstm():
            return _Lstm(layer)
        case Activation():
            return _activation(layer)
        case Threshold():
            return _Threshold()
        case _:
            kinds: dict[type[Any], type[nn.Module]] = {
                Normalise: _Normalise,
                OneHot: _OneHot,
                Affine: _Affine,
                Clip: _Clip,
                MeanQuantile: _MeanQuantile,
                ArgMax: _ArgMax,
            }
            return kinds[type(layer)](layer)


class DeterministicPolicy(nn.Module):
    """A policy as one torch module.

    `forward(observation, state=None, episode_start=None)`: `observation` is a tensor (batch, ...) for a single input,
    else a mapping of input keys to tensors, raw values of any real or integer type. Returns the action (batch, n);
    integers (batch,) or (batch, n) for discrete ones. A recurrent policy also takes `state`, a pair (hidden, cell) each
    (n_layers, batch, hidden_size), None meaning zeros, and `episode_start` (batch,), 1 where the state is zeroed before
    the step; it returns `(action, (hidden, cell))`, one time step per call.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.keys = [head.key for head in network.inputs]
        self.sizes = [head.size for head in network.inputs]
        self.heads = nn.ModuleList(nn.Sequential(*map(_module, head.layers)) for head in network.inputs)
        at = next((i for i, layer in enumerate(network.layers) if isinstance(layer, Lstm)), None)
        self.recurrent = at is not None
        self.n_layers, self.hidden_size = 0, 0
        if (lstm := network.lstm) is not None:
            self.n_layers, self.hidden_size = lstm.n_layers, lstm.hidden_size
        self.before = nn.Sequential(*map(_module, network.layers[: at or 0]))
        self.lstm = _module(network.layers[at]) if at is not None else nn.Identity()
        self.after = nn.Sequential(*map(_module, network.layers[at + 1 if at is not None else 0 :]))
        self.eval()
        self.requires_grad_(False)

    def features(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        """Heads applied and concatenated, (batch, width).

        Raises:
            ExportError: an input is missing or of the wrong width.
        """
        if isinstance(observation, Tensor):
            observation = {self.keys[0]: observation}
        parts: list[Tensor] = []
        for key, size, head in zip(self.keys, self.sizes, self.heads, strict=True):
            if key not in observation:
                raise ExportError(f"observation has no input '{key}'; it has {sorted(observation)}")
            x = observation[key]
            x = x.reshape(x.shape[0], -1).to(torch.float32)
            tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
            if not tracing and x.shape[1] != size:
                raise ExportError(f"input '{key}' has {x.shape[1]} values per row, the policy takes {size}")
            parts.append(head(x))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def forward(
        self,
        observation: Tensor | dict[str, Tensor],
        state: tuple[Tensor, Tensor] | None = None,
        episode_start: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """See the class."""
        x = self.before(self.features(observation))
        if not self.recurrent:
            return self.after(x)
        if state is None:
            zeros = x.new_zeros((self.n_layers, x.shape[0], self.hidden_size))
            state = (zeros, zeros)
        if episode_start is not None:
            keep = (1.0 - episode_start.to(torch.float32)).reshape(1, -1, 1)
            state = (state[0] * keep, state[1] * keep)
        x, following = self.lstm(x, state)
        return self.after(x), following
