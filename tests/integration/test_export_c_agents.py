"""Generated C of real agents: from the zip to a bundle, to a library that answers as Stable-Baselines3 does."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from tests.c_policy_support import Compiled
from tests.c_support import build_shared
from tests.integration.test_sb3_wild import WILD, wild

from sim2sky import cli
from sim2sky.agent.bundle import open_bundle
from sim2sky.agent.golden import make_golden, max_error
from sim2sky.agent.layers import Activation, Network
from sim2sky.agent.sb3 import load
from sim2sky.deployment import bundling
from sim2sky.deployment.bundling import export_bundle, rebundle
from sim2sky.deployment.export_c import CSources, c_sources, golden_rows
from sim2sky.errors import NotSupportedError
from sim2sky.runtime.inference import tolerance_of

ROOT = Path(__file__).resolve().parents[2]
HAWK = ROOT / "agents/hawk/model.zip"


def compiled_of(source: bytes, header: bytes, folder: Path) -> Compiled:
    return Compiled(CSources(source.decode(), header.decode(), 0.0, 0), folder, optimise="-O3")


@pytest.mark.parametrize("name", ["hawk", "kite"])
def test_our_agents_answer_as_their_trainer(name: str, tmp_path: Path) -> None:
    bundle = export_bundle(ROOT / "agents" / name / "model.zip", tmp_path / "bundle", agent_name=name).bundle
    assert bundle.formats == {"c": "policy.c", "onnx": "policy.onnx"}
    assert bundle.active == "onnx"
    compiled = compiled_of(bundle.read("policy.c"), bundle.read("policy.h"), tmp_path)
    assert compiled.test() == (0, len(bundle.golden()))
    agent = load(ROOT / "agents" / name / "model.zip")
    fresh = make_golden(agent, n=512, seed=99)  # rows that were not embedded
    assert max_error(fresh, compiled.rows(golden_rows(fresh, bundle.contract))) <= 1e-5


@pytest.mark.parametrize("name", WILD)
def test_agents_of_others_answer_as_they_did_there(name: str, tmp_path: Path) -> None:
    path, golden = wild(name)
    agent = load(path)
    sources = c_sources(agent.network, agent.contract, golden)
    assert sources.max_error <= 1e-5
    compiled = Compiled(sources, tmp_path)
    assert compiled.test() == (0, len(golden))
    answers = compiled.rows(golden_rows(golden, agent.contract), golden.episode_start)
    assert max_error(golden, answers) == sources.max_error


def test_export_by_command_and_the_same_bundle_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, more in (("one", ["--format", "onnx"]), ("two", ["--format", "onnx,c"])):
        assert cli.run(["export", str(HAWK), "-o", str(tmp_path / folder), *more]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\n  c: \d+ bytes, largest error [\d.]+e-0[78] on 384 golden vectors\n", out)
    assert open_bundle(tmp_path / "one").digest == open_bundle(tmp_path / "two").digest


def test_c_alone_flies_c(tmp_path: Path) -> None:
    bundle = export_bundle(HAWK, tmp_path / "b", agent_name="hawk", formats=("c",)).bundle
    assert bundle.active == "c"
    assert bundle.formats == {"c": "policy.c"}
    assert tolerance_of(bundle) == 1e-5


def test_int8_accepts_its_error_only_where_it_flies(tmp_path: Path) -> None:
    beside = export_bundle(HAWK, tmp_path / "beside", agent_name="hawk", c_weights="int8")
    flies = export_bundle(HAWK, tmp_path / "flies", agent_name="hawk", formats=("c", "onnx"), c_weights="int8")
    assert 1e-5 < beside.errors["c"] == flies.errors["c"] < 0.05
    assert tolerance_of(beside.bundle) == 1e-5
    assert tolerance_of(flies.bundle) == flies.errors["c"]
    assert flies.bundle.provenance["c_weights"] == "int8"


def test_another_onnx_policy_keeps_the_c(tmp_path: Path) -> None:
    bundle = export_bundle(HAWK, tmp_path / "b", agent_name="hawk").bundle
    other = rebundle(bundle, tmp_path / "other", b"another model", method="test")
    assert other.formats == {"c": "policy.c", "onnx": "policy.onnx"}
    assert other.read("policy.h") == bundle.read("policy.h")
    assert other.read("policy.onnx") == b"another model"


@pytest.fixture
def unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent with one activation the generator has never heard of (and the ONNX export has)."""

    def with_unknown(network: Network, *args: object, **kwargs: object) -> CSources:
        unknown = Activation("maxout")  # type: ignore[arg-type]
        return c_sources(Network(network.inputs, (*network.layers, unknown)), *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(bundling, "c_sources", with_unknown)


@pytest.mark.usefixtures("unknown_architecture")
def test_a_refusal_does_not_stop_an_onnx_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", str(HAWK), "-o", str(tmp_path / "b")]) == 0
    bundle = open_bundle(tmp_path / "b")
    assert bundle.formats == {"onnx": "policy.onnx"}
    assert "policy.h" not in bundle.files
    assert "maxout" in bundle.provenance["without_c"]
    assert re.search(r"no c: not supported: .*layer 6 \(activation\).*'maxout'", capsys.readouterr().out)


@pytest.mark.usefixtures("unknown_architecture")
def test_c_asked_for_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="'maxout'"):
        export_bundle(HAWK, tmp_path / "b", agent_name="hawk", formats=("onnx", "c"))
    assert list(tmp_path.iterdir()) == []


def test_the_documented_example_compiles_and_flies(tmp_path: Path) -> None:
    bundle = export_bundle(HAWK, tmp_path / "bundle", agent_name="hawk").bundle
    text = (ROOT / "docs/c-core.md").read_text(encoding="utf-8")
    example = text.partition("```c\n")[2].partition("```")[0]
    for name in ("policy.c", "policy.h"):
        (tmp_path / name).write_bytes(bundle.read(name))
    prototypes = "".join(f"{line};\n" for line in re.findall(r"^int .*\)$", example, re.MULTILINE))
    (tmp_path / "example.c").write_text(example.replace('#include "policy.h"\n', f'#include "policy.h"\n{prototypes}'))
    library = build_shared([tmp_path / "example.c", tmp_path / "policy.c"], tmp_path)
    assert library.start() == 1
    rows = golden_rows(bundle.golden(), bundle.contract)
    action = np.zeros(4, np.float32)
    library.step.argtypes = [ctypes.c_uint64, *[ctypes.c_void_p] * 2]
    assert library.step(0, rows[0].ctypes.data, action.ctypes.data) == 1
    np.testing.assert_allclose(action, bundle.golden().action[0], atol=1e-5)
    rows[0, 3] = np.nan
    assert library.step(10**9, rows[0].ctypes.data, action.ctypes.data) == 0
