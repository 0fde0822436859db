"""The sections on what was flown: time histories of telling flights, spectra, shifts of signals, events."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim2sky.analysis.flight_metrics import FlightData, FlightMetrics
from sim2sky.analysis.gap_analysis import GapAnalysis
from sim2sky.report.figures import Figure, Line, Marks, Moment, Panel, Stretch, panels, ranking
from sim2sky.report.html import number
from sim2sky.report.metric_sections import probability
from sim2sky.report.page import Block, Grid, Plot, Section, Table, Text
from sim2sky.report.series import BUCKETS, runs, spectrum
from sim2sky.runtime.ladder import Mode

__all__ = ["Arm", "event_section", "history_section", "shift_section", "spectrum_section"]

Floats = NDArray[np.float64]
DEG = 180.0 / math.pi
MOST_STRETCHES = 60
EVIDENT = 0.05


@dataclass(frozen=True)
class Arm:
    """One of the two logs.

    Attributes:
        simulated: whether it is the first one, the reference.
        metrics: of its flights, in order.
        flights: as they were measured.
    """

    simulated: bool
    metrics: Sequence[FlightMetrics]
    flights: Sequence[FlightData]

    @property
    def title(self) -> str:
        """In legends and headings."""
        return "simulation" if self.simulated else "flight"

    @property
    def color(self) -> str:
        """Of its curves."""
        return "--sim" if self.simulated else "--real"

    def flight(self, name: str) -> FlightData:
        """By name."""
        return next(f for f in self.flights if f.name == name)


@dataclass(frozen=True)
class _Channel:
    label: str
    state: str
    setpoint: str
    scale: float = 1.0
    turning: bool = False


_ALTITUDE = _Channel("altitude [m]", "altitude", "altitude")
_AIRSPEED = _Channel("airspeed [m/s]", "airspeed", "airspeed")
_HEADING = _Channel("heading [°]", "yaw", "heading", DEG, turning=True)
_BANK = _Channel("bank angle [°]", "roll", "roll", DEG)
_PITCH = _Channel("pitch angle [°]", "pitch", "pitch", DEG)
_RATES = tuple(_Channel(f"{label} rate [°/s]", s, s, DEG) for label, s in (("roll", "p"), ("pitch", "q"), ("yaw", "r")))
_TRACKED = {
    "hsa": (_ALTITUDE, _AIRSPEED, _HEADING),
    "attitude": (_BANK, _PITCH, _AIRSPEED),
    "rate": _RATES,
}
_BESIDE = {"hsa": (_BANK, _PITCH), "attitude": (_ALTITUDE,), "rate": (_BANK, _PITCH)}
_COMMANDS = ("aileron", "elevator", "rudder", "throttle")


def history_section(a: GapAnalysis, sim: Arm, real: Arm) -> Section:
    """The flights a reader wants to see: the median and the worst of each log, and one with an event."""
    chosen = [*zip(_telling(sim), _telling(real), strict=False)]
    shown = [item for pair in chosen for item in pair] or [*_telling(sim), *_telling(real)]
    with_event = next((e.flight for e in a.events), None)
    if with_event is not None and with_event not in {name for arm, name, _ in shown if arm is real}:
        shown.append((real, with_event, "with an event"))
    figures = [
        (f"{arm.title.capitalize()}: {what} ({name})", _history(f"flight-{i}", a, arm, arm.flight(name), what))
        for i, (arm, name, what) in enumerate(shown)
    ]
    longest = max((len(arm.flight(name)) for arm, name, _ in shown), default=0)
    drawn = (
        f" Long flights are drawn as lowest and highest value of {BUCKETS} stretches of time: no peak is lost."
        if longest > 2 * BUCKETS
        else ""
    )
    return Section(
        "flights",
        "Time histories",
        "What was measured, with the setpoint dashed. Median and worst are by the tracking error. Shaded: the guard, "
        "not the policy, was in command. Dotted line: an event, listed below." + drawn,
        [Grid(figures)] if figures else [Text("No flight with anything to draw.", "unsure")],
    )


def _telling(arm: Arm) -> list[tuple[Arm, str, str]]:
    """Median and worst flight by tracking error; where it is not known, the shortest counts as the worst."""

    def badness(m: FlightMetrics) -> tuple[bool, float]:
        error = m.values.get("tracking_error", math.nan)
        return (False, error) if math.isfinite(error) else (True, -m.duration_s)

    ranked = sorted(arm.metrics, key=badness)
    if not ranked:
        return []
    if len(ranked) == 1:
        return [(arm, ranked[0].name, "only flight")]
    return [(arm, ranked[(len(ranked) - 1) // 2].name, "median flight"), (arm, ranked[-1].name, "worst flight")]


def _history(name: str, a: GapAnalysis, arm: Arm, flight: FlightData, what: str) -> Figure:
    t = flight.time_s
    task = a.task.name
    items: list[Panel] = []
    for channel in (*_TRACKED[task], *_BESIDE[task]):
        lines = [*_channel_lines(flight, channel, arm.color, tracked=channel in _TRACKED[task])]
        if lines:
            items.append(Panel(channel.label, lines))
    commands = [
        Line(label, t, flight.controls[:, i], f"--c{i + 1}", width=1.1)
        for i, label in enumerate(_COMMANDS)
        if np.isfinite(flight.controls[:, i]).any()
    ]
    if commands:
        items.append(Panel("commands [of full travel]", commands))
    numbered = [(i, e) for i, e in enumerate(a.events, 1) if not arm.simulated and e.flight == flight.name]
    marks = Marks(
        [Moment(e.time_s, f"event {i}") for i, e in numbered],
        [] if flight.guard is None else [*_guarded(t, flight.guard != Mode.POLICY)],
    )
    said = "; ".join(f"event {i} at {number(e.time_s)} s" for i, e in numbered)
    alt = (
        f"{what} of {arm.title}, {flight.name}: {', '.join(p.title for p in items)} over {number(flight.duration_s)} s"
    )
    return panels(
        name,
        items,
        x_title="time [s]",
        alt=f"{alt}; {said}" if said else alt,
        caption=f"Ended: {flight.termination or 'not said'}.",
        marks=marks,
        panel_px=104,
    )


def _channel_lines(flight: FlightData, channel: _Channel, color: str, *, tracked: bool) -> Iterator[Line]:
    measured = flight.states.get(channel.state)
    if measured is None or not np.isfinite(measured).any():
        return
    y = _unwrapped(measured) if channel.turning else measured
    yield Line("measured", flight.time_s, y * channel.scale, color)
    setpoint = flight.setpoints.get(channel.setpoint) if tracked else None
    if setpoint is not None and np.isfinite(setpoint).any():
        if channel.turning:
            turns = np.round((y - setpoint) / (2.0 * math.pi))
            setpoint = setpoint + 2.0 * math.pi * np.where(np.isfinite(turns), turns, 0.0)
        yield Line("setpoint", flight.time_s, setpoint * channel.scale, "--setpoint", "dash", 1.3)


def _unwrapped(angle: Floats) -> Floats:
    """Without jumps of a full turn; gaps stay."""
    result = angle.copy()
    known = np.isfinite(angle)
    result[known] = np.unwrap(angle[known])
    return result


def _guarded(t: Floats, flag: NDArray[np.bool_]) -> Iterator[Stretch]:
    """Stretches in which the guard commanded; where there are very many, the gaps between the closest are closed."""
    found = runs(flag)
    while len(found) > MOST_STRETCHES:
        gaps = [b[0] - a[1] for a, b in itertools.pairwise(found)]
        i = int(np.argmin(gaps))
        found[i : i + 2] = [(found[i][0], found[i + 1][1])]
    for start, end in found:
        yield Stretch(float(t[start]), float(t[min(end, len(t) - 1)]))


def spectrum_section(sim: Arm, real: Arm) -> Section:
    """Power spectral densities of body rates and commands, both logs in one plot."""

    def rate(name: str) -> Callable[[FlightData], Floats]:
        return lambda f: f.states.get(name, np.full(len(f), np.nan)) * DEG

    def command(i: int) -> Callable[[FlightData], Floats]:
        return lambda f: f.controls[:, i]

    groups = (
        ("Body rates", [(c.label.split(" [")[0], rate(c.state), "(°/s)²/Hz") for c in _RATES]),
        ("Commands", [(name, command(i), "1/Hz") for i, name in enumerate(_COMMANDS)]),
    )
    figures: list[tuple[str, Figure]] = []
    for title, signals in groups:
        items: list[Panel] = []
        for label, pick, unit in signals:
            lines: list[Line] = []
            for arm in (sim, real):
                if not arm.flights:
                    continue
                f, density = spectrum([pick(flight) for flight in arm.flights], arm.flights[0].rate_hz)
                if (density > 0.0).any():
                    lines.append(Line(arm.title, f, np.where(density > 0.0, density, np.nan), arm.color))
            if lines:
                items.append(Panel(f"{label} [{unit}]", lines, log=True))
        if items:
            alt = f"power spectral density of {', '.join(p.title for p in items)}, simulation and flight"
            name = f"spectra-{title.split()[0].lower()}"
            figures.append((title, panels(name, items, x_title="frequency [Hz]", alt=alt, log_x=True)))
    return Section(
        "spectra",
        "Spectra",
        "Power over frequency, averaged over all flights (Welch, windows of 6.4 s). More power in flight at high "
        "frequencies: noise, turbulence or a loop close to oscillating; less: a slower actuator or a filter.",
        [Grid(figures)] if figures else [Text("No unbroken stretch is long enough for a spectrum (6.4 s).", "unsure")],
    )


def shift_section(a: GapAnalysis) -> Section | None:
    """Signals by how much they differ, and the timing; None where they were not compared."""
    if a.shift is None:
        return None
    signals = a.shift.signals
    blocks: list[Block] = []
    if signals:
        evident = [s.p_value <= EVIDENT for s in signals]
        blocks.append(
            Plot(
                ranking(
                    "shift", [s.signal for s in signals], [s.distance for s in signals],
                    x_title="distance [standard deviations of simulation]",
                    alt="; ".join(f"{s.signal}: {number(s.distance)}" for s in signals),
                    colors=["--real" if e else "--muted" for e in evident],
                    caption="In colour: flights of the two logs are not alike in this signal (p at most 0.05, whole "
                    "flights permuted). In grey: a distance that chance explains, or too few flights to tell.",
                )
            )
        )  # fmt: skip
        blocks.append(_shift_table(a))
    timing = ((a.sim.source, a.shift.sim_timing), (a.real.source, a.shift.real_timing))
    rows = [
        [source, f"{number(t.rate_hz)} Hz", *(f"{number(1e3 * v)} ms" if math.isfinite(v) else number(v)
         for v in (t.jitter_p99_s, t.delay_median_s, t.delay_p99_s))]
        for source, t in timing
    ]  # fmt: skip
    head = ["log", "rate", "jitter, 99th percentile", "delay, median", "delay, 99th percentile"]
    blocks.append(Table("Timing: state received to command sent", head, rows, numeric=(1, 2, 3, 4)))
    return Section(
        "shift",
        "Which signals differ",
        "The most evidently different first. Distance: Wasserstein's, between the values of both logs, in standard "
        "deviations of the simulated ones.",
        blocks,
    )


def _shift_table(a: GapAnalysis) -> Table:
    assert a.shift is not None  # noqa: S101 - the caller looked
    bands = a.shift.signals[0].bands
    head = [
        "signal",
        "evidence",
        "distance",
        "p",
        *(f"power {b.low_hz:g}-{b.high_hz:g} Hz" for b in bands),
        "at its limit",
        "step",
    ]
    rows = [
        [
            f"{s.signal} [{s.unit}]" if s.unit not in {"", "1"} else s.signal,
            number(s.evidence),
            number(s.distance),
            probability(s.p_value),
            *(f"× {number(b.ratio, 2)}" if math.isfinite(b.ratio) else number(b.ratio) for b in s.bands),
            _pair(s.saturation_sim, s.saturation_real, 100.0, " %"),
            _pair(s.step_sim, s.step_real, 1.0, ""),
        ]
        for s in a.shift.signals
    ]
    caption = (
        "Evidence: energy distance in standard deviations of its permutations. Power: flight over simulation. At its "
        "limit, step (quantisation): simulation → flight"
    )
    return Table(caption, head, rows, numeric=tuple(range(1, len(head))))


def _pair(sim: float, real: float, scale: float, unit: str) -> str:
    if not (math.isfinite(sim) or math.isfinite(real)) or (sim == real == 0.0):
        return "none"
    return f"{number(scale * sim, 2)} → {number(scale * real, 2)}{unit}"


def event_section(a: GapAnalysis) -> Section:
    """What failed in flight, and what the verdict would be if that were the aircraft's own fault."""
    blocks: list[Block] = []
    if a.event_note:
        blocks.append(Text(a.event_note, "unsure"))
    if a.events:
        rows = [
            [str(i), e.flight, f"{number(e.time_s, 4)} s", e.kind, e.signal, number(e.score), e.description]
            for i, e in enumerate(a.events, 1)
        ]
        head = ["no.", "flight", "time", "kind", "signal", "evidence [thresholds]", "what"]
        blocks.append(Table("Events, numbered as in the time histories", head, rows, numeric=(2, 5)))
        same = a.verdict_with_events == a.verdict
        blocks.append(
            Text(
                f"With what follows the events counted, too, the verdict would be {'the same' if same else 'another'}: "
                f"{a.verdict_with_events}.",
                "plain" if same else "unsure",
            )
        )
    elif not a.event_note:
        blocks.append(Text("None found.", "good"))
    return Section(
        "events",
        "Events in flight",
        "A failure at a moment is not a gap: flights count up to it only.",
        blocks,
    )
