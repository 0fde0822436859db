"""The flight agent as a process: `python -m sim2sky.runtime.main --bundle DIR --link udp:HOST:PORT`.

That is the far end of a HIL run; with `fly` as the first argument an aircraft is flown (`runtime/fly.py`).

Needs numpy, onnxruntime and pymavlink; h5py for a log. Exit codes: 0 told to shut down, 1 failed, 2 misuse,
130 interrupted.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import open_bundle
from sim2sky.errors import EXIT_INTERRUPTED, EXIT_PASS, Sim2SkyError
from sim2sky.runtime import messages
from sim2sky.runtime.assembly import supervised_agent
from sim2sky.runtime.clock import RealClock
from sim2sky.runtime.excitation import Excitation
from sim2sky.runtime.fly import main as fly_main
from sim2sky.runtime.link import open_link
from sim2sky.runtime.loop import WANTED, AgentLoop
from sim2sky.runtime.policy_process import WORKER
from sim2sky.runtime.realtime import enter_realtime
from sim2sky.runtime.recorder import LOCKSTEP_WAIT_S, Recorder
from sim2sky.telemetry.flight_log import LogMetadata

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sim2sky.runtime.main", description="Fly a bundle over a MAVLink link.")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    parser.add_argument("--link", required=True, help="udp:HOST:PORT, tcp:HOST:PORT, udpin:..., tcpin:...")
    parser.add_argument("--log", type=Path, help="flight log to write (HDF5)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing log")
    parser.add_argument("--format", help="policy format, default the bundle's active one")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="real time, scheduled so where the system allows it; default is lockstep with the plant",
    )
    parser.add_argument(
        "--virtual-aircraft",
        type=int,
        metavar="SEED",
        help="the plant is the virtual aircraft of this seed: label the log",
    )
    parser.add_argument("--excitation", type=Path, help="plan of sim2sky excite, added to the policy's commands")
    parser.add_argument("--start-time", default="", help="ISO 8601 time to note in the log")
    parser.add_argument("--tolerance", type=float, help="largest golden error; default what the bundle says")
    parser.add_argument("--connect-timeout", type=float, default=30.0, help="seconds to wait for the plant")
    parser.add_argument("--peer-timeout", type=float, default=5.0, help="seconds of silence that end the run")
    return parser


def main(arguments: Sequence[str] | None = None, *, worker: str = WORKER) -> int:
    """Run the flight agent; returns the exit code. `worker` is the module its policy process runs."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["fly"]:
        return fly_main(given[1:], worker=worker)
    options = _parser().parse_args(given)
    try:
        return _fly(options, worker)
    except Sim2SkyError as error:
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED


def _fly(options: argparse.Namespace, worker: str) -> int:
    bundle = open_bundle(options.bundle)
    contract, paced = bundle.contract, options.realtime
    config: dict[str, Any] = {"vehicle": contract.vehicle, "task": contract.task}
    if options.virtual_aircraft is not None:
        config["virtual_aircraft"] = {"seed": options.virtual_aircraft}
    excitation = None
    if options.excitation is not None:
        excitation = Excitation.load(options.excitation, aircraft=contract.vehicle)
        config["excitation"] = excitation.digest
    metadata = LogMetadata(
        "hil" if options.virtual_aircraft is None else "virtual",
        bundle.agent,
        bundle.digest,
        contract.hash,
        contract.rate_hz,
        options.start_time,
        config,
    )
    with ExitStack() as stack:
        agent, policy = stack.enter_context(
            supervised_agent(
                bundle,
                options.format,
                tolerance=options.tolerance,
                paced=paced,
                realtime=paced,
                worker=worker,
                excitation=excitation,
            )
        )
        if policy.runtime:
            _say(policy.runtime)
        wait_s = 0.0 if paced else LOCKSTEP_WAIT_S
        recorder = Recorder(options.log, metadata, contract, overwrite=options.overwrite, wait_s=wait_s)
        stack.callback(_close, recorder)
        if recorder.problem:
            _say(recorder.problem)
        link = stack.enter_context(
            open_link(
                options.link,
                system=messages.AGENT[0],
                component=messages.AGENT[1],
                wanted=WANTED,
                connect_timeout_s=options.connect_timeout,
            )
        )
        loop = AgentLoop(
            agent,
            link,
            recorder,
            RealClock(),
            digest=bundle.digest,
            realtime=paced,
            connect_timeout_s=options.connect_timeout,
            peer_timeout_s=options.peer_timeout,
        )
        if paced:
            _say(*enter_realtime())
        gc.collect()
        gc.freeze()  # nothing that lives now needs to be looked at again
        try:
            loop.run()
        except KeyboardInterrupt:
            loop.abandon("interrupted")
            raise
        finally:
            if policy.restarts:
                _say(f"the policy process was started again {policy.restarts} times, last because {policy.problem}")
            if paced:
                _say(str(loop.timing.summary()))
    return EXIT_PASS


def _close(recorder: Recorder) -> None:
    recorder.close()
    if recorder.problem:
        _say(recorder.problem)


def _say(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
