"""What which manoeuvre tells: excitations of one channel each, rehearsed, and the intervals they would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.identifiability import Identifiability, covariance_of, identifiability
from sim2sky.analysis.output_error import FIRST_GUST, FIRST_NOISE, Noise, OutputError
from sim2sky.analysis.parameters import Parameter, parameters_of
from sim2sky.analysis.rehearsal import level_start, rehearse
from sim2sky.analysis.replay import Replayer
from sim2sky.analysis.windows import cut_windows
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.airframes import airframe as find_airframe
from sim2sky.runtime.excitation import Excitation, Sine

__all__ = ["AMPLITUDES", "BANDS_HZ", "advice_for", "calm", "information_of", "multisine", "predicted"]

AMPLITUDES = {"aileron": 0.3, "elevator": 0.2, "rudder": 0.3, "throttle": 0.3}
"""Of full travel, for a single sine of the same power: about what a small aircraft takes in its envelope."""
BANDS_HZ = {"aileron": (0.2, 2.6), "elevator": (0.2, 2.6), "rudder": (0.2, 2.2), "throttle": (0.1, 0.7)}
"""From the slow modes to a little above the short period and the roll mode."""
BASE_S = 20.0  # all sines have a whole number of periods in it: no channel looks like another
START_S = 1.0
WINDOW_S = 1.0
PHASES_TRIED = 300
LONGEST_REHEARSAL_S = 62.0
ADVISED_S = 60.0


def multisine(
    aircraft: str, amplitudes: Mapping[str, float], duration_s: float, *, start_s: float = START_S
) -> Excitation:
    """Orthogonal multisines on several channels at once.

    The harmonics of 1 / `BASE_S` are dealt to the channels in turn, with phases for a low peak (M. R. Schroeder, IEEE
    Trans. Information Theory 16, 1970; E. A. Morelli, *Multiple input design for real-time parameter estimation in the
    frequency domain*, IFAC 2003, on orthogonal multisines).

    Args:
        aircraft: airframe it is for.
        amplitudes: by channel, of full travel: that of a single sine with the same power.
        duration_s: of the excitation.
        start_s: its begin.
    """
    channels = [c for c in BANDS_HZ if amplitudes.get(c, 0.0) > 0.0]
    dealt: dict[str, list[float]] = {c: [] for c in channels}
    last = round(max((BANDS_HZ[c][1] for c in channels), default=0.0) * BASE_S)
    for harmonic in range(1, last + 1):
        frequency = harmonic / BASE_S
        open_to = [c for c in channels if BANDS_HZ[c][0] <= frequency <= BANDS_HZ[c][1]]
        if open_to:
            dealt[min(open_to, key=lambda c: len(dealt[c]) * _step(c))].append(frequency)
    sines: list[Sine] = []
    for channel, frequencies in dealt.items():
        each = amplitudes[channel] / math.sqrt(max(len(frequencies), 1))
        sines += [
            Sine(channel, each, f, f, phase, start_s, start_s + duration_s)
            for f, phase in zip(frequencies, _phases(frequencies), strict=True)
        ]
    return Excitation(aircraft, tuple(sines))


def _phases(frequencies_hz: Sequence[float]) -> list[float]:
    """Phases with a low peak: the best of Schroeder's and many drawn ones, always the same."""
    count = len(frequencies_hz)
    k = np.arange(count)
    rng = np.random.default_rng(count)
    tried = np.concatenate([[-np.pi * k * k / max(count, 1)], rng.uniform(-np.pi, np.pi, (PHASES_TRIED, count))])
    angles = 2.0 * np.pi * np.outer(np.arange(0.0, BASE_S, 0.05), frequencies_hz)
    peaks = [float(np.abs(np.sin(angles + phases).sum(axis=1)).max()) for phases in tried]
    return tried[int(np.argmin(peaks))].tolist()


def _step(channel: str) -> float:
    """Spacing that a channel's share of the harmonics is measured by: narrow bands get theirs first."""
    low, high = BANDS_HZ[channel]
    return 1.0 / (high - low)


def calm(aircraft: str, duration_s: float, *, turbulence_w20_mps: float = 0.0) -> EnvironmentSettings:
    """An environment to rehearse in: the data sheet's aircraft with some delay, little wind."""
    task = {"duration_s": duration_s, "hold_s": min(1.0, duration_s)}
    air = {
        "wind_mps": (2.0, 2.0),
        "turbulence_w20_mps": (turbulence_w20_mps, turbulence_w20_mps),
        "action_delay_s": (0.06, 0.06),
    }
    return EnvironmentSettings.model_validate({"aircraft": aircraft, "task": task, "disturbances": air})


def information_of(
    flight: Flight, parameters: Sequence[Parameter], replayer: Replayer
) -> tuple[NDArray[np.float64], int]:
    """Information (p, p) on the parameters in a flight, at their priors, with sensors as simulated, and its windows."""
    windows = cut_windows([flight], WINDOW_S)
    problem = OutputError(replayer, windows, parameters)
    point = problem.start()
    noise = Noise(FIRST_NOISE.copy(), np.full(3, 0.5 * FIRST_GUST))
    return problem.step(point, problem.linearise(point), noise).information, len(windows)


def predicted(plan: Excitation, *, times: float = 1.0) -> tuple[Identifiability, ...]:
    """What a plan, flown so many times, would tell of each parameter: from a rehearsal of its first minute in calm air.

    Raises:
        ConfigError: the plan is for no airframe that there is.
    """
    duration = min(plan.duration_s, LONGEST_REHEARSAL_S)
    settings = calm(plan.aircraft, duration + 1.0)
    flight = rehearse(settings, level_start(settings, 1), excite=plan.add)
    parameters = parameters_of(find_airframe(plan.aircraft), settings.rate_hz)
    information, windows = information_of(flight, parameters, Replayer(plan.aircraft))
    scale = times * plan.duration_s / duration
    clusters = max(round(windows * scale), 2)
    return identifiability(parameters, covariance_of(parameters, information * scale), clusters)


@lru_cache(maxsize=8)
def _by_manoeuvre(aircraft: str) -> dict[str, tuple[Identifiability, ...]]:
    return {
        channel: predicted(multisine(aircraft, {channel: amplitude}, BASE_S), times=ADVISED_S / BASE_S)
        for channel, amplitude in AMPLITUDES.items()
    }


def advice_for(aircraft: str, parameter: Parameter, collinear: Sequence[str]) -> str:
    """Which manoeuvre would identify a parameter, in a few words; or that none of ours does."""
    found = {
        channel: verdict
        for channel, verdicts in _by_manoeuvre(aircraft).items()
        for verdict in verdicts
        if verdict.name == parameter.name
    }
    natural = parameter.channels[0]
    best = natural if found[natural].identifiable else min(found, key=lambda c: found[c].half_width)
    v = found[best]
    if v.identifiable:
        return f"{ADVISED_S:g} s of {best} multisine would give +-{v.relative:.0%}"
    if together := (collinear or v.collinear):
        return f"shows only together with {', '.join(together[:3])}"
    return f"even {ADVISED_S:g} s of {best} multisine would leave +-{v.relative:.0%}"
