"""`sim2sky info`: what is installed, what a file is. Needs neither torch nor JSBSim."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import zipfile
from pathlib import Path
from typing import Any

import sim2sky
from sim2sky.agent.layers import Dense
from sim2sky.errors import EXIT_PASS, AgentError, ConfigError, MissingExtraError, Sim2SkyError

__all__ = ["describe", "show"]

EXTRAS = {
    "sim": ("jsbsim", "gymnasium", "joblib", "scipy"),
    "train": ("torch", "stable-baselines3", "sb3-contrib", "tensorboard"),
    "cluster": ("distributed",),
}
BASE = ("numpy", "h5py", "onnx", "onnxruntime", "pymavlink", "pydantic", "ruamel.yaml", "cyclopts", "rich")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(path: Path | None) -> dict[str, Any]:
    """What `sim2sky info` prints, as JSON-compatible data.

    Raises:
        ConfigError: no such file, or none that we know.
        BundleError: a damaged bundle.
    """
    if path is None:
        return {
            "sim2sky": sim2sky.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: _version(name) or "missing" for name in BASE},
            "extras": {
                extra: {
                    "installed": all(_version(n) for n in names),
                    **{n: _version(n) or "not installed" for n in names},
                }
                for extra, names in EXTRAS.items()
            },
        }
    if path.is_dir():
        return _bundle(path)
    if not path.is_file():
        raise ConfigError(f"there is no {path}", hint="name a bundle folder, an agent's .zip or an .onnx file")
    if path.suffix == ".onnx":
        return _onnx(path)
    if zipfile.is_zipfile(path):
        return _zip(path)
    raise ConfigError(f"{path} is neither a bundle, an agent's .zip nor an .onnx file")


def _bundle(path: Path) -> dict[str, Any]:
    from sim2sky.agent.bundle import open_bundle

    bundle = open_bundle(path)
    contract = bundle.contract
    golden = bundle.golden()
    safety = bundle.safety()
    return {
        "bundle": str(path),
        "agent": bundle.agent,
        "digest": bundle.digest,
        "profile": bundle.profile,
        "formats": {k: f"{v} ({bundle.files[v]['size']} bytes)" for k, v in bundle.formats.items()},
        "active": bundle.active,
        "vehicle": contract.vehicle or "none",
        "task": contract.task or "none",
        "rate_hz": contract.rate_hz,
        "contract_hash": contract.hash,
        "observation": {
            s.name: f"{s.unit}, {s.low:g}..{s.high:g}" + (f", {s.frame}" if s.frame else "")
            for i in contract.inputs
            for s in i.signals
        },
        "action": (
            {s.name: f"{s.low:g}..{s.high:g} -> {s.command_low:g}..{s.command_high:g}" for s in contract.output.signals}
            if contract.output.signals
            else {contract.output.kind: str(list(contract.output.sizes))}
        ),
        "golden_vectors": len(golden),
        "safety": {k: v for k, v in safety.items() if k != "fallback"} if safety else "none",
        "provenance": dict(bundle.provenance),
    }


def _onnx(path: Path) -> dict[str, Any]:
    from sim2sky.runtime.inference import onnx_session

    session = onnx_session(path.read_bytes(), source=str(path))
    return {
        "onnx": str(path),
        "bytes": path.stat().st_size,
        "inputs": {n.name: f"{n.type} {n.shape}" for n in session.get_inputs()},
        "outputs": {n.name: f"{n.type} {n.shape}" for n in session.get_outputs()},
    }


def _zip(path: Path) -> dict[str, Any]:
    """An agent's zip, read as JSON text: nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "data" not in names:
                raise AgentError(f"{path} is no Stable-Baselines3 agent: it holds {', '.join(names[:5]) or 'nothing'}")
            if archive.getinfo("data").file_size > 64 << 20:
                raise AgentError(f"{path}: its hyper-parameters are larger than 64 MiB")
            data = json.loads(archive.read("data"))
            version = (
                archive.read("_stable_baselines3_version").decode() if "_stable_baselines3_version" in names else ""
            )
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise AgentError(f"{path} is damaged: {error}", hint="copy it again from where it was trained") from error

    def shown(name: str) -> str:
        value = data.get(name)
        if isinstance(value, dict):
            kind = str(value.get(":type:", "")).removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
            shape = value.get("_shape") or value.get("n") or ""
            return f"{kind} {shape}".strip()
        return str(value)

    policy = data.get("policy_class")
    module = policy.get("__module__", "") if isinstance(policy, dict) else ""
    beside = [
        n for n in ("vecnormalize.pkl", "contract.json", "config.yaml", "run.json") if path.with_name(n).is_file()
    ]
    return {
        "agent_zip": str(path),
        **_exportable(path),
        "policy_module": module,
        "observation_space": shown("observation_space"),
        "action_space": shown("action_space"),
        "timesteps": data.get("num_timesteps"),
        "seed": data.get("seed"),
        "stable_baselines3": version.strip() or "not recorded",
        "files": ", ".join(names),
        "beside": ", ".join(beside) or "nothing",
        "next": f"sim2sky export {path} -o BUNDLE",
    }


def _exportable(path: Path) -> dict[str, Any]:
    """What the loader makes of it, where torch is installed."""
    try:
        from sim2sky.agent.sb3 import load

        agent = load(path)
    except (ImportError, MissingExtraError):
        return {"exportable": "unknown: torch and stable-baselines3 are not installed (pip install 'sim2sky[train]')"}
    except Sim2SkyError as error:
        return {"exportable": f"no: {error.message}"}
    layers = [*(layer for head in agent.network.inputs for layer in head.layers), *agent.network.layers]
    sizes = {id(la): f" {la.weight.shape[1]}-{la.weight.shape[0]}" for la in layers if isinstance(la, Dense)}
    shapes = [type(la).__name__ + sizes.get(id(la), "") for la in layers]
    return {"algorithm": agent.algorithm, "exportable": "yes", "layers": ", ".join(shapes)}


def _lines(data: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(str(k)) for k in data), default=0)
    lines: list[str] = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key}:")
            lines += _lines(value, indent + "  ")
        else:
            words = {None: "none", True: "yes", False: "no"}
            text = words[value] if value is None or isinstance(value, bool) else str(value)
            lines.append(f"{indent}{str(key).ljust(width)}  {text}")
    return lines


def show(path: Path | None, *, as_json: bool) -> int:
    """Print it."""
    data = describe(path)
    print(json.dumps(data, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(data)))
    return EXIT_PASS
