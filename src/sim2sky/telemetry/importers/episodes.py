"""Cuts a recording into flights: armed, airborne and, where the log shows it, with our agent engaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim2sky.telemetry.importers.channels import Channel, Recording
from sim2sky.telemetry.importers.resample import resample
from sim2sky.telemetry.importers.topics import FloatArray, ForeignLog
from sim2sky.telemetry.log_schema import COLUMNS, EpisodeData

__all__ = ["MAX_RATE_HZ", "MIN_EPISODE_S", "Interval", "clock_rate", "episode_of", "flight_intervals"]

MIN_EPISODE_S = 2.0
BRIDGE_S = 1.0  # a switch that drops out for less is a flicker
MAX_RATE_HZ = 100.0
MAX_TICKS = 5_000_000
MAX_EVENTS = 1_000
_NEEDED = ("roll", "pitch", "yaw")


@dataclass(frozen=True)
class Interval:
    """A flight in the log's own clock.

    Attributes:
        begin_s, end_s: ticks lie at or after the first and before the second.
        condition: what held all the time.
        ended: why it was over.
    """

    begin_s: float
    end_s: float
    condition: str
    ended: str

    @property
    def length_s(self) -> float:
        """Duration."""
        return self.end_s - self.begin_s


def clock_rate(recording: Recording) -> float:
    """Ticks per second: the attitude's median rate in whole Hz, at most `MAX_RATE_HZ`; 0 where there is none."""
    rate = recording["roll"].rate_hz if "roll" in recording else 0.0
    if rate <= 0.0:
        return 0.0
    return float(np.clip(round(rate) or 1.0, 1.0, MAX_RATE_HZ))


def flight_intervals(recording: Recording) -> tuple[list[Interval], str]:
    """The flights in a recording, or why there is none.

    With our own `s2s_engage` in the log, a flight is where it is on, armed and airborne or not known; otherwise where
    the aircraft was armed and airborne.

    Returns:
        The intervals in order, and the reason if there are none (empty otherwise).
    """
    missing = [name for name in _NEEDED if name not in recording]
    if missing:
        return [], f"it has no attitude ({', '.join(missing)})"
    begin = max(float(recording[n].time_s[0]) for n in _NEEDED)
    end = min(float(recording[n].time_s[-1]) for n in _NEEDED)
    conditions: list[tuple[Channel, str]] = []
    if "engaged" in recording:
        conditions.append((recording["engaged"], "disengaged"))
    for name, over in (("armed", "disarmed"), ("airborne", "landed")):
        if name in recording:
            conditions.append((recording[name], over))
        elif "engaged" not in recording:
            return [], f"it does not say when the aircraft was {name}"
    names = " and ".join(channel.name for channel, _ in conditions)
    for channel, _ in conditions:
        if not (channel.values > 0).any():
            return [], f"the aircraft was never {channel.name} ({channel.origin})"
    found = [
        Interval(max(low, begin), min(high, end), names, over if high < end else "end of the log")
        for low, high, over in _all_on(conditions, end)
    ]
    found = [i for i in found if i.length_s > 0.0]
    if not found:
        return [], f"the aircraft was never {names} while its attitude was logged"
    long = [i for i in found if i.length_s >= MIN_EPISODE_S]
    if not long:
        longest = max(i.length_s for i in found)
        return [], f"it was {names} for {longest:.2f} s at most, and a flight has at least {MIN_EPISODE_S:g} s"
    return long, ""


def _all_on(conditions: Sequence[tuple[Channel, str]], end: float) -> list[tuple[float, float, str]]:
    """Intervals in which all switches are on, with what ended each."""
    times = np.unique(np.concatenate([c.time_s for c, _ in conditions]))
    on = np.array([resample(c, times) > 0 for c, _ in conditions])
    both = on.all(axis=0)
    edges = np.diff(np.concatenate([[0], both.astype(int), [0]]))
    found: list[tuple[float, float, str]] = []
    for first, last in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        stop = float(times[last]) if last < len(times) else max(end, float(times[-1]))
        over = conditions[int(np.argmin(on[:, last]))][1] if last < len(times) else "end of the log"
        begin = float(times[first])
        if found and begin - found[-1][1] < BRIDGE_S:
            begin = found.pop()[0]
        found.append((begin, stop, over))
    return found


