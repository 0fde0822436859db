"""What a Stable-Baselines3 file's fields say about its policy: algorithm, class, and what shapes its answer.

The algorithm is found from the file, never assumed. Imports nothing outside sim2sky.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim2sky.agent.layers import Activation
from sim2sky.agent.sb3_pickle import Global, Record
from sim2sky.errors import AgentError, NotSupportedError

__all__ = ["ACTIVATIONS", "CUSTOM_HINT", "ON_POLICY", "Policy", "read_policy"]

CUSTOM_HINT = (
    "rebuild the policy in torch and export it with export_custom_model_to_onnx(model, output_path, input_shape) "
    "of sim2sky.deployment.export_onnx"
)

# Activation functions by the name of their torch class, with torch's defaults.
ACTIVATIONS: dict[str, Activation] = {
    "Tanh": Activation("tanh"),
    "ReLU": Activation("relu"),
    "ReLU6": Activation("hardtanh", low=0.0, high=6.0),
    "ELU": Activation("elu", alpha=1.0),
    "LeakyReLU": Activation("leaky_relu", alpha=0.01),
    "Sigmoid": Activation("sigmoid"),
    "Hardtanh": Activation("hardtanh", low=-1.0, high=1.0),
    "SiLU": Activation("silu"),
    "GELU": Activation("gelu"),
    "Softplus": Activation("softplus"),
    "Mish": Activation("mish"),
    "Identity": Activation("identity"),
}

ON_POLICY = ("PPO", "A2C", "TRPO", "RecurrentPPO")
_POLICY_CLASSES: dict[str, str] = {
    "stable_baselines3.common.policies.ActorCriticPolicy": "on-policy",
    "stable_baselines3.common.policies.MultiInputActorCriticPolicy": "on-policy",
    "stable_baselines3.ppo.policies.PPOPolicy": "on-policy",
    "sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy": "RecurrentPPO",
    "sb3_contrib.common.recurrent.policies.RecurrentMultiInputActorCriticPolicy": "RecurrentPPO",
    "sb3_contrib.crossq.policies.CrossQPolicy": "CrossQ",
    "sb3_contrib.ars.policies.ARSPolicy": "ARS",
    "sb3_contrib.ars.policies.ARSLinearPolicy": "ARS",
} | {
    f"{module}.policies.{name}": algorithm
    for algorithm, module, own in (
        ("SAC", "stable_baselines3.sac", "SACPolicy"),
        ("TD3", "stable_baselines3.td3", "TD3Policy"),
        ("DQN", "stable_baselines3.dqn", "DQNPolicy"),
        ("TQC", "sb3_contrib.tqc", "TQCPolicy"),
        ("QRDQN", "sb3_contrib.qrdqn", "QRDQNPolicy"),
    )
    for name in (own, "MultiInputPolicy")
}
_EXTRACTORS = ("FlattenExtractor", "CombinedExtractor")
# Keywords of policies that do not change the deterministic answer, or that the tensors themselves show.
_HARMLESS = frozenset(
    {"log_std_init", "ortho_init", "full_std", "sde_net_arch", "use_expln", "optimizer_class", "optimizer_kwargs"}
    | {
        "n_critics",
        "normalize_images",
        "share_features_extractor",
        "features_extractor_kwargs",
        "device",
        "lr_schedule",
    }
    | {
        "lstm_hidden_size",
        "n_lstm_layers",
        "shared_lstm",
        "enable_critic_lstm",
        "lstm_kwargs",
        "with_bias",
        "n_quantiles",
    }
    | {"batch_norm", "batch_norm_momentum", "renorm_warmup_steps", "epsilon", "create_eval_env", "features_dim"}
)
_READ = frozenset(
    {"net_arch", "activation_fn", "use_sde", "clip_mean", "squash_output", "features_extractor_class", "batch_norm_eps"}
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the file's fields say about the policy.

    Attributes:
        algorithm: `PPO`, `A2C`, `TRPO`, `RecurrentPPO`, `SAC`, `TQC`, `CrossQ`, `TD3`, `DDPG`, `DQN`, `QRDQN` or `ARS`.
        policy_class: name of the policy's class.
        activation: name of the torch class between dense layers.
        net_arch: as given, or None.
        use_sde: state-dependent exploration.
        squash_output: whether the answer ends in tanh and is stretched to the action box.
        clip_mean: limit of the mean under state-dependent exploration (SAC, TQC, CrossQ).
        norm_eps: epsilon of CrossQ's batch normalisation.
    """

    algorithm: str
    policy_class: str
    activation: str
    net_arch: Any
    use_sde: bool
    squash_output: bool
    clip_mean: float
    norm_eps: float


