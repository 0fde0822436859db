"""The rule by which a smaller or faster version replaces the float model, and the table that shows why.

Imports no torch and no onnxruntime of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim2sky.deployment.candidates import Flight, Measurement, Table

__all__ = ["Decision", "Rules", "choose", "growth_bound", "mcnemar_p", "render_table"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When a version may replace the float model.

    Attributes:
        min_gain: how much smaller or faster it must be, as a fraction.
        max_cost: how much slower or larger it may be in turn.
        min_rounds_won: fraction of the interleaved timing rounds in which it must be faster: one lucky median is noise.
        alpha: a loss of closed-loop success at this one-sided significance refuses it.
        max_success_loss: largest loss of success accepted as a point estimate, however insignificant.
        max_growth: largest growth of tracking error and of action rate, as a fraction: the one-sided 95 % upper bound
            of their paired ratio must stay below. Success saturates; a net that trembles on course still succeeds.
        min_pairs: fewer paired episodes decide nothing, and nothing is replaced.
    """

    min_gain: float = 0.10
    max_cost: float = 0.10
    min_rounds_won: float = 0.9
    alpha: float = 0.05
    max_success_loss: float = 0.02
    max_growth: float = 0.05
    min_pairs: int = 20


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


def mcnemar_p(baseline: Sequence[bool], candidate: Sequence[bool]) -> float:
    """Exact one-sided p-value that the candidate succeeds less often, on paired seeds (McNemar 1947).

    Only seeds on which the two differ tell anything: under equality each of them is lost with probability 1/2, so the
    p-value is the upper binomial tail of the losses.
    """
    lost = sum(b and not c for b, c in zip(baseline, candidate, strict=True))
    won = sum(c and not b for b, c in zip(baseline, candidate, strict=True))
    return sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)


def growth_bound(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """One-sided 95 % upper bound of the ratio candidate / baseline, from paired logarithms (Student's t).

    Pairs in which either value is not finite or not positive tell nothing and are left out; with fewer than two left
    the bound is infinite.
    """
    pairs = [
        math.log(c / b) for b, c in zip(baseline, candidate, strict=True) if 0.0 < b < math.inf and 0.0 < c < math.inf
    ]
    n = len(pairs)
    if n < 2:
        return math.inf
    from scipy.special import stdtrit  # quantile of Student's t

    mean, spread = statistics.fmean(pairs), statistics.stdev(pairs)
    return math.exp(mean + float(stdtrit(n - 1, 0.95)) * spread / math.sqrt(n))


def choose(table: Table, rules: Rules | None = None) -> Decision:
    """Keep a candidate only if it pays and costs nothing in flight; otherwise the float model stays.

    It pays if it is smaller by `min_gain`, or faster by `min_gain` and in `min_rounds_won` of the rounds, and does not
    pay for the one with the other: a net half the size and half as fast again is no gain on a computer with a file
    system. It costs nothing if on the same seeds its success is not significantly lower (exact one-sided McNemar test
    at `alpha`) *and* is not lower by more than `max_success_loss` as it stands (few episodes make every loss
    insignificant, so the test alone would wave everything through; telling .85 from .80 takes about 220 paired
    episodes), and if tracking error and action rate are shown not to grow by more than `max_growth`. Of several, the
    lowest product of size and latency is kept.
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
    if max(size, latency) > 1.0 + rules.max_cost:
        return False, f"{text}: more than {rules.max_cost:.0%} of cost in either is no gain"
    return True, text


def _ratio(value: float, better: str, worse: str) -> str:
    return f"{1 / value:.2f}x {better}" if value <= 1.0 else f"{value:.2f}x {worse}"


def _harm(row: Measurement, base: Measurement, rules: Rules) -> str:
    """Why the candidate may not fly, or nothing."""
    if not math.isfinite(row.max_error):
        return "some of its answers are not finite"
    if base.flights is None or row.flights is None or base.successes is None or row.successes is None:
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
    for name in ("tracking_error", "action_rate"):
        bound = growth_bound([getattr(f, name) for f in base.flights], [getattr(f, name) for f in row.flights])
        if bound > 1.0 + rules.max_growth:
            shown = f"up to {bound - 1.0:.0%}" if math.isfinite(bound) else "by an unknown amount"
            what = name.replace("_", " ")
            return f"worse in closed loop: its {what} may be larger {shown}, {rules.max_growth:.0%} are allowed"
    return ""


def _median_of(flights: Sequence[Flight], name: str) -> str:
    values = [v for f in flights if math.isfinite(v := getattr(f, name))]
    return f"{statistics.median(values):.3f}" if values else "-"


def render_table(decision: Decision) -> str:
    """The whole table as plain text, every verdict, and the decision as its last line."""
    header = ("candidate", "bytes", "median us", "p99 us", "latency", "max error", "mean error", "success")
    header += ("tracking", "action rate")
    lines: list[tuple[str, ...]] = [header]
    for row in decision.table.rows:
        success, tracking, activity = "-", "-", "-"
        if row.successes is not None and row.flights is not None:
            success = f"{sum(row.successes)}/{len(row.successes)}"
            tracking = _median_of(row.flights, "tracking_error")
            activity = _median_of(row.flights, "action_rate")
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
                tracking,
                activity,
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
