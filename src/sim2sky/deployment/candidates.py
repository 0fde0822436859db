"""Smaller and faster versions of a policy, measured side by side, and the rule by which one replaces the float model.

Imports no torch until a pruned version is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    "Decision",
    "Evaluate",
    "Measurement",
    "Rules",
    "Table",
    "candidates_for",
    "choose",
    "mcnemar_p",
    "measure",
    "render_table",
]

BASELINE = "fp32"
METHODS = ("dynamic_int8", "dynamic_uint8", "static_qdq", "pruned")
Evaluate = Callable[[bytes], Sequence[bool]]
"""Flies episodes with the ONNX model it is given: success per seed, same seeds in the same order for every model."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One version of the policy: its name, ONNX bytes, and the layer list behind it (None where it is not exact)."""

    name: str
    model: bytes
    network: Network | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a version may replace the float model.

    Attributes:
        min_gain: how much smaller or faster it must be, as a fraction.
        min_rounds_won: fraction of the interleaved timing rounds in which it must be faster: one lucky median is noise.
        alpha: a loss of closed-loop success at this one-sided significance refuses it.
        max_success_loss: largest loss of success accepted as a point estimate, however insignificant.
        min_pairs: fewer paired episodes decide nothing, and nothing is replaced.
    """

    min_gain: float = 0.10
    min_rounds_won: float = 0.9
    alpha: float = 0.05
    max_success_loss: float = 0.02
    min_pairs: int = 20


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
        successes: per paired seed, or None if nothing was flown.
    """

    candidate: Candidate
    n_bytes: int
    median_us: float
    p99_us: float
    latency_ratio: float
    rounds_won: float
    max_error: float
    mean_error: float
    successes: tuple[bool, ...] | None

    @property
    def success_rate(self) -> float | None:
        """Fraction of episodes that succeeded."""
        return None if not self.successes else sum(self.successes) / len(self.successes)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All measurements; the first is the baseline."""

    rows: tuple[Measurement, ...]

    @property
    def baseline(self) -> Measurement:
        """The float model."""
        return self.rows[0]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Which candidate is kept, and for every candidate why it is or is not.

    Attributes:
        kept: the measurement of the candidate to fly.
        sentence: the decision in one sentence.
        verdicts: per candidate name, one sentence.
        table: what it was decided on.
    """

    kept: Measurement
    sentence: str
    verdicts: Mapping[str, str]
    table: Table


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
        successes = None if evaluate is None else tuple(bool(s) for s in evaluate(candidate.model))
        if successes is not None and rows and len(successes) != len(rows[0].successes or ()):
            raise ExportError(
                f"'{candidate.name}' flew {len(successes)} episodes, '{names[0]}' {len(rows[0].successes or ())}: "
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
                successes,
            )
        )
    return Table(tuple(rows))


def _mean_error(golden: GoldenVectors, actions: NDArray[Any]) -> float:
    """Mean |difference| relative to the scale; for discrete answers the fraction of rows that differ."""
    expected, got = (a.reshape(len(golden), -1).astype(np.float64) for a in (golden.action, actions))
    if golden.scale is None:
        return float((expected != got).any(axis=1).mean())
    return float((np.abs(expected - got) / golden.scale).mean())


def mcnemar_p(baseline: Sequence[bool], candidate: Sequence[bool]) -> float:
    """Exact one-sided p-value that the candidate succeeds less often, on paired seeds (McNemar 1947).

    Only seeds on which the two differ tell anything: under equality each of them is lost with probability 1/2, so the
    p-value is the upper binomial tail of the losses.
    """
    lost = sum(b and not c for b, c in zip(baseline, candidate, strict=True))
    won = sum(c and not b for b, c in zip(baseline, candidate, strict=True))
    return sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)


