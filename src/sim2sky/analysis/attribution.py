"""What a sim-to-real gap comes from: every possible cause weighed by how much better the simulator, changed in that one
way, explains the real flights. Refuses to choose where the flights cannot tell.

Uses only what a flight computer logs. The method is in docs/attribution.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.attribution_text import SEVERAL, advice_for, describe, reported
from sim2sky.analysis.evidence import linear_evidence, two_sample_p
from sim2sky.analysis.flights import Flight
from sim2sky.analysis.hypotheses import HYPOTHESES, NORMAL_BIAS, PARAMETERS, Hypothesis
from sim2sky.analysis.log_evidence import LogEvidence, noise_evidence, wind_evidence
from sim2sky.analysis.replay import Model, one_airframe
from sim2sky.analysis.replay_fit import ITERATIONS, Fit, fit
from sim2sky.analysis.replay_scores import (
    LENGTHS_S,
    NAMES,
    Extra,
    Floor,
    Measured,
    Window,
    replayers,
    spread_windows,
)
from sim2sky.analysis.sensor_checks import climb_consistency, wind_triangle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import validate_settings
from sim2sky.errors import ConfigError, NotSupportedError

__all__ = ["CANNOT_TELL", "NOTHING", "Attribution", "Cause", "attribute"]

Array = NDArray[np.float64]
CANNOT_TELL = "cannot tell"
NOTHING = "nothing to explain"
LEVEL = 0.05
MODEL_ERROR, FEW = 0.03, 2
"""Share of what it explains by which a replay is off (errors of the starts, above all); a cause with more than a few
parameters fits those as well, and must be better by that much."""
MARGIN = 3.0
"""Log Bayes factor by which the first cause must lead the second (20 to 1)."""
LEAST_SHARE = 0.5
"""Of the difference that the first cause must explain."""
PIECE_S = 30.0  # long flights are cut: every piece has its own turbulence
LEAST_WINDOWS = 10
LEAST_GROUPINGS = 100  # ways to divide the flights into two groups, or no test at the level of 5 % is possible
FLOOR_WINDOWS = 400
DISPERSION = 1.5
"""By how much the log likelihood of windows of one flight is overrated at least: turbulence outlasts a window."""
REACH = 0.4
"""Causes whose linear evidence is below this share of the largest cannot overtake it by an exact replay."""
CONTENDERS = 6
SEVERAL_WAYS = frozenset({"action map", "aerodynamics"})
"""Causes whose second best way may turn out the best one."""
BOOTSTRAP = 400


@dataclass(frozen=True)
class Cause:
    """One cause, with what it would change.

    Attributes:
        name: as in `environments.hidden_aircraft.CAUSES`.
        explained, low, high: share of the difference between the logs that it explains by itself, with a 95 % interval
            over flights.
        log_bayes: natural logarithm of its Bayes factor against "nothing differs".
        description: a sentence with numbers and units.
        parameters: what to change in the simulator, relative to how it flew: keys of `PlantParameters` and
            `EnvironmentSettings`, after a dot the key of a mapping.
    """

    name: str
    explained: float
    low: float
    high: float
    log_bayes: float
    description: str
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "name": self.name,
            "explained": self.explained,
            "low": self.low,
            "high": self.high,
            "log_bayes": self.log_bayes,
            "description": self.description,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True)
class Attribution:
    """Causes of a gap, the likeliest first.

    Attributes:
        causes: ranked by evidence; empty where there is nothing to explain.
        verdict: the first cause's name, "cannot tell" or "nothing to explain".
        p_value: level at which the real flights differ from the simulated ones in anything that was looked at.
        advice: what to fly so that the data can tell; empty where they can.
    """

    causes: tuple[Cause, ...]
    verdict: str
    p_value: float
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "verdict": self.verdict,
            "p_value": self.p_value,
            "advice": self.advice,
            "causes": [cause.to_json() for cause in self.causes],
        }


def attribute(
    sim: Sequence[Flight], real: Sequence[Flight], *, aircraft: str = "", windows: int = 32, seed: int = 0
) -> Attribution:
    """Rank the causes of the difference between simulated and real flights.

    Args:
        sim: flights of the simulator whose aircraft is to be changed, under the conditions of the real ones.
        real: flights to be explained.
        aircraft: airframe, where the logs do not say.
        windows: of real flight that are replayed under every change; more is slower and sharper.
        seed: of the permutation test and the bootstrap.

    Raises:
        NotSupportedError: too few or too short flights, or logs without what a replay takes.
        ConfigError: several airframes or rates.
    """
    name = one_airframe([*sim, *real], aircraft)
    sim_pieces, real_pieces = _pieces(sim), _pieces(real)
    _refuse_too_few(sim_pieces, real_pieces)
    base = _simulated(sim)
    length = _window_length(sim_pieces, real_pieces)
    exact, coarse = replayers(name, sim_pieces[0].rate_hz)

    def window(flights: Sequence[Flight], at_most: int, every_s: float | None = None) -> Window:
        return Window(spread_windows(flights, length, at_most, every_s=every_s), exact, coarse, base)

    # One half of the simulated flights says what is normal, the other is looked at as the real ones are.
    floor = Floor(window(sim_pieces[::2], FLOOR_WINDOWS, 0.5 * length).residual({}))
    quiet = Measured.of(window(sim_pieces[1::2], windows), floor, _extra(sim_pieces[1::2]))
    measured = Measured.of(window(real_pieces, windows), floor, _extra(real_pieces))
    noise, wind = noise_evidence(sim_pieces, real_pieces), wind_evidence(sim_pieces, real_pieces)

    p_value = two_sample_p(*_features(quiet, measured, noise, wind, len(sim_pieces)), seed=seed)
    if p_value > LEVEL:
        return Attribution((), NOTHING, p_value)
    ranked = _Ranking(quiet, measured, noise, wind, seed).causes()
    first, lead = ranked[0], ranked[0].log_bayes - ranked[1].log_bayes
    sure = min(lead, first.log_bayes) >= MARGIN and first.explained >= LEAST_SHARE
    advice = "" if sure else advice_for([cause.name for cause in ranked[:2]])
    if first.log_bayes >= MARGIN and first.explained < LEAST_SHARE:
        advice = SEVERAL
    return Attribution(tuple(ranked), first.name if sure else CANNOT_TELL, p_value, advice)


class _Ranking:
    """The evidence of all causes for one pair of logs."""

    def __init__(self, quiet: Measured, measured: Measured, noise: LogEvidence, wind: LogEvidence, seed: int) -> None:
        self._measured, self._noise, self._wind, self._seed = measured, noise, wind, seed
        scores = quiet.scores()
        per_window = scores.score.sum(axis=0) / scores.windows.sum()
        rest = scores.score - scores.windows[:, None] * per_window
        expected = np.einsum("fii->i", scores.information)
        ratio = (rest**2).sum(axis=0)[expected > 0.0] / expected[expected > 0.0]
        count = float(len(measured.z))
        # The drift is itself measured, on a limited number of windows.
        self._temper = max(DISPERSION, float(np.mean(ratio))) * (1.0 + count / float(scores.windows.sum()))
        self._drift = per_window * count

    def causes(self) -> list[Cause]:
        fits = self._fits()
        best = max(fits, key=lambda f: f.log_bayes)
        before = self._measured.misfit(self._measured.z)
        expected = self._measured.expected
        # Where even the best aircraft leaves more than the simulator's own flights do, all of it counts less.
        excess = max(float(best.misfit.sum() / expected.sum()), 1.0)
        weight = 0.5 / self._temper
        gains = {f.hypothesis.cause: weight * (before - f.misfit) for f in fits}
        evidence = {f.hypothesis.cause: _discounted(f, before, self._temper, excess) for f in fits}
        texts = {f.hypothesis.cause: (describe(f), reported(f)) for f in fits}
        flights = len(before)
        total = np.maximum(gains[best.hypothesis.cause], 0.0) + self._left(best, 1.0 / self._temper / excess) / flights
        logs: tuple[tuple[str, LogEvidence, Array], ...] = (
            # What noise does to a replay is what no aircraft explains.
            ("sensor noise", self._noise, weight * np.maximum(best.misfit - expected, 0.0)),
            ("wind", self._wind, np.maximum(self._wind.gain[self._measured.flights], 0.0)),
        )
        for cause, log, gain in logs:
            evidence[cause] = log.log_bayes
            gains[cause] = gain if log.log_bayes > 0.0 else np.zeros(flights)
            texts[cause] = (describe(log, cause), reported(log, cause))
            total = total + gains[cause]
        rng = np.random.default_rng(self._seed)
        draws = rng.integers(0, flights, (BOOTSTRAP, flights))
        causes: list[Cause] = []
        for name, log_bayes in sorted(evidence.items(), key=lambda item: -item[1]):
            shares = np.clip(gains[name][draws].sum(axis=1) / np.maximum(total[draws].sum(axis=1), 1e-9), 0.0, 1.0)
            share = float(np.clip(gains[name].sum() / max(total.sum(), 1e-9), 0.0, 1.0))
            low, high = (float(q) for q in np.quantile(shares, [0.025, 0.975]))
            text, parameters = texts[name]
            sentence = f"{text} explains {100.0 * share:.0f} % of the difference"
            causes.append(Cause(name, share, min(low, share), max(high, share), log_bayes, sentence, parameters))
        return causes

    def _fits(self) -> list[Fit]:
        """The best fit of every cause that can still come first."""
        score, information = self._measured.total(self._measured.z)
        score, information = (score - self._drift) / self._temper, information / self._temper
        linear = sorted(
            (
                (linear_evidence(score, information, [NAMES.index(n) for n in h.parameters], h.width), h)
                for h in HYPOTHESES
            ),
            key=lambda pair: -pair[0].log_bayes,
        )
        least = max(REACH * linear[0][0].log_bayes, 0.0)
        fits: dict[str, Fit] = {}
        for evidence, hypothesis in linear:
            second = hypothesis.cause in fits
            if second and (evidence.log_bayes < least or hypothesis.cause not in SEVERAL_WAYS):
                continue
            if len(fits) >= CONTENDERS and evidence.log_bayes < least:
                continue
            start = dict(zip(hypothesis.parameters, evidence.estimate.tolist(), strict=True))
            fitted = self._fit(hypothesis, start, iterations=ITERATIONS if evidence.log_bayes >= least else 0)
            if not second or fitted.log_bayes > fits[hypothesis.cause].log_bayes:
                fits[hypothesis.cause] = fitted
        return self._sharpened(list(fits.values()))

    def _sharpened(self, fits: list[Fit]) -> list[Fit]:
        """The leading fits again, with derivatives where they are."""
        fits = sorted(fits, key=lambda f: -f.log_bayes)
        reach = fits[0].log_bayes - max(0.3 * abs(fits[0].log_bayes), 2.0 * MARGIN)
        return [
            self._fit(f.hypothesis, f.values, exact=True) if f.log_bayes >= reach and i < 4 else f
            for i, f in enumerate(fits)
        ]

    def _fit(
        self, hypothesis: Hypothesis, start: Mapping[str, float], *, exact: bool = False, iterations: int = ITERATIONS
    ) -> Fit:
        starts = [start]
        if iterations and not exact:
            starts.append({name: 0.5 * x for name, x in start.items()})
        if hypothesis.cause == "action map" and not exact:
            # All of a surface's travel the wrong way, or two surfaces exchanged altogether.
            starts.append({n: 1.0 if n.startswith("command_swap") else -2.0 for n in hypothesis.parameters})
        fitted = fit(self._measured, hypothesis, starts, self._drift, self._temper, exact=exact, iterations=iterations)
        return _credible(fitted)

    def _left(self, best: Fit, weight: float) -> float:
        """Log likelihood that all parameters together would still gain on top of the best cause, by more than noise."""
        _, information = self._measured.total(self._measured.z)
        width = np.array([p.width for p in PARAMETERS.values()])
        everything = linear_evidence(best.score * weight, information * weight, range(len(NAMES)), width)
        free = float((1.0 - (everything.std / width) ** 2).sum())
        return max(everything.gain - 0.5 * free, 0.0)


def _credible(fitted: Fit) -> Fit:
    """A bias no larger than sensors always have is no cause."""
    for name, x in fitted.values.items():
        kind, _, sensor = name.partition(".")
        if kind == "offsets" and abs(x) < NORMAL_BIAS[sensor]:
            return replace(fitted, log_bayes=min(fitted.log_bayes, 0.0))
    return fitted


def _discounted(fitted: Fit, before: Array, temper: float, excess: float) -> float:
    """Log Bayes factor where the likelihood counts for 1 / `excess`, Occam's factor as before, and replays are not
    believed to the last per cent."""
    gain = max(0.5 * float((before - fitted.misfit).sum()) / temper, 0.0)
    flexible = MODEL_ERROR if len(fitted.values) > FEW else 0.0
    return fitted.log_bayes - gain * (1.0 - (1.0 - flexible) / excess)


def _features(
    quiet: Measured, measured: Measured, noise: LogEvidence, wind: LogEvidence, simulated: int
) -> tuple[Array, Array]:
    """What is compared between flights: scores of every parameter, noise levels, wind.

    The variance of a score grows with the number of windows; in these units it is the same in all flights.
    """
    groups: list[Array] = []
    drift = quiet.scores().score.sum(axis=0) / quiet.scores().windows.sum()
    rows = ([1 + 2 * f for f in quiet.flights], [simulated + f for f in measured.flights])
    for part, own in zip((quiet, measured), rows, strict=True):
        scores = part.scores()
        scaled = (scores.score - scores.windows[:, None] * drift) / np.sqrt(scores.windows[:, None])
        groups.append(np.column_stack([scaled, noise.features[own], wind.features[own]]))
    return groups[0], groups[1]


def _extra(flights: Sequence[Flight]) -> list[Extra]:
    """Wind triangle, and climb rate against altitude, as scores of the biases of airspeed, heading and climb rate."""
    pair = [NAMES.index("offsets.airspeed_mps"), NAMES.index("offsets.yaw_rad")]
    climb = NAMES.index("offsets.climb_rate_mps")
    extra: list[Extra] = []
    for flight in flights:
        score, information = np.zeros(len(NAMES)), np.zeros((len(NAMES), len(NAMES)))
        score[pair], information[np.ix_(pair, pair)] = wind_triangle(flight)
        score[climb], information[climb, climb] = climb_consistency(flight)
        chi = float(score[pair] @ np.linalg.lstsq(information[np.ix_(pair, pair)], score[pair], rcond=None)[0])
        if information[climb, climb] > 0.0:
            chi += score[climb] ** 2 / information[climb, climb]
        extra.append((score, information, chi))
    return extra


def _simulated(sim: Sequence[Flight]) -> Model:
    """The aircraft the simulator flew: the middle of its settings' ranges, where the log has them."""
    settings = sim[0].config.get("environment")
    if not isinstance(settings, Mapping):
        return Model()
    try:
        return Model.of(validate_settings(settings, EnvironmentSettings))
    except ConfigError as error:
        raise ConfigError(f"the environment in the simulated log {sim[0].name} is not one: {error.message}") from error


