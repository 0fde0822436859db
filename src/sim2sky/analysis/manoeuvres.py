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
from sim2sky.analysis.rehearsal import rehearse
from sim2sky.analysis.replay import Replayer
from sim2sky.analysis.windows import cut_windows
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.airframes import airframe as find_airframe
from sim2sky.runtime.excitation import Excitation, Sine

__all__ = ["AMPLITUDES", "BANDS_HZ", "advice_for", "calm", "information_of", "multisine", "predicted"]

AMPLITUDES = {"aileron": 0.2, "elevator": 0.15, "rudder": 0.25, "throttle": 0.25}
"""Of full travel, root mean square times the root of two: what a small aircraft takes before it leaves its envelope."""
BANDS_HZ = {"aileron": (0.2, 2.6), "elevator": (0.2, 2.6), "rudder": (0.2, 2.2), "throttle": (0.1, 0.7)}
"""From the slow modes to a little above the short period and the roll mode."""
BASE_S = 20.0  # all sines have a whole number of periods in it: no channel looks like another
START_S = 1.0
WINDOW_S = 1.0
REHEARSAL_S = 20.0
ADVISED_S = 60.0


def multisine(
    aircraft: str, amplitudes: Mapping[str, float], duration_s: float, *, start_s: float = START_S
) -> Excitation:
    """Orthogonal multisines on several channels at once.

    The harmonics of 1 / `BASE_S` are dealt to the channels in turn, with Schroeder's phases for a low peak (M. R.
    Schroeder, IEEE Trans. Information Theory 16, 1970; E. A. Morelli, AIAA 2003-5618 on orthogonal multisines).

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
        count = len(frequencies)
        # With Schroeder's phases the peak is about 1.7 times the root mean square, however many sines there are.
        each = amplitudes[channel] / math.sqrt(count) if count else 0.0
        for k, f in enumerate(frequencies):
            phase = -math.pi * k * k / count
            sines.append(Sine(channel, each, f, f, phase, start_s, start_s + duration_s))
    return Excitation(aircraft, tuple(sines))


def _step(channel: str) -> float:
    """Spacing that a channel's share of the harmonics is measured by: narrow bands get theirs first."""
    low, high = BANDS_HZ[channel]
    return 1.0 / (high - low)


def calm(aircraft: str, duration_s: float, *, turbulence_w20_mps: float = 0.0) -> EnvironmentSettings:
    """An environment to rehearse in: the data sheet's aircraft with some delay, straight and level, little wind."""
    task = {
        "duration_s": duration_s, "hold_s": min(1.0, duration_s), "altitude_step_m": 0.0, "heading_step_deg": 0.0,
    }  # fmt: skip
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


def predicted(aircraft: str, amplitudes: Mapping[str, float], duration_s: float) -> tuple[Identifiability, ...]:
    """What a multisine would tell of each parameter, from a rehearsal of `REHEARSAL_S` scaled to its duration."""
    plan = multisine(aircraft, amplitudes, REHEARSAL_S)
    settings = calm(aircraft, REHEARSAL_S + 2.0 * START_S)
    flight = rehearse(settings, 1, excite=plan.add)
    parameters = parameters_of(find_airframe(aircraft), settings.rate_hz)
    information, windows = information_of(flight, parameters, Replayer(aircraft))
    scale = duration_s / REHEARSAL_S
    return identifiability(parameters, covariance_of(parameters, information * scale), max(round(windows * scale), 2))


@lru_cache(maxsize=8)
def _by_manoeuvre(aircraft: str) -> dict[str, tuple[Identifiability, ...]]:
    return {c: predicted(aircraft, {c: a}, ADVISED_S) for c, a in AMPLITUDES.items()}


def advice_for(aircraft: str, name: str, collinear: Sequence[str]) -> str:
    """Which manoeuvre would identify a parameter, in a few words; or that none of ours does."""
    found = {
        channel: verdict
        for channel, verdicts in _by_manoeuvre(aircraft).items()
        for verdict in verdicts
        if verdict.name == name
    }
    best = min(found, key=lambda c: found[c].half_width)
    v = found[best]
    if v.identifiable:
        return f"{ADVISED_S:g} s of {best} multisine would give +-{v.relative:.0%}"
    if together := (collinear or v.collinear):
        return f"shows only together with {', '.join(together[:3])}"
    return f"even {ADVISED_S:g} s of {best} multisine would leave +-{v.relative:.0%}"
