"""`sim2sky log info` and `sim2sky log import`: what they print."""

from __future__ import annotations

import json as json_module
import sys
import tempfile
from pathlib import Path

from sim2sky.errors import EXIT_PASS

__all__ = ["run_import", "run_info"]

HDF5 = b"\x89HDF\r\n\x1a\n"


def run_import(file: Path, out: Path, *, mapping: Path | None) -> int:
    """Import, and say what came of it."""
    from rich.console import Console

    from sim2sky.telemetry.importers.import_log import import_log

    with Console(file=sys.stderr).status("reading") as status:
        result = import_log(file, out, mapping=mapping, progress=status.update)
    m = result.metadata
    imported = m.config.get("imported", {})
    said = [str(w) for w in (m.source, m.config.get("vehicle"), imported.get("firmware")) if w]
    print(f"{out}: {len(result.episodes)} episodes at {m.rate_hz:g} Hz ({', '.join(said)})")
    for number, episode in enumerate(result.episodes):
        time_s = episode.arrays["time_s"]
        print(f"  episode_{number:04d}  {time_s[-1] - time_s[0]:8.2f} s  {episode.termination}")
    for line in result.notes:
        print(f"  note: {line}")
    for line in result.missing:
        print(f"  missing: {line}")
    return EXIT_PASS


def run_info(file: Path, *, mapping: Path | None, json: bool) -> int:
    """Say what a log is."""
    from sim2sky.telemetry.importers.import_log import import_log, is_mcap

    if is_mcap(file):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "log.h5"
            import_log(file, copy)
            return _own(copy, json=json)
    return _own(file, json=json) if _is_ours(file) else _foreign(file, mapping, json=json)


def _is_ours(file: Path) -> bool:
    """HDF5, or a log that is being written, or a name that promises one."""
    from sim2sky.telemetry.log_files import parts_of

    if file.suffix.lower() in {".h5", ".hdf5"} or parts_of(file).is_dir() or not file.exists():
        return True
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(HDF5)) == HDF5


def _own(file: Path, *, json: bool) -> int:
    from sim2sky.telemetry.flight_log import read_flight_log
    from sim2sky.telemetry.importers.gap_needs import channels_of, missing_for_gap
    from sim2sky.telemetry.log_report import summarise

    with read_flight_log(file) as log:
        episodes = [summarise(episode) for episode in log.episodes]
        m = log.metadata
        data = {
            "schema": log.schema, "source": m.source, "agent": m.agent, "bundle_digest": m.bundle_digest,
            "contract_hash": m.contract_hash, "rate_hz": m.rate_hz, "start_time": m.start_time,
        }  # fmt: skip
        tables = list(log.episodes[0].datasets) if log.episodes else []
        channels: set[str] = set()
        for episode in log.episodes:
            channels |= channels_of({n: episode[n] for n in ("states", "controls", "setpoints") if n in episode})
        missing = missing_for_gap(channels, success=any(e.attrs.get("success_known", True) for e in log.episodes))
    if json:
        episodes_json = [e.to_json() for e in episodes]
        return _print_json({**data, "tables": tables, "missing": missing, "episodes": episodes_json})
    for key, value in data.items():
        print(f"{key:14} {value}")
    print(f"{'tables':14} {', '.join(tables)}")
    if episodes:
        print(f"\n{'episode':14} {'seed':>20} {'ticks':>7} {'s':>8} {'guarded':>7} {'missing':>7}  ended")
    for e in episodes:
        end = f"{'success' if e.success else 'no success'}, {e.termination}"
        end += f" (segment {e.segment})" if e.segment else ""
        print(f"{e.name:14} {e.seed:20} {e.ticks:7} {e.duration_s:8.2f} {e.guarded:7} {e.dropped:7}  {end}")
    _print_missing(missing)
    return EXIT_PASS


def _foreign(file: Path, mapping: Path | None, *, json: bool) -> int:
    from sim2sky.telemetry.importers.describe import describe

    d = describe(file, mapping)
    if json:
        return _print_json(d.to_json())
    because = f", because {d.simulated}" if d.simulated else ""
    lines = {
        "format": d.format, "vehicle": d.vehicle or "not said", "firmware": d.firmware or "not said",
        "source": d.source + because, "start": d.start_time or "not said", "data": f"{d.duration_s:.2f} s",
        "dropouts": f"{d.dropouts} ({d.dropped_s:.2f} s)", "parameters": d.parameters,
    }  # fmt: skip
    for key, value in lines.items():
        print(f"{key:11} {value}")
    for line in (*d.notes, *d.damage):
        print(f"{'note':11} {line}")
    print(f"\n{'topic':38} {'messages':>9} {'Hz':>8} {'gaps':>5} {'longest s':>9} {'bad times':>9}")
    for t in d.topics:
        name = f"{t.name}[{t.instance}]" if t.instance else t.name
        print(f"{name:38} {t.messages:9} {t.rate_hz:8.1f} {t.gaps:5} {t.longest_s:9.2f} {t.bad_times:9}")
    print(f"\n{'channel':13} {'samples':>8} {'Hz':>7}  from")
    for c in d.channels:
        marked = "; marked: " + ", ".join(f"{n} {why}" for why, n in c.marked.items()) if c.marked else ""
        print(f"{c.name:13} {c.samples:8} {c.rate_hz:7.1f}  {c.origin}{marked}")
    print()
    for begin, end, condition, ended in d.flights:
        print(f"flight      {begin:.2f} to {end:.2f} s: {condition}, then {ended}")
    if d.no_flight:
        print(f"no flight   {d.no_flight}")
    _print_missing(d.missing)
    return EXIT_PASS


def _print_missing(missing: list[str]) -> None:
    print("\nfor a gap analysis " + ("nothing is missing" if not missing else "these are missing:"))
    for line in missing:
        print(f"  {line}")


def _print_json(data: object) -> int:
    print(json_module.dumps(data, indent=2, ensure_ascii=False))
    return EXIT_PASS
