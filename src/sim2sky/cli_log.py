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
Mapping = Annotated[
    Path | None, Parameter(help="what the columns of a folder of CSV files are; its mapping.yaml by default")
]
Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="flight log to write; FILE.h5 in this folder by default")
]


@log_app.command
def info(file: Path, /, *, mapping: Mapping = None, json: Json = False) -> int:
    """What a log holds, and what it lacks for a gap analysis: our own, also while it is written, or another's.

    Parameters
    ----------
    file
        Flight log (.h5), or anything that `sim2sky log import` reads.
    """
    from sim2sky.cli_log_info import run_info

    return run_info(file, mapping=mapping, json=json)


@log_app.command(name="import")
def import_(file: Path, /, *, output: Output = None, mapping: Mapping = None) -> int:
    """Turn another's log into a flight log: one clock, our units and frames, one episode per flight.

    Parameters
    ----------
    file
        PX4 ULog (.ulg), ArduPilot dataflash (.bin), MAVLink .tlog, MCAP (.mcap) or a folder of CSV files.
    """
    from sim2sky.cli_log_info import run_import

    return run_import(file, output or Path(f"{file.resolve().stem}.h5"), mapping=mapping)


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
