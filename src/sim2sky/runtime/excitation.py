"""A planned excitation: sines added to the policy's commands, so that a flight tells what a quiet one hides.

What it adds is proposed to the guard like the policy's own command; a guard that flies itself flies without it.
numpy and the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.contract import canonical_json
from sim2sky.errors import ConfigError
from sim2sky.runtime.state import CHANNELS, Command

__all__ = ["FADE_S", "FORMAT", "LARGEST", "Excitation", "Sine"]

FORMAT = "sim2sky excitation 1"
FADE_S = 0.5
LARGEST = 0.6  # of full travel, all sines of a channel together
LONGEST_S = 600.0
_LOW = (-1.0, -1.0, -1.0, 0.0)


@dataclass(frozen=True)
class Sine:
    """One sine on one channel, its frequency moving linearly from `from_hz` to `to_hz` (equal: it stays).

    Attributes:
        channel: aileron, elevator, rudder or throttle.
        amplitude: of full travel. phase_rad: at its start.
        start_s, end_s: since the flight began. It fades in and out over `FADE_S`.
    """

    channel: str
    amplitude: float
    from_hz: float
    to_hz: float
    phase_rad: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Excitation:
    """A plan.

    Attributes:
        aircraft: the airframe it was made for.
        sines: what is added.
        limits: within which it was rehearsed, by name with unit.
        predicted: half width of the 95 % interval it will give, by parameter.

    Raises:
        ConfigError: a sine is out of range.
    """

    aircraft: str
    sines: tuple[Sine, ...]
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    predicted: Mapping[str, float] = field(default_factory=dict[str, float])
    _columns: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _mixing: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the sines."""
        for sine in self.sines:
            numbers = [v for k, v in asdict(sine).items() if k != "channel"]
            if sine.channel not in CHANNELS:
                raise ConfigError(f"an excitation has no channel '{sine.channel}'", hint=", ".join(CHANNELS))
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
                raise ConfigError("a number of the excitation is not finite")
            if not (0.0 <= sine.start_s < sine.end_s <= LONGEST_S and min(sine.from_hz, sine.to_hz) > 0.0):
                raise ConfigError("a sine of the excitation has no time or no frequency")
        rows = [
            (s.amplitude, s.from_hz, s.to_hz, s.phase_rad, s.start_s, s.end_s, *(s.channel == c for c in CHANNELS))
            for s in self.sines
        ]
        table = np.array(rows, np.float64).reshape(-1, 6 + len(CHANNELS)).T
        object.__setattr__(self, "_columns", table[:6])
        object.__setattr__(self, "_mixing", table[6:])
        for channel, peak in zip(CHANNELS, self.peaks().tolist(), strict=True):
            if peak > LARGEST:
                raise ConfigError(f"the excitation moves the {channel} by {peak:.2f}, more than {LARGEST:g} of travel")

    def peaks(self) -> NDArray[np.float64]:
        """Largest value on each channel: (4,), looked for at 50 Hz."""
        values = [np.abs(self.at(float(t))) for t in np.arange(0.0, self.duration_s, 0.02)]
        return np.max([np.zeros(len(CHANNELS)), *values], axis=0)

    @property
    def duration_s(self) -> float:
        """Until when it acts."""
        return max((s.end_s for s in self.sines), default=0.0)

    def at(self, time_s: float) -> NDArray[np.float64]:
        """What is added to aileron, elevator, rudder and throttle: (4,)."""
        amplitude, from_hz, to_hz, phase, start, end = self._columns
        since = time_s - start
        fade = np.clip(np.minimum(since, end - time_s) / FADE_S, 0.0, 1.0)
        turns = from_hz * since + 0.5 * (to_hz - from_hz) * since**2 / (end - start)
        return self._mixing @ (amplitude * fade * np.sin(2.0 * np.pi * turns + phase))

    def add(self, command: Command, time_s: float) -> Command:
        """The command with the excitation, within the actuators' travel; NaN stays NaN."""
        added = self.at(time_s).tolist()
        return Command(
            *(min(max(c + a, low), 1.0) if c == c else c for c, a, low in zip(command, added, _LOW, strict=True))  # noqa: PLR0124
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        return _digest(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "aircraft": self.aircraft,
            "sines": [asdict(s) for s in self.sines],
            "limits": dict(self.limits),
            "predicted": dict(self.predicted),
        }

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file, with its own digest."""
        return self._content() | {"digest": self.digest}

    @classmethod
    def load(cls, path: Path, *, aircraft: str | None = None) -> Excitation:
        """Read a plan.

        Args:
            path: JSON file as `sim2sky excite` writes it.
            aircraft: airframe that will fly it; None: whatever it is for.

        Raises:
            ConfigError: no such file, not a plan, changed since it was written, or for another aircraft.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the excitation plan {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not an excitation plan: not JSON") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ConfigError(f"{path} is not an excitation plan", hint="sim2sky excite writes one")
        if data.pop("digest", None) != _digest(data):
            raise ConfigError(
                f"{path} is damaged: its content does not match its digest", hint="plan it again: sim2sky excite"
            )
        try:
            plan = cls(data["aircraft"], tuple(Sine(**s) for s in data["sines"]), data["limits"], data["predicted"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not an excitation plan: {error}") from error
        if aircraft is not None and plan.aircraft != aircraft:
            raise ConfigError(
                f"{path} was planned for '{plan.aircraft}', this is '{aircraft}'",
                hint="what is within the envelope of one aircraft is not within that of another",
            )
        return plan


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(data))).hexdigest()
