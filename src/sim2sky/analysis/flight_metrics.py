"""Metrics of whole flights, computed from what was measured and in the same way for every kind of flight log.

The unit is the flight: one number per flight and metric, never one per time step. What a log does not hold is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sim2sky.config.environment import EnvironmentSettings, TaskSettings
from sim2sky.environments.tasks import tolerances
from sim2sky.errors import FlightLogError
from sim2sky.telemetry.flight_log import Episode, FlightLog

__all__ = [
    "METRICS",
    "FlightData",
    "FlightMetrics",
    "Metric",
    "channel_metrics",
    "environment_of",
    "flights_of",
    "metrics_of",
    "task_of",
    "tracked_channels",
    "tracking_signals",
]

Floats = NDArray[np.float64]
TaskName = Literal["hsa", "attitude", "rate"]

SMOOTHING_S = 0.5  # the success rule looks through the sensors' noise, not at it
HOLD_SHARE = 0.5  # of the hold must have been measured
_CHANNELS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    # setpoint, state, name of the metric, unit
    "hsa": (
        ("altitude", "altitude", "altitude_error_m", "m"),
        ("airspeed", "airspeed", "airspeed_error_mps", "m/s"),
        ("heading", "yaw", "heading_error_rad", "rad"),
    ),
    "attitude": (
        ("roll", "roll", "roll_error_rad", "rad"),
        ("pitch", "pitch", "pitch_error_rad", "rad"),
        ("airspeed", "airspeed", "airspeed_error_mps", "m/s"),
    ),
    "rate": (
        ("p", "p", "p_error_radps", "rad/s"),
        ("q", "q", "q_error_radps", "rad/s"),
        ("r", "r", "r_error_radps", "rad/s"),
    ),
}
_ANGLES = {"heading", "roll", "pitch"}


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared.

    Attributes:
        name, label, unit: key, words, SI unit.
        kind: success counts, shares of a planned duration, or positive values whose ratio is meant.
        worse: which way a real flight must differ to be a gap.
        primary: whether the verdict looks at it; the others explain.
    """

    name: str
    label: str
    unit: str
    kind: Literal["proportion", "share", "ratio"]
    worse: Literal["lower", "higher"]
    primary: bool = False


METRICS = (
    Metric("success", "success rate", "1", "proportion", "lower", primary=True),
    Metric("tracking_error", "tracking error", "tolerances", "ratio", "higher", primary=True),
    Metric("control_effort", "control effort", "of full travel", "ratio", "higher", primary=True),
    Metric("episode_length", "episode length", "s", "share", "lower", primary=True),
    Metric("control_effort_without_trim", "control effort without trim", "of full travel", "ratio", "higher"),
    Metric("control_activity", "control activity", "1/s", "ratio", "higher"),
)
"""The specification's four, then what is told beside them; tracking errors by channel come on top."""


def channel_metrics(task: str) -> tuple[Metric, ...]:
    """Tracking errors of a task's three channels."""
    return tuple(
        Metric(name, f"{setpoint} error", unit, "ratio", "higher") for setpoint, _, name, unit in _CHANNELS[task]
    )


@dataclass(frozen=True, eq=False)
class FlightData:
    """One flight as it was measured.

    Attributes:
        name: of its first episode in the log.
        termination: why it ended; seed: of its scenario, -1 without one.
        rate_hz: rows per second.
        time_s: (n,) from 0. states: by the log's column names, (n,) each. controls: (n, 4).
        setpoints: by column name; empty where the log has none. timing: (n, 3) ns, or None. guard: mode (n,), or None.
    """

    name: str
    termination: str
    seed: int
    rate_hz: float
    time_s: Floats
    states: Mapping[str, Floats]
    controls: Floats
    setpoints: Mapping[str, Floats]
    timing: NDArray[np.int64] | None = None
    guard: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def duration_s(self) -> float:
        """From the first row to the end of the last one's period."""
        return float(self.time_s[-1]) + 1.0 / self.rate_hz if len(self.time_s) else 0.0

    def until(self, end_s: float) -> FlightData:
        """The part before a time."""
        n = int(np.searchsorted(self.time_s, end_s - 1e-9))
        return FlightData(
            self.name,
            self.termination,
            self.seed,
            self.rate_hz,
            self.time_s[:n],
            {k: v[:n] for k, v in self.states.items()},
            self.controls[:n],
            {k: v[:n] for k, v in self.setpoints.items()},
            None if self.timing is None else self.timing[:n],
            None if self.guard is None else self.guard[:n],
        )


