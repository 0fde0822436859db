"""Champion and challenger on paired seeds: the challenger is promoted only if it is shown not to be worse in the old
conditions and to be better in the new ones.

Both fly as they would be deployed: exported, behind the guard. Every bound holds at every look (`sequential`), so
flying stops as soon as they decide, and at a fixed number of pairs in any case.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sim2sky.agent.bundle import Bundle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome, channel_names
from sim2sky.environments.tasks import tolerances
from sim2sky.errors import ConfigError
from sim2sky.validation.campaign import Progress, campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.sequential import lower_bound, upper_bound

__all__ = ["Comparison", "Promotion", "PromotionRules", "compare_flights", "decide", "judge", "tracking_score"]

PROMOTION_STREAM = 31  # episodes nobody else flies
SCORE_LIMITS = (0.02, 3.0)
RATIO_LIMIT = math.log(3.0)

Verdict = Literal["promoted", "champion stays", "undecided"]


@dataclass(frozen=True)
class PromotionRules:
    """What has to be shown, and for how long it may be tried.

    Attributes:
        alpha: largest probability of promoting a challenger that is worse than allowed in the old conditions, or not
            better in the new ones.
        success_margin: largest loss of success rate that still counts as not worse.
        tracking_margin: largest growth of the tracking error, as a fraction, that still counts as not worse; the
            specification calls a gap of less than 20 % acceptable.
        useful_success, useful_tracking: gains in the new conditions below which there is no point in a promotion;
            shown to be smaller, the champion stays without further flights.
        group: pairs between two looks.
        max_pairs: pairs per condition.
    """

    alpha: float = 0.05
    success_margin: float = 0.05
    tracking_margin: float = 0.20
    useful_success: float = 0.05
    useful_tracking: float = 0.05
    group: int = 40
    max_pairs: int = 400

    def __post_init__(self) -> None:
        fractions = (self.success_margin, self.tracking_margin, self.useful_success, self.useful_tracking)
        if not 0.0 < self.alpha < 0.5 or not all(0.0 < f < 1.0 for f in fractions):
            raise ConfigError(f"rules of promotion need 0 < alpha < .5 and margins between 0 and 1, got {self}")
        if not 1 <= self.group <= self.max_pairs:
            raise ConfigError(f"{self.max_pairs} pairs in groups of {self.group} cannot be flown")


@dataclass(frozen=True)
class Comparison:
    """Paired flights in one condition.

    Attributes:
        pairs: seeds flown by both.
        champion_successes, challenger_successes: of them.
        won, lost: pairs in which only the challenger, only the champion succeeded.
        success_gain: challenger's success rate minus champion's, with bounds that hold at every look.
        tracking_gain: champion's tracking error over challenger's, geometric mean (1.1: the champion's is 10 %
            larger), with such bounds. A flight that left the envelope counts as three tolerances, and no pair for more
            than threefold.
        champion_error, challenger_error: median tracking error of completed flights, in tolerances.
        champion_activity, challenger_activity: mean sum of absolute command changes per second.
    """

    pairs: int
    champion_successes: int
    challenger_successes: int
    won: int
    lost: int
    success_gain: float
    success_low: float
    success_high: float
    tracking_gain: float
    tracking_low: float
    tracking_high: float
    champion_error: float
    challenger_error: float
    champion_activity: float
    challenger_activity: float


@dataclass(frozen=True)
class Promotion:
    """The decision, and everything it rests on.

    Attributes:
        verdict: what it is; only `promoted` changes what flies.
        reason: why, in a sentence.
        old, new: the flights in the two conditions.
        rules: applied.
        seed: of the flights.
        champion, challenger: digests of the bundles that flew.
    """

    verdict: Verdict
    reason: str
    old: Comparison
    new: Comparison
    rules: PromotionRules
    seed: int
    champion: str
    challenger: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping; a number nobody could measure is null."""
        data = asdict(self)
        for name in ("old", "new"):
            data[name] = {k: v if math.isfinite(v) else None for k, v in data[name].items()}
        return data


def tracking_score(outcome: EpisodeOutcome, environment: EnvironmentSettings) -> float:
    """Root mean square tracking error in units of the task's tolerances, mean over channels; within `SCORE_LIMITS`.

    An episode that left the envelope has the upper limit: a crash must not improve the mean by being left out.
    """
    low, high = SCORE_LIMITS
    if outcome.termination != "completed":
        return high
    units = dict(zip(channel_names(environment.task.name), tolerances(environment.task), strict=True))
    score = statistics.fmean(outcome.tracking_rmse[name] / unit for name, unit in units.items())
    return min(max(score, low), high) if math.isfinite(score) else high


def compare_flights(
    champion: Sequence[EpisodeOutcome],
    challenger: Sequence[EpisodeOutcome],
    environment: EnvironmentSettings,
    *,
    alpha: float,
) -> Comparison:
    """Compare outcomes of the same seeds, in order; each bound errs with probability `alpha` over all looks.

    Raises:
        ConfigError: there are none, or the seeds differ.
    """
    if not champion or [o.seed for o in champion] != [o.seed for o in challenger]:
        raise ConfigError("champion and challenger must have flown the same seeds")
    differences = [float(b.success) - float(a.success) for a, b in zip(champion, challenger, strict=True)]
    scores = [[tracking_score(o, environment) for o in flown] for flown in (champion, challenger)]
    ratios = [min(max(math.log(a / b), -RATIO_LIMIT), RATIO_LIMIT) for a, b in zip(*scores, strict=True)]

    def bounds(values: Sequence[float], limit: float) -> tuple[float, float, float]:
        low, high = (bound(values, -limit, limit, alpha=alpha) for bound in (lower_bound, upper_bound))
        return statistics.fmean(values), low, high

    errors = [
        statistics.median([tracking_score(o, environment) for o in flown if o.termination == "completed"] or [math.nan])
        for flown in (champion, challenger)
    ]
    return Comparison(
        len(differences),
        sum(o.success for o in champion),
        sum(o.success for o in challenger),
        sum(d > 0 for d in differences),
        sum(d < 0 for d in differences),
        *bounds(differences, 1.0),
        *(math.exp(v) for v in bounds(ratios, RATIO_LIMIT)),
        *errors,
        *(statistics.fmean(o.action_rate for o in flown) for flown in (champion, challenger)),
    )


