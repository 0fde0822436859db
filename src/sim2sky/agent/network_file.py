"""A network as the bytes of one `.npz`: no pickle, no time stamp, equal networks give equal bytes.

Imports numpy only.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.layers import (
    Activation,
    Affine,
    ArgMax,
    Clip,
    Dense,
    InputHead,
    Layer,
    Lstm,
    MeanQuantile,
    Network,
    Normalise,
    OneHot,
    Threshold,
)
from sim2sky.errors import ExportError

__all__ = ["network_from_bytes", "network_to_bytes"]

_KINDS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (Normalise, OneHot, Dense, Affine, Activation, Clip, Lstm, MeanQuantile, ArgMax, Threshold)
}


def network_to_bytes(network: Network) -> bytes:
    """Serialise to an uncompressed `.npz` without pickles; equal networks give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {}

    def pack(layer: Layer) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": layer.kind}
        for spec in fields(layer):
            value = getattr(layer, spec.name)
            if isinstance(value, np.ndarray):
                name = f"a{len(arrays)}"
                arrays[name] = value
                record[spec.name] = {"array": name}
            elif isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
                names = []
                for item in value:
                    names.append(f"a{len(arrays)}")
                    arrays[names[-1]] = item
                record[spec.name] = {"arrays": names}
            else:
                record[spec.name] = value
        return record

    header = {
        "schema": 1,
        "inputs": [
            {"key": h.key, "size": h.size, "layers": [pack(layer) for layer in h.layers]} for h in network.inputs
        ],
        "layers": [pack(layer) for layer in network.layers],
        "meta": dict(network.meta),
    }
    arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def network_from_bytes(data: bytes) -> Network:
    """Inverse of `network_to_bytes`; loads no pickle.

    Raises:
        ExportError: the bytes are not a serialised network.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())

        def unpack(record: dict[str, Any]) -> Layer:
            cls = _KINDS[record["kind"]]
            values: dict[str, Any] = {}
            for spec in fields(cls):
                value = record[spec.name]
                if isinstance(value, dict) and "array" in value:
                    value = arrays[value["array"]]
                elif isinstance(value, dict) and "arrays" in value:
                    value = tuple(arrays[name] for name in value["arrays"])
                elif isinstance(value, list):
                    value = tuple(value)
                values[spec.name] = value
            return cls(**values)

        return Network(
            tuple(InputHead(h["key"], h["size"], tuple(map(unpack, h["layers"]))) for h in header["inputs"]),
            tuple(map(unpack, header["layers"])),
            header["meta"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ExportError(f"the serialised network cannot be read: {error!r}") from error
