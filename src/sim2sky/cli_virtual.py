"""`sim2sky simulate` and `sim2sky virtual-aircraft`: flights that leave a log, without any hardware."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim2sky.config.validation import ValidationSettings
    from sim2sky.environments.episode import EpisodeOutcome

__all__ = ["app", "simulate"]

app = cyclopts.App(
    name="virtual-aircraft",
    help="A simulated aircraft with hidden parameters that stands in for a real one; all its logs say virtual.",
    help_format="plaintext",
)

Config = Annotated[Path | None, Parameter(help="validation YAML; the shipped one by default")]
Overwrite = Annotated[bool, Parameter(negative=(), help="replace an existing log")]
Seed = Annotated[int, Parameter(help="of the aircraft: the same seed is the same aircraft")]
Aircraft = Annotated[Literal["ultrastick25e", "aerosonde"], Parameter(help="which airframe it was built as")]
Log = Annotated[Path, Parameter(help="flight log to write (HDF5)")]


def simulate(
    bundle: Path,
    /,
    *,
    log: Log,
    episodes: Annotated[int | None, Parameter(help="instead of the configuration's")] = None,
    config: Config = None,
    randomization: Annotated[
        Path | None, Parameter(help="YAML patch of randomisation and disturbances, as sim2sky identify writes it")
    ] = None,
    seed: Annotated[int | None, Parameter(help="instead of the configuration's")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Fly a bundle in simulation and write the log that the flight agent would write.

    Parameters
    ----------
    bundle
        Bundle folder.
    """
    from sim2sky.agent.bundle import open_bundle
    from sim2sky.cli_commands import extras
    from sim2sky.config.loader import load_settings
    from sim2sky.config.randomization import RandomizationPatch

    settings = _validation(config)
    flown = open_bundle(bundle)
    with extras():
        from sim2sky.validation.campaign import campaign_seeds
        from sim2sky.validation.flight import FlightJob
        from sim2sky.validation.simulate import simulate

        environment = settings.environment
        if randomization is not None:
            environment = load_settings(randomization, RandomizationPatch).apply(environment)
        job = FlightJob.of(flown, environment)
        seeds = campaign_seeds(
            settings.seed if seed is None else seed,
            _positive(settings.sim_validation_episodes if episodes is None else episodes, "--episodes"),
        )
        with _bar("simulated flights", len(seeds)) as told:
            outcomes = simulate(job, seeds, log, overwrite=overwrite, progress=told)
    print(f"simulation of {flown.agent}, {job.environment.aircraft}, {job.environment.task.name}")
    print(_summary(outcomes, "simulated", log))
    return EXIT_PASS


@app.command
def fly(
    agent: str,
    /,
    *,
    seed: Seed,
    log: Log,
    flights: Annotated[int, Parameter(help="how many")] = 10,
    excitation: Annotated[Path | None, Parameter(help="plan of sim2sky excite, added to the agent's commands")] = None,
    config: Config = None,
    overwrite: Overwrite = False,
) -> int:
    """Fly the virtual aircraft of a seed with an installed flight agent, in lockstep, and keep the agent's log.

    Parameters
    ----------
    agent
        local:FOLDER or ssh://user@host[:port]/path where it is installed, or a bundle folder.
    """
    from sim2sky.cli_commands import extras

    settings = _validation(config)
    with extras():
        from sim2sky.environments.hidden_aircraft import nominal_aircraft
        from sim2sky.hil.virtual_aircraft import fly_virtual_aircraft, installed_agent
        from sim2sky.validation.flight import environment_for

        with installed_agent(agent) as installed, _bar("virtual flights", _positive(flights, "--flights")) as told:
            base = nominal_aircraft(environment_for(installed.bundle.contract, settings.environment))
            try:
                result = fly_virtual_aircraft(
                    installed,
                    base,
                    seed,
                    flights,
                    log,
                    excitation=excitation,
                    overwrite=overwrite,
                    start_time=datetime.now(UTC).isoformat(timespec="seconds"),
                    link=settings.hil_link,
                    progress=told,
                )
            except KeyboardInterrupt:
                print(f"{log} holds the virtual flights up to now", file=sys.stderr)
                raise
    print(f"virtual aircraft {seed}: {installed.bundle.agent} from {installed.name}, {base.aircraft}, {base.task.name}")
    print(_summary(result.outcomes, "virtual", log))
    return EXIT_PASS


