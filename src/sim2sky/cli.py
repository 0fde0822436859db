"""The command `sim2sky`. Thin: it reads arguments, calls the library, prints, and turns outcomes into exit codes.

Exit codes: 0 pass, 1 fail, 2 misuse, 3 inconclusive, 130 interrupted. Everything heavy is imported by the command that
needs it, so that `sim2sky info` runs where neither torch nor JSBSim is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

import sim2sky
from sim2sky import cli_export, cli_firmware, cli_identify, cli_keys, cli_retrain, cli_target, cli_virtual
from sim2sky.cli_log import log_app
from sim2sky.errors import EXIT_INTERRUPTED, EXIT_PASS, EXIT_USAGE, Sim2SkyError

__all__ = ["app", "main"]

EXIT_PIPE = 141

app = cyclopts.App(
    name="sim2sky",
    version=sim2sky.__version__,
    help="Take a reinforcement-learning flight agent from simulation to a real aircraft, with evidence for every step.",
    help_format="plaintext",
    help_epilogue="Exit codes: 0 pass, 1 fail, 2 misuse, 3 inconclusive, 130 interrupted.",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    print_error=True,
    exit_on_error=False,
)

app.command(cli_export.export)
app.command(cli_keys.app)
app.command(cli_target.app)
app.command(log_app)
app.command(cli_identify.identify)
app.command(cli_identify.excite)
app.command(cli_virtual.app)
app.command(cli_virtual.simulate)
app.command(cli_retrain.retrain)
app.command(cli_firmware.firmware)

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print the verdict as JSON")]
Config = Annotated[Path | None, Parameter(help="YAML file; the shipped one by default")]
Cluster = Annotated[str | None, Parameter(help="dask://host:port of a running scheduler, for the simulated episodes")]
Vecnormalize = Annotated[Path | None, Parameter(help="normaliser; vecnormalize.pkl beside the agent by default")]
ContractFile = Annotated[
    Path | None, Parameter(name="--contract", help="contract; contract.json beside the agent by default")
]


@app.command
def info(path: Path | None = None, /, *, json: Json = False) -> int:
    """Versions and installed extras; or what a bundle, an agent's .zip or an ONNX file is.

    Parameters
    ----------
    path
        Bundle folder, Stable-Baselines3 .zip or .onnx file.
    """
    from sim2sky.cli_info import show

    return show(path, as_json=json)


@app.command
def optimize(
    bundle: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="bundle folder to write if a candidate wins")],
    config: Config = None,
    json: Json = False,
) -> int:
    """Measure smaller and faster versions of a bundle's policy, and keep one only if it flies as well.

    Parameters
    ----------
    bundle
        Bundle folder.
    """
    from sim2sky.cli_commands import run_optimize

    return run_optimize(bundle, output, config=config, as_json=json)


@app.command
def validate(
    bundle: Path | None = None,
    /,
    *,
    config: Config = None,
    cluster: Cluster = None,
    target: Annotated[str | None, Parameter(help="fly HIL with the release installed there")] = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="keep episodes and logs, so it resumes")
    ] = None,
    json: Json = False,
) -> int:
    """Run the five pre-deployment checks and print the report.

    Parameters
    ----------
    bundle
        Bundle folder or ONNX file; model_path of the configuration by default.
    """
    from sim2sky.cli_commands import run_validate

    return run_validate(bundle, config=config, cluster=cluster, target=target, output=output, as_json=json)


@app.command(name="test-inference")
def test_inference(
    target: str,
    /,
    *,
    samples: Annotated[int, Parameter(help="inferences to time; p99 needs 299")] = 1000,
    max_latency_ms: Annotated[float, Parameter(help="the mean must lie below this, ms")] = 20.0,
    json: Json = False,
) -> int:
    """Replay the golden vectors and measure latency on a target, with the release that is active there.

    Parameters
    ----------
    target
        local:FOLDER or ssh://user@host[:port]/path
    """
    from sim2sky.cli_commands import run_test_inference

    return run_test_inference(target, samples=samples, max_latency_ms=max_latency_ms, as_json=json)


@app.command
def deploy(
    name: str,
    model: Path,
    target: str = "",
    /,
    *,
    targets: Annotated[Path | None, Parameter(help="fleet YAML: deploy to each of its targets instead")] = None,
    config: Config = None,
    validation: Annotated[Path | None, Parameter(help="validation YAML; the shipped one by default")] = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="folder for results; models/NAME by default")
    ] = None,
    vecnormalize: Vecnormalize = None,
    contract: ContractFile = None,
    cluster: Cluster = None,
    fresh: Annotated[bool, Parameter(negative=(), help="do every step again")] = False,
    key: Annotated[str, Parameter(help="name of the key that signs; the default one is made if missing")] = "default",
    json: Json = False,
) -> int:
    """Take a trained agent through all six steps onto a target; goes on where an earlier call stopped.

    Parameters
    ----------
    name
        The agent's name.
    model
        The .zip that model.save(...) wrote.
    target
        local:FOLDER, ssh://user@host[:port]/path or mcu:emulated; OUTPUT/target by default.
    """
    from sim2sky.cli_commands import run_deploy

    return run_deploy(
        name,
        model,
        target,
        targets=targets,
        config=config,
        validation=validation,
        output=output,
        vecnormalize=vecnormalize,
        contract=contract,
        cluster=cluster,
        fresh=fresh,
        key=key,
        as_json=json,
    )


@app.command
def hil(
    target: str,
    /,
    *,
    config: Config = None,
    episodes: Annotated[int | None, Parameter(help="instead of the configuration's")] = None,
    link: Annotated[Literal["udp", "tcp"] | None, Parameter(help="instead of the configuration's")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="folder for both flight logs")] = None,
    faults: Annotated[
        Path | None, Parameter(help="YAML file of timed faults, each flown and compared with what it expects")
    ] = None,
    json: Json = False,
) -> int:
    """Fly the release that is active on a target hardware-in-the-loop.

    Parameters
    ----------
    target
        local:FOLDER or ssh://user@host[:port]/path
    """
    from sim2sky.cli_commands import run_hil_command

    if faults is not None:
        from sim2sky.cli_faults import run_faults

        return run_faults(target, faults, config=config, episodes=episodes, link=link, output=output, as_json=json)
    return run_hil_command(target, config=config, episodes=episodes, link=link, output=output, as_json=json)


@app.command
def fly(
    bundle: Path,
    /,
    *,
    vehicle: Annotated[
        str, Parameter(help="udp:HOST:PORT, udpin:..., tcp:..., serial:DEVICE:BAUD or teensy:DEVICE:BAUD")
    ],
    engage: Annotated[str, Parameter(help="rc:CHANNEL of a switch, mavlink or now")] = "rc:7",
    kill: Annotated[str, Parameter(help="rc:CHANNEL of a kill switch")] = "",
    setpoint: Annotated[str, Parameter(help="altitude=m,airspeed=m/s,heading=deg,...; the rest as flown")] = "",
    hand_back: Annotated[Literal["loiter", "rtl"], Parameter(help="the autopilot's mode afterwards")] = "loiter",
    duration: Annotated[float, Parameter(help="seconds; until interrupted by default")] = float("inf"),
    log: Annotated[Path | None, Parameter(help="flight log to write (HDF5)")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="replace an existing log")] = False,
    signing_key: Annotated[Path | None, Parameter(help="key file: sign, and refuse what is not signed")] = None,
    realtime: Annotated[bool, Parameter(negative=(), help="real-time scheduling where the system allows it")] = False,
    source: Annotated[
        Literal["virtual", "real"] | None, Parameter(help="what the log is labelled; by default what the aircraft says")
    ] = None,
    connect_timeout: Annotated[float, Parameter(help="seconds to wait for the aircraft")] = 30.0,
    excitation: Annotated[Path | None, Parameter(help="plan of sim2sky excite, added to the commands")] = None,
    json: Json = False,
) -> int:
    """Fly a bundle on an aircraft behind ArduPilot, PX4 or a Teensy; Ctrl-C hands back to the autopilot.

    Parameters
    ----------
    bundle
        Bundle folder.
    """
    from sim2sky.cli_fly import run_fly
    from sim2sky.runtime.fly_options import FlyOptions

    options = FlyOptions.of(
        vehicle=vehicle,
        engage=engage,
        kill=kill,
        setpoint=setpoint,
        hand_back=hand_back,
        duration_s=duration,
        log=log,
        overwrite=overwrite,
        signing_key=signing_key,
        realtime=realtime,
        source=source,
        connect_timeout_s=connect_timeout,
        excitation=excitation,
    )
    return run_fly(bundle, options, as_json=json)


@app.command
def train(
    output: Path,
    /,
    *,
    config: Config = None,
    resume: Annotated[bool, Parameter(negative=(), help="go on with the interrupted run in OUTPUT")] = False,
    seed: Annotated[int | None, Parameter(help="instead of the configuration's")] = None,
    timesteps: Annotated[int | None, Parameter(help="instead of the configuration's")] = None,
    randomization: Annotated[
        Path | None, Parameter(help="YAML patch of randomisation and disturbances, as sim2sky identify writes it")
    ] = None,
    episodes: Annotated[int, Parameter(help="unseen episodes of the evaluation afterwards; 0 for none")] = 200,
) -> int:
    """Train an agent in the simulated aircraft; Ctrl-C leaves a run that --resume goes on with.

    Parameters
    ----------
    output
        Folder of the run.
    """
    from sim2sky.cli_commands import run_train

    return run_train(
        output,
        config=config,
        resume=resume,
        seed=seed,
        timesteps=timesteps,
        randomization=randomization,
        episodes=episodes,
    )


@app.command
def gap(
    sim: Path,
    real: Path,
    /,
    *,
    report: Annotated[Path | None, Parameter(help="write an HTML report, one file that needs no network")] = None,
    identify: Annotated[
        bool, Parameter(negative=(), help="with --report: also the aircraft's parameters, which takes minutes")
    ] = False,
    strict: Annotated[
        bool, Parameter(help="statistics decide; --no-strict: the specification's thresholds on observed means")
    ] = True,
    json: Json = False,
) -> int:
    """Compare flights with their simulation: RETRAIN (exit code 1), DEPLOYED (0) or FLY MORE (3).

    Parameters
    ----------
    sim
        Flight log of simulated flights.
    real
        Flight log of real, virtual or HIL flights of the same bundle.
    """
    from sim2sky.cli_gap import run_gap

    return run_gap(sim, real, strict=strict, as_json=json, report=report, identify=identify)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Prints errors, never a traceback for a user's mistake."""
    try:
        code = app(list(arguments))
        sys.stdout.flush()
    except cyclopts.CycloptsError:  # already printed
        return EXIT_USAGE
    except Sim2SkyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  -> {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; nothing may be flushed to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE  # never 0: a verdict that nobody read is no pass
    return code if isinstance(code, int) else EXIT_PASS


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
