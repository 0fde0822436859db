"""int8 versions of an ONNX policy: dynamic (uint8 activations, scaled at run time) or static QDQ from observed ranges.

Imports no torch. Only matrix products are quantised. The normaliser stays in float32 (raw observations of mixed units
in one int8 scale cost half the action range) and so does everything behind the last product, in particular the final
clip, which onnxruntime's static quantiser would otherwise absorb: both are checked after quantising, not assumed.

An integer has no NaN: a quantised policy may answer a **finite action to a NaN observation**. Test observations with
`isfinite` before inference, as the flight runtime does.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from sim2sky.deployment.onnx_emitter import EPISODE_START, PROFILES, model_to_bytes
from sim2sky.deployment.verification import open_session, parse_model, step_feeds
from sim2sky.errors import ConfigError, ExportError, NotSupportedError

__all__ = ["PRODUCTS", "WEIGHT_TYPES", "quantize_bytes"]

WEIGHT_TYPES: Mapping[str, QuantType] = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
PRODUCTS = ("Gemm", "MatMul")
PER_CHANNEL_QDQ_OPSET = 13
CONVERTED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"})
# Set on a copy handed to onnxruntime only: without it the quantiser logs an advice on every call.
PRE_PROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


class _Reader(CalibrationDataReader):
    """Feeds the calibration inputs one by one."""

    def __init__(self, feeds: Iterator[dict[str, NDArray[np.float32]]]) -> None:
        self._feeds = feeds

    def get_next(self) -> Any:
        return next(self._feeds, None)


def quantize_bytes(
    data: bytes,
    weight_type: str = "int8",
    *,
    method: str = "dynamic",
    calibration: Mapping[str, NDArray[Any]] | None = None,
    profile: str | None = None,
) -> bytes:
    """Quantise an ONNX policy; opset, IR version, inputs and outputs stay as they are.

    Args:
        data: ONNX bytes.
        weight_type: `int8` or `uint8`.
        method: `dynamic` or `static`.
        calibration: for `static`, raw observations (n, *shape) per input, as they occur in flight; recurrent policies
            take them as one sequence, with `episode_start` (n,) where the state is zeroed.
        profile: target profile; decides whether activations must be symmetric. None: they need not.

    Raises:
        ConfigError: unknown weight type, method or profile; calibration missing or unsuitable.
        NotSupportedError: the model has no matrix product with constant weights, or is quantised already.
        ExportError: the model is invalid, or the result fails its checks.
    """
    if weight_type not in WEIGHT_TYPES:
        raise ConfigError(f"no weight type '{weight_type}'", hint=f"choose one of {', '.join(WEIGHT_TYPES)}")
    if method not in ("dynamic", "static"):
        raise ConfigError(f"no quantisation method '{method}'", hint="choose dynamic or static")
    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"no target profile '{profile}'", hint=f"choose one of {', '.join(PROFILES)}")
    source = parse_model(data)
    if any(node.op_type in CONVERTED for node in source.graph.node):
        raise NotSupportedError("quantising a model that is quantised already", hint="give the float model")
    constant = {t.name for t in source.graph.initializer}
    if not any(node.op_type in PRODUCTS and node.input[1] in constant for node in source.graph.node):
        raise NotSupportedError(
            "quantising a model without Gemm or MatMul nodes of constant weights", hint="only dense layers gain"
        )
    symmetric = profile is not None and PROFILES[profile].symmetric_int8
    if symmetric and weight_type != "int8" and method == "static":
        raise ConfigError(f"'{profile}' takes symmetric int8 weights only", hint="weight_type int8")
    opset = next(o.version for o in source.opset_import if o.domain in ("", "ai.onnx"))
    prepared = onnx.ModelProto.FromString(data)  # the quantiser changes what it is given
    prepared.metadata_props.add(key=PRE_PROCESSED[0], value=PRE_PROCESSED[1])
    with tempfile.TemporaryDirectory(prefix="sim2sky-quantize-") as folder, _quiet_root_logger():
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantised.onnx"
        before.write_bytes(model_to_bytes(prepared))
        try:
            if method == "dynamic":
                quantize_dynamic(
                    before,
                    after,
                    op_types_to_quantize=list(PRODUCTS),
                    per_channel=True,
                    weight_type=WEIGHT_TYPES[weight_type],
                )
            else:
                # Outputs of the products stay float: it halves the error and is faster at batch 1.
                quantize_static(
                    before,
                    after,
                    _Reader(_calibration_feeds(data, source, calibration)),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(PRODUCTS),
                    per_channel=opset >= PER_CHANNEL_QDQ_OPSET,
                    activation_type=WEIGHT_TYPES[weight_type],  # onnxruntime takes no mixture with uint8 weights
                    weight_type=WEIGHT_TYPES[weight_type],
                    extra_options={
                        "ActivationSymmetric": symmetric,
                        "QDQKeepRemovableActivations": True,
                        "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
                    },
                )
            result = onnx.ModelProto.FromString(after.read_bytes())
        except (ConfigError, ExportError):
            raise
        except Exception as error:  # the quantiser raises many unrelated types
            raise ExportError(f"onnxruntime could not quantise the model: {error}") from error
    _restore_header(source, result)
    _float_outside_products(result)
    quantised = model_to_bytes(result)
    _check(source, parse_model(quantised, "the quantised model"))
    open_session(quantised)
    return quantised


@contextlib.contextmanager
def _quiet_root_logger() -> Generator[None, None, None]:
    """The quantiser logs through the root logger, which would install a handler for good where there is none."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _float_outside_products(model: onnx.ModelProto) -> None:
    """Let only products read rounded activations.

    The quantiser redirects every reader of a tensor to its rounded version: a recurrent policy would carry an int8
    hidden state from step to step.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    rounded: dict[str, str] = {}
    for node in model.graph.node:
        upstream = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if upstream is not None and upstream.op_type == "QuantizeLinear":
            rounded[node.output[0]] = upstream.input[0]
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            for i, name in enumerate(node.input):
                node.input[i] = rounded.get(name, name)


def _restore_header(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Producer, metadata and versions of the float model; nothing of the tools in between."""
    result.ir_version = source.ir_version
    result.producer_name, result.producer_version = source.producer_name, source.producer_version
    del result.metadata_props[:], result.graph.value_info[:]
    result.metadata_props.extend(source.metadata_props)
    used = {"" if node.domain == "ai.onnx" else node.domain for node in result.graph.node} | {""}
    kept = [o for o in result.opset_import if ("" if o.domain == "ai.onnx" else o.domain) in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)