def choose(table: Table, rules: Rules | None = None) -> Decision:
    """Keep a candidate only if it pays and costs nothing in flight; otherwise the float model stays.

    It pays if it is smaller by `min_gain`, or faster by `min_gain` and in `min_rounds_won` of the rounds, and what it
    gains in the one it does not lose in the other: size ratio times latency ratio is below 1. It costs nothing if on
    the same seeds its success is not significantly lower (exact one-sided McNemar test at `alpha`) *and* is not lower
    by more than `max_success_loss` as it stands: few episodes make every loss insignificant, so the test alone would
    wave everything through. Telling .85 from .80 takes about 220 paired episodes. Of several, the lowest product of
    size and latency is kept.
    """
    rules = rules or Rules()
    base = table.baseline
    verdicts = {base.candidate.name: "the float model, exact to rounding"}
    kept, product = base, 1.0
    for row in table.rows[1:]:
        gain, why = _pays(row, base, rules)
        harm = _harm(row, base, rules)
        name = row.candidate.name
        if not gain:
            verdicts[name] = f"refused: {why}" + (f"; {harm}" if harm else "")
        elif harm:
            verdicts[name] = f"refused: {why}, but {harm}"
        else:
            verdicts[name] = f"allowed: {why}, not worse in closed loop"
            if (score := row.n_bytes / base.n_bytes * row.latency_ratio) < product:
                kept, product = row, score
    if kept is base:
        flown = "" if base.successes is not None else " Nothing was flown, so nothing may replace it."
        sentence = f"{base.candidate.name} stays: no candidate is both worth it and as good in closed loop.{flown}"
        if len(table.rows) == 1:
            sentence = f"{base.candidate.name} stays: there was no other candidate."
    else:
        sentence = f"{kept.candidate.name} replaces {base.candidate.name}: {verdicts[kept.candidate.name][9:]}."
    return Decision(kept, sentence, verdicts, table)


def _pays(row: Measurement, base: Measurement, rules: Rules) -> tuple[bool, str]:
    size, latency = row.n_bytes / base.n_bytes, row.latency_ratio
    smaller = size <= 1.0 - rules.min_gain
    faster = latency <= 1.0 - rules.min_gain and row.rounds_won >= rules.min_rounds_won
    text = f"{_ratio(size, 'smaller', 'larger')} and {_ratio(latency, 'faster', 'slower')}"
    if not (smaller or faster):
        return False, f"{text}: neither smaller nor faster by {rules.min_gain:.0%} beyond noise"
    if size * latency >= 1.0:
        return False, f"{text}: it loses more than it gains"
    return True, text


def _ratio(value: float, better: str, worse: str) -> str:
    return f"{1 / value:.2f}x {better}" if value <= 1.0 else f"{value:.2f}x {worse}"


def _harm(row: Measurement, base: Measurement, rules: Rules) -> str:
    """Why the candidate may not fly, or nothing."""
    if not math.isfinite(row.max_error):
        return "some of its answers are not finite"
    if base.successes is None or row.successes is None:
        return "nothing shows that it is as good in closed loop"
    n = len(base.successes)
    if n < rules.min_pairs:
        return f"{n} paired episodes are too few to show that it is as good ({rules.min_pairs} needed)"
    loss = (sum(base.successes) - sum(row.successes)) / n
    p = mcnemar_p(base.successes, row.successes)
    counts = f"{sum(row.successes)} of {n} successes against {sum(base.successes)}"
    if p < rules.alpha:
        return f"significantly worse in closed loop: {counts} (p = {p:.2g})"
    if loss > rules.max_success_loss + 1e-12:
        return f"worse in closed loop: {counts}, more than the {rules.max_success_loss:.0%} allowed"
    return ""


def render_table(decision: Decision) -> str:
    """The whole table as plain text, every verdict, and the decision as its last line."""
    header = ("candidate", "bytes", "median us", "p99 us", "latency", "max error", "mean error", "success")
    lines: list[tuple[str, ...]] = [header]
    for row in decision.table.rows:
        success = "-" if row.successes is None else f"{sum(row.successes)}/{len(row.successes)}"
        lines.append(
            (
                row.candidate.name,
                str(row.n_bytes),
                f"{row.median_us:.1f}",
                f"{row.p99_us:.1f}",
                f"{row.latency_ratio:.2f}x",
                f"{row.max_error:.2g}",
                f"{row.mean_error:.2g}",
                success,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    text.append("")
    for row in decision.table.rows:
        note = f" ({row.candidate.note})" if row.candidate.note else ""
        text.append(f"{row.candidate.name}{note}: {decision.verdicts[row.candidate.name]}")
    return "\n".join([*text, "", decision.sentence])
