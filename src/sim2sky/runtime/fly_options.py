"""What `sim2sky fly` is told: which aircraft, who engages, what to follow. Standard library only."""

from __future__ import annotations

import argparse
import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from sim2sky.errors import ConfigError
from sim2sky.runtime.link import Address, parse_address
from sim2sky.telemetry.flight_log import Source

__all__ = ["Engage", "FlyOptions", "parse_engage", "parse_rc_channel", "parse_setpoint", "parse_vehicle", "parser"]

_SETPOINTS = {
    "altitude": ("altitude_m", 1.0), "airspeed": ("airspeed_mps", 1.0), "heading": ("heading_rad", math.pi / 180.0),
    "roll": ("roll_rad", math.pi / 180.0), "pitch": ("pitch_rad", math.pi / 180.0), "p": ("p_radps", math.pi / 180.0),
    "q": ("q_radps", math.pi / 180.0), "r": ("r_radps", math.pi / 180.0),
}  # fmt: skip


@dataclass(frozen=True)
class Engage:
    """Who engages: `now`, a `mavlink` command, or a receiver channel (`rc`, from 1)."""

    by: str
    channel: int = 0


@dataclass(frozen=True)
class FlyOptions:
    """Everything `fly` needs besides the bundle.

    Attributes:
        teensy: the link speaks the Teensy's protocol, not MAVLink.
        address: of the link.
        engage: who engages.
        kill_channel: receiver channel of the kill switch, from 1; 0 for none.
        setpoint: fields of `Setpoint` that are given; the others are what is flown when engaging.
        hand_back: flight mode to hand back to, LOITER or RTL.
        duration_s: engaged or not; infinite until told otherwise.
        log: flight log to write.
        signing_key: key file; None where messages are not signed.
        realtime: ask for real-time scheduling.
        source: what the log is labelled; None decides by what the aircraft says of itself.
        connect_timeout_s: how long to wait for the aircraft.
        excitation: plan to add to the policy's commands.
    """

    teensy: bool
    address: Address
    engage: Engage
    kill_channel: int
    setpoint: dict[str, float]
    hand_back: str
    duration_s: float
    log: Path | None
    overwrite: bool
    signing_key: Path | None
    realtime: bool
    source: Source | None
    connect_timeout_s: float
    excitation: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: it does not.
        """
        if self.kill_channel and self.kill_channel == self.engage.channel:
            raise ConfigError(f"receiver channel {self.kill_channel} cannot both engage and kill")
        if self.teensy and (self.engage.by != "now" or self.kill_channel or self.signing_key):
            raise ConfigError(
                "a Teensy has no receiver channels, commands or signatures to engage, kill or sign with",
                hint="--engage now, and switch on the aircraft's side",
            )
        if not self.duration_s > 0 or not self.connect_timeout_s > 0:
            raise ConfigError("--duration and --connect-timeout must be above 0 s")

    @classmethod
    def of(
        cls,
        *,
        vehicle: str,
        engage: str,
        kill: str,
        setpoint: str,
        hand_back: str,
        duration_s: float,
        log: Path | None,
        overwrite: bool,
        signing_key: Path | None,
        realtime: bool,
        source: Source | None,
        connect_timeout_s: float,
        excitation: Path | None = None,
    ) -> FlyOptions:
        """From the words of a command line.

        Raises:
            ConfigError: one of them is malformed, or they do not go together.
        """
        teensy, address = parse_vehicle(vehicle)
        return cls(
            teensy,
            address,
            parse_engage(engage),
            parse_rc_channel(kill) if kill else 0,
            parse_setpoint(setpoint),
            hand_back.upper(),
            duration_s,
            log,
            overwrite,
            signing_key,
            realtime,
            source,
            connect_timeout_s,
            excitation,
        )


def parse_vehicle(text: str) -> tuple[bool, Address]:
    """Whether it is a Teensy, and the address.

    Raises:
        ConfigError: malformed.
    """
    if text.startswith("teensy:"):
        return True, parse_address("serial:" + text.removeprefix("teensy:"))
    return False, parse_address(text)


def parse_rc_channel(text: str) -> int:
    """The channel in `rc:N`.

    Raises:
        ConfigError: malformed, or one of the sticks' channels.
    """
    number = text.removeprefix("rc:")
    if not text.startswith("rc:") or not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 18:
        raise ConfigError(f"'{text}' is no receiver channel", hint="for example rc:7")
    if int(number) <= 4:
        raise ConfigError(f"receiver channel {number} is a stick", hint="take a switch: channel 5 or above")
    return int(number)


def parse_engage(text: str) -> Engage:
    """Read `now`, `mavlink` or `rc:N`.

    Raises:
        ConfigError: malformed.
    """
    if text in {"now", "mavlink"}:
        return Engage(text)
    if not text.startswith("rc:"):
        raise ConfigError(f"--engage {text}: not known", hint="rc:CHANNEL, mavlink or now")
    return Engage("rc", parse_rc_channel(text))


def parse_setpoint(text: str) -> dict[str, float]:
    """Read `altitude=150,airspeed=18,heading=90`: metres, m/s, degrees and degrees per second.

    Raises:
        ConfigError: malformed.
    """
    values: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in _SETPOINTS:
            close = difflib.get_close_matches(name, _SETPOINTS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(_SETPOINTS)}"
            raise ConfigError(f"--setpoint: there is no '{name}' to follow", hint=hint)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"--setpoint: '{part}' is no number", hint="for example altitude=150,heading=90")
        field, scale = _SETPOINTS[name]
        values[field] = value * scale
    return values


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line on the target; the laptop's has the same names and defaults."""
    p = argparse.ArgumentParser(prog=prog, description="Fly a bundle on an aircraft.")
    p.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    p.add_argument(
        "--vehicle", required=True, help="udp:HOST:PORT, udpin:, tcp:, serial:DEVICE:BAUD, teensy:DEVICE:BAUD"
    )
    p.add_argument("--engage", default="rc:7", help="rc:CHANNEL, mavlink or now")
    p.add_argument("--kill", default="", help="rc:CHANNEL of a kill switch")
    p.add_argument("--setpoint", default="", help="altitude=m,airspeed=m/s,heading=deg,...; else as flown")
    p.add_argument("--hand-back", default="loiter", choices=("loiter", "rtl"), help="mode of the autopilot afterwards")
    p.add_argument("--duration", type=float, default=math.inf, help="seconds; default until interrupted")
    p.add_argument("--log", type=Path, help="flight log to write (HDF5)")
    p.add_argument("--overwrite", action="store_true", help="replace an existing log")
    p.add_argument("--signing-key", type=Path, help="key file: sign, and refuse what is not signed")
    p.add_argument("--realtime", action="store_true", help="real-time scheduling where the system allows it")
    p.add_argument("--source", choices=("virtual", "real"), help="what the log is labelled")
    p.add_argument("--connect-timeout", type=float, default=30.0, help="seconds to wait for the aircraft")
    p.add_argument("--excitation", type=Path, help="plan of sim2sky excite, added to the policy's commands")
    p.add_argument("--json", action="store_true", help="print the summary as JSON")
    return p
