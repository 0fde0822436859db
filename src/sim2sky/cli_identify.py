"""`sim2sky identify` and `sim2sky excite`: an aircraft's parameters from its flights, and flights that tell them."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from sim2sky.errors import EXIT_INCONCLUSIVE, EXIT_PASS, ConfigError
from sim2sky.outputs import require_writable, write_whole
from sim2sky.runtime.state import CHANNELS

if TYPE_CHECKING:
    from sim2sky.analysis.excitation_plan import Plan
    from sim2sky.analysis.identification import Identification, ParameterEstimate
    from sim2sky.config.environment import EnvironmentSettings

__all__ = ["excite", "identify", "render", "render_plan"]

WEIGHED = 0.01  # of the mass, one standard deviation
BALANCED_M = 0.003
_SHOWN = ("roll_rad", "pitch_rad", "p_radps", "q_radps", "r_radps", "airspeed_mps", "altitude_m")


def identify(
    logs: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="randomisation patch to write (YAML)")
    ] = None,
    config: Annotated[
        Path | None, Parameter(help="training YAML whose environment the patch changes; by default the data sheet's")
    ] = None,
    aircraft: Annotated[str, Parameter(help="airframe, where the logs do not say")] = "",
    mass: Annotated[float | None, Parameter(help="weighed take-off mass, kg")] = None,
    cg_offset: Annotated[float | None, Parameter(help="balanced centre of gravity, m before the data sheet's")] = None,
    json: Annotated[bool, Parameter(name="--json", negative=(), help="print the verdict as JSON")] = False,
) -> int:
    """Identify an aircraft's parameters from flight logs; exit code 3 where the flights cannot tell one.

    Parameters
    ----------
    logs
        Flight logs (HDF5) of one aircraft.
    """
    from sim2sky.cli_commands import extras, print_json

    if output is not None:
        require_writable(output)
    with extras():
        from sim2sky.analysis.flights import load_flights
        from sim2sky.analysis.identification import identify as identify_flights
        from sim2sky.analysis.replay import one_airframe
        from sim2sky.environments.airframes import airframe

        flights = load_flights(*logs)
        name = one_airframe(flights, aircraft)
        environment = _environment(config, name)
        known: dict[str, tuple[float, float]] = {}
        if mass is not None:
            known["mass_offset_kg"] = (mass - airframe(name).mass_kg, WEIGHED * mass)
        if cg_offset is not None:
            known["cg_offset_m"] = (cg_offset, BALANCED_M)
        with _progress("identifying") as say:
            found = identify_flights(flights, airframe=name, known=known, say=say)
        if output is not None and found.identified:
            from sim2sky.config.loader import dump_yaml

            command = shlex.join(["sim2sky", "identify", *(p.name for p in logs)])
            write_whole(output, dump_yaml(found.patch(environment, written_by=command)))
    if json:
        print_json(found.to_json())
    else:
        print(render(found))
        if output is not None and found.identified:
            print(f"randomisation patch: {output}")
    return EXIT_PASS if found.identified else EXIT_INCONCLUSIVE


def excite(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="plan to write (JSON)")],
    aircraft: Annotated[str, Parameter(help="airframe")],
    duration: Annotated[float, Parameter(help="of the excitation, s")] = 60.0,
    kind: Annotated[
        Literal["multisine", "chirp"], Parameter(help="all channels at once, or one after another")
    ] = "multisine",
    json: Annotated[bool, Parameter(name="--json", negative=(), help="print the plan as JSON")] = False,
) -> int:
    """Plan an excitation within the aircraft's envelope, and predict the intervals that flying it will give."""
    from sim2sky.cli_commands import extras, print_json

    require_writable(output)
    with extras():
        from sim2sky.analysis.excitation_plan import plan_excitation

        with _progress("rehearsing"):
            plan = plan_excitation(aircraft, duration, kind=kind)
        from sim2sky.agent.contract import canonical_json

        write_whole(output, canonical_json(plan.excitation.to_json()).decode())
    if json:
        print_json(plan.to_json())
    else:
        print(render_plan(plan))
        print(f"plan: {output}; fly it with --excitation {output}")
    return EXIT_PASS


