"""The policy process: loads a bundle's policy, replays its golden vectors, then answers observation by observation.

Started by `PolicyProcess` and by nobody else. It owns no link and no clock; whatever happens in here, the flight
process flies on. It ends when that one does: its socket closes, and the kernel kills it should it hang.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sim2sky.agent.bundle import open_bundle
from sim2sky.errors import BundleError, Sim2SkyError
from sim2sky.runtime.inference import Backend, load_backend, replay_golden
from sim2sky.runtime.policy_wire import MAX_PACKET, Kind, pack_error, pack_values, unpack, values_of
from sim2sky.runtime.realtime import POLICY_PRIORITY, enter_realtime

__all__ = ["main", "serve"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(
    arguments: Sequence[str] | None = None,
    *,
    around: Callable[[Backend, socket.socket], Backend] = lambda backend, _: backend,
) -> int:
    """Load, report, serve; returns the exit code.

    Args:
        arguments: what `PolicyProcess` writes.
        around: what to put around the loaded policy; for injecting faults.
    """
    parser = argparse.ArgumentParser(prog="sim2sky.runtime.policy_worker")
    parser.add_argument("--socket", type=int, required=True, help="file descriptor to the flight process")
    parser.add_argument("--parent", type=int, required=True, help="process id of the flight process")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args(arguments)
    with socket.socket(fileno=options.socket) as channel:
        channel.setblocking(True)
        try:
            _end_with(options.parent)
            bundle = open_bundle(options.bundle, digest=options.digest)
            backend = load_backend(bundle, options.format)
            error = replay_golden(backend, bundle.golden())
        except Sim2SkyError as refusal:
            sys.stderr.write(f"policy process: {refusal.message}\n")
            channel.send(pack_error(refusal))
            return refusal.exit_code
        if options.realtime:
            enter_realtime(POLICY_PRIORITY)
        size = len(bundle.contract.observation_names)
        gc.collect()
        gc.freeze()
        channel.send(pack_values(Kind.READY, 0, [error]))
        serve(channel, around(backend, channel), size)
    return 0


def serve(channel: socket.socket, backend: Backend, n_observations: int) -> None:
    """Answer observations until the other end closes.

    Raises:
        BundleError: what came is no observation of `n_observations` values: the two processes do not belong together.
    """
    while data := channel.recv(MAX_PACKET):
        packet = unpack(data)
        values = None if packet is None else values_of(packet, n_observations)
        if packet is None or packet.kind is not Kind.OBSERVATION or values is None:
            raise BundleError(f"the flight process sent {len(data)} bytes that are no observation")
        if packet.fresh:
            backend.reset()
        action: NDArray[Any] = backend(values)
        channel.send(pack_values(Kind.ACTION, packet.sequence, action))


def _end_with(parent: int) -> None:
    """Be killed when the flight process dies, whatever this one is doing then (Linux, prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise BundleError("cannot tie the policy process to the flight process: prctl failed")
    if os.getppid() != parent:  # it died before the call above
        raise BundleError("the flight process is gone")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, ConnectionResetError):  # the flight process closed while an answer was under way
        sys.exit(0)
