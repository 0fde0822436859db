"""Flies episodes against an agent on a chip, real or emulated, step by step; the plant is in this process."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sim2sky.agent.bundle import Bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome, fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.hil.hil_test import AGENT_LOG, HilResult, summary
from sim2sky.hil.pil import ChipAgent, PilLink
from sim2sky.hil.plant import AgentIdentity
from sim2sky.runtime.recorder import LOCKSTEP_WAIT_S, Recorder, state_row
from sim2sky.runtime.safety import Mode
from sim2sky.runtime.state import Command, Sample, Setpoint
from sim2sky.telemetry.flight_log import LogMetadata

__all__ = ["StepCost", "fly_chip", "measure_steps"]


def fly_chip(
    agent: ChipAgent,
    bundle: Bundle,
    settings: EnvironmentSettings,
    seeds: Sequence[int],
    *,
    log_dir: Path | None = None,
    progress: Callable[[int, EpisodeOutcome], None] | None = None,
    start_time: str = "",
) -> HilResult:
    """Fly the seeds, processor in the loop, in lockstep: doubles travel both ways, so an episode is a function of its
    seed and of the firmware alone.

    Args:
        agent: on the chip.
        bundle: what its firmware was built from.
        settings: the plant, at the bundle's rate.
        seeds: one per episode.
        log_dir: for the flight log of what the agent measured and did; must exist. None: no log.
        progress: called with the episode's number and outcome.
        start_time: noted in the log.

    Raises:
        LinkError: the chip falls silent, dies or answers nonsense.
        FlightLogError: the log cannot be created.
    """
    contract, rate_hz = bundle.contract, settings.rate_hz
    config: dict[str, Any] = {
        "vehicle": contract.vehicle,
        "task": contract.task,
        "environment": settings.model_dump(mode="json"),
    }
    metadata = LogMetadata("hil", bundle.agent, bundle.digest, contract.hash, rate_hz, start_time, config)
    path = None if log_dir is None else log_dir / AGENT_LOG
    vehicle = SimVehicle(settings)
    exchange_ns: list[int] = []
    outcomes: list[EpisodeOutcome] = []
    interventions = 0
    with contextlib.ExitStack() as stack:
        recorder = Recorder(path, metadata, contract, overwrite=True, wait_s=LOCKSTEP_WAIT_S)
        stack.callback(recorder.close)

        def pilot(sample: Sample, setpoint: Setpoint, now_ns: int) -> Command:
            nonlocal interventions
            start = time.perf_counter_ns()
            tick = agent.tick(sample, setpoint, now_ns)
            exchange_ns.append(time.perf_counter_ns() - start)
            interventions += bool(tick.trips or tick.guard != Mode.POLICY)
            if path is not None:
                recorder.record(state_row(sample, recorder.ticks / rate_hz), setpoint, tick)
            return tick.command

        for number, seed in enumerate(seeds):
            agent.reset()
            interventions = 0
            recorder.begin(seed)
            outcome = replace(fly_episode(vehicle, pilot, seed), interventions=interventions)
            recorder.end(success=outcome.success, termination=outcome.termination)
            outcomes.append(outcome)
            if progress is not None:
                progress(number, outcome)
    return HilResult(
        outcomes,
        summary(exchange_ns),
        summary([]),
        0,
        0,
        len(exchange_ns),
        AgentIdentity(agent.identity.bundle_digest[:16], agent.identity.contract_hash[:16]),
        None,
        path if path is not None and not recorder.problem else None,
        recorder.problem,
    )


class StepCost(NamedTuple):
    """Instructions of a control step in flight.

    Attributes:
        policy: of the policy alone, median.
        step: of the whole tick (observation, policy, guard), median.
        step_max: the most that occurred.
    """

    policy: int
    step: int
    step_max: int


def measure_steps(link: PilLink, bundle: Bundle, settings: EnvironmentSettings, seed: int, *, ticks: int) -> StepCost:
    """Count instructions along the beginning of an episode, on firmware that counts.

    Args:
        link: to it.
        bundle: what it was built from.
        settings: the plant, at the bundle's rate.
        seed: of the episode.
        ticks: how many steps.

    Raises:
        LinkError: see `PilLink.ask`.
        TargetError: the firmware was built for another contract.
    """
    agent = ChipAgent(link, bundle.contract)
    vehicle = SimVehicle(settings)
    agent.reset()
    sample = vehicle.reset(seed)
    steps: list[int] = []
    seen = []
    while len(steps) < ticks and not vehicle.done:
        tick = agent.tick(sample, vehicle.setpoint, sample.time_ns)
        steps.append(agent.instructions)
        seen.append(tick.observation)
        sample = vehicle.step(tick.command)
    link.forget()
    period_ns = int(1e9 / settings.rate_hz) + 1
    policy = [link.policy(row, i * period_ns).instructions for i, row in enumerate(seen)]
    return StepCost(round(statistics.median(policy)), round(statistics.median(steps)), max(steps))