def _pieces(flights: Sequence[Flight]) -> list[Flight]:
    """Flights of at most about half a minute; a long one is many."""
    pieces: list[Flight] = []
    for flight in flights:
        count = max(round(len(flight) / flight.rate_hz / PIECE_S), 1)
        edges = np.linspace(0, len(flight), count + 1).astype(int).tolist()
        if count == 1:
            pieces.append(flight)
            continue
        arrays = [name for name, value in vars(flight).items() if isinstance(value, np.ndarray)]
        for begin, end in itertools.pairwise(edges):
            pieces.append(replace(flight, **{name: getattr(flight, name)[begin:end] for name in arrays}))
    return pieces


def _refuse_too_few(sim: Sequence[Flight], real: Sequence[Flight]) -> None:
    looked_at = len(sim) // 2
    if not looked_at or not real or math.comb(looked_at + len(real), len(real)) < LEAST_GROUPINGS:
        raise NotSupportedError(
            f"attributing a gap with {len(sim)} simulated and {len(real)} real flights",
            hint="fly more: 10 simulated and 4 real flights are the least, 30 and 10 are good",
        )


def _window_length(sim: Sequence[Flight], real: Sequence[Flight]) -> float:
    """The longest window of which both logs have enough.

    Raises:
        NotSupportedError: none is.
    """
    reason: NotSupportedError | None = None
    for length in LENGTHS_S:
        try:
            if min(len(spread_windows(flights, length, FLOOR_WINDOWS)) for flights in (sim, real)) >= LEAST_WINDOWS:
                return length
        except NotSupportedError as error:
            reason = error
    if reason is not None:
        raise reason
    raise NotSupportedError(
        f"attributing a gap with less than {LEAST_WINDOWS} windows of {LENGTHS_S[-1]:g} s in flight",
        hint="the logs are too short: fly longer",
    )
