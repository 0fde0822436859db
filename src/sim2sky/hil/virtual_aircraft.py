"""The virtual aircraft in flight: the installed flight agent in a process of its own, and on the other end of a MAVLink
link an aircraft whose parameters only a seed knows.

In lockstep, as a HIL run (`fly_virtual_aircraft`), or in real time behind an autopilot (`serve`). All that is left of
such a flight is the agent's own log, labelled `virtual`; what the aircraft really was is not written anywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.deployment.targets import fetch_bundle, open_target
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import draw_scenario
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.environments.hidden_aircraft import hidden_aircraft
from sim2sky.errors import LinkError
from sim2sky.hil.hil_test import HilResult, run_hil
from sim2sky.hil.virtual_autopilot import PHYSICS_HZ, SYSTEM, VirtualAutopilot
from sim2sky.runtime.autopilots import ARDUPILOT, AutopilotKind
from sim2sky.runtime.boot import module_command
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.excitation import Excitation
from sim2sky.runtime.link import mavlink, open_link
from sim2sky.telemetry.log_files import require_place

__all__ = ["InstalledAgent", "flight_seeds", "fly_virtual_aircraft", "installed_agent", "serve"]

START_S = 120.0
"""How long an agent may take to start: slow processors load onnxruntime slowly; one that died is noticed at once."""
_STREAM = 0x464C5953


@dataclass(frozen=True)
class InstalledAgent:
    """A flight agent that can be started.

    Attributes:
        name: of the target or the folder.
        bundle: what it flies, verified, on this machine.
        command: starts it; link and log are appended.
        tunnelled: it is behind a connection that carries TCP only.
    """

    name: str
    bundle: Bundle
    command: Sequence[str]
    tunnelled: bool = False


@contextmanager
def installed_agent(where: str) -> Generator[InstalledAgent, None, None]:
    """The agent that is active on a target, or the one in a bundle folder.

    Args:
        where: `local:FOLDER`, `ssh://user@host[:port]/path`, or a bundle folder.

    Raises:
        TargetError: nothing is installed there, or it cannot be reached.
        BundleError: no bundle in that folder, or a damaged one.
    """
    if Path(where).is_dir() or not (":" in where or "@" in where):
        bundle = open_bundle(Path(where))
        yield InstalledAgent(where, bundle, module_command("sim2sky.runtime.main", "--bundle", str(bundle.path)))
        return
    target = open_target(where)
    with tempfile.TemporaryDirectory(prefix="sim2sky-installed-") as folder:
        bundle = fetch_bundle(target, Path(folder))
        command = target.command("sim2sky.runtime.main", "--bundle", "{release}/bundle")
        yield InstalledAgent(target.name, bundle, command, target.transport.tunnelled)


def flight_seeds(seed: int, n: int) -> list[int]:
    """Seeds of the weather and tasks of an aircraft's first `n` flights; the same for every agent that flies it."""
    words = np.random.SeedSequence(seed, spawn_key=(_STREAM,)).generate_state(n, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]


def fly_virtual_aircraft(
    agent: InstalledAgent,
    base: EnvironmentSettings,
    seed: int,
    flights: int,
    log: Path,
    *,
    excitation: Path | None = None,
    overwrite: bool = False,
    start_time: str = "",
    link: str = "udp",
    progress: Callable[[int, EpisodeOutcome], None] | None = None,
) -> HilResult:
    """Fly the virtual aircraft of a seed in lockstep and keep the agent's log. Whether a flight fulfilled its task is
    judged by what the aircraft did, not by what its sensors said.

    Args:
        agent: what flies.
        base: aircraft, task and rates of its contract, and the air that is not hidden.
        seed: of the aircraft; the same seed gives the same aircraft, and the same flights for every agent.
        flights: how many.
        log: the agent's log. Should anything fail, it holds the flights up to then.
        excitation: plan that the agent adds to its policy's commands; a flight is as long as the plan, at least.
        overwrite: replace a log that is already there.
        start_time: ISO 8601, noted in the log.
        link: `udp` or `tcp`.
        progress: called with the flight's number and outcome.

    Raises:
        FlightLogError: the log exists, cannot be written or fetched.
        LinkError: the agent does not start, dies or falls silent.
        ConfigError: a negative seed, no flights, or a plan that cannot be read or is for another aircraft.
    """
    log = log.absolute()
    require_place(log, overwrite=overwrite)
    words = ["--virtual-aircraft", str(seed), "--start-time", start_time]
    if excitation is not None:
        plan = Excitation.load(excitation, aircraft=base.aircraft)
        words += ["--excitation", str(excitation.absolute())]
        base = base.model_copy(
            update={"task": base.task.model_copy(update={"duration_s": max(base.task.duration_s, plan.duration_s)})}
        )
    result = run_hil(
        [*agent.command, *words],
        hidden_aircraft(seed, base),
        flight_seeds(seed, flights),
        link="tcp" if agent.tunnelled or link == "tcp" else "udp",
        agent_log=log,
        progress=progress,
        agent_name=agent.bundle.agent,
        bundle_digest=agent.bundle.digest,
        connect_timeout_s=START_S,
    )
    if result.agent_log is None:
        raise LinkError(f"the flights are over, but no log of them came to {log}", hint="is there room on the target?")
    return result


def serve(
    address: str,
    seed: int,
    base: EnvironmentSettings,
    *,
    kind: AutopilotKind = ARDUPILOT,
    say: Callable[[str], None],
    clock: Clock | None = None,
) -> NoReturn:
    """Fly the virtual aircraft of a seed in real time behind an autopilot, until interrupted.

    Its heartbeat carries the HIL flag, so that no log of it can be labelled real. Weather as in its first flight.

    Args:
        address: link to the companion computer: `udpin:HOST:PORT`, `tcpin:HOST:PORT` or `serial:DEVICE:BAUD`.
        seed: of the aircraft.
        base: which aircraft, and the air that is not hidden.
        kind: which autopilot it plays.
        say: told where it can be reached.
        clock: for tests.

    Raises:
        ConfigError: a negative seed, or no address.
        LinkError: the link cannot be opened, or broke.
    """
    hidden = hidden_aircraft(seed, base.model_copy(update={"physics_hz": PHYSICS_HZ}))
    scenario = draw_scenario(hidden, airframe(base.aircraft), flight_seeds(seed, 1)[0])
    with open_link(address, system=SYSTEM, component=mavlink.MAV_COMP_ID_AUTOPILOT1) as link:
        autopilot = VirtualAutopilot(link, clock or RealClock(), kind=kind, aircraft=base.aircraft, scenario=scenario)
        say(f"virtual aircraft {seed} ({base.aircraft}) behind a virtual {kind.name} on {link.address}")
        while True:
            autopilot.step(0.004)
