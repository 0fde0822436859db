"""Hardware-in-the-loop episodes: this process flies the plant, another one is the flight agent, MAVLink lies between.

The flight agent is started by a command, so that it may as well run on a target as in a folder of its own here.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ConfigError, LinkError, NotSupportedError
from sim2sky.hil.agent_process import GRACE_S, AgentProcess
from sim2sky.hil.faults import FaultyVehicle
from sim2sky.hil.faulty_plant import FaultPlan, FaultyPlant
from sim2sky.hil.plant import WANTED, AgentIdentity, Plant, measurement_contract
from sim2sky.runtime import messages
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.link import MavlinkLink, open_link
from sim2sky.runtime.recorder import LOCKSTEP_WAIT_S, Recorder
from sim2sky.telemetry.flight_log import FlightLog, LogMetadata

__all__ = ["Agreement", "HilResult", "compare_logs", "compare_with_simulation", "run_hil", "summary"]

PLANT_LOG = "hil_plant.h5"
AGENT_LOG = "hil_agent.h5"
AGENT_OUTPUT = "hil_agent.txt"


@dataclass(frozen=True)
class HilResult:
    """What a HIL run measured.

    Attributes:
        outcomes: one per seed, in order.
        exchange_us: `median`, `p99`, `max`, `n`: state packed to command decoded, both processes included.
        round_trip_us: the same of TIMESYNC.
        retransmissions: datagrams sent again.
        missed: real time: ticks whose command came late, and `ticks` of all.
        identity: what the agent said it flies.
        plant_log, agent_log: flight logs, None where none was written.
        problem: why a log is missing, if so.
    """

    outcomes: list[EpisodeOutcome]
    exchange_us: dict[str, float]
    round_trip_us: dict[str, float]
    retransmissions: int
    missed: int
    ticks: int
    identity: AgentIdentity
    plant_log: Path | None = None
    agent_log: Path | None = None
    problem: str = ""

    @property
    def success_rate(self) -> float:
        """Share of successful episodes."""
        return sum(o.success for o in self.outcomes) / max(len(self.outcomes), 1)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {
            "outcomes": [o.to_json() for o in self.outcomes],
            "exchange_us": self.exchange_us,
            "round_trip_us": self.round_trip_us,
            "retransmissions": self.retransmissions,
            "missed": self.missed,
            "ticks": self.ticks,
            "bundle_digest": self.identity.bundle_digest,
            "contract_hash": self.identity.contract_hash,
            "plant_log": str(self.plant_log or ""),
            "agent_log": str(self.agent_log or ""),
            "problem": self.problem,
        }


def run_hil(
    command_for_agent: Sequence[str],
    settings: EnvironmentSettings,
    seeds: Sequence[int],
    *,
    link: Literal["udp", "tcp"] = "udp",
    log_dir: Path | None = None,
    agent_log: Path | None = None,
    progress: Callable[[int, EpisodeOutcome], None] | None = None,
    realtime: bool = False,
    agent_name: str = "",
    bundle_digest: str = "",
    start_time: str = "",
    plant_host: str = "127.0.0.1",
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 2.0,
    connect_timeout_s: float = 30.0,
    clock: Clock | None = None,
    faults: FaultPlan | None = None,
) -> HilResult:
    """Start the flight agent, fly the seeds, end the agent.

    Args:
        command_for_agent: how to start it, e.g. `[python, "-m", "sim2sky.runtime.main", "--bundle", DIR]`; link, log
            and mode are appended.
        settings: the plant.
        seeds: one per episode.
        link: UDP or TCP.
        log_dir: for both logs and the agent's own words; must exist. None: no logs.
        agent_log: where the agent's log goes instead; without `log_dir` the plant then keeps what it knows to itself.
        progress: called with the episode's number and outcome.
        realtime: at the control rate; else lockstep.
        agent_name, start_time: noted in the log.
        bundle_digest: what the agent must say it flies; empty accepts any.
        plant_host: address under which the agent reaches this machine.
        port: to listen on; 0 takes a free one.
        environment: of the agent's process; None inherits.
        timeout_s: an agent silent for so long ends the run.
        connect_timeout_s: how long the agent may take to start.
        clock: for tests.
        faults: what is to go wrong, flight by flight; filled with reports. A restarted agent writes a log of its own,
            `hil_agent_1.h5`.

    Raises:
        LinkError: the agent does not start, flies another bundle, dies, falls silent or sends nonsense. The process is
            ended in every case.
        ConfigError: no seeds, an unknown kind of link, or another number of fault scripts than of seeds.
        NotSupportedError: faults in real time.
        FlightLogError: a log cannot be created.
    """
    if not seeds:
        raise ConfigError("a HIL run needs at least one seed")
    if link not in {"udp", "tcp"}:
        raise ConfigError(f"unknown HIL link '{link}'", hint="udp or tcp")
    if faults is not None and realtime:
        raise NotSupportedError("faults in real time", hint="they are injected in lockstep, in simulated time")
    if faults is not None and len(faults.scripts) != len(seeds):
        raise ConfigError(f"{len(seeds)} flights have {len(faults.scripts)} fault scripts")
    clock = clock or RealClock()
    contract = measurement_contract(settings.aircraft, settings.task.name, settings.rate_hz)
    config = {"vehicle": contract.vehicle, "task": contract.task, "environment": settings.model_dump(mode="json")}
    metadata = LogMetadata("hil", agent_name, bundle_digest, "", settings.rate_hz, start_time, config)
    plant_log = None if log_dir is None else log_dir / PLANT_LOG
    agent_log = agent_log or (None if log_dir is None else log_dir / AGENT_LOG)
    with contextlib.ExitStack() as stack:
        said = log_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sim2sky-hil-")))
        listening = stack.enter_context(_listen(link, plant_host, port, clock))
        recorder = Recorder(plant_log, metadata, contract, overwrite=True, wait_s=0.0 if realtime else LOCKSTEP_WAIT_S)
        stack.callback(recorder.close)
        arguments = [*command_for_agent, "--link", f"{link}:{plant_host}:{listening.port}"]
        arguments += ["--log", str(agent_log), "--overwrite"] if agent_log is not None else []
        arguments += ["--realtime"] if realtime else []
        process = stack.enter_context(AgentProcess(arguments, said / AGENT_OUTPUT, environment))

        def alive() -> str:
            return process.ended

        if faults is None:
            vehicle = SimVehicle(settings)
            plant = Plant(vehicle, listening, clock, recorder, realtime=realtime, timeout_s=timeout_s, alive=alive)
        else:

            def revive() -> MavlinkLink:
                nonlocal listening, restarts
                listening.close()
                restarts += 1
                listening = stack.enter_context(_listen(link, plant_host, listening.port, clock))
                again = [a if a != str(agent_log) else str(restarted_log(agent_log, restarts)) for a in arguments]
                process.restart(again)
                return listening

            restarts = 0
            plant = FaultyPlant(
                FaultyVehicle(settings),
                listening,
                clock,
                recorder,
                timeout_s=timeout_s,
                alive=alive,
                plan=faults,
                kill=process.kill,
                revive=revive,
            )
        try:
            identity = plant.connect(connect_timeout_s)
            if bundle_digest and not bundle_digest.startswith(identity.bundle_digest):
                raise LinkError(
                    f"the flight agent flies bundle {identity.bundle_digest}, not {bundle_digest[:16]}",
                    hint="install the bundle on the target again",
                )
            outcomes = []
            for episode, seed in enumerate(seeds):
                outcomes.append(plant.fly(episode, seed))
                if progress is not None:
                    progress(episode, outcomes[-1])
            plant.shutdown()
            if not process.wait(GRACE_S):
                raise LinkError("the flight agent did not end when told to")
        except LinkError as error:
            process.wait(0.2)
            if (reason := alive()) and reason not in error.message:
                raise LinkError(f"{error.message}: {reason}", hint=error.hint) from error
            raise
    statistics = plant.statistics
    return HilResult(
        outcomes,
        summary(statistics.exchange_ns),
        summary(statistics.round_trip_ns),
        statistics.retransmissions,
        statistics.missed,
        len(statistics.exchange_ns) + statistics.missed,
        identity,
        plant_log if not recorder.problem else None,
        agent_log if agent_log is not None and agent_log.exists() else None,
        recorder.problem,
    )


def restarted_log(log: Path | None, number: int) -> Path | None:
    """Where the agent logs after its restart with this number."""
    return None if log is None else log.with_stem(f"{log.stem}_{number}")


def _listen(link: str, host: str, port: int, clock: Clock) -> MavlinkLink:
    system, component = messages.PLANT
    return open_link(f"{link}in:{host}:{port}", system=system, component=component, wanted=WANTED, clock=clock)


def summary(values_ns: Sequence[int]) -> dict[str, float]:
    """`median`, `p99`, `max` in microseconds, and `n`; NaN where there are none."""
    if not values_ns:
        return {"median": math.nan, "p99": math.nan, "max": math.nan, "n": 0.0}
    us = np.asarray(values_ns, np.float64) * 1e-3
    return {
        "median": float(np.median(us)),
        "p99": float(np.percentile(us, 99)),
        "max": float(us.max()),
        "n": float(len(us)),
    }


@dataclass(frozen=True)
class Agreement:
    """HIL against pure simulation on the same seeds.

    Attributes:
        episodes: how many were compared.
        same_success, same_termination, same_duration: in how many the two agree.
        tracking_rmse_difference: largest difference per channel, in its unit.
        action_rate_difference: largest difference, 1/s.
        different_seeds: seeds whose success differs.
    """

    episodes: int
    same_success: int
    same_termination: int
    same_duration: int
    tracking_rmse_difference: dict[str, float]
    action_rate_difference: float
    different_seeds: list[int] = field(default_factory=list[int])

    @property
    def agrees(self) -> bool:
        """Every episode ends the same way."""
        return self.same_success == self.same_termination == self.episodes


def compare_with_simulation(hil: Sequence[EpisodeOutcome], simulation: Sequence[EpisodeOutcome]) -> Agreement:
    """How far a lockstep HIL run reproduces the simulation. The wire rounds, so trajectories agree but not bit for bit.

    Raises:
        ConfigError: the runs do not have the same seeds in the same order.
    """
    if [o.seed for o in hil] != [o.seed for o in simulation] or not hil:
        raise ConfigError("HIL and simulation must have flown the same seeds, in the same order")
    pairs = list(zip(hil, simulation, strict=True))
    worst: dict[str, float] = {}
    for a, b in pairs:
        for channel, value in a.tracking_rmse.items():
            difference = abs(value - b.tracking_rmse[channel])
            if math.isfinite(difference):
                worst[channel] = max(worst.get(channel, 0.0), difference)
    return Agreement(
        len(pairs),
        sum(a.success == b.success for a, b in pairs),
        sum(a.termination == b.termination for a, b in pairs),
        sum(a.duration_s == b.duration_s for a, b in pairs),
        worst,
        max(abs(a.action_rate - b.action_rate) for a, b in pairs),
        [a.seed for a, b in pairs if a.success != b.success],
    )


def compare_logs(a: FlightLog, b: FlightLog, *, dataset: str = "states") -> dict[str, float]:
    """Largest difference per column of a dataset over all episodes of two logs, as long as both fly.

    Angles named yaw are compared across the cut at +-pi.

    Raises:
        ConfigError: the logs do not hold the same number of episodes.
    """
    if len(a) != len(b):
        raise ConfigError(f"{a.path.name} has {len(a)} episodes, {b.path.name} {len(b)}")
    worst: dict[str, float] = {}
    for left, right in zip(a.episodes, b.episodes, strict=True):
        n = min(len(left), len(right))
        for column in left.columns(dataset):
            difference = np.abs(left.column(dataset, column)[:n] - right.column(dataset, column)[:n])
            if column == "yaw":
                difference = np.minimum(difference, 2.0 * np.pi - difference)
            worst[column] = max(worst.get(column, 0.0), float(difference.max(initial=0.0)))
    return worst