@dataclass(frozen=True)
class FlightMetrics:
    """Numbers of one flight by metric name; NaN where the log cannot tell."""

    name: str
    seed: int
    termination: str
    duration_s: float
    values: Mapping[str, float]


def flights_of(log: FlightLog) -> list[FlightData]:
    """All flights of an open log; episodes that are segments of one flight are put together.

    Raises:
        FlightLogError: the log has no episodes, or a table cannot be read.
    """
    if not log.episodes:
        raise FlightLogError(f"{log.path} has no episodes", hint=f"sim2sky log info {log.path}", misuse=True)
    return [_joined(segments, log.metadata.rate_hz) for segments in _segments(log.episodes)]


def _segments(episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Episodes of one flight each; a flight goes on where the segment before was `continued`."""
    group: list[Episode] = []
    for episode in episodes:
        group.append(episode)
        if episode.termination != "continued":
            yield group
            group = []
    if group:
        yield group


def _joined(segments: Sequence[Episode], stated_hz: float) -> FlightData:
    names = segments[0].columns("states")
    states = np.concatenate([s["states"] for s in segments]).astype(np.float64)
    if "time_s" in segments[0]:
        time_s = np.concatenate([s["time_s"] for s in segments]).astype(np.float64)
    else:
        time_s = states[:, names.index("time")]
    if len(time_s) == 0 or not np.isfinite(time_s).all():
        raise FlightLogError(f"{segments[0].name} has no usable time")
    time_s = time_s - time_s[0]
    step = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0
    rate_hz = stated_hz if stated_hz > 0.0 else (1.0 / step if step > 0.0 else 1.0)

    def table(name: str) -> NDArray[Any] | None:
        return np.concatenate([s[name] for s in segments]) if all(name in s for s in segments) else None

    setpoints, timing, guard = table("setpoints"), table("timing"), table("guard")
    controls = table("controls")
    return FlightData(
        segments[0].name,
        segments[-1].termination,
        segments[0].seed,
        rate_hz,
        time_s,
        {name: states[:, i] for i, name in enumerate(names) if i < states.shape[1]},
        np.full((len(time_s), 4), np.nan) if controls is None else controls.astype(np.float64),
        {}
        if setpoints is None
        else {n: setpoints[:, i].astype(np.float64) for i, n in enumerate(segments[0].columns("setpoints"))},
        timing,
        None if guard is None else guard[:, 0],
    )


def task_of(log: FlightLog) -> TaskSettings | None:
    """The task a log's metadata states, with its duration and tolerances where they are stated; None where it is not.

    A name alone (`"task": "hsa"`) gives no duration and no tolerances: the task's defaults. Without one the columns of
    the observations tell.

    Raises:
        FlightLogError: the metadata states a task that is none.
    """
    config = log.metadata.config
    nested = config.get("environment")
    stated: Any = cast("Mapping[str, Any]", nested).get("task") if isinstance(nested, Mapping) else None
    stated = stated if stated is not None else config.get("task")
    try:
        if isinstance(stated, Mapping):
            return TaskSettings.model_validate(dict(cast("Mapping[str, Any]", stated)))
        if isinstance(stated, str):
            return TaskSettings.model_validate({"name": stated})
    except ValueError as error:
        raise FlightLogError(f"{log.path}: its metadata states no task that is known: {stated!r}") from error
    if not log.episodes or "observations" not in log.episodes[0]:
        return None
    columns = set(log.episodes[0].columns("observations"))
    for name, sign in (("hsa", "heading_error_rad"), ("attitude", "roll_error_rad"), ("rate", "q_error_radps")):
        if sign in columns:
            return TaskSettings(name=cast("TaskName", name))
    return None


def environment_of(log: FlightLog) -> EnvironmentSettings | None:
    """The simulated environment a log's metadata states; None where it states none that this version reads."""
    config = log.metadata.config
    for candidate in (config.get("environment"), config):
        if isinstance(candidate, Mapping) and "disturbances" in candidate:
            try:
                return EnvironmentSettings.model_validate(dict(cast("Mapping[str, Any]", candidate)))
            except ValueError:
                return None
    return None


def _tracking(flight: FlightData, task: str) -> Floats:
    """Setpoint minus measured, (n, 3); NaN where either is missing."""
    missing = np.full(len(flight), np.nan)
    columns: list[Floats] = []
    for setpoint, state, _, _ in _CHANNELS[task]:
        error = flight.setpoints.get(setpoint, missing) - flight.states.get(state, missing)
        columns.append((error + np.pi) % (2.0 * np.pi) - np.pi if setpoint in _ANGLES else error)
    return np.stack(columns, axis=1)


def _smoothed(values: Floats, width: int) -> Floats:
    """Mean over the last `width` rows of each column, of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.cumsum(np.where(known, values, 0.0), axis=0)
    count = np.cumsum(known, axis=0)
    if width < len(values):
        total[width:] = total[width:] - total[:-width]
        count[width:] = count[width:] - count[:-width]
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _success(flight: FlightData, used: NDArray[np.bool_], task: TaskSettings, planned_s: float) -> float:
    """1, 0, or NaN where too little of the hold was measured."""
    if not used.any():
        return math.nan
    period = 1.0 / flight.rate_hz
    if flight.duration_s < planned_s - 1.5 * period:
        return 0.0
    errors, limits = _tracking(flight, task.name)[:, used], np.array(tolerances(task))[used]
    smooth = _smoothed(errors, max(round(SMOOTHING_S * flight.rate_hz), 1))
    hold = (flight.time_s > planned_s - task.hold_s - 1e-9) & (flight.time_s < planned_s + 1e-9)
    inside = smooth[hold]
    known = np.isfinite(inside).all(axis=1)
    if not hold.any() or known.mean() < HOLD_SHARE:
        return math.nan
    return float((np.abs(inside[known]) <= limits).all())


def _nan_mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def tracking_signals(flight: FlightData, task: str) -> dict[str, tuple[Floats, str]]:
    """Setpoint minus measured of the task's channels, (n,), by `altitude error` and so on, with their units."""
    errors = _tracking(flight, task)
    return {f"{setpoint} error": (errors[:, i], unit) for i, (setpoint, _, _, unit) in enumerate(_CHANNELS[task])}


def tracked_channels(flights: Sequence[FlightData], task: str) -> frozenset[str]:
    """Names of the tracking errors that at least one of the flights can tell."""
    found: set[str] = set()
    for flight in flights:
        known = np.isfinite(_tracking(flight, task))
        found |= {name for i, (_, _, name, _) in enumerate(_CHANNELS[task]) if known[:, i].any()}
    return frozenset(found)


def metrics_of(
    flight: FlightData,
    task: TaskSettings,
    planned_s: float,
    *,
    event_s: float | None = None,
    channels: frozenset[str] | None = None,
) -> FlightMetrics:
    """The metrics of one flight.

    success: the planned duration was flown, and in its last `hold_s` seconds every channel lay within the task's
    tolerances, of the measured state averaged over half a second. What a judge noted in the log is not used: only
    simulated flights have one, and it sees the truth.
    tracking errors: root mean square over the second half of the planned duration; combined: root mean square of the
    channels, each divided by its tolerance.
    control effort: mean of the four commands' absolute values; without trim: of their distance from the flight's own
    mean; activity: sum of absolute changes per second.
    episode length: seconds flown, up to the planned duration.

    Args:
        flight: as measured.
        task: name, tolerances and hold.
        planned_s: what a full flight lasts.
        event_s: something failed then. What comes later is left out, and what can be said only of a whole flight
            (success, length) is unknown.
        channels: names of the tracking errors to combine, and to judge success by; all three by default. A flight that
            lacks one of them has no combined error.
    """
    names = [name for _, _, name, _ in _CHANNELS[task.name]]
    used = np.array([channels is None or name in channels for name in names])
    limits = np.array(tolerances(task))
    cut = flight.until(min(planned_s, math.inf if event_s is None else event_s))
    errors = _tracking(cut, task.name)
    second_half = errors[cut.time_s > planned_s / 2.0 - 1e-9]
    rms = [math.sqrt(_nan_mean(column**2)) for column in second_half.T]
    scaled = (np.array(rms) / limits)[used]
    controls = cut.controls[np.isfinite(cut.controls).all(axis=1)]
    steps = np.abs(np.diff(controls, axis=0)).sum(axis=1) * cut.rate_hz
    whole = event_s is None or event_s >= planned_s
    values = {
        "success": _success(flight, used, task, planned_s) if whole else math.nan,
        "tracking_error": float(np.sqrt(np.mean(scaled**2))) if used.any() else math.nan,
        "control_effort": _nan_mean(np.abs(controls)),
        "episode_length": min(flight.duration_s, planned_s) if whole else math.nan,
        "control_effort_without_trim": _nan_mean(np.abs(controls - controls.mean(axis=0))) if len(controls) else np.nan,
        "control_activity": _nan_mean(steps),
        **dict(zip(names, rms, strict=True)),
    }
    return FlightMetrics(flight.name, flight.seed, flight.termination, flight.duration_s, values)