def render(found: Identification) -> str:
    """For a reader: verdict, table, replay errors."""
    total, seen = len(found.parameters), len(found.identified)
    lines = [f"{found.verdict}: {seen} of {total} parameters of {found.airframe}, {found.windows} windows of 1 s"]
    moved = ", ".join(f"{channel} {rms:.0%}" for channel, rms in found.activity.items())
    lines += [f"moved within a window, of travel: {moved}"]
    lines += ["", f"{'parameter':26} {'unit':>9} {'prior':>8} {'estimate':>9}  {'95 % interval':>20}"]
    lines += [_row(p) for p in found.parameters]
    carried = {n: r for n, r in found.fitted.items() if n not in {p.name for p in found.identified}}
    if carried:
        lines += ["", "not told one by one, but together; in the patch, with all others as on the data sheet:"]
        lines += [f"  {name}: {low:.4g} to {high:.4g}" for name, (low, high) in carried.items()]
    lines += ["", f"air and sensors: {found.surroundings}"]
    if found.replay_after:
        lines += ["", f"replay error on what was held out ({', '.join(found.held_out)}), data sheet -> identified:"]
        lines += [f"{'after':>8} " + " ".join(f"{name:>17}" for name in _SHOWN)]
        for before, after in zip(found.replay_before, found.replay_after, strict=True):
            cells = " ".join(f"{before.rms[c]:8.3f}{after.rms[c]:9.3f}" for c in _SHOWN)
            lines += [f"{before.horizon_s:6g} s {cells}"]
    if found.wind:
        lines += ["", "wind (towards north, east):"]
        lines += [
            f"  {name}: {w.north_mps:.1f}, {w.east_mps:.1f} m/s +- {1.96 * max(w.north_std_mps, w.east_std_mps):.1f}"
            for name, w in found.wind.items()
        ]
    if not found.identified:
        lines += ["", "these flights are too quiet; sim2sky excite plans one that is not"]
    return "\n".join(lines)


def _row(p: ParameterEstimate) -> str:
    interval = f"{p.low:.4g} to {p.high:.4g}"
    text = f"{p.name:26} {p.unit:>9} {p.prior:8.4g} {p.estimate:9.4g}  {interval:>20}"
    return text if p.identifiable else f"{text}  {p.source}: {p.advice}"


def render_plan(plan: Plan) -> str:
    """For a reader: what moves, how far the aircraft goes, what it will tell."""
    e, limits = plan.reached, plan.excitation.limits
    peaks = plan.excitation.peaks().tolist()
    lines = [f"{len(plan.excitation.sines)} sines over {plan.excitation.duration_s:g} s for {plan.excitation.aircraft}"]
    lines += [
        f"largest deflection: {', '.join(f'{c} {p:.2f}' for c, p in zip(CHANNELS, peaks, strict=True))} of travel"
    ]
    lines.append(
        f"rehearsed: bank {e.roll_deg:.0f} of {limits['roll_deg']:.0f} deg, pitch {e.pitch_deg:.0f} of "
        f"{limits['pitch_deg']:.0f} deg, load factor {e.load_factor:.1f} of {limits['load_factor']:.1f}, airspeed "
        f"{e.airspeed_min_mps:.1f} to {e.airspeed_max_mps:.1f} m/s"
    )
    told = [v for v in plan.verdicts if v.identifiable]
    lines += ["", f"it will tell {len(told)} of {len(plan.verdicts)} parameters:"]
    lines += [f"  {v.name:26} +-{v.half_width:.3g} ({v.relative:.0%})" for v in told]
    hidden = ", ".join(v.name for v in plan.verdicts if not v.identifiable)
    return "\n".join([*lines, f"it will not tell: {hidden}"] if hidden else lines)


def _environment(config: Path | None, aircraft: str) -> EnvironmentSettings:
    from sim2sky.config.environment import EnvironmentSettings
    from sim2sky.config.loader import load_settings, validate_settings
    from sim2sky.config.training import TrainingSettings

    if config is None:
        return validate_settings({"aircraft": aircraft}, EnvironmentSettings)
    environment = load_settings(config, TrainingSettings).environment
    if environment.aircraft != aircraft:
        raise ConfigError(f"{config} trains on '{environment.aircraft}', the flights are of '{aircraft}'")
    return environment


@contextlib.contextmanager
def _progress(title: str) -> Generator[Callable[[str], None], None, None]:
    """What is being done, on stderr; silent where that is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")
