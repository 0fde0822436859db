"""One trial of a compiled policy beside onnxruntime: own vectors, golden vectors, time of a call, one JSON object.

A process of its own, so that an illegal instruction or a crash in the library is an answer and not the end of the
installation. Runs on the target.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.agent.golden import GoldenVectors
from sim2sky.errors import BundleError
from sim2sky.runtime.inference import Backend, load_backend, replay_golden
from sim2sky.runtime.native_policy import NativeBackend

__all__ = ["main", "trial"]

ROUNDS, CALLS = 60, 50
"""3000 calls show a p99; rounds in turn share out what disturbs the machine."""


def call_times(backends: Mapping[str, Backend], golden: GoldenVectors) -> dict[str, NDArray[np.float64]]:
    """Microseconds of single calls over the golden observations, (ROUNDS * CALLS,) per backend, in turn."""
    single = len(golden.observations) == 1
    rows: list[Any] = [{key: values[i] for key, values in golden.observations.items()} for i in range(CALLS)]
    if single:  # as in flight: the array itself
        rows = [next(iter(row.values())) for row in rows]
    took = {name: np.empty((ROUNDS, CALLS)) for name in backends}
    order = list(backends)
    for turn in range(ROUNDS):
        for name in order if turn % 2 else reversed(order):
            backend = backends[name]
            backend.reset()
            for row in rows[:5]:
                backend(row)
            for i, row in enumerate(rows):
                start = time.perf_counter_ns()
                backend(row)
                took[name][turn, i] = time.perf_counter_ns() - start
    return {name: values.reshape(-1) * 1e-3 for name, values in took.items()}


def trial(bundle: Bundle, library: bytes) -> dict[str, Any]:
    """Try a library beside the bundle's active format.

    Returns:
        `vectors`, `differing`, `first` of the policy's own test; and under `active` and `native` the
        `golden_max_error` and `p50_us`, `p99_us` of a call.

    Raises:
        BundleError: the library cannot be loaded, or was made of another network.
    """
    native = NativeBackend(library, bundle.contract)
    if native.network != bundle.files["network.npz"]["sha256"]:
        raise BundleError("the C policy was generated from another network than the bundle's")
    differing, first = native.self_test()
    backends: dict[str, Backend] = {"active": load_backend(bundle), "native": native}
    golden = bundle.golden()
    report: dict[str, Any] = {"vectors": native.n_vectors, "differing": differing, "first": first}
    errors = {name: replay_golden(backend, golden) for name, backend in backends.items()}
    for name, took in call_times(backends, golden).items():
        p50, p99 = (float(v) for v in np.percentile(took, (50, 99)))
        error = errors[name]
        report[name] = {"golden_max_error": error if np.isfinite(error) else "inf", "p50_us": p50, "p99_us": p99}
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: bundle and library; prints the report."""
    parser = argparse.ArgumentParser(prog="sim2sky.deployment.native_trial")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--library", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        report = trial(open_bundle(options.bundle, digest=options.digest), options.library.read_bytes())
    except BundleError as error:
        report = {"error": error.message}
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
