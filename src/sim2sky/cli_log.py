"""`sim2sky log`: what a flight log holds, the same in formats that others open, and mending one that was cut off."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS, ConfigError

__all__ = ["log_app"]

log_app = cyclopts.App(name="log", help="Look into flight logs, export and mend them.", help_format="plaintext")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print as JSON")]
Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="flight log to write; FILE.h5 in this folder by default")
]


@log_app.command
def info(file: Path, /, *, json: Json = False) -> int:
    """Metadata and episodes of a log, also of one that is being written or was never closed.

    Parameters
    ----------
    file
        Flight log (.h5).
    """
    from sim2sky.telemetry.flight_log import read_flight_log
    from sim2sky.telemetry.log_report import summarise

    with read_flight_log(file) as log:
        episodes = [summarise(episode) for episode in log.episodes]
        m = log.metadata
        data = {
            "schema": log.schema, "source": m.source, "agent": m.agent, "bundle_digest": m.bundle_digest,
            "contract_hash": m.contract_hash, "rate_hz": m.rate_hz, "start_time": m.start_time,
        }  # fmt: skip
        tables = list(log.episodes[0].datasets) if log.episodes else []
    if json:
        return _print_json({**data, "tables": tables, "episodes": [e.to_json() for e in episodes]})
    for key, value in data.items():
        print(f"{key:14} {value}")
    print(f"{'tables':14} {', '.join(tables)}")
    if episodes:
        print(f"\n{'episode':14} {'seed':>20} {'ticks':>7} {'s':>8} {'guarded':>7} {'missing':>7}  ended")
    for e in episodes:
        end = f"{'success' if e.success else 'no success'}, {e.termination}"
        end += f" (segment {e.segment})" if e.segment else ""
        print(f"{e.name:14} {e.seed:20} {e.ticks:7} {e.duration_s:8.2f} {e.guarded:7} {e.dropped:7}  {end}")
    return EXIT_PASS


@log_app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    output: Output = None,
) -> int:
    """Turn another autopilot's log into a flight log: one clock, our units and frames, one episode per flight.

    Parameters
    ----------
    file
        PX4 ULog.
    """
    from rich.console import Console

    from sim2sky.telemetry.importers.import_log import import_log

    out = output or Path(f"{file.stem}.h5")
    console = Console(file=sys.stderr)
    with console.status("reading") as status:
        result = import_log(file, out, progress=status.update)
    what = " ".join(w for w in (result.log.vehicle, result.log.firmware) if w)
    print(f"{out}: {len(result.episodes)} episodes at {result.rate_hz:g} Hz, source {result.source}, {what}")
    for number, episode in enumerate(result.episodes):
        length_s = len(episode.arrays["time_s"]) / result.rate_hz
        print(f"  episode_{number:04d}  {length_s:8.2f} s  {episode.extra['condition']}, {episode.termination}")
    for line in result.missing:
        print(f"  missing: {line}")
    return EXIT_PASS


@log_app.command
def trips(file: Path, /, *, json: Json = False) -> int:
    """Every trip of the guard and every change of hands, with the state at that tick.

    Parameters
    ----------
    file
        Flight log (.h5).
    """
    from sim2sky.telemetry.flight_log import read_flight_log
    from sim2sky.telemetry.log_report import trips_of

    with read_flight_log(file) as log:
        lines = [line for episode in log.episodes for line in trips_of(episode)]
        ticks = sum(map(len, log.episodes))
    if json:
        return _print_json({"ticks": ticks, "trips": [line.to_json() for line in lines]})
    for line in lines:
        what = ", ".join(line.reasons) or "all clear"
        print(f"{line.episode} {line.time_s:9.3f} s  {what} -> {line.mode}")
        print("    " + ", ".join(f"{name} {value:.3g}" for name, value in line.state.items()))
    print(f"{len(lines)} events in {ticks} ticks")
    return EXIT_PASS


@log_app.command
def export(
    file: Path,
    /,
    *,
    mcap: Annotated[Path | None, Parameter(help="MCAP file to write, for Foxglove and PlotJuggler")] = None,
    csv: Annotated[Path | None, Parameter(help="CSV file to write, one row per tick")] = None,
) -> int:
    """Write a log in another format.

    Parameters
    ----------
    file
        Flight log (.h5).
    """
    from sim2sky.telemetry.flight_log import read_flight_log
    from sim2sky.telemetry.log_report import write_csv
    from sim2sky.telemetry.mcap_export import export_mcap

    if mcap is None and csv is None:
        raise ConfigError("export to what?", hint=f"sim2sky log export {file} --mcap {file.with_suffix('.mcap')}")
    with read_flight_log(file) as log:
        for target in (mcap, csv):
            if target is not None and target.absolute() == file.absolute():
                raise ConfigError(f"{target} is the log itself", hint="choose another file")
        if mcap is not None:
            from rich.console import Console
            from rich.progress import Progress

            console = Console(file=sys.stderr)
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("episodes", total=len(log))
                count = export_mcap(log, mcap, progress=lambda done: bar.update(task, completed=done))
            print(f"{mcap}: {count} messages")
        if csv is not None:
            print(f"{csv}: {write_csv(log, csv)} rows")
    return EXIT_PASS


@log_app.command
def recover(file: Path, /) -> int:
    """Make one whole file of a log that was cut off by a kill, or recorded where h5py is missing.

    Parameters
    ----------
    file
        Flight log; FILE.parts lies beside it.
    """
    from sim2sky.telemetry.flight_log import read_flight_log, recover

    count = recover(file)
    with read_flight_log(file) as log:
        print(f"{file}: {len(log)} episodes, {count} of them from journals")
    return EXIT_PASS


def _print_json(data: object) -> int:
    print(json.dumps(data, indent=2, ensure_ascii=False))
    return EXIT_PASS
