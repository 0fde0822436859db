"""Quantise an ONNX policy file. Whether that is worth flying is measured, not assumed: see `candidates`."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.deployment.onnx_emitter import PROFILES, model_to_bytes
from sim2sky.deployment.quantize import WEIGHT_TYPES, quantize_bytes
from sim2sky.deployment.verification import exit_code_of, read_model, write_output
from sim2sky.errors import ConfigError

__all__ = ["QuantizeResult", "load_observations", "main", "quantize_onnx_model"]


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was written: the file, and sizes in bytes before and after."""

    path: Path
    bytes_before: int
    bytes_after: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file became."""
        return self.bytes_before / self.bytes_after


def quantize_onnx_model(
    model_path: str | Path,
    output_path: str | Path,
    weight_type: str = "int8",
    *,
    method: str = "dynamic",
    calibration: Mapping[str, NDArray[Any]] | None = None,
    profile: str | None = None,
) -> QuantizeResult:
    """Quantise an ONNX file; see `quantize.quantize_bytes` for the arguments and for what stays in float32.

    A quantised policy may answer a finite action to a NaN observation: test observations before inference.

    Raises:
        ConfigError: unknown weight type, method or profile; calibration missing or unsuitable.
        NotSupportedError: there is nothing to quantise.
        ExportError: the model cannot be read, the result fails its checks, or the output cannot be written.
    """
    before = model_to_bytes(read_model(model_path))
    after = quantize_bytes(before, weight_type, method=method, calibration=calibration, profile=profile)
    return QuantizeResult(write_output(output_path, after), len(before), len(after))


def load_observations(path: str | Path) -> dict[str, NDArray[Any]]:
    """Raw observations from an `.npz` (one array per input) or `.npy` (a single `observation`); loads no pickle.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        loaded: Any = np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"observation": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read observations from {path}: {error}", hint="give an .npz or .npy file") from error


def main(argv: list[str] | None = None) -> int:
    """`python -m sim2sky.deployment.optimize_model --input I --output O`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="optimize_model", description="Quantise an ONNX policy.")
    parser.add_argument("--input", required=True, help="ONNX file")
    parser.add_argument("--output", required=True, help="quantised ONNX file to write")
    parser.add_argument("--weight-type", default="int8", choices=sorted(WEIGHT_TYPES))
    parser.add_argument("--method", default="dynamic", choices=("dynamic", "static"))
    parser.add_argument("--calibration", help="for --method static: .npz or .npy of raw observations in flight")
    parser.add_argument("--profile", choices=sorted(PROFILES), help="target profile")
    args = parser.parse_args(argv)

    def optimise() -> str:
        result = quantize_onnx_model(
            args.input,
            args.output,
            args.weight_type,
            method=args.method,
            calibration=load_observations(args.calibration) if args.calibration else None,
            profile=args.profile,
        )
        return (
            f"Quantized model saved to {result.path}\n"
            f"Original size: {result.bytes_before / 1024:.2f} KB\n"
            f"Quantized size: {result.bytes_after / 1024:.2f} KB\n"
            f"Compression ratio: {result.ratio:.2f}x"
        )

    return exit_code_of(optimise)


if __name__ == "__main__":
    raise SystemExit(main())
