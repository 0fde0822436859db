"""Simulated flights as a flight log: the very agent, guard and recorder of a flight, a simulated aircraft around them.

What is in the log is what the aircraft would have measured, so that a log of real flights can be compared with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError, FlightLogError
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.recorder import LOCKSTEP_WAIT_S, Recorder, state_row
from sim2sky.runtime.state import Sample, Setpoint
from sim2sky.telemetry.flight_log import LogMetadata, Source
from sim2sky.telemetry.log_files import replacing, require_place
from sim2sky.validation.flight import FlightJob, Flyer

__all__ = ["simulate"]


def simulate(
    job: FlightJob,
    seeds: Sequence[int],
    path: Path,
    *,
    source: Source = "sim",
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, EpisodeOutcome], None] | None = None,
) -> list[EpisodeOutcome]:
    """Fly one episode per seed and write the log that the flight agent would have written; complete or not at all.

    Args:
        job: what flies, and in which conditions.
        seeds: of the episodes.
        path: the log.
        source: what it is labelled. Only a `sim` log says which conditions it was flown in: those of a stand-in for
            another aircraft are not known to whoever reads its log.
        notes: more for the metadata's `config`, JSON-compatible.
        overwrite: replace a log that is already there.
        progress: called with the episode's number and outcome.

    Returns:
        Outcomes in the order of `seeds`.

    Raises:
        FlightLogError: the log exists or cannot be written.
        ConfigError: no seeds, or `source` is "real": a simulated flight never is.
        BundleError, ContractError: the bundle cannot fly.
    """
    if not seeds:
        raise ConfigError("a simulation needs at least one seed")
    if source == "real":
        raise ConfigError("a simulated flight cannot be labelled real")
    require_place(path, overwrite=overwrite)
    flyer = Flyer(job)
    bundle, rate_hz = flyer.bundle, flyer.bundle.contract.rate_hz
    config: dict[str, Any] = {"vehicle": bundle.contract.vehicle, "task": bundle.contract.task, **(notes or {})}
    if source == "sim":
        config["environment"] = job.environment.model_dump(mode="json")
    metadata = LogMetadata(source, bundle.agent, bundle.digest, bundle.contract.hash, rate_hz, "", config)
    outcomes: list[EpisodeOutcome] = []
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        recorder = Recorder(temporary, metadata, bundle.contract, wait_s=LOCKSTEP_WAIT_S)
        stack.callback(recorder.close)

        def on_tick(sample: Sample, setpoint: Setpoint, tick: Tick) -> None:
            recorder.record(state_row(sample, recorder.ticks / rate_hz), setpoint, tick)
            recorder.trips(flyer.monitor.events)

        for number, seed in enumerate(seeds):
            recorder.begin(seed)
            outcome = flyer.fly(seed, on_tick)
            recorder.end(success=outcome.success, termination=outcome.termination)
            outcomes.append(outcome)
            if progress is not None:
                progress(number, outcome)
        recorder.close()
        if recorder.problem:
            raise FlightLogError(recorder.problem)
    return outcomes
