"""From a Stable-Baselines3 policy's tensors to the layer list: exactly what `predict(deterministic=True)` does.

What is not a plain dense or recurrent policy is refused by its class and layer.
Imports numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    InputHead,
    Layer,
    Lstm,
    MeanQuantile,
    Network,
    Normalise,
    OneHot,
    Threshold,
)
from sim2sky.agent.sb3_policy import ACTIVATIONS, CUSTOM_HINT, ON_POLICY, Policy
from sim2sky.agent.sb3_spaces import Normaliser, Space
from sim2sky.errors import AgentError, NotSupportedError

__all__ = ["UNUSED", "build_network"]

# Tensors that do not take part in the deterministic answer.
UNUSED = re.compile(
    r"(mlp_extractor\.value_net|value_net|vf_features_extractor|log_std|critic|critic_target|lstm_critic|actor_target"
    r"|actor\.log_std|actor\.sde_features_extractor|sde_features_extractor|q_net_target|quantile_net_target)(\.|$)"
    r"|.*\.(steps|num_batches_tracked)$"
)


class _Tensors:
    """The policy's tensors, and which of them the layers took."""

    def __init__(self, state: Mapping[str, NDArray[Any]], policy: Policy) -> None:
        self.state = state
        self.policy = policy
        self.used: set[str] = set()
        self.hidden: list[int] = []

    def take(self, name: str, ndim: int) -> NDArray[np.float32]:
        if name not in self.state:
            raise AgentError(f"the policy's weights lack '{name}'")
        self.used.add(name)
        value = self.state[name]
        if value.ndim != ndim:
            raise NotSupportedError(f"layer '{name}' with {value.ndim} axes", hint=CUSTOM_HINT)
        return np.ascontiguousarray(value, np.float32)

    def has(self, name: str) -> bool:
        return name in self.state

    def linear(self, prefix: str) -> Dense:
        weight = self.take(f"{prefix}.weight", 2)
        no_bias = np.zeros(len(weight), np.float32)
        return Dense(weight, self.take(f"{prefix}.bias", 1) if self.has(f"{prefix}.bias") else no_bias)

    def numbered(self, prefix: str) -> list[int]:
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.")
        return sorted({int(m[1]) for name in self.state if (m := pattern.match(name))})

    def mlp(self, prefix: str, *, output: bool) -> list[Layer]:
        """A torch Sequential of dense layers with activations between (and after, unless the last is the output)."""
        layers: list[Layer] = []
        numbers = self.numbered(prefix)
        dense = [
            i for i in numbers if self.has(f"{prefix}.{i}.weight") and self.state[f"{prefix}.{i}.weight"].ndim == 2
        ]
        place = 0
        for i in numbers:
            name = f"{prefix}.{i}"
            if i != place:
                raise NotSupportedError(
                    f"a layer without tensors before '{name}' besides the activation", hint=CUSTOM_HINT
                )
            place = i + 1
            if i in dense:
                layers.append(self.linear(name))
                if not (output and i == dense[-1]):
                    self.hidden.append(len(self.state[f"{name}.weight"]))
                    layers.append(ACTIVATIONS[self.policy.activation])
                    place = i + 2
            elif self.has(f"{name}.ra_mean"):
                layers += self.batch_norm(name)
        return layers

    def batch_norm(self, name: str) -> list[Layer]:
        """CrossQ's batch renormalisation; subtracting first keeps float32 exact where mean >> deviation."""
        mean, var = self.take(f"{name}.ra_mean", 1), self.take(f"{name}.ra_var", 1)
        scale = 1.0 / np.sqrt(var.astype(np.float64) + self.policy.norm_eps)
        offset = np.zeros(len(mean), np.float32)
        if self.has(f"{name}.scale"):
            scale, offset = scale * self.take(f"{name}.scale", 1), self.take(f"{name}.bias", 1)
        if np.all(np.abs(mean * scale) < 4.0):
            return [Affine(scale.astype(np.float32), (offset - mean * scale).astype(np.float32))]
        return [Affine(np.ones_like(mean), -mean), Affine(scale.astype(np.float32), offset)]

    def lstm(self) -> Lstm:
        prefix = "lstm_actor"
        n = sum(name.startswith(f"{prefix}.weight_hh_l") for name in self.state)
        if n == 0 or any("_reverse" in k or "weight_hr" in k for k in self.state if k.startswith(prefix)):
            raise NotSupportedError(f"layer '{prefix}' (missing, bidirectional or projected)", hint=CUSTOM_HINT)
        ih = tuple(self.take(f"{prefix}.weight_ih_l{i}", 2) for i in range(n))
        hh = tuple(self.take(f"{prefix}.weight_hh_l{i}", 2) for i in range(n))
        bias = tuple(
            self.take(f"{prefix}.bias_ih_l{i}", 1) + self.take(f"{prefix}.bias_hh_l{i}", 1)
            if self.has(f"{prefix}.bias_ih_l{i}")
            else np.zeros(len(hh[i]), np.float32)
            for i in range(n)
        )
        return Lstm(ih, hh, bias)