def episode_of(
    log: ForeignLog, recording: Recording, interval: Interval, rate_hz: float, modes: dict[int, str]
) -> EpisodeData:
    """One flight in the tables of schema 1, on one clock.

    `observations` and `actions` have no columns: no policy of ours is in such a log. What the log lacks is NaN.
    Position is kept as logged, north and east of home; u, v, w are the velocity over ground in body axes.

    Args:
        log, recording: where it comes from.
        interval: the flight.
        rate_hz: ticks per second.
        modes: names of the autopilot's modes.
    """
    count = min(max(int(np.ceil(interval.length_s * rate_hz - 1e-6)), 1), MAX_TICKS)
    time = np.arange(count) / rate_hz
    ticks = interval.begin_s + time

    def at(name: str) -> FloatArray:
        return resample(recording[name], ticks) if name in recording else np.full(count, np.nan)

    c = {name: at(name) for name in ("roll", "pitch", "yaw", "p", "q", "r", "north", "east", "altitude", "airspeed")}
    body = _to_body(c["roll"], c["pitch"], c["yaw"], *(at(n) for n in ("v_north", "v_east", "v_down")))
    states = np.column_stack(
        [
            time, c["north"], c["east"], -c["altitude"], *body, c["roll"], c["pitch"], c["yaw"], c["p"], c["q"], c["r"],
            c["airspeed"], c["altitude"], np.zeros(count),
        ]
    )  # fmt: skip
    controls = np.column_stack([np.clip(at(n), -1.0 if n != "throttle" else 0.0, 1.0) for n in COLUMNS["controls"]])
    setpoints = np.column_stack([at(f"set_{n}") for n in COLUMNS["setpoints"]])
    present = {
        name: {"from": ch.origin, "rate_hz": round(ch.rate_hz, 3), "method": ch.method.value}
        for name, ch in recording.channels.items()
    }
    marked = {name: dict(ch.marked) for name, ch in recording.channels.items() if ch.marked}
    return EpisodeData(
        {
            "time_s": time, "states": states, "observations": np.empty((count, 0)), "actions": np.empty((count, 0)),
            "controls": controls, "setpoints": setpoints,
        },
        success=False,
        termination=interval.ended,
        seed=-1,
        extra={
            "success_known": False,
            "start_s": interval.begin_s,
            "condition": interval.condition,
            "channels": json.dumps(present, sort_keys=True),
            "marked": json.dumps(marked, sort_keys=True),
        },
        events=_events(log, recording, interval, modes),
    )  # fmt: skip


def _to_body(
    roll: FloatArray, pitch: FloatArray, yaw: FloatArray, north: FloatArray, east: FloatArray, down: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A vector in north-east-down axes in forward-right-down ones; 3-2-1 Euler angles, (n,) each."""
    x, y = np.cos(yaw) * north + np.sin(yaw) * east, np.cos(yaw) * east - np.sin(yaw) * north
    u, z = np.cos(pitch) * x - np.sin(pitch) * down, np.sin(pitch) * x + np.cos(pitch) * down
    return u, np.cos(roll) * y + np.sin(roll) * z, np.cos(roll) * z - np.sin(roll) * y


def _events(log: ForeignLog, recording: Recording, interval: Interval, modes: dict[int, str]) -> list[dict[str, Any]]:
    """Changes of mode, messages and drop-outs within a flight, times since its start."""
    events: list[dict[str, Any]] = []
    if "mode" in recording:
        mode = recording["mode"]
        changed = np.concatenate([[True], np.diff(mode.values) != 0])
        times, values = mode.time_s[changed], mode.values[changed]
        first = max(int(np.searchsorted(times, interval.begin_s, side="right")) - 1, 0)
        for t, value in zip(times[first:], values[first:], strict=True):
            if t < interval.end_s:
                since = max(float(t) - interval.begin_s, 0.0)
                events.append({"event": "mode", "time_s": since, "mode": modes.get(int(value), f"mode {int(value)}")})
    within = [(t, text) for t, text in log.texts if interval.begin_s <= t <= interval.end_s]
    events += [{"event": "text", "time_s": t - interval.begin_s, "text": text} for t, text in within]
    events += [
        {"event": "dropout", "time_s": t - interval.begin_s, "length_s": length}
        for t, length in log.dropouts
        if interval.begin_s <= t <= interval.end_s
    ]
    return sorted(events, key=lambda e: e["time_s"])[:MAX_EVENTS]