@app.command
def serve(
    link: str,
    /,
    *,
    seed: Seed,
    kind: Annotated[Literal["ardupilot", "px4"], Parameter(help="which autopilot it sits behind")] = "ardupilot",
    aircraft: Aircraft = "ultrastick25e",
    config: Config = None,
) -> int:
    """Fly the virtual aircraft of a seed in real time behind a virtual autopilot, for sim2sky fly; ends with Ctrl-C.

    Parameters
    ----------
    link
        udpin:HOST:PORT, tcpin:HOST:PORT or serial:DEVICE:BAUD.
    """
    from sim2sky.cli_commands import extras

    base = _validation(config).environment.model_copy(update={"aircraft": aircraft})
    with extras():
        from sim2sky.environments.hidden_aircraft import nominal_aircraft
        from sim2sky.hil import virtual_aircraft
        from sim2sky.runtime.autopilots import ARDUPILOT, PX4

        try:
            virtual_aircraft.serve(
                link,
                seed,
                nominal_aircraft(base),
                kind=PX4 if kind == "px4" else ARDUPILOT,
                say=lambda text: print(text, flush=True),
            )
        except KeyboardInterrupt:
            return EXIT_PASS


@app.command
def show(*, seed: Seed, aircraft: Aircraft = "ultrastick25e", config: Config = None) -> int:
    """Print what the virtual aircraft of a seed hides, as a patch; for tests of what gap analysis has found.

    What no real aircraft would tell. Inertia, and turbulence, are as in the configuration.
    """
    from sim2sky.cli_commands import extras
    from sim2sky.config.loader import dump_yaml
    from sim2sky.config.randomization import RandomizationPatch

    base = _validation(config).environment.model_copy(update={"aircraft": aircraft})
    with extras():
        from sim2sky.environments.hidden_aircraft import hidden_aircraft, nominal_aircraft

        nominal = nominal_aircraft(base)
        patch = RandomizationPatch.between(
            nominal, hidden_aircraft(seed, nominal), written_by=f"virtual aircraft {seed}"
        )
    print(dump_yaml(patch.model_copy(update={"replaced": None})), end="")
    return EXIT_PASS


def _validation(config: Path | None) -> ValidationSettings:
    from sim2sky.config.loader import default_path, load_settings
    from sim2sky.config.validation import ValidationSettings

    return load_settings(config or default_path("validation"), ValidationSettings, section="validation")


def _positive(number: int, option: str) -> int:
    from sim2sky.errors import ConfigError

    if number < 1:
        raise ConfigError(f"{option} must be 1 or above, not {number}")
    return number


def _summary(outcomes: Sequence[EpisodeOutcome], kind: str, log: Path) -> str:
    succeeded, guarded = sum(o.success for o in outcomes), sum(o.interventions > 0 for o in outcomes)
    lines = [f"  {len(outcomes)} {kind} flights, {succeeded} successful, the guard stepped in in {guarded}"]
    ended = sorted({o.termination for o in outcomes if o.termination != "completed"})
    lines += [f"  ended early: {why} ({sum(o.termination == why for o in outcomes)})" for why in ended]
    return "\n".join([*lines, f"  log: {log}, labelled {'sim' if kind == 'simulated' else kind}"])


@contextlib.contextmanager
def _bar(title: str, total: int) -> Generator[Callable[[int, EpisodeOutcome], None], None, None]:
    """A progress bar on stderr; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda _, __: bar.update(task, advance=1)
