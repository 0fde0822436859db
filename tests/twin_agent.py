"""The Python flight agent around the C policy's arithmetic (its twin in numpy): what the C agent must equal to the bit.

python -m tests.twin_agent --bundle DIR --link LINK
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import open_bundle
from sim2sky.agent.layers import Network
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.runtime import messages
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.clock import RealClock
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.link import open_link
from sim2sky.runtime.loop import WANTED, AgentLoop
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.state import PolicyState
from sim2sky.telemetry.flight_log import LogMetadata


class ArithmeticBackend:
    """`CPolicy` as a `Backend`."""

    state = PolicyState.ANSWERED

    def __init__(self, network: Network) -> None:
        self._policy = CPolicy(network)

    def __call__(self, observation: Any) -> NDArray[Any]:
        return self._policy(observation)

    def reset(self) -> None:
        self._policy.reset()


def twin(bundle_folder: Path) -> FlightAgent:
    bundle = open_bundle(bundle_folder)
    monitor = make_monitor(bundle.safety(), bundle.contract)
    return FlightAgent(bundle.contract, ArithmeticBackend(bundle.network()), monitor)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--link", required=True)
    options = parser.parse_args(arguments)
    bundle = open_bundle(options.bundle)
    agent = twin(options.bundle)
    contract = bundle.contract
    metadata = LogMetadata("hil", bundle.agent, bundle.digest, contract.hash, contract.rate_hz, "", {})
    system, component = messages.AGENT
    np.seterr(all="ignore")
    with open_link(options.link, system=system, component=component, wanted=WANTED) as link:
        recorder = Recorder(None, metadata, contract)
        AgentLoop(agent, link, recorder, RealClock(), digest=bundle.digest).run()
        recorder.close()


if __name__ == "__main__":
    main(sys.argv[1:])