def decide(old: Comparison, new: Comparison, rules: PromotionRules, *, final: bool) -> tuple[Verdict, str]:
    """The rule. `final`: no further pairs may be flown.

    Promotion needs all of: not worse in the old conditions, not worse in the new ones, better in the new ones by
    success or by tracking error. All must hold, so each is tested at the whole `alpha` (intersection-union); "or"
    halves it, which is why the new conditions' bounds come at half of it.
    """
    kept = 1.0 / (1.0 + rules.tracking_margin)
    for name, c in (("old", old), ("new", new)):
        if c.success_high < -rules.success_margin:
            return "champion stays", f"the challenger succeeds less often in the {name} conditions ({_success(c)})"
        if c.tracking_high < kept:
            return "champion stays", f"the challenger tracks worse in the {name} conditions ({_tracking(c)})"
    useful = 1.0 / (1.0 - rules.useful_tracking)
    if new.success_high < rules.useful_success and new.tracking_high < useful:
        reason = f"no useful gain in the new conditions ({_success(new)}; {_tracking(new)})"
        return "champion stays", reason
    better = new.success_low > 0.0 or new.tracking_low > 1.0
    worse = [
        f"{name} conditions: {what}"
        for name, c in (("old", old), ("new", new))
        for what, shown in (
            (_success(c), c.success_low > -rules.success_margin),
            (_tracking(c), c.tracking_low > kept),
        )
        if not shown
    ]
    if better and not worse:
        how = _success(new) if new.success_low > 0.0 else _tracking(new)
        return "promoted", f"better in the new conditions ({how}), not worse in the old ({_success(old)})"
    missing = worse[0] if worse else f"a gain in the new conditions: {_success(new)}; {_tracking(new)}"
    if final:
        return "undecided", f"{new.pairs} pairs do not show enough ({missing}); the champion stays"
    return "undecided", f"not shown yet: {missing}"


def _success(c: Comparison) -> str:
    return (
        f"success {c.challenger_successes}/{c.pairs} against {c.champion_successes}/{c.pairs}, "
        f"gain {c.success_low:+.3f} to {c.success_high:+.3f}"
    )


def _tracking(c: Comparison) -> str:
    ratio, low, high = (1.0 / g for g in (c.tracking_gain, c.tracking_high, c.tracking_low))
    return f"tracking error {ratio:.2f} of the champion's, {low:.2f} to {high:.2f}"


def judge(
    champion: Bundle,
    challenger: Bundle,
    old: EnvironmentSettings,
    new: EnvironmentSettings,
    *,
    rules: PromotionRules | None = None,
    seed: int = 0,
    workers: int = 0,
    folder: Path | None = None,
    progress: Callable[[str, Progress], None] | None = None,
) -> Promotion:
    """Fly both in both conditions until the rule decides or the pairs are used up.

    Args:
        champion, challenger: exported, with safety limits.
        old, new: the conditions the champion was made for, and those that were found.
        rules: see `PromotionRules`.
        seed: of the flights; the same seeds for both, others in each condition.
        workers: processes; 0 for one per core.
        folder: keeps finished flights, so that an interrupted comparison goes on.
        progress: told after every flight, with a name.

    Raises:
        ConfigError, NotSupportedError, BundleError: as `fly_campaign`.
    """
    rules = rules or PromotionRules()
    grids: Mapping[str, EnvironmentSettings] = {"old": old, "new": new}
    bundles = {"champion": champion, "challenger": challenger}
    flown: dict[tuple[str, str], list[EpisodeOutcome]] = {(g, who): [] for g in grids for who in bundles}
    pairs = 0
    while True:
        done, pairs = pairs, min(pairs + rules.group, rules.max_pairs)
        compared: dict[str, Comparison] = {}
        for i, (name, environment) in enumerate(grids.items()):
            seeds = campaign_seeds(seed, pairs, stream=PROMOTION_STREAM + i)[done:]
            for who, bundle in bundles.items():
                title = f"{who}, {name} conditions, {pairs} pairs"
                told = None if progress is None else functools.partial(progress, title)
                job = FlightJob.of(bundle, environment)
                flown[name, who] += fly_campaign(job, seeds, workers=workers, folder=folder, progress=told)
            alpha = rules.alpha if name == "old" else 0.5 * rules.alpha
            compared[name] = compare_flights(
                flown[name, "champion"], flown[name, "challenger"], environment, alpha=alpha
            )
        final = pairs == rules.max_pairs
        verdict, reason = decide(compared["old"], compared["new"], rules, final=final)
        if verdict != "undecided" or final:
            return Promotion(
                verdict, reason, compared["old"], compared["new"], rules, seed, champion.digest, challenger.digest
            )
