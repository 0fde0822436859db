"""Planning an excitation: as strong as the aircraft takes without leaving its envelope, and what it will tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from sim2sky.analysis.flights import Flight
from sim2sky.analysis.identifiability import Identifiability
from sim2sky.analysis.manoeuvres import AMPLITUDES, BANDS_HZ, START_S, calm, multisine, predicted
from sim2sky.analysis.rehearsal import level_start, rehearse
from sim2sky.environments.airframes import Airframe, airframe
from sim2sky.errors import ConfigError, NotSupportedError
from sim2sky.runtime.excitation import Excitation, Sine

__all__ = ["Envelope", "Kind", "Plan", "chirp", "envelope_of", "plan_excitation", "reached"]

Kind = Literal["multisine", "chirp"]
SEEDS = (1, 2, 3)
TURBULENCE_W20_MPS = 4.0  # a breezy day
SHRINK = 0.85
SMALLEST = 0.1
SHORTEST_S, LONGEST_S = 10.0, 300.0
GRAVITY_MPS2 = 9.80665
PATH_TICKS = 5


@dataclass(frozen=True)
class Envelope:
    """Within what an excited flight stays: the guard's limits begin only beyond."""

    roll_deg: float = 55.0
    pitch_deg: float = 25.0
    load_factor: float = 2.5
    airspeed_min_mps: float = 0.0
    airspeed_max_mps: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A plan and what is known of it beforehand.

    Attributes:
        excitation: to fly. share: of the full amplitudes that the envelope allows.
        reached: largest values in the rehearsals, with the envelope's names.
        verdicts: what it will tell of each parameter.
    """

    excitation: Excitation
    reached: Envelope
    verdicts: tuple[Identifiability, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "excitation": self.excitation.to_json(),
            "reached": asdict(self.reached),
            "verdicts": [asdict(v) for v in self.verdicts],
        }


def envelope_of(a: Airframe) -> Envelope:
    """The stated limits, and the airframe's airspeeds with a margin of 5 %."""
    return Envelope(airspeed_min_mps=1.05 * a.min_airspeed_mps, airspeed_max_mps=0.95 * a.max_airspeed_mps)


def chirp(aircraft: str, amplitudes: Mapping[str, float], duration_s: float) -> Excitation:
    """One channel after another, each swept once from the low to the high end of its band.

    Args:
        aircraft: airframe it is for.
        amplitudes: by channel, of full travel.
        duration_s: of all together.
    """
    channels = [c for c in BANDS_HZ if amplitudes.get(c, 0.0) > 0.0]
    each = duration_s / max(len(channels), 1)
    return Excitation(
        aircraft,
        tuple(
            Sine(c, amplitudes[c], *BANDS_HZ[c], 0.0, START_S + i * each, START_S + (i + 1) * each)
            for i, c in enumerate(channels)
        ),
    )


def plan_excitation(aircraft: str, duration_s: float = 60.0, *, kind: Kind = "multisine") -> Plan:
    """The strongest plan whose rehearsals, with the classical autopilot flying underneath, stay within the envelope.

    Raises:
        ConfigError: no such aircraft, or a duration out of range.
        NotSupportedError: not even a small one stays within.
    """
    a = airframe(aircraft)
    if not SHORTEST_S <= duration_s <= LONGEST_S:
        raise ConfigError(f"an excitation of {duration_s:g} s", hint=f"{SHORTEST_S:g} to {LONGEST_S:g} s")
    envelope, amplitudes = envelope_of(a), dict(AMPLITUDES)
    while min(amplitudes[c] / AMPLITUDES[c] for c in amplitudes) > SMALLEST:
        excitation = (multisine if kind == "multisine" else chirp)(aircraft, amplitudes, duration_s)
        extremes = _rehearsed(excitation)
        if not (too_much := _too_much(extremes, envelope)):
            verdicts = predicted(excitation)
            expected = {v.name: v.half_width for v in verdicts if v.identifiable}
            planned = replace(excitation, limits=asdict(envelope), predicted=expected)
            return Plan(planned, extremes, verdicts)
        for channel in too_much:
            amplitudes[channel] *= SHRINK
    raise NotSupportedError(
        f"not supported: exciting '{aircraft}' within its envelope", hint="not even a tenth of the usual amplitudes"
    )


def _rehearsed(excitation: Excitation) -> Envelope:
    """Largest values over several flights in turbulence, as far as they went."""
    settings = calm(excitation.aircraft, excitation.duration_s + 1.0, turbulence_w20_mps=TURBULENCE_W20_MPS)
    return reached([rehearse(settings, level_start(settings, seed), excite=excitation.add) for seed in SEEDS])


def reached(flights: list[Flight]) -> Envelope:
    """Largest bank, pitch, load factor and airspeeds measured (load factor from pitch rate and airspeed)."""
    roll, pitch, v = (
        np.concatenate([getattr(f, name) for f in flights]) for name in ("roll_rad", "pitch_rad", "airspeed_mps")
    )
    # The path bends as slowly as the short period lets it, not with every nod of the nose.
    q = np.concatenate([np.convolve(f.q_radps, np.full(PATH_TICKS, 1.0 / PATH_TICKS), mode="same") for f in flights])
    load = q * v / GRAVITY_MPS2 + np.cos(pitch) * np.cos(roll)
    return Envelope(
        roll_deg=math.degrees(float(np.abs(roll).max())),
        pitch_deg=math.degrees(float(np.abs(pitch).max())),
        load_factor=float(np.abs(load).max()),
        airspeed_min_mps=float(v.min()),
        airspeed_max_mps=float(v.max()),
    )


def _too_much(extremes: Envelope, envelope: Envelope) -> tuple[str, ...]:
    """Channels to move less: what leaves the envelope, and who makes it."""
    channels: list[str] = []
    if extremes.roll_deg > envelope.roll_deg:
        channels += ["aileron", "rudder"]
    if extremes.pitch_deg > envelope.pitch_deg or extremes.load_factor > envelope.load_factor:
        channels += ["elevator"]
    if extremes.airspeed_min_mps < envelope.airspeed_min_mps or extremes.airspeed_max_mps > envelope.airspeed_max_mps:
        channels += ["elevator", "throttle"]
    return tuple(dict.fromkeys(channels))
