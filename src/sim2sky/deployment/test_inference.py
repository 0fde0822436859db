"""Tests inference where it will run: golden replay and latency, one JSON object on the last line of the output.

Runs on the target; imports only what a flight computer has. The file keeps the specification's name and is no pytest
module.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

from sim2sky.agent.bundle import open_bundle
from sim2sky.errors import Sim2SkyError
from sim2sky.runtime.inference import load_backend, measure_latency, replay_golden, tolerance_of

__all__ = ["test_inference"]


def test_inference(
    bundle_path: Path, *, samples: int = 300, max_latency_ms: float = 20.0, fmt: str | None = None
) -> dict[str, Any]:
    """Open a bundle, replay its golden vectors, measure latency.

    Args:
        bundle_path: the bundle.
        samples: inferences to time.
        max_latency_ms: the mean must lie below this; also the deadline of each inference.
        fmt: format to test; the active one by default.

    Returns:
        JSON-compatible report; `passed`, and `reason` where it did not.

    Raises:
        Sim2SkyError: the bundle is damaged or its policy cannot be loaded.
    """
    bundle = open_bundle(bundle_path)
    backend = load_backend(bundle, fmt)
    golden = bundle.golden()
    error = float(replay_golden(backend, golden))
    tolerance = tolerance_of(bundle)
    latency = measure_latency(backend, golden, n=samples, deadline_ms=max_latency_ms)
    reasons = []
    if not error <= tolerance:
        reasons.append(f"golden vectors differ by {error:.3g}, allowed {tolerance:.3g}")
    if not latency["mean_ms"] < max_latency_ms:
        reasons.append(f"mean latency {latency['mean_ms']:.2f} ms is not below {max_latency_ms:g} ms")
    return {
        "passed": not reasons,
        "reason": "; ".join(reasons),
        "digest": bundle.digest,
        "agent": bundle.agent,
        "format": fmt or bundle.active,
        "golden_vectors": len(golden),
        "golden_max_error": error,
        "golden_tolerance": tolerance,
        "latency": latency,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "foreign_modules": sorted(m for m in ("torch", "jsbsim", "pydantic", "stable_baselines3") if m in sys.modules),
    }


test_inference.__test__ = False  # type: ignore[attr-defined]  # pytest: this is no test


def main(argv: list[str]) -> int:
    """Command line; exit code 0 where the test passed, else 1."""
    parser = argparse.ArgumentParser(prog="test_inference", description="golden replay and latency of a bundle")
    parser.add_argument("--bundle", "--model", type=Path, required=True, help="bundle folder")
    parser.add_argument("--samples", type=int, default=300, help="inferences to time")
    parser.add_argument("--max-latency-ms", type=float, default=20.0, help="the mean must lie below this, ms")
    options = parser.parse_args(argv)
    try:
        report = test_inference(options.bundle, samples=options.samples, max_latency_ms=options.max_latency_ms)
    except Sim2SkyError as error:
        report = {"passed": False, "reason": error.message}
    # An infinite error is a word in JSON.
    text = json.dumps(report, default=str).replace("Infinity", '"inf"').replace("NaN", '"nan"')
    sys.stdout.write(text + "\n")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
