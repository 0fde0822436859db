"""Foreign logs: damaged ones are salvaged or refused by name, and large ones are imported quickly.

    python -m benchmarks.log_import damage 1000 --seed 0
    python -m benchmarks.log_import speed 100

`damage` takes made-up logs of every format (and real ones given with --logs FOLDER) in turn, cuts them off, flips bits,
overwrites stretches, and imports them. Anything but a log or an error of ours that names the file is a crash.
`speed` imports a ULog, a dataflash log and a tlog of so many megabytes, beside pyulog's and pymavlink's bare reading.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks.machine import describe_machine
from tests.ardupilot_logs import DataflashFlight, TlogFlight
from tests.log_support import Truth, UlogFlight, UlogTopic

from sim2sky.errors import Sim2SkyError
from sim2sky.telemetry.flight_log import read_flight_log
from sim2sky.telemetry.importers.describe import describe
from sim2sky.telemetry.importers.import_log import import_log, is_mcap
from sim2sky.telemetry.mcap_export import export_mcap

MEGABYTE = 1_000_000


@dataclass
class Damage:
    """What became of the damaged files of one format."""

    name: str
    files: int = 0
    whole: int = 0
    salvaged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file with one kind of damage."""
    kind = rng.choice(("cut", "bits", "bits", "noise", "zeros", "hole", "cut and bits"))
    changed = bytearray(data)
    if "cut" in kind:
        del changed[rng.randrange(len(data)) :]
    if "bits" in kind and changed:
        for _ in range(2 ** rng.randrange(9)):
            at = rng.randrange(min(len(changed), 4096) if rng.random() < 0.3 else len(changed))
            changed[at] ^= 1 << rng.randrange(8)
    if kind in {"noise", "zeros", "hole"}:
        at = rng.randrange(len(data))
        size = min(2 ** rng.randrange(4, 17), len(data) - at)
        new = rng.randbytes(size) if kind == "noise" else bytes(size) if kind == "zeros" else b""
        changed[at : at + size] = new
    return kind, bytes(changed)


def samples(folder: Path, logs: Path | None) -> dict[str, Path]:
    """One good log per format, and those of `logs`."""
    truth = Truth(duration_s=20.0, takeoff_s=4.0, landing_s=16.0)
    made = {
        "ULog": UlogFlight(truth).write(folder / "a.ulg"),
        "dataflash": DataflashFlight(truth).write(folder / "a.bin"),
        "tlog": TlogFlight(truth).write(folder / "a.tlog"),
    }
    import_log(made["ULog"], folder / "a.h5")
    with read_flight_log(folder / "a.h5") as log:
        export_mcap(log, folder / "a.mcap")
    (folder / "csv").mkdir()
    t = truth.times(50.0)
    rows = np.column_stack([t, *(truth.at(t)[n] for n in ("roll", "pitch", "yaw"))])
    np.savetxt(folder / "csv" / "a.csv", rows, delimiter=",", header="time,roll,pitch,yaw", comments="")
    (folder / "csv" / "mapping.yaml").write_text(
        "source: real\nalways: [armed, airborne]\nfiles:\n  - file: a.csv\n"
        "    channels: {roll: roll, pitch: pitch, yaw: yaw}\n"
    )
    made |= {"MCAP": folder / "a.mcap", "CSV": folder / "csv" / "a.csv"}
    if logs is not None:
        made |= {p.name: p for p in sorted(logs.iterdir()) if p.suffix.lower() in {".ulg", ".bin", ".tlog", ".mcap"}}
    return made


