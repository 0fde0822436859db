"""Stable-Baselines3's own policy with an agent's weights: the answers every export is judged by.

Independent of the layer list on purpose. The policy class comes from the table below, never from the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.sb3_network import UNUSED
from sim2sky.agent.sb3_policy import ON_POLICY, Policy
from sim2sky.agent.sb3_spaces import Normaliser, Space
from sim2sky.errors import AgentError, MissingExtraError, NotSupportedError

__all__ = ["Predict", "make_reference"]

Predict = Callable[[dict[str, NDArray[Any]], NDArray[Any] | None], NDArray[Any]]
"""(raw observations (batch, ...) per key, episode_start (batch,) or None) -> actions, one row per observation."""


def make_reference(
    policy: Policy,
    state: dict[str, NDArray[Any]],
    spaces: tuple[Space, Space],
    normaliser: Normaliser | None,
    hidden: list[int],
) -> Predict:
    """Build the policy, load the weights, and wrap `predict(deterministic=True)` with VecNormalize's formula.

    Args:
        policy: what the file says about it.
        state: its tensors.
        spaces: of observation and action.
        normaliser: of the observations.
        hidden: widths of the hidden dense layers.

    Raises:
        MissingExtraError: stable-baselines3, or sb3-contrib where the algorithm needs it, is not installed.
        AgentError: the weights do not fit Stable-Baselines3's own policy.
    """
    observation, action = spaces
    try:
        import torch

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of spaces in float64, of small networks, ...
            module = _instantiate(policy, state, observation, action, hidden)
            _load(module, policy, state)
    except ImportError as error:
        raise MissingExtraError(error.name or "stable_baselines3", "train") from error
    except (AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise NotSupportedError(
            f"{policy.algorithm} with these spaces and keywords; the installed stable-baselines3 says: {error}"
        ) from error
    module.set_training_mode(False)
    recurrent = policy.algorithm == "RecurrentPPO"
    children = observation.children or {"observation": observation}

    def predict(observations: dict[str, NDArray[Any]], episode_start: NDArray[Any] | None = None) -> NDArray[Any]:
        rows = {key: _prepare(np.asarray(observations[key]), space, key) for key, space in children.items()}
        normalised: Any = {key: _normalise(x, key, normaliser, bool(observation.children)) for key, x in rows.items()}
        if not observation.children:
            normalised = normalised["observation"]
        if not recurrent:
            return np.asarray(module.predict(normalised, deterministic=True)[0])
        n = len(next(iter(rows.values())))
        starts = np.zeros(n, bool) if episode_start is None else np.asarray(episode_start).reshape(n) != 0
        memory, answers = None, []
        for t in range(n):
            row = {k: v[t : t + 1] for k, v in normalised.items()} if observation.children else normalised[t : t + 1]
            answer, memory = module.predict(row, memory, starts[t : t + 1], deterministic=True)
            answers.append(answer)
        return np.concatenate(answers)

    return predict


def _prepare(values: NDArray[Any], space: Space, key: str) -> NDArray[Any]:
    try:
        return values.reshape(len(values), *space.shape).astype(space.dtype)
    except (TypeError, ValueError) as error:
        raise AgentError(f"observations '{key}' of shape {values.shape} do not fit {space.shape}") from error


def _normalise(values: NDArray[Any], key: str, normaliser: Normaliser | None, keyed: bool) -> NDArray[Any]:
    """VecNormalize.normalize_obs of Stable-Baselines3 2.x."""
    moments = normaliser.statistics.get(key if keyed else None) if normaliser else None
    if moments is None or normaliser is None:
        return values
    mean, var = (m.reshape(values.shape[1:]) for m in moments)
    scaled = (values - mean) / np.sqrt(var + normaliser.epsilon)
    return np.clip(scaled, -normaliser.clip, normaliser.clip).astype(np.float32)


def _gymnasium(space: Space) -> Any:
    from gymnasium import spaces

    match space.kind:
        case "box":
            low, high = np.asarray(space.low), np.asarray(space.high)
            return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)
        case "discrete":
            return spaces.Discrete(space.sizes[0], start=space.start[0])
        case "multi_discrete":
            return spaces.MultiDiscrete(np.reshape(space.sizes, space.shape))
        case "multi_binary":
            return spaces.MultiBinary(space.shape[0] if len(space.shape) == 1 else space.shape)
        case _:
            made = spaces.Dict()
            made.spaces.update({key: _gymnasium(child) for key, child in space.children.items()})
            return made


def _instantiate(
    policy: Policy, state: dict[str, NDArray[Any]], observation: Space, action: Space, hidden: list[int]
) -> Any:
    import torch

    keyed = bool(observation.children)
    kwargs: dict[str, Any] = {"activation_fn": getattr(torch.nn, policy.activation)}
    algorithm = policy.algorithm
    if algorithm in ON_POLICY:
        kwargs |= {"net_arch": {"pi": hidden, "vf": []}, "use_sde": policy.use_sde, "ortho_init": False}
        kwargs |= {"squash_output": policy.squash_output, "full_std": True}
        from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy

        cls: Any = MultiInputActorCriticPolicy if keyed else ActorCriticPolicy
        if algorithm == "RecurrentPPO":
            from sb3_contrib.common.recurrent import policies as recurrent

            cls = recurrent.RecurrentMultiInputActorCriticPolicy if keyed else recurrent.RecurrentActorCriticPolicy
            kwargs |= {"lstm_hidden_size": state["lstm_actor.weight_hh_l0"].shape[1], "enable_critic_lstm": False}
            kwargs["n_lstm_layers"] = sum(k.startswith("lstm_actor.weight_hh_l") for k in state)
            kwargs["lstm_kwargs"] = {"bias": "lstm_actor.bias_hh_l0" in state}
    elif algorithm in ("DQN", "QRDQN"):
        kwargs["net_arch"] = hidden
        if algorithm == "DQN":
            from stable_baselines3.dqn import policies as module
        else:
            from sb3_contrib.qrdqn import policies as module

            width = max(
                len(v) for k, v in state.items() if k.startswith(f"quantile_net.quantile_net.{2 * len(hidden)}.")
            )
            kwargs["n_quantiles"] = width // action.sizes[0]
        cls = module.MultiInputPolicy if keyed else module.MlpPolicy
    elif algorithm == "ARS":
        from sb3_contrib.ars.policies import ARSPolicy as cls  # noqa: N813

        kwargs |= {"net_arch": hidden, "squash_output": policy.squash_output}
        kwargs["with_bias"] = any(k.startswith("action_net.") and k.endswith(".bias") for k in state)
        return cls(_gymnasium(observation), _gymnasium(action), **kwargs)
    else:
        kwargs |= {"net_arch": {"pi": hidden, "qf": []}, "n_critics": 1}
        if algorithm in ("TD3", "DDPG"):
            from stable_baselines3.td3 import policies as module
        else:
            kwargs |= {"use_sde": policy.use_sde, "clip_mean": policy.clip_mean}
            if algorithm == "SAC":
                from stable_baselines3.sac import policies as module
            elif algorithm == "TQC":
                from sb3_contrib.tqc import policies as module
            else:
                from sb3_contrib.crossq.policies import CrossQPolicy

                kwargs |= {"batch_norm_eps": policy.norm_eps, "batch_norm": any(k.endswith(".ra_mean") for k in state)}
                return CrossQPolicy(_gymnasium(observation), _gymnasium(action), lambda _: 0.0, **kwargs)
        cls = module.MultiInputPolicy if keyed else module.MlpPolicy
    return cls(_gymnasium(observation), _gymnasium(action), lambda _: 0.0, **kwargs)


def _load(module: Any, policy: Policy, state: dict[str, NDArray[Any]]) -> None:
    import torch

    wanted = {k: torch.from_numpy(np.array(v)) for k, v in _modern(state).items() if not UNUSED.match(k)}
    try:
        missing, unexpected = module.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise AgentError(f"the weights do not fit {policy.algorithm}'s own policy: {error}"[:400]) from error
    # A module reached under two names (pi_features_extractor) counts once; these policies have no such tensors.
    if wrong := [*(k for k in missing if not UNUSED.match(k)), *unexpected]:
        raise AgentError(f"the weights do not fit {policy.algorithm}'s own policy: '{wrong[0]}'")


def _modern(state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Before 1.8 actor and critic could share their first layers; today's policy has them in the actor's own net."""
    shared = sorted({int(k.split(".")[2]) for k in state if k.startswith("mlp_extractor.shared_net.")})
    if not shared:
        return state
    offset = shared[-1] + 2  # each dense layer is followed by its activation
    renamed: dict[str, NDArray[Any]] = {}
    for key, value in state.items():
        if key.startswith("mlp_extractor.policy_net."):
            head, _, rest = key.removeprefix("mlp_extractor.policy_net.").partition(".")
            renamed[f"mlp_extractor.policy_net.{int(head) + offset}.{rest}"] = value
        else:
            renamed[key.replace("mlp_extractor.shared_net.", "mlp_extractor.policy_net.")] = value
    return renamed
