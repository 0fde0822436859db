"""The section on replay: how far the simulator, flown by the logged commands, drifts from the logged flights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim2sky.analysis.flight_metrics import environment_of
from sim2sky.analysis.flights import Flight, load_flights
from sim2sky.analysis.gap_analysis import GapAnalysis
from sim2sky.analysis.replay import CHANNELS, UNITS, Model, ReplayError, replay_errors
from sim2sky.report.figures import Line, Panel, panels
from sim2sky.report.html import number
from sim2sky.report.page import Grid, Section, Table
from sim2sky.report.refused import Refused, refused_section
from sim2sky.telemetry.flight_log import read_flight_log

__all__ = ["Replay", "replay_section", "replays"]

SAMPLE_S = 120.0
"""Of each log's flights at most so much is replayed: enough for the mean, and a second of computing."""
DEGREES = {"rad": ("°", 180.0 / math.pi), "rad/s": ("°/s", 180.0 / math.pi)}
DRAWN = (
    ("Attitude", (("roll_rad", "bank angle"), ("pitch_rad", "pitch angle"), ("yaw_rad", "heading"))),
    ("Rate, speed, altitude", (("q_radps", "pitch rate"), ("airspeed_mps", "airspeed"), ("altitude_m", "altitude"))),
)


@dataclass(frozen=True)
class Replay:
    """Errors of one log under one model.

    Attributes:
        name, color: of the curve.
        errors: by horizon.
    """

    name: str
    color: str
    errors: tuple[ReplayError, ...]

    def rms(self, horizon_s: float, channel: str) -> float:
        """In SI units; NaN where it was not replayed so far."""
        found = [e for e in self.errors if e.horizon_s == horizon_s]
        return found[0].rms.get(channel, math.nan) if found else math.nan


def replays(a: GapAnalysis) -> tuple[Replay, ...]:
    """Both logs under the aircraft that was simulated: the second stands out from the first where the simulator is off.

    Raises:
        FlightLogError, ConfigError, NotSupportedError: the flights cannot be replayed.
    """
    with read_flight_log(a.sim.path) as log:
        environment = environment_of(log)
    model = Model() if environment is None else Model.of(environment)
    return tuple(
        Replay(name, color, replay_errors(_sample(load_flights(path)), model))
        for name, color, path in (("simulated flights", "--sim", a.sim.path), ("flights", "--real", a.real.path))
    )


def _sample(flights: Sequence[Flight]) -> list[Flight]:
    """Evenly chosen flights, of long ones the beginning, of `SAMPLE_S` together."""
    ticks = sum(len(f) for f in flights)
    wanted = SAMPLE_S * flights[0].rate_hz if flights else 0.0
    if ticks <= wanted:
        return list(flights)
    count = max(int(len(flights) * wanted / ticks), 1)
    chosen = [flights[i] for i in np.unique(np.linspace(0, len(flights) - 1, count).round().astype(int))]
    return [f.part(0, int(wanted / len(chosen))) for f in chosen]


def replay_section(found: Sequence[Replay] | Refused | None) -> Section | None:
    """Errors over the horizon, drawn and as a table; None where nobody asked."""
    if found is None:
        return None
    if isinstance(found, Refused):
        return refused_section("replay", "Replay", found)
    horizons = sorted({e.horizon_s for r in found for e in r.errors})
    figures = [
        (
            title,
            panels(
                f"replay-{i}",
                [
                    Panel(f"{label} [{_unit(c)[0]}]", [_line(r, horizons, c) for r in found], log=True)
                    for c, label in drawn
                ],
                x_title="horizon [s]",
                alt=f"replay error over the horizon: {', '.join(label for _, label in drawn)}; numbers in the table",
                log_x=True,
            ),
        )
        for i, (title, drawn) in enumerate(DRAWN)
    ]
    head = ["channel", *(f"{h:g} s" for h in horizons)]
    rows = [
        [f"{c.rsplit('_', 1)[0]} [{_unit(c)[0]}]",
         *(" → ".join(number(r.rms(h, c) * _unit(c)[1]) for r in found) for h in horizons)]
        for c in CHANNELS
    ]  # fmt: skip
    caption = f"Root mean square error: {' → '.join(r.name for r in found)}"
    return Section(
        "replay",
        "Replay",
        "The logged commands, flown by the simulator from logged states with nothing to correct it. The simulated "
        "flights show what noise and turbulence alone do; where the others lie above them, the aircraft is another.",
        [Grid(figures), Table(caption, head, rows, numeric=tuple(range(1, len(head))))],
    )


def _unit(channel: str) -> tuple[str, float]:
    unit = UNITS[CHANNELS.index(channel)]
    return DEGREES.get(unit, (unit, 1.0))


def _line(replay: Replay, horizons: Sequence[float], channel: str) -> Line:
    y = np.array([replay.rms(h, channel) for h in horizons], np.float64) * _unit(channel)[1]
    return Line(replay.name, np.array(horizons, np.float64), np.where(y > 0.0, y, np.nan), replay.color, markers=True)
