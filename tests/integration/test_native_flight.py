"""The compiled policy in flight: HIL outcomes equal onnxruntime's, on a local target and through a real sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.deploy_support import deliver, flying_bundle, local_target
from tests.native_support import with_c
from tests.ssh_support import SshServer, make_venv

from sim2sky.agent.bundle import Bundle
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.deployment.target import ReleaseTarget
from sim2sky.deployment.targets import open_target, runtime_lines, test_on_target
from sim2sky.hil.hil_test import AGENT_OUTPUT, HilResult, run_hil

SHORT = EnvironmentSettings.model_validate(
    {"task": {"duration_s": 5.0, "hold_s": 0.5, "altitude_step_m": 8.0, "heading_step_deg": 30.0}}
)
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_c(flying_bundle(tmp_path_factory.mktemp("bundle") / "plain"))


def flown(target: ReleaseTarget, folder: Path, *extra: str) -> tuple[HilResult, str]:
    """Episodes with what is installed, and what the agent said on the target."""
    folder.mkdir()
    result = run_hil(
        target.command("sim2sky.runtime.main", "--bundle", "{release}/bundle", *extra),
        SHORT,
        SEEDS,
        link="tcp",
        log_dir=folder,
        connect_timeout_s=120.0,
    )
    return result, (folder / AGENT_OUTPUT).read_text()


def assert_equal(native: HilResult, onnx: HilResult) -> None:
    """The answers differ in the last bits of float32, and so do the flights, and nothing that is judged."""
    assert [o.seed for o in native.outcomes] == list(SEEDS)
    for a, b in zip(native.outcomes, onnx.outcomes, strict=True):
        assert (a.success, a.termination, a.duration_s, a.interventions) == (
            b.success,
            b.termination,
            b.duration_s,
            b.interventions,
        )
        assert a.tracking_rmse == pytest.approx(b.tracking_rmse, rel=1e-3)
        assert a.action_rate == pytest.approx(b.action_rate, rel=1e-3)


@pytest.mark.slow
def test_hil_outcomes_equal_those_of_onnxruntime(bundle: Bundle, tmp_path: Path) -> None:
    target = local_target(tmp_path / "target")
    assert deliver(target, bundle)["runtimes"][1]["flies"]  # type: ignore[index]
    native, said = flown(target, tmp_path / "native")
    assert "compiled C flies: bit-identical" in said
    onnx, said = flown(target, tmp_path / "onnx", "--format", "onnx")
    assert "compiled C" not in said
    assert_equal(native, onnx)
    # Negative control: of another law the same seeds tell.
    other = local_target(tmp_path / "other")
    deliver(other, with_c(flying_bundle(tmp_path / "worse", scale=0.5)))
    with pytest.raises(AssertionError):
        assert_equal(flown(other, tmp_path / "control")[0], onnx)


def test_a_library_changed_between_installation_and_flight_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    target = local_target(tmp_path / "target")
    release = str(deliver(target, bundle)["release"])
    library = tmp_path / "target" / "native" / release / "policy.so"
    library.write_bytes(library.read_bytes()[:-1] + b"?")
    result, said = flown(target, tmp_path / "logs")
    assert "onnxruntime flies: the compiled C policy differs from what was installed (sha256)" in said
    assert len(result.outcomes) == len(SEEDS)
    assert target.status()["native"] == {
        "native": False,
        "why": "the compiled C policy differs from what was installed (sha256)",
        "compiler": "",
    }
    rows = test_on_target(target, samples=20)["runtimes"]  # the next test compiles the signed source again
    assert rows[1]["flies"], runtime_lines(rows)


# Over SSH -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(laptop: SshServer, tmp_path: Path) -> Iterator[ReleaseTarget]:
    root = tmp_path / "controls"
    root.mkdir()
    make_venv(root)
    target = open_target(laptop.url(root))
    yield target
    target.transport.close()  # type: ignore[attr-defined]


def test_over_ssh_the_target_compiles_and_flies_its_own(far: ReleaseTarget, bundle: Bundle, tmp_path: Path) -> None:
    report = deliver(far, bundle)
    onnx, native = report["runtimes"]  # type: ignore[misc]
    assert native["flies"] and not onnx["flies"], runtime_lines([onnx, native])
    assert os.listdir(tmp_path / "controls" / "native") == [report["release"]]
    assert far.status()["native"]["native"]
    result, said = flown(far, tmp_path / "logs")
    assert "compiled C flies: bit-identical" in said
    assert all(np.isfinite(o.action_rate) for o in result.outcomes)
