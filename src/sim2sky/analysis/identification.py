"""Identification: the parameters of an aircraft, with intervals, from logged flights.

Output error over short windows (see `output_error`): which parameters the flights can tell is decided first; then
Gauss-Newton with line search finds the most probable values, from the best of several delays, in which the problem is
not convex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.gauss_newton import Solver
from sim2sky.analysis.identifiability import Identifiability, activity, identifiability
from sim2sky.analysis.manoeuvres import advice_for
from sim2sky.analysis.output_error import OutputError
from sim2sky.analysis.parameters import CHANNEL_OF, Parameter, model_of, parameters_of
from sim2sky.analysis.replay import Model, Replayer, ReplayError, one_airframe, replay_errors
from sim2sky.analysis.wind import Wind, estimate_wind
from sim2sky.analysis.windows import CHANNELS, Windows, cut_windows
from sim2sky.config.environment import COEFFICIENTS, EnvironmentSettings
from sim2sky.config.loader import validate_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.errors import ConfigError, NotSupportedError

__all__ = ["Identification", "ParameterEstimate", "Source", "identify"]

Array = NDArray[np.float64]
Source = Literal["flight", "given", "prior"]
WINDOW_S = 1.0
MOST_WINDOWS = 150  # beyond, every so many-th one is taken: more cost time and tell little more
HELD_OUT = 4  # every so many-th flight, or the last part of a single one


@dataclass(frozen=True)
class ParameterEstimate:
    """One parameter after identification.

    Attributes:
        prior: before. estimate: after; the prior where the flights cannot tell.
        low, high: 95 % interval; of the prior where the flights cannot tell.
        identifiable: the flights tell it.
        advice: where they do not, what would.
        source: where the estimate comes from; `given`: measured otherwise.
    """

    name: str
    unit: str
    prior: float
    estimate: float
    low: float
    high: float
    identifiable: bool
    advice: str
    source: Source


@dataclass(frozen=True, eq=False)
class Identification:
    """What flights say of an aircraft.

    Attributes:
        airframe: which.
        flights: names, those held out included; held_out: names (parts of a flight carry its name).
        verdict: `identified`, or `not identifiable` where not one parameter is.
        parameters: every one.
        before_solving: the verdict of the Jacobian at the prior.
        model: the most probable aircraft; nominal: the priors' one.
        activity: root mean square of each channel's commands within windows, of travel.
        noise: of the sensors, by channel; gusts: as deflections of aileron, elevator and rudder.
        wind: by flight.
        replay_before, replay_after: errors on what was held out, of `nominal` and of what was identified without it.
    """

    airframe: str
    flights: tuple[str, ...]
    held_out: tuple[str, ...]
    windows: int
    verdict: str
    parameters: tuple[ParameterEstimate, ...]
    before_solving: tuple[Identifiability, ...]
    model: Model
    nominal: Model
    activity: Mapping[str, float]
    noise: Mapping[str, float]
    gusts: tuple[float, float, float]
    wind: Mapping[str, Wind]
    replay_before: tuple[ReplayError, ...]
    replay_after: tuple[ReplayError, ...]

    @property
    def identified(self) -> tuple[ParameterEstimate, ...]:
        """Those that the flights tell."""
        return tuple(p for p in self.parameters if p.identifiable)

    def patch(self, environment: EnvironmentSettings, *, written_by: str = "") -> RandomizationPatch:
        """The environment's randomisation narrowed (or moved) to what was identified or measured otherwise.

        Ranges are the 95 % intervals. A delay is that of the whole loop, all of it put between policy and actuators.

        Raises:
            ConfigError: the environment is for another aircraft.
            NotSupportedError: nothing was identified.
        """
        if environment.aircraft != self.airframe:
            raise ConfigError(f"'{self.airframe}' was identified, the environment flies '{environment.aircraft}'")
        if not self.identified:
            raise NotSupportedError("not supported: a patch from flights that tell nothing")
        randomization: dict[str, Any] = {}
        disturbances: dict[str, Any] = {}
        scales: dict[str, Any] = dict(environment.randomization.coefficient_scales)
        offsets: dict[str, Any] = {**environment.randomization.command_offset}
        for p in self.parameters:
            if p.source == "prior":
                continue
            bounds = round(p.low, 5), round(p.high, 5)
            if p.name == "action_delay_s":
                disturbances |= {"action_delay_s": bounds, "observation_delay_s": (0.0, 0.0)}
            elif p.name in COEFFICIENTS:
                scales[p.name] = bounds
            elif p.name in {"aileron_offset", "rudder_offset"}:
                offsets[CHANNEL_OF[p.name]] = bounds
            else:
                randomization[p.name] = bounds
        data = environment.model_dump()
        data["randomization"] |= {**randomization, "coefficient_scales": scales, "command_offset": offsets}
        data["disturbances"] |= disturbances
        if (scale := self._noise_scale(environment)) is not None:
            data["disturbances"]["sensors"]["noise_scale"] = scale
        after = validate_settings(data, EnvironmentSettings)
        return RandomizationPatch.between(environment, after, written_by=written_by)

    def _noise_scale(self, environment: EnvironmentSettings) -> tuple[float, float] | None:
        """Noise found over the environment's own: quartiles of the channels' ratios. No policy removes noise, and a
        simulation without it is better than the aircraft can be."""
        s = environment.disturbances.sensors
        sizes = {"airspeed_mps": s.airspeed_mps, "altitude_m": s.altitude_m, "yaw_rad": s.heading_rad}
        sizes |= dict.fromkeys(("roll_rad", "pitch_rad"), s.attitude_rad)
        sizes |= dict.fromkeys(("p_radps", "q_radps", "r_radps"), s.rate_radps)
        ratios = [self.noise[name] / size for name, size in sizes.items() if size > 0.0 and name in self.noise]
        if not ratios:
            return None
        low, high = np.percentile(ratios, (25, 75)).tolist()
        return round(low, 4), round(high, 4)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""

        def errors(of: tuple[ReplayError, ...]) -> list[dict[str, Any]]:
            return [{"horizon_s": e.horizon_s, "rms": dict(e.rms), "windows": e.windows, "lost": e.lost} for e in of]

        return {
            "verdict": self.verdict,
            "airframe": self.airframe,
            "flights": list(self.flights),
            "held_out": list(self.held_out),
            "windows": self.windows,
            "parameters": [asdict(p) for p in self.parameters],
            "before_solving": [asdict(v) for v in self.before_solving],
            "activity": dict(self.activity),
            "noise": dict(self.noise),
            "gusts": list(self.gusts),
            "wind": {name: asdict(wind) for name, wind in self.wind.items()},
            "replay_before": errors(self.replay_before),
            "replay_after": errors(self.replay_after),
        }


def identify(
    flights: Sequence[Flight],
    *,
    airframe: str = "",
    known: Mapping[str, tuple[float, float]] | None = None,
    replayer: Replayer | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Identification:
    """Identify an aircraft.

    Args:
        flights: of one airframe and rate.
        airframe: its name, where the logs do not say.
        known: mean and standard deviation of what was measured otherwise, by parameter (`mass_offset_kg`).
        replayer: to reuse.
        say: told what is being done.

    Raises:
        ConfigError: flights of several aircraft or rates, or an unknown parameter.
        NotSupportedError: nothing in the flights can be replayed.
    """
    name = one_airframe(flights, airframe)
    replayer = replayer or Replayer(name)
    parameters = parameters_of(replayer.airframe, flights[0].rate_hz, known)
    training, held_out = _split(flights)
    problem = OutputError(replayer, _thinned(cut_windows(training, WINDOW_S)), parameters)
    say("what can the flights tell?")
    solver = Solver(problem)
    first = solver.first_verdict()
    hopeful = any(v.identifiable for v in first)
    if hopeful:
        say("solving")
        solver.solve()
        nominal, trained = model_of(parameters, problem.prior), model_of(parameters, solver.point.values)
        before, after = (_errors(held_out, model, replayer) for model in (nominal, trained))
        whole = OutputError(replayer, _thinned(cut_windows(flights, WINDOW_S)), parameters)
        say("solving, with what was held out")
        solver = Solver(whole, solver.point.values, solver.noise)
        solver.solve()
    else:
        nominal, before, after = model_of(parameters, problem.prior), (), ()
    problem = solver.problem
    final = identifiability(parameters, solver.covariance(), len(problem.windows), solver.moved()) if hopeful else first
    say("what would tell the rest?")
    estimates = tuple(
        _estimate(p, float(x), v, set(known or ()), name)
        for p, x, v in zip(parameters, solver.point.values, final, strict=True)
    )
    told = any(e.identifiable for e in estimates)
    return Identification(
        airframe=name,
        flights=tuple(f.name for f in flights),
        held_out=tuple(f.name for f in held_out) if hopeful else (),
        windows=len(problem.windows),
        verdict="identified" if told else "not identifiable",
        parameters=estimates,
        before_solving=first,
        model=model_of(parameters, solver.point.values) if told else nominal,
        nominal=nominal,
        activity=activity(problem.windows),
        noise=dict(zip(CHANNELS, solver.noise.sensors.tolist(), strict=True)),
        gusts=tuple(solver.noise.gusts.tolist()),
        wind=_winds(flights),
        replay_before=before,
        replay_after=after,
    )


def _estimate(
    parameter: Parameter, value: float, verdict: Identifiability, given: set[str], airframe: str
) -> ParameterEstimate:
    p = parameter
    if verdict.identifiable:
        estimate, half, source, advice = value, verdict.half_width, "flight", ""
    else:
        estimate, half = p.prior, 1.96 * p.std
        source = "given" if p.name in given else "prior"
        advice = "measured otherwise" if p.name in given else advice_for(airframe, p, verdict.collinear)
    low, high = max(estimate - half, p.low), min(estimate + half, p.high)
    return ParameterEstimate(p.name, p.unit, p.prior, estimate, low, high, verdict.identifiable, advice, source)


def _split(flights: Sequence[Flight]) -> tuple[list[Flight], list[Flight]]:
    """Flights to identify from, and to test on: every fourth; of fewer than three, the last quarter of each."""
    if len(flights) >= 3:
        held = list(flights[HELD_OUT - 1 :: HELD_OUT]) or [flights[-1]]
        return [f for f in flights if f not in held], held
    cuts = [len(f) - len(f) // HELD_OUT for f in flights]
    parts = [(f.part(0, cut), f.part(cut, len(f))) for f, cut in zip(flights, cuts, strict=True)]
    return [a for a, _ in parts], [b for _, b in parts]


def _thinned(windows: Windows) -> Windows:
    if len(windows) <= MOST_WINDOWS:
        return windows
    return windows.chosen(np.unique(np.linspace(0, len(windows) - 1, MOST_WINDOWS).round().astype(np.int64)))


def _errors(flights: Sequence[Flight], model: Model, replayer: Replayer) -> tuple[ReplayError, ...]:
    return replay_errors(flights, model, replayer=replayer)


def _winds(flights: Sequence[Flight]) -> dict[str, Wind]:
    found: dict[str, Wind] = {}
    for flight in flights:
        try:
            found[flight.name] = estimate_wind(flight)
        except NotSupportedError:
            continue
    return found
