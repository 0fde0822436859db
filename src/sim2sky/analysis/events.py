"""Events in flight: what failed at a time, as against an aircraft that differs from its simulation all along."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["EventKind", "FlightEvent"]

EventKind = Literal["change", "frozen", "drop-out"]


@dataclass(frozen=True)
class FlightEvent:
    """A change point in one flight.

    Attributes:
        flight: name of the flight in its log.
        time_s: when, since the start of the flight.
        kind: the aircraft or a sensor behaves otherwise from then on; a signal stands still; values are missing.
        signal: where it shows most, by the log's column name.
        score: how far beyond the threshold the evidence is, in thresholds (> 1).
        description: one sentence.
    """

    flight: str
    time_s: float
    kind: EventKind
    signal: str
    score: float
    description: str

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)
