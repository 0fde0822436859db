"""The import rule of the architecture: arrows point one way, heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path

import pytest

import sim2sky

PACKAGE = Path(sim2sky.__file__).resolve().parent

# Rank of each room; a module may import its own rank or a lower one. Exceptions are argued in docs/adr/.
RANKS = {
    "errors": 0,
    "agent/contract": 0,
    "agent/layers": 0,
    "outputs": 1,
    "telemetry/*": 1,
    "runtime/*": 1,
    "agent/*": 1,
    "config/*": 1,
    "environments/*": 2,
    # the conductors of the six steps stand above the checks they call (ADR 0003)
    "deployment/deploy_*": 5,
    "training/*": 3,
    "deployment/*": 3,
    "hil/*": 3,
    "validation/*": 4,
    "analysis/*": 4,
    "report/*": 5,
    "cli*": 6,
    "__main__": 6,
    "__init__": 0,
}
TORCH = [
    "agent/sb3*", "agent/policy", "training/*", "deployment/export_*", "deployment/prune_model",
    "runtime/inference",  # lazily, for TorchScript bundles
]  # fmt: skip
STABLE_BASELINES = ["agent/sb3*", "training/*"]
JSBSIM = ["environments/*"]
FLIGHT_COMPUTER = {"numpy", "onnxruntime", "pymavlink", "h5py", "torch"}
EXPORTERS = ["telemetry/mcap_export", "telemetry/importers*"]  # for the laptop
ON_TARGET = ["runtime/*", "telemetry/*", "agent/contract", "agent/layers", "agent/golden", "agent/bundle", "errors"]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        name = relative.with_suffix("").as_posix()
        yield (name.removesuffix("/__init__") if name != "__init__" else name), path


def rank(name: str) -> int:
    for pattern, value in RANKS.items():
        if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name + "/x", pattern):
            return value
    raise AssertionError(f"{name} stands in no room of the architecture")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module.startswith("sim2sky"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> str | None:
    """`sim2sky.a.b` as `a/b` where that is a module."""
    parts = name.split(".")[1:]
    if not parts:
        return None
    stem = PACKAGE.joinpath(*parts)
    return "/".join(parts) if stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file() else None


ALL = list(modules())


def on_target(name: str) -> bool:
    return any(fnmatch.fnmatch(name, r) for r in ON_TARGET) and not any(fnmatch.fnmatch(name, r) for r in EXPORTERS)


@pytest.mark.parametrize(("name", "path"), ALL, ids=[n for n, _ in ALL])
def test_imports_point_one_way(name, path):
    for imported in imports(path):
        target = ours(imported) if imported.split(".")[0] == "sim2sky" else None
        if target is not None and "/" in target:
            assert rank(target) <= rank(name), f"{name} imports {target}"


@pytest.mark.parametrize(("name", "path"), ALL, ids=[n for n, _ in ALL])
def test_heavy_libraries_stay_in_their_rooms(name, path):
    tops = {i.split(".")[0] for i in imports(path)}
    for library, rooms in (("torch", TORCH), ("stable_baselines3", STABLE_BASELINES), ("jsbsim", JSBSIM)):
        if library in tops:
            assert any(fnmatch.fnmatch(name, room) for room in rooms), f"{name} imports {library}"


@pytest.mark.parametrize(
    ("name", "path"),
    [(n, p) for n, p in ALL if on_target(n)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_flies_needs_only_what_a_flight_computer_has(name, path):
    import sys

    tops = {i.split(".")[0] for i in imports(path)} - set(sys.stdlib_module_names) - {"sim2sky", "__future__"}
    assert tops <= FLIGHT_COMPUTER, f"{name} imports {tops - FLIGHT_COMPUTER}"


def test_no_file_has_two_subjects():
    long = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in ALL}
    assert {n: k for n, k in long.items() if k > 400} == {}


def test_the_rule_catches_a_breach(tmp_path):
    """Negative control: the checker sees an import that points the wrong way, also inside a function."""
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from sim2sky.validation import statistics\n")
    assert "sim2sky.validation" in imports(path)
    assert rank("validation/statistics") > rank("agent/bundle")
