"""Smaller and faster versions of a policy, measured side by side; `choice` decides which of them flies.

Imports no torch until a pruned version is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.golden import GoldenVectors, max_error
from sim2sky.agent.layers import Network
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes, resolve_versions
from sim2sky.deployment.quantize import quantize_bytes
from sim2sky.deployment.verification import golden_actions, open_session
from sim2sky.errors import ConfigError, ExportError, NotSupportedError
from sim2sky.runtime.inference import OnnxBackend

__all__ = [
    "BASELINE",
    "METHODS",
    "Candidate",
    "Evaluate",
    "Flight",
    "Measurement",
    "Table",
    "candidates_for",
    "measure",
]

BASELINE = "fp32"
METHODS = ("dynamic_int8", "dynamic_uint8", "static_qdq", "pruned")


class Flight(NamedTuple):
    """One episode of a candidate. `tracking_error` and `action_rate` in any units, the same for all candidates."""

    success: bool
    tracking_error: float
    action_rate: float


Evaluate = Callable[[bytes], Sequence[Flight]]
"""Flies episodes with the ONNX model it is given: one flight per seed, same seeds in the same order for every model."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One version of the policy: its name, ONNX bytes, and the layer list behind it (None where it is not exact)."""

    name: str
    model: bytes
    network: Network | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What was measured of one candidate. Errors are relative to the action's scale; latency is of one row, batch 1.

    Attributes:
        candidate: what was measured.
        n_bytes: size of the model.
        median_us, p99_us: latency over all rounds.
        latency_ratio: median over the rounds of this round's median divided by the baseline's in the same round.
        rounds_won: fraction of the rounds in which it was faster than the baseline.
        max_error, mean_error: on the golden vectors.
        flights: per paired seed, or None if nothing was flown.
    """

    candidate: Candidate
    n_bytes: int
    median_us: float
    p99_us: float
    latency_ratio: float
    rounds_won: float
    max_error: float
    mean_error: float
    flights: tuple[Flight, ...] | None

    @property
    def successes(self) -> tuple[bool, ...] | None:
        """Success per paired seed."""
        return None if self.flights is None else tuple(f.success for f in self.flights)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All measurements; the first is the baseline."""

    rows: tuple[Measurement, ...]

    @property
    def baseline(self) -> Measurement:
        """The float model."""
        return self.rows[0]


def candidates_for(
    network: Network,
    methods: Sequence[str] = METHODS,
    *,
    observations: Mapping[str, NDArray[Any]] | None = None,
    profile: str = "generic_linux",
    opset_version: int | None = None,
    prune_amount: float = 0.3,
    seed: int = 0,
) -> list[Candidate]:
    """The float model and every version of it that `methods` asks for.

    Args:
        network: the policy.
        methods: of `METHODS`; those that this policy does not allow are left out (a recurrent policy is not pruned).
        observations: raw observations (n, *shape) per input in flight (and `episode_start` for recurrent policies),
            for `static_qdq` and `pruned`.
        profile, opset_version: decide opset and IR version.
        prune_amount, seed: of `pruned`.

    Raises:
        ConfigError: an unknown method, or observations are missing for one that needs them.
    """
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise ConfigError(f"no optimisation method '{unknown[0]}'", hint=f"choose of {', '.join(METHODS)}")
    opset, ir_version = resolve_versions(profile, opset_version)
    float_model = model_to_bytes(emit_onnx(network, opset=opset, ir_version=ir_version))
    result = [Candidate(BASELINE, float_model, network)]
    for method in dict.fromkeys(methods):
        try:
            if method == "pruned":
                if observations is None:
                    raise ConfigError("pruning needs observations of flights", hint="or leave 'pruned' out")
                from sim2sky.deployment.prune_model import prune_network_neurons

                found = prune_network_neurons(network, prune_amount, observations, seed=seed)
                model = model_to_bytes(emit_onnx(found.network, opset=opset, ir_version=ir_version))
                before, after = ("-".join(map(str, w)) for w in (found.widths_before, found.widths_after))
                result.append(Candidate(method, model, found.network, f"neurons {before} -> {after}"))
            elif method == "static_qdq":
                model = quantize_bytes(float_model, method="static", calibration=observations, profile=profile)
                result.append(Candidate(method, model))
            else:
                result.append(Candidate(method, quantize_bytes(float_model, method.removeprefix("dynamic_"))))
        except NotSupportedError:
            continue
    return result


def measure(
    candidates: Sequence[Candidate],
    golden: GoldenVectors,
    evaluate: Evaluate | None = None,
    *,
    rounds: int = 40,
    calls: int = 50,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Table:
    """Measure candidates side by side.

    Latency is of one step of the backend that flies (onnxruntime, one thread), in interleaved rounds whose order
    rotates, so that drift and other load hit all alike; ratios are formed within each round.

    Args:
        candidates: the first is the baseline.
        golden: observations and the trainer's own answers.
        evaluate: flies episodes; None leaves the closed loop out, and then nothing can replace the baseline.
        rounds, calls: timing rounds, and calls per candidate and round; their product should be 300 or more for a p99.
        clock: nanoseconds.

    Raises:
        ConfigError: no candidates, or two of one name.
        ExportError: a model does not run, or the number of episodes differs between candidates.
    """
    names = [c.name for c in candidates]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"the candidates {names} are none, or share a name")
    if rounds < 1 or calls < 1:
        raise ConfigError(f"{rounds} rounds of {calls} calls measure nothing")
    sessions = [open_session(c.model) for c in candidates]
    answers = [golden_actions(session, golden) for session in sessions]
    policies = [OnnxBackend(session) for session in sessions]
    sampled = {key: values[0] for key, values in golden.observations.items()}
    times = np.zeros((len(candidates), rounds, calls))
    for turn in range(rounds):
        for offset in range(len(candidates)):
            i = (turn + offset) % len(candidates)
            policy = policies[i]
            policy(sampled)  # caches belong to this model again
            for call in range(calls):
                start = clock()
                policy(sampled)
                times[i, turn, call] = clock() - start
    medians = np.median(times, axis=2)
    rows = []
    for i, candidate in enumerate(candidates):
        flights = None if evaluate is None else tuple(evaluate(candidate.model))
        if flights is not None and rows and len(flights) != len(rows[0].flights or ()):
            raise ExportError(
                f"'{candidate.name}' flew {len(flights)} episodes, '{names[0]}' {len(rows[0].flights or ())}: "
                "they must fly the same seeds"
            )
        rows.append(
            Measurement(
                candidate,
                len(candidate.model),
                float(np.median(times[i])) / 1e3,
                float(np.percentile(times[i], 99)) / 1e3,
                float(np.median(medians[i] / medians[0])),
                float(np.mean(medians[i] < medians[0])),
                max_error(golden, answers[i]),
                _mean_error(golden, answers[i]),
                flights,
            )
        )
    return Table(tuple(rows))


def _mean_error(golden: GoldenVectors, actions: NDArray[Any]) -> float:
    """Mean |difference| relative to the scale; for discrete answers the fraction of rows that differ."""
    expected, got = (a.reshape(len(golden), -1).astype(np.float64) for a in (golden.action, actions))
    if golden.scale is None:
        return float((expected != got).any(axis=1).mean())
    return float((np.abs(expected - got) / golden.scale).mean())
