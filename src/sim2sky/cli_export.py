"""`sim2sky export`: a trained agent becomes a bundle, verified on the trainer's own answers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS

__all__ = ["export"]


def export(
    agent: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="bundle folder to write")],
    vecnormalize: Annotated[
        Path | None, Parameter(help="normaliser; vecnormalize.pkl beside the agent by default")
    ] = None,
    contract: Annotated[Path | None, Parameter(help="contract; contract.json beside the agent by default")] = None,
    format: Annotated[  # noqa: A002
        str, Parameter(help="comma-separated: onnx, torchscript, c; the first one flies, c comes along unasked")
    ] = "onnx",
    c_weights: Annotated[
        Literal["float32", "int8"],
        Parameter(help="weights of the generated C; int8: a quarter of the size, less exact"),
    ] = "float32",
    name: Annotated[str | None, Parameter(help="the agent's name; its folder's name by default")] = None,
    profile: Annotated[str, Parameter(help="target platform, which decides opset and IR version")] = "generic_linux",
    opset: Annotated[int | None, Parameter(help="ONNX opset, 11 to 21, instead of the platform's")] = None,
    safety: Annotated[str, Parameter(help="shipped safety limits by name, or a YAML file")] = "default",
    force: Annotated[bool, Parameter(negative=(), help="put the bundle in the place of another one")] = False,
) -> int:
    """Export a trained agent to a bundle, verified on the trainer's own answers.

    Parameters
    ----------
    agent
        The .zip that model.save(...) wrote.
    """
    from sim2sky.cli_commands import extras
    from sim2sky.config.loader import default_path, load_settings
    from sim2sky.config.safety import SafetySettings, resolve_safety
    from sim2sky.config.validation import ValidationSettings

    limits = resolve_safety(SafetySettings(extends=safety)).values
    with extras():
        from sim2sky.deployment.bundling import export_bundle

        try:
            from sim2sky.validation.flying_export import rollout_of, safety_of

            shipped = load_settings(default_path("validation"), ValidationSettings, section="validation")
            rollout = functools.partial(rollout_of, shipped.environment)
            limits_of = functools.partial(safety_of, limits)
        except ModuleNotFoundError:  # without the simulator: golden vectors from the box alone, and no fallback gains
            rollout = limits_of = None
        exported = export_bundle(
            agent,
            output,
            agent_name=name or agent.absolute().parent.name,
            vecnormalize=vecnormalize,
            contract=contract,
            formats=tuple(f.strip() for f in format.split(",") if f.strip()),
            c_weights=c_weights,
            profile=profile,
            opset_version=opset,
            safety=limits_of,
            rollout=rollout,
            replace=force,
        )
    bundle = exported.bundle
    print(f"{exported.algorithm} agent '{bundle.agent}' exported to {output}")
    print(f"  digest {bundle.digest}")
    for fmt, error in exported.errors.items():
        size = bundle.files[bundle.formats[fmt]]["size"]
        print(f"  {fmt}: {size} bytes, largest error {error:.2g} on {len(bundle.golden())} golden vectors")
    if c_weights == "int8" and "c" in exported.errors:
        print("  int8 weights change the answers by so much: see what that does to a flight with sim2sky validate")
    if exported.without_c:
        print(f"  no c: {exported.without_c}")
    if limits_of is None:
        print("  no safety limits and no flown golden vectors: install the simulator (pip install 'sim2sky[sim]')")
    elif bundle.safety() is None:
        print("  no safety limits: the contract names no aircraft we know, so nothing can be flown")
    return EXIT_PASS
