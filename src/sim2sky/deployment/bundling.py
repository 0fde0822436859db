"""From a trained agent's zip to a bundle, and from a bundle to one whose policy is another version of the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray

import sim2sky
from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import Contract, canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_to_bytes, make_golden
from sim2sky.agent.layers import Network
from sim2sky.agent.network_file import network_to_bytes
from sim2sky.deployment.c_arithmetic import Weights
from sim2sky.deployment.export_c import CSources, c_sources
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes, resolve_versions
from sim2sky.deployment.verification import TOLERANCE, verify_onnx
from sim2sky.errors import ConfigError, ExportError, MissingExtraError, NotSupportedError

__all__ = ["FORMATS", "Exported", "export_bundle", "rebundle"]

FORMATS = ("onnx", "torchscript", "c")
POLICY_ONNX = "policy.onnx"
POLICY_TORCHSCRIPT = "policy.pt"
POLICY_C, POLICY_HEADER = "policy.c", "policy.h"
N_GOLDEN = 384
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Rollout = Callable[[Bundle], Mapping[str, NDArray[Any]] | None]


@dataclass(frozen=True)
class Exported:
    """A bundle, and how well its formats answer.

    Attributes:
        bundle: as written.
        errors: largest golden error per format.
        algorithm: that trained the agent.
        without_c: why the bundle holds no generated C; empty where it does.
    """

    bundle: Bundle
    errors: Mapping[str, float]
    algorithm: str
    without_c: str = ""


def export_bundle(
    model_path: Path,
    out: Path,
    *,
    agent_name: str,
    vecnormalize: Path | None = None,
    contract: Path | None = None,
    formats: Sequence[str] = ("onnx",),
    active: str | None = None,
    c_weights: Weights = "float32",
    profile: str = "generic_linux",
    opset_version: int | None = None,
    safety: Callable[[str], Mapping[str, Any] | None] | None = None,
    rollout: Rollout | None = None,
    seed: int = 0,
    replace: bool = False,
) -> Exported:
    """Export an agent; nothing is written before every format has replayed the trainer's own answers.

    Args:
        model_path: the zip of `model.save(...)`.
        out: the bundle's folder.
        agent_name: name of the lineage.
        vecnormalize, contract: files beside the zip are found by themselves.
        formats: of `FORMATS`; generated C comes along unasked where it can be made.
        active: the format that flies; the first of `formats` by default.
        c_weights: how the generated C stores its weights. Where `int8` flies, its error is accepted in the bundle's
            `golden_tolerance`.
        profile, opset_version: decide opset and IR version.
        safety: from the contract's vehicle to what `safety.json` shall hold; None for no such file.
        rollout: flies a preliminary bundle and gives the observations that occurred, for the golden vectors.
        seed: of the golden vectors.
        replace: put the bundle in the place of another one.

    Raises:
        AgentError: the zip or its normaliser is missing, damaged or hostile.
        ContractError: the contract does not fit the agent.
        GoldenMismatchError: a format answers differently.
        NotSupportedError: C is asked for, and the generator does not know a layer.
        ConfigError: an unknown format or a name that is none.
        BundleError: `out` is taken or cannot be written.
    """
    if not NAME.fullmatch(agent_name):
        raise ConfigError(f"agent name {agent_name!r} is not made of letters, digits, '.', '_' and '-'")
    unknown = [f for f in formats if f not in FORMATS] if formats else [""]
    if unknown:
        raise ConfigError(f"unknown format '{unknown[0]}'", hint=f"choose of {', '.join(FORMATS)}")
    opset, ir_version = resolve_versions(profile, opset_version)
    try:
        from sim2sky.agent.sb3 import load
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    agent = load(model_path, vecnormalize=vecnormalize, contract=contract)
    limits = safety(agent.contract.vehicle) if safety is not None else None
    files: dict[str, bytes] = {"network.npz": network_to_bytes(agent.network)}
    if limits is not None:
        files["safety.json"] = canonical_json(dict(limits))
    model = emit_onnx(agent.network, opset=opset, ir_version=ir_version)
    provenance: dict[str, object] = {
        **agent.provenance,
        "exported_by": {
            "sim2sky": sim2sky.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "golden_seed": seed,
        "opset": opset,
        "ir_version": ir_version,
    }

    def build(where: Path, observations: Mapping[str, NDArray[Any]] | None, *, final: bool) -> Exported:
        golden = make_golden(agent, n=N_GOLDEN, seed=seed, rollout=observations)
        contents = {**files, "golden.npz": golden_to_bytes(golden)}
        names: dict[str, str] = {}
        errors: dict[str, float] = {}
        without_c = ""
        notes: dict[str, object] = {}
        if "onnx" in formats or not final:
            contents[POLICY_ONNX] = model_to_bytes(model)
            names["onnx"] = POLICY_ONNX
            errors["onnx"] = verify_onnx(contents[POLICY_ONNX], golden, tolerance=TOLERANCE).max_error
        if "torchscript" in formats and final:
            from sim2sky.deployment.export_torchscript import torchscript_bytes, verify_torchscript

            contents[POLICY_TORCHSCRIPT] = torchscript_bytes(agent.network)
            names["torchscript"] = POLICY_TORCHSCRIPT
            errors["torchscript"] = verify_torchscript(contents[POLICY_TORCHSCRIPT], agent.network, golden)
        flies = (active or formats[0]) if final else "onnx"
        if final:
            c, without_c = _c_policy(agent.network, agent.contract, golden, c_weights, required="c" in formats)
            if c is not None:
                contents |= {POLICY_C: c.source.encode(), POLICY_HEADER: c.header.encode()}
                names["c"], errors["c"] = POLICY_C, c.max_error
                notes = {"c_weights": c_weights, "c_golden_error": c.max_error}
                if flies == "c" and c.max_error > TOLERANCE:
                    notes["golden_tolerance"] = c.max_error  # to the last bit everywhere: no margin
            else:
                notes = {"without_c": without_c}
        bundle = write_bundle(
            where,
            agent=agent_name,
            contract=agent.contract,
            formats=names,
            active=flies,
            files=contents,
            profile=profile,
            provenance={**provenance, **notes},
            replace=replace,
        )
        return Exported(bundle, errors, agent.algorithm, without_c)

    observations = None
    if rollout is not None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="sim2sky-export-") as folder:
            observations = rollout(build(Path(folder) / "preliminary", None, final=False).bundle)
    return build(out, observations, final=True)


def _c_policy(
    network: Network, contract: Contract, golden: GoldenVectors, weights: Weights, *, required: bool
) -> tuple[CSources | None, str]:
    """Generated C, or why there is none; where it is `required`, the reason is raised."""
    try:
        return c_sources(network, contract, golden, weights=weights), ""
    except (NotSupportedError, ExportError) as error:
        if required:
            raise
        return None, error.message


def rebundle(
    bundle: Bundle,
    out: Path,
    model: bytes,
    *,
    method: str,
    golden_tolerance: float | None = None,
    replace: bool = False,
) -> Bundle:
    """The same agent with another ONNX policy, e.g. a quantised one; network, golden vectors and C stay the trainer's.

    Args:
        bundle: the original.
        out: the new bundle's folder.
        model: the other policy.
        method: how it was made, for the provenance.
        golden_tolerance: error on the golden vectors that is to be accepted of it; None where it is a float policy.
        replace: put the bundle in the place of another one.

    Raises:
        BundleError: `out` is taken or cannot be written.
    """
    formats = {f: n for f, n in bundle.formats.items() if f == "c"}
    other = set(bundle.formats.values()) - set(formats.values()) | {"contract.json"}
    kept = {n: bundle.read(n) for n in bundle.files if n not in other}
    provenance: dict[str, object] = {**bundle.provenance, "optimisation": method, "optimised_from": bundle.digest}
    if golden_tolerance is not None:
        provenance["golden_tolerance"] = golden_tolerance
    return write_bundle(
        out,
        agent=bundle.agent,
        contract=bundle.contract,
        formats={**formats, "onnx": POLICY_ONNX},
        active="onnx",
        files={**kept, POLICY_ONNX: model},
        profile=bundle.profile,
        provenance=provenance,
        replace=replace,
    )
