"""How often attribution names the one thing that is different: the shipped agent flies aircraft with a single change.

Nominal flights make the simulated log, ten flights of each changed aircraft the real one; both as the flight agent
records them, so that nothing hidden is in them. Causes take turns, so 13 gaps have each once. Also printed: how often
flights of the unchanged aircraft are said to differ.

    python benchmarks/attribution.py [GAPS [SEED [FLIGHTS]]]     default 60 0 10; Ctrl-C prints what there is
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe_machine

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.analysis.attribution import CANNOT_TELL, NOTHING, Attribution, attribute
from sim2sky.analysis.flights import Flight, load_flights
from sim2sky.cli import run as sim2sky
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.hidden_aircraft import CAUSES, nominal_aircraft, single_cause
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = 30
WINDOWS = 60
SIM_SEEDS, REAL_SEEDS = 700_000, 800_000


@dataclass(frozen=True)
class Gap:
    """One gap: what it was, what attribution said, how long that took."""

    cause: str
    seed: int
    found: Attribution
    seconds: float

    @property
    def rank(self) -> int:
        """Of the true cause, from 1; 0 where it is not named."""
        names = [cause.name for cause in self.found.causes]
        return names.index(self.cause) + 1 if self.cause in names else 0


class Flights:
    """Flies and reads logs of one bundle in a folder of its own."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._bundle, self._folder = bundle, folder
        self.base = nominal_aircraft(EnvironmentSettings())

    def fly(self, environment: EnvironmentSettings, seeds: range, source: str) -> list[Flight]:
        path = self._folder / f"{source}.h5"
        job = FlightJob.of(self._bundle, environment)
        simulate(job, seeds, path, source="sim" if source == "sim" else "virtual", overwrite=True)
        return load_flights(path)


def gaps(flights: Flights, count: int, seed: int, each: int) -> Iterator[Gap]:
    """Gaps one after the other; causes take turns, seeds count up."""
    sim = flights.fly(flights.base, range(SIM_SEEDS, SIM_SEEDS + SIMULATED), "sim")
    for number in range(seed, seed + count):
        cause = CAUSES[number % len(CAUSES)]
        first = REAL_SEEDS + 100 * number
        real = flights.fly(single_cause(cause, number, flights.base), range(first, first + each), "virtual")
        begin = time.perf_counter()
        yield Gap(cause, number, attribute(sim, real, windows=WINDOWS), time.perf_counter() - begin)


def unchanged(flights: Flights, count: int, seed: int, each: int) -> Iterator[Attribution]:
    """The same for aircraft in which nothing is different."""
    sim = flights.fly(flights.base, range(SIM_SEEDS, SIM_SEEDS + SIMULATED), "sim")
    for number in range(seed, seed + count):
        first = REAL_SEEDS + 50_000 + 100 * number
        yield attribute(sim, flights.fly(flights.base, range(first, first + each), "virtual"), windows=WINDOWS)


def summary(done: list[Gap]) -> dict[str, float]:
    """Shares over gaps: true cause first or `cannot tell`; first; among the first two or `cannot tell`; refusals."""
    told = [gap for gap in done if gap.found.verdict != CANNOT_TELL]
    n = max(len(done), 1)
    refused = len(done) - len(told)
    return {
        "named right or refused": (sum(gap.found.verdict == gap.cause for gap in told) + refused) / n,
        "first": sum(gap.rank == 1 for gap in done) / n,
        "in the first two or refused": (sum(1 <= gap.rank <= 2 for gap in told) + refused) / n,
        "cannot tell": refused / n,
        "nothing to explain": sum(gap.found.verdict == NOTHING for gap in done) / n,
    }


def export(folder: Path) -> Bundle:
    """The shipped agent as a bundle."""
    path = folder / "hawk"
    if sim2sky(["export", str(ROOT / "agents" / "hawk" / "model.zip"), "-o", str(path)]) != 0:
        raise SystemExit(1)
    return open_bundle(path)


def main() -> None:
    count, seed, each = (int(a) for a in [*sys.argv[1:4], *("60", "0", "10")[len(sys.argv) - 1 :]])
    print(describe_machine("jsbsim", "numpy", "scipy"))
    done: list[Gap] = []
    false: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        flights = Flights(export(Path(folder)), Path(folder))
        try:
            for gap in gaps(flights, count, seed, each):
                done.append(gap)
                top = ", ".join(f"{c.name} {c.log_bayes:.0f}" for c in gap.found.causes[:3])
                mark = "ok" if gap.found.verdict == gap.cause else "--"
                print(f"{mark} {gap.seed:4d} {gap.cause:13s} -> {gap.found.verdict:18s} {gap.seconds:5.1f} s  {top}")
            false.extend(found.verdict != NOTHING for found in unchanged(flights, max(count // 3, 1), seed, each))
        except KeyboardInterrupt:
            print("interrupted; what there is:")
    print(f"{len(done)} gaps of {each} flights against {SIMULATED} simulated ones, seeds from {seed}")
    for name, share in summary(done).items():
        print(f"  {name:28s} {100.0 * share:5.1f} %")
    if false:
        print(f"  unchanged aircraft said to differ: {sum(false)} of {len(false)}")
    for cause in CAUSES:
        answers = [gap.found.verdict for gap in done if gap.cause == cause]
        print(f"  {cause:13s} " + ", ".join(f"{a} {answers.count(a)}" for a in dict.fromkeys(answers)))


if __name__ == "__main__":
    main()
