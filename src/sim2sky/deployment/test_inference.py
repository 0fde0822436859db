"""Tests inference where it will run: golden replay, latency, and which runtime flies; JSON on the last output line.

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

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.deployment.native_build import install_native
from sim2sky.errors import Sim2SkyError
from sim2sky.runtime.inference import load_backend, measure_latency, replay_golden, tolerance_of
from sim2sky.runtime.native_record import FORMAT, folder_of

__all__ = ["test_inference"]


def test_inference(
    bundle_path: Path, *, samples: int = 300, max_latency_ms: float = 20.0, fmt: str | None = None
) -> dict[str, Any]:
    """Open a bundle, replay its golden vectors, measure latency.

    Where the bundle is installed and holds C, that is compiled with this machine's compiler, tried beside the active
    format, and flies if it is bit-identical and faster (`native_build`). The active format has to pass in any case: it
    is what flies where the compiled one cannot.

    Args:
        bundle_path: the bundle.
        samples: inferences to time.
        max_latency_ms: the mean must lie below this; also the deadline of each inference.
        fmt: format to test; the active one by default.

    Returns:
        JSON-compatible report; `passed`, and `reason` where it did not; in `runtimes` a row for each that could fly.

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
        "runtimes": runtimes(bundle, error, latency) if fmt is None and not reasons else [],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "foreign_modules": sorted(m for m in ("torch", "jsbsim", "pydantic", "stable_baselines3") if m in sys.modules),
    }


def runtimes(bundle: Bundle, error: float, latency: dict[str, float]) -> list[dict[str, Any]]:
    """A row per runtime: `runtime`, `golden_max_error`, `p50_us`, `p99_us`, `flies`, `why`.

    Args:
        bundle: the bundle.
        error, latency: of its active format.
    """
    name = "TorchScript" if bundle.active == "torchscript" else "onnxruntime"
    row: dict[str, Any] = {"runtime": name, "golden_max_error": error, "flies": True, "why": ""}
    row |= {"p50_us": 1e3 * latency["p50_ms"], "p99_us": 1e3 * latency["p99_ms"]}
    if bundle.active != "onnx" or FORMAT not in bundle.formats or folder_of(bundle.path) is None:
        return [row]
    report = install_native(bundle)
    native = {"golden_max_error": None, "p50_us": None, "p99_us": None, **report["trial"].get("native", {})}
    native |= {"runtime": f"C, {report['compiler'] or 'not compiled'}", "flies": report["flies"], "why": report["why"]}
    return [{**row, **report["trial"].get("active", {}), "flies": not report["flies"]}, native]


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