def _calibration_feeds(
    data: bytes, model: onnx.ModelProto, calibration: Mapping[str, NDArray[Any]] | None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Inputs as they occur in flight, including the recurrent state that the float model would have."""
    names = [i.name for i in model.graph.input]
    recurrent = EPISODE_START in names
    wanted = [name for name in names if not (recurrent and name in ("state_h", "state_c", EPISODE_START))]
    if calibration is None or any(name not in calibration for name in wanted):
        raise ConfigError(
            f"static quantisation needs calibration observations for {', '.join(wanted)}",
            hint="pass raw observations of a rollout, or choose the dynamic method",
        )
    rows = {name: np.asarray(calibration[name]) for name in wanted}
    lengths = {len(v) if v.ndim else 0 for v in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigError(f"the calibration observations have {sorted(lengths)} rows; they must agree, and not be none")
    if not all(np.isfinite(v.astype(np.float64)).all() for v in rows.values()):
        raise ConfigError("the calibration observations are not all finite", hint="leave out rows with NaN or infinity")
    starts = calibration.get(EPISODE_START) if recurrent else None
    try:
        steps = [feed for feed, _ in step_feeds(open_session(data), rows, starts)]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"the calibration observations do not fit the model: {error}") from error
    return iter(steps)


def _check(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """What must hold after quantising, whatever the quantiser did.

    Raises:
        ExportError: versions, inputs or outputs changed; a product stayed float; a node other than a product was
            dropped or its constants changed (normaliser, clip).
    """
    if result.ir_version != source.ir_version or list(result.opset_import) != list(source.opset_import):
        raise ExportError(
            f"quantising changed opset or IR version to {[(o.domain, o.version) for o in result.opset_import]}, "
            f"IR {result.ir_version}",
            hint="export with a newer opset",
        )
    for old, new in ((source.graph.input, result.graph.input), (source.graph.output, result.graph.output)):
        if [i.name for i in old] != [i.name for i in new]:
            raise ExportError(f"quantising changed the names {[i.name for i in old]} to {[i.name for i in new]}")
    constants = {t.name: t for t in result.graph.initializer}
    kept = {node.name: node for node in result.graph.node}
    old_constants = {t.name: t for t in source.graph.initializer}
    for node in source.graph.node:
        if node.op_type in PRODUCTS:
            continue
        same = kept.get(node.name)
        if same is None or same.op_type != node.op_type or list(same.input) != list(node.input):
            raise ExportError(f"quantising dropped or rewired '{node.name}' ({node.op_type})")
        for name in node.input:
            if name in old_constants and constants.get(name) != old_constants[name]:
                raise ExportError(f"quantising changed the constant '{name}' of '{node.name}'")
    if not any(node.op_type in CONVERTED for node in result.graph.node):
        raise ExportError("quantising changed nothing")