def damage(count: int, seed: int, *, logs: Path | None = None) -> Iterator[list[Damage]]:
    """Damage and import `count` files, the formats in turn; yields the results so far after each."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = samples(folder, logs)
        contents = {format_: path.read_bytes() for format_, path in good.items()}
        results = {format_: Damage(format_) for format_ in good}
        for i in range(count):
            format_ = list(good)[i % len(good)]
            path, result = good[format_], results[format_]
            kind, data = damaged(contents[format_], rng)
            path.write_bytes(data)
            began = time.perf_counter()
            try_import(path.parent if format_ == "CSV" else path, folder / "out.h5", result, f"file {i} ({kind})")
            result.slowest_s = max(result.slowest_s, time.perf_counter() - began)
            path.write_bytes(contents[format_])
            yield list(results.values())


def try_import(path: Path, out: Path, result: Damage, what: str) -> None:
    """Import and describe one file, and note what came of it."""
    result.files += 1
    try:
        with contextlib.suppress(Sim2SkyError):
            if not is_mcap(path):
                describe(path)
        imported = import_log(path, out)
        with read_flight_log(out) as log:
            assert len(log) == len(imported.episodes) > 0
            ticks = sum(len(e) for e in log.episodes)
        assert ticks > 0
        result.salvaged += 1
    except Sim2SkyError as error:
        if path.name not in error.message and path.name not in error.hint:
            result.crashes.append(f"{what}: does not name the file: {error.message}")
        reason = error.message.split(": ", 1)[-1].split(": ")[0]
        result.refused[reason[:60]] += 1
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        result.crashes.append(f"{what}: {type(error).__name__}: {error}")
    finally:
        out.unlink(missing_ok=True)


def report_damage(results: list[Damage]) -> None:
    """Print the table."""
    print(f"{'format':<28}{'files':>7}{'salvaged':>10}{'refused':>9}{'crashes':>9}{'slowest s':>11}")
    for r in results:
        print(f"{r.name:<28}{r.files:>7}{r.salvaged:>10}{r.refused.total():>9}{len(r.crashes):>9}{r.slowest_s:>11.2f}")
    for r in results:
        for line in r.crashes[:10]:
            print(f"  {r.name}: {line}")
    for reason, number in sum((r.refused for r in results), Counter[str]()).most_common(12):
        print(f"  refused {number:4}: {reason}")


def large_ulog(path: Path, megabytes: float) -> Path:
    """A ULog of that size: the made-up flight, long, with some topics that nobody asks for, as a real log has."""
    per_second = 58_700.0
    truth = _long(megabytes * MEGABYTE / per_second)
    flight = UlogFlight(truth, attitude_hz=200.0)
    t = truth.times(200.0)
    three = np.random.default_rng(0).normal(size=(len(t), 3)).astype(np.float32)
    for k in range(4):
        name = f"sensor_{k}"
        columns = [("gyro_rad", "float[3]", three), ("accelerometer_m_s2", "float[3]", three), ("n", "uint32_t", t)]
        flight.topics[name] = UlogTopic(name, t, columns)
    states = np.zeros((len(t[::4]), 24), np.float32)
    flight.topics["estimator_states"] = UlogTopic("estimator_states", t[::4], [("states", "float[24]", states)])
    return flight.write(path)


def large_dataflash(path: Path, megabytes: float) -> Path:
    """A dataflash log of that size."""
    return DataflashFlight(_long(megabytes * MEGABYTE / 12_000.0)).write(path)


def large_tlog(path: Path, megabytes: float) -> Path:
    """A telemetry log of that size: one flight after the other, joined."""
    flight = TlogFlight(_long(600.0)).write(path).read_bytes()
    times = max(round(megabytes * MEGABYTE / len(flight)), 1)
    path.write_bytes(flight * times)
    return path


def _long(seconds: float) -> Truth:
    return Truth(seconds, takeoff_s=5.0, landing_s=seconds - 5.0)


def read_pyulog(path: Path) -> None:
    """pyulog alone: no channels, no resampling, no output."""
    from pyulog.core import ULog

    ULog(str(path))


def read_pymavlink(path: Path) -> None:
    """pymavlink alone, a message at a time."""
    from pymavlink import mavutil

    connection = mavutil.mavlink_connection(str(path))
    while connection.recv_msg() is not None:
        pass
    connection.close()


SPEED: dict[str, tuple[str, Callable[[Path, float], Path], Callable[[Path], None], str]] = {
    "ULog": ("a.ulg", large_ulog, read_pyulog, "pyulog"),
    "dataflash": ("a.bin", large_dataflash, read_pymavlink, "pymavlink"),
    "tlog": ("a.tlog", large_tlog, read_pymavlink, "pymavlink"),
}


def speed(megabytes: float, *, rivals: bool = True) -> Iterator[tuple[str, float, float, float, int]]:
    """Format, size in MB, seconds to import it whole, seconds of the rival's bare reading (NaN without), ticks."""
    for format_, (name, make, rival, _) in SPEED.items():
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder) / name, megabytes)
            size = path.stat().st_size / MEGABYTE
            began = time.perf_counter()
            result = import_log(path, Path(folder) / "out.h5")
            took = time.perf_counter() - began
            began = time.perf_counter()
            if rivals:
                rival(path)
            theirs = time.perf_counter() - began if rivals else float("nan")
            yield format_, size, took, theirs, sum(len(e.arrays["time_s"]) for e in result.episodes)


def main() -> None:
    """Print the table asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("damage")
    one.add_argument("count", nargs="?", type=int, default=1000)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--logs", type=Path, help="folder of real logs to damage as well")
    two = commands.add_parser("speed")
    two.add_argument("megabytes", nargs="?", type=float, default=100.0)
    options = parser.parse_args()
    print(describe_machine("numpy", "pyulog", "pymavlink", "h5py", "mcap"), flush=True)
    if options.command == "damage":
        found: list[Damage] = []
        with contextlib.suppress(KeyboardInterrupt):
            for results in damage(options.count, options.seed, logs=options.logs):
                found = results
        report_damage(found)
        return
    print(f"{'format':<12}{'MB':>7}{'import s':>10}{'rival s':>9}{'ratio':>7}{'ticks':>9}{'peak MB':>9}")
    for format_, size, took, theirs, ticks in speed(options.megabytes):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        rival = SPEED[format_][3]
        line = f"{format_:<12}{size:>7.1f}{took:>10.2f}{theirs:>9.2f}{theirs / took:>7.2f}{ticks:>9}{peak:>9.0f}"
        print(f"{line}  beside {rival}", flush=True)


if __name__ == "__main__":
    main()
