"""`fly`: a bundle, a vehicle, the loop; the same on the laptop and on the target.

On the target: `python -m sim2sky.runtime.main fly --bundle DIR --vehicle serial:/dev/ttyACM0:921600`. Exit codes: 0
flown and handed back, 1 failed, 2 misuse, 130 interrupted (and handed back).
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.errors import EXIT_FAIL, EXIT_INTERRUPTED, EXIT_PASS, ConfigError, LinkError, Sim2SkyError
from sim2sky.runtime.assembly import supervised_agent
from sim2sky.runtime.autopilot import AutopilotGains
from sim2sky.runtime.clock import Clock, RealClock
from sim2sky.runtime.excitation import Excitation
from sim2sky.runtime.flight_loop import FlightLoop, FlightSummary
from sim2sky.runtime.fly_options import (
    FlyOptions,
    parser,
)
from sim2sky.runtime.link import open_channel, open_link
from sim2sky.runtime.mavlink_vehicle import COMPONENT, WANTED, MavlinkVehicle
from sim2sky.runtime.policy_process import WORKER
from sim2sky.runtime.realtime import enter_realtime
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.signing import open_signer
from sim2sky.runtime.teensy import TeensyVehicle
from sim2sky.runtime.vehicle import Vehicle
from sim2sky.telemetry.flight_log import LogMetadata, Source

__all__ = ["exit_code", "fly", "main"]


def fly(bundle: Bundle, options: FlyOptions, say: Callable[[str], None], *, worker: str = WORKER) -> FlightSummary:
    """Fly a bundle on an aircraft until it is over.

    Args:
        bundle: verified.
        options: see there.
        say: tells the operator.
        worker: module that the policy process runs.

    Raises:
        LinkError: the aircraft does not speak, or the link broke.
        NotSupportedError, ConfigError, BundleError, GoldenMismatchError: it may not, or cannot, be flown.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after handing back.
    """
    contract, clock = bundle.contract, RealClock()
    config = {"vehicle": contract.vehicle, "task": contract.task}
    excitation = None
    if options.excitation is not None:
        excitation = Excitation.load(options.excitation, aircraft=contract.vehicle)
        config["excitation"] = excitation.digest
    with ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupted())
        agent, policy = stack.enter_context(
            supervised_agent(bundle, realtime=options.realtime, worker=worker, excitation=excitation)
        )
        if policy.runtime:
            say(policy.runtime)
        vehicle = stack.enter_context(_vehicle(bundle, options, clock))
        say(f"waiting for the aircraft on {options.address}")
        vehicle.connect(options.connect_timeout_s)
        say(f"connected: {vehicle.name}, mode {vehicle.reading.mode or 'none'}")
        recorder = Recorder(
            options.log,
            LogMetadata(
                _label(options.source, vehicle), bundle.agent, bundle.digest, contract.hash, contract.rate_hz,
                datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - Python 3.10
                config,
            ),
            contract,
            overwrite=options.overwrite,
        )  # fmt: skip
        stack.callback(_close, recorder, say)
        if recorder.problem:
            say(recorder.problem)
        loop = FlightLoop(
            agent,
            policy,
            vehicle,
            recorder,
            clock,
            engage=options.engage,
            kill_channel=options.kill_channel,
            setpoint=options.setpoint,
            say=say,
        )
        if options.realtime:
            for line in enter_realtime():
                say(line)
        gc.collect()
        gc.freeze()  # nothing that lives now needs to be looked at again
        try:
            return loop.run(options.duration_s)
        except KeyboardInterrupt:
            loop.finish("interrupted")
            raise
        except LinkError as error:
            loop.abandon("the link broke")
            raise LinkError(
                f"{error.message}; nothing can be handed back",
                hint="the autopilot flies on by itself once our commands are missing",
            ) from error
        finally:
            gc.unfreeze()
            if policy.restarts:
                say(f"the policy process was started again {policy.restarts} times, last because {policy.problem}")
            if loop.summary.ticks:
                say(str(loop.timing.summary()))


@contextmanager
def _vehicle(bundle: Bundle, options: FlyOptions, clock: Clock) -> Generator[Vehicle, None, None]:
    """The vehicle at the address, its link open."""
    contract = bundle.contract
    with ExitStack() as stack:
        if options.teensy:
            channel, _ = open_channel(options.address, connect_timeout_s=options.connect_timeout_s, clock=clock)
            stack.callback(channel.close)
            gains = AutopilotGains.from_json((bundle.safety() or {})["fallback"])
            yield TeensyVehicle(channel, clock, contract, airspeed_mps=gains.trim_airspeed_mps)
            return
        signer = None if options.signing_key is None else stack.enter_context(open_signer(options.signing_key))
        link = stack.enter_context(
            open_link(
                options.address,
                system=1,
                component=COMPONENT,
                wanted=WANTED,
                connect_timeout_s=options.connect_timeout_s,
                clock=clock,
                signer=signer,
            )
        )
        yield MavlinkVehicle(link, clock, contract.rate_hz, hand_back_to=options.hand_back)


def _label(source: Source | None, vehicle: Vehicle) -> Source:
    """What the log is labelled; never real where the aircraft says that it is simulated.

    Raises:
        ConfigError: it was to be.
    """
    if vehicle.virtual and source == "real":
        raise ConfigError(f"{vehicle.name} is simulated: its log cannot be labelled real", hint="--source virtual")
    return source or ("virtual" if vehicle.virtual else "real")


@contextmanager
def _terminated_as_interrupted() -> Generator[None, None, None]:
    """SIGTERM (a service manager's stop) hands back as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _close(recorder: Recorder, say: Callable[[str], None]) -> None:
    recorder.close()
    if recorder.problem:
        say(recorder.problem)


def exit_code(options: FlyOptions, summary: FlightSummary) -> int:
    """1 where it was to fly at once and did not, or lost control before its time."""
    if options.engage.by != "now":
        return EXIT_PASS
    return EXIT_PASS if summary.ended == ["the time is up"] else EXIT_FAIL


def main(arguments: Sequence[str], *, worker: str = WORKER) -> int:
    """Run `fly` with the target's command line; returns the exit code."""
    given = parser("sim2sky.runtime.main fly").parse_args(arguments)
    try:
        options = FlyOptions.of(
            vehicle=given.vehicle,
            engage=given.engage,
            kill=given.kill,
            setpoint=given.setpoint,
            hand_back=given.hand_back,
            duration_s=given.duration,
            log=given.log,
            overwrite=given.overwrite,
            signing_key=given.signing_key,
            realtime=given.realtime,
            source=given.source,
            connect_timeout_s=given.connect_timeout,
            excitation=given.excitation,
        )
        summary = fly(open_bundle(given.bundle), options, _say, worker=worker)
    except Sim2SkyError as error:
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    if given.json:
        sys.stdout.write(json.dumps(summary.to_json(), indent=2) + "\n")
    return exit_code(options, summary)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