def read_policy(fields: Mapping[str, Any]) -> Policy:
    """Find algorithm, policy class and what shapes its answer.

    Raises:
        NotSupportedError: a policy, features extractor or activation that is not Stable-Baselines3's own.
        AgentError: a field is missing or malformed.
    """
    if "policy_class" not in fields:
        raise AgentError("the agent's file does not say which policy class it has")
    policy_class = _class_name(fields["policy_class"])
    kwargs = fields.get("policy_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise AgentError(f"policy_kwargs is a {type(kwargs).__name__}, not a mapping")
    algorithm = _algorithm(policy_class, fields)
    extractor = _class_name(kwargs.get("features_extractor_class", Global(_EXTRACTORS[0])))
    if extractor.removeprefix("stable_baselines3.common.torch_layers.") not in _EXTRACTORS:
        raise NotSupportedError(f"features extractor '{extractor}' (features_extractor_class)", hint=CUSTOM_HINT)
    if not all(isinstance(k, str) for k in kwargs):
        raise AgentError("policy_kwargs has keys that are no texts")
    if unknown := sorted(set(kwargs) - _READ - _HARMLESS):
        raise NotSupportedError(f"policy keyword '{unknown[0]}' of {policy_class}", hint=CUSTOM_HINT)
    default = "Tanh" if algorithm in ON_POLICY else "ReLU"
    activation = _class_name(kwargs.get("activation_fn", Global(default)))
    short = re.sub(r"^torch\.nn\.(modules\.(activation|linear)\.)?", "", activation)
    if short not in ACTIVATIONS:
        raise NotSupportedError(f"activation function '{activation}'", hint=CUSTOM_HINT)
    use_sde = bool(kwargs.get("use_sde", fields.get("use_sde", False)))
    if algorithm in ON_POLICY:
        squash = bool(kwargs.get("squash_output", False))
    elif algorithm == "ARS":
        squash = bool(kwargs.get("squash_output", not policy_class.endswith(".ARSLinearPolicy")))
    else:
        squash = algorithm not in ("DQN", "QRDQN")
    try:
        clip_mean, eps = float(kwargs.get("clip_mean", 2.0)), float(kwargs.get("batch_norm_eps", 0.001))
    except (TypeError, ValueError) as error:
        raise AgentError(f"policy_kwargs: clip_mean or batch_norm_eps is no number: {error}") from error
    return Policy(algorithm, policy_class, short, kwargs.get("net_arch"), use_sde, squash, clip_mean, eps)


def _class_name(value: Any) -> str:
    if isinstance(value, Global):
        return value.name
    if isinstance(value, Record):  # a class pickled by value: cloudpickle's _make_skeleton_class(type, name, ...)
        texts = [a for a in value.args if isinstance(a, str)]
        return texts[0] if texts else (value.name or "a computed object")
    return value if isinstance(value, str) else f"a {type(value).__name__}"


def _algorithm(policy_class: str, fields: Mapping[str, Any]) -> str:
    if policy_class not in _POLICY_CLASSES:
        kind = "policy class"
        if policy_class.startswith("sb3_contrib.common.maskable."):
            kind = "MaskablePPO (its answers depend on action masks): policy class"
        elif "Cnn" in policy_class:
            kind = "images: policy class"
        raise NotSupportedError(f"{kind} '{policy_class}'", hint=CUSTOM_HINT)
    family = _POLICY_CLASSES[policy_class]
    if family == "on-policy":
        if "clip_range" in fields:
            return "PPO"
        return "TRPO" if "cg_max_steps" in fields else "A2C"
    if family == "TD3" and fields.get("policy_delay") == 1 and fields.get("target_noise_clip") == 0:
        return "DDPG"  # Stable-Baselines3's DDPG is TD3 with exactly these settings
    return family