def build_network(
    policy: Policy,
    state: Mapping[str, NDArray[Any]],
    observation: Space,
    action: Space,
    normaliser: Normaliser | None,
) -> tuple[Network, list[int]]:
    """The layer list, and the widths of its hidden dense layers.

    Raises:
        NotSupportedError: images, a custom layer, or a space the algorithm does not take.
        AgentError: weights, spaces, `net_arch` and normaliser do not fit each other.
    """
    tensors = _Tensors(state, policy)
    algorithm = policy.algorithm
    _check_action(algorithm, action)
    if observation.children and algorithm in ("CrossQ", "ARS"):
        raise NotSupportedError(f"{algorithm} with Dict observations, which Stable-Baselines3 has no policy for")
    layers: list[Layer] = []
    if algorithm in ON_POLICY:
        if algorithm == "RecurrentPPO":
            layers.append(tensors.lstm())
        layers += tensors.mlp("mlp_extractor.shared_net", output=False)
        layers += tensors.mlp("mlp_extractor.policy_net", output=False)
        layers.append(tensors.linear("action_net"))
    elif algorithm in ("SAC", "TQC", "CrossQ"):
        layers += tensors.mlp("actor.latent_pi", output=False)
        clipped = tensors.has("actor.mu.0.weight")
        layers.append(tensors.linear("actor.mu.0" if clipped else "actor.mu"))
        if policy.use_sde and policy.clip_mean > 0:
            layers.append(Activation("hardtanh", low=-policy.clip_mean, high=policy.clip_mean))
        if clipped != (policy.use_sde and policy.clip_mean > 0):
            raise AgentError("the file's use_sde and clip_mean do not fit its layer 'actor.mu'")
    else:
        nets = {"TD3": "actor.mu", "DDPG": "actor.mu", "DQN": "q_net.q_net", "ARS": "action_net"}
        layers += tensors.mlp(nets.get(algorithm, "quantile_net.quantile_net"), output=True)
    left = sorted(k for k in state if k not in tensors.used and not UNUSED.match(k))
    if left:
        raise NotSupportedError(f"layer '{left[0]}' of the policy '{policy.policy_class}'", hint=CUSTOM_HINT)
    _check_net_arch(policy, tensors.hidden)
    heads = _heads(observation, normaliser)
    layers += _output(policy, action, layers)
    network = Network(heads, tuple(layers), {"algorithm": algorithm, "activation": policy.activation})
    _check_widths(network, action)
    return network, tensors.hidden


def _check_action(algorithm: str, action: Space) -> None:
    allowed = {"DQN": ("discrete",), "QRDQN": ("discrete",), "ARS": ("box", "discrete")}
    every = ("box", "discrete", "multi_discrete", "multi_binary")
    kinds = every if algorithm in ON_POLICY else allowed.get(algorithm, ("box",))
    if action.kind not in kinds or (action.kind == "multi_binary" and len(action.shape) != 1):
        raise NotSupportedError(f"{algorithm} with an action space of kind {action.kind} {action.shape}")


def _heads(observation: Space, normaliser: Normaliser | None) -> tuple[InputHead, ...]:
    children = observation.children or {"observation": observation}
    single = not observation.children
    statistics = normaliser.statistics if normaliser else {}
    if statistics and (None in statistics) != single:
        raise AgentError(
            "the normaliser belongs to a Dict observation space, the agent has a single one"
            if single
            else "the normaliser belongs to a single observation space, the agent has a Dict",
            hint="give the vecnormalize.pkl of this very training run",
        )
    if unknown := [k for k in statistics if k is not None and k not in children]:
        raise AgentError(f"the normaliser has statistics for '{unknown[0]}', which the agent does not observe")
    heads: list[InputHead] = []
    for key, space in children.items():
        if space.is_image:
            raise NotSupportedError(f"image observation '{key}' of shape {space.shape}", hint=CUSTOM_HINT)
        layers: list[Layer] = []
        moments = statistics.get(None if single else key)
        if moments is not None and normaliser is not None:
            mean, var = moments
            if space.kind != "box" or mean.size != space.size:
                raise AgentError(
                    f"the normaliser has {mean.size} values for '{key}', the agent observes {space.size}",
                    hint="give the vecnormalize.pkl of this very training run, and one made after any frame stacking",
                )
            layers.append(Normalise(mean, var, normaliser.epsilon, normaliser.clip))
        if space.kind in ("discrete", "multi_discrete"):
            if any(space.start) or len(space.shape) > 1:
                raise NotSupportedError(f"categories of '{key}' that do not start at 0 or are not a plain list")
            layers.append(OneHot(space.sizes))
        heads.append(InputHead(key, space.size, tuple(layers)))
    return tuple(heads)


def _output(policy: Policy, action: Space, layers: list[Layer]) -> list[Layer]:
    if action.kind == "discrete":
        width = next(len(la.bias) for la in reversed(layers) if isinstance(la, Dense))
        n = action.sizes[0]
        head: list[Layer] = []
        if policy.algorithm == "QRDQN":
            if width % n:
                raise AgentError(f"{width} quantile values do not divide among {n} actions")
            head = [MeanQuantile(width // n, n)]
        return [*head, ArgMax((n,))]  # predict() answers indices from 0 whatever the space's start
    if action.kind == "multi_discrete":
        return [ArgMax(action.sizes, vector=True)]
    if action.kind == "multi_binary":
        return [Threshold()]
    if action.low is None or action.high is None:
        raise AgentError("the action space has no limits")
    low, high = (v.reshape(-1).astype(np.float64) for v in (action.low, action.high))
    if policy.squash_output:
        if not np.isfinite(high - low).all():
            raise AgentError("a squashed policy needs a bounded action space")
        scale = 0.5 * (high - low)
        result: list[Layer] = [Activation("tanh")]
        if not (np.all(low == -1.0) and np.all(high == 1.0)):
            result.append(Affine(scale.astype(np.float32), (low + scale).astype(np.float32)))
        return result
    return [Clip(low.astype(np.float32), high.astype(np.float32))] if np.isfinite([low, high]).any() else []


def _check_net_arch(policy: Policy, hidden: list[int]) -> None:
    """The widths the file's keywords promise against those the weights have."""
    given = policy.net_arch
    if given is None:
        return
    if isinstance(given, dict):
        given = given.get("pi", [])
    elif isinstance(given, list | tuple) and given and isinstance(given[-1], dict):
        given = [*given[:-1], *given[-1].get("pi", [])]
    if not isinstance(given, list | tuple) or not all(type(n) is int for n in given):
        raise AgentError("net_arch is malformed: neither a list of widths nor a mapping with 'pi'")
    if list(given) != hidden:
        raise AgentError(f"net_arch promises hidden layers {list(given)}, the weights have {hidden}")


def _check_widths(network: Network, action: Space) -> None:
    width = 0
    for head in network.inputs:
        one_hot = next((la for la in head.layers if isinstance(la, OneHot)), None)
        width += sum(one_hot.sizes) if one_hot else head.size
    for layer in network.layers:
        match layer:
            case Dense():
                expected, after = layer.weight.shape[1], len(layer.weight)
                fits = len(layer.bias) == after
            case Lstm():
                expected, after = layer.weight_ih[0].shape[1], layer.hidden_size
                gates, sizes = (4 * after, after), [w.shape for w in layer.weight_hh]
                fits = all(s == gates for s in sizes) and all(len(b) == 4 * after for b in layer.bias)
                fits = fits and all(
                    w.shape == (4 * after, expected if i == 0 else after) for i, w in enumerate(layer.weight_ih)
                )
            case Affine():
                expected = after = len(layer.scale)
                fits = len(layer.offset) == after
            case MeanQuantile():
                expected, after, fits = layer.n_quantiles * layer.n_actions, layer.n_actions, True
            case _:
                continue
        if width != expected or not fits:
            raise AgentError(
                f"the weights do not fit the spaces: a {layer.kind} layer takes {expected}, it gets {width}"
            )
        width = after
    wanted = sum(action.sizes) if action.kind in ("discrete", "multi_discrete") else action.size
    if width != wanted:
        raise AgentError(f"the weights do not fit the action space: {width} outputs for {wanted}")
