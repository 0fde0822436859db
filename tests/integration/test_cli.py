"""The command line as a user has it: exit codes, messages, JSON, pipes, and what it does without the extras."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.deploy_support import deliver, flying_bundle, linear_agent, local_target, make_bundle

from sim2sky import cli
from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.local_site import link_site

SRC = Path(cli.__file__).resolve().parents[1]
ROOT = SRC.parent
BASE = (
    "numpy", "h5py", "onnx", "onnxruntime", "pymavlink", "pydantic", "ruamel.yaml", "cyclopts", "rich", "cryptography",
    "rfc8785", "asyncssh",
)  # fmt: skip


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear_agent(tmp_path_factory.mktemp("agents") / "linear")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return flying_bundle(tmp_path_factory.mktemp("bundles") / "b")


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(
        "validation:\n  latency_samples: 300\n  sim_validation_episodes: 30\n  hil_validation_episodes: 5\n"
        "  strict: false\n  workers: 1\n  environment:\n    task:\n      duration_s: 5\n      hold_s: 0.5\n"
        "      altitude_step_m: 4\n      heading_step_deg: 10\n  safety:\n    extends: default\n"
    )
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# info -----------------------------------------------------------------------------------------------------------------


def test_info_prints_versions_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "info")
    assert (code, err) == (0, "")
    assert "sim2sky" in out
    assert re.search(r"jsbsim\s+\d", out)
    data = json.loads(run(capsys, "info", "--json")[1])
    assert data["extras"]["train"]["torch"]


def test_info_of_a_bundle(capsys: pytest.CaptureFixture[str], bundle: Bundle) -> None:
    code, out, _ = run(capsys, "info", bundle.path)
    assert code == 0
    assert bundle.digest in out
    assert re.search(r"altitude_error_m\s+m, -40..40", out)
    assert re.search(r"kill_switch_enabled\s+yes", out)


def test_info_of_a_zip_says_what_it_is(capsys: pytest.CaptureFixture[str], agent: Path) -> None:
    data = json.loads(run(capsys, "info", agent, "--json")[1])
    assert data["algorithm"] == "PPO"
    assert data["exportable"] == "yes"
    assert data["observation_space"] == "Box [24]"
    assert data["beside"] == "contract.json"


def test_info_of_an_onnx_file(capsys: pytest.CaptureFixture[str], bundle: Bundle) -> None:
    code, out, _ = run(capsys, "info", bundle.path / "policy.onnx")
    assert code == 0
    assert "observation" in out


def test_info_of_nonsense(capsys: pytest.CaptureFixture[str], tmp_path: Path, agent: Path) -> None:
    (tmp_path / "text").write_text("x")
    (tmp_path / "short.zip").write_bytes(agent.read_bytes()[:300])
    for path in ("none", "text", "short.zip"):
        code, out, err = run(capsys, "info", tmp_path / path)
        assert code == 2, path
        assert out == ""
        assert err.startswith("error: ")


# export, optimize, validate, test-inference, hil ----------------------------------------------------------------------


def test_export_then_everything_on_the_bundle(
    capsys: pytest.CaptureFixture[str], agent: Path, quick: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    code, text, _ = run(capsys, "export", agent, "-o", out, "--format", "onnx,torchscript")
    assert code == 0
    assert "PPO agent 'linear' exported" in text
    assert "torchscript:" in text
    assert run(capsys, "export", agent, "-o", out, "--format", "onnx,torchscript")[0] == 0  # equal: nothing to do
    code, _, err = run(capsys, "export", agent, "-o", out, "--opset", "13")
    assert code == 2
    assert "already exists" in err
    assert run(capsys, "export", agent, "-o", out, "--opset", "13", "--force")[0] == 0

    code, text, _ = run(capsys, "validate", out, "--config", quick, "--output", tmp_path / "kept")
    assert code == 0, text
    assert "✓ ALL CHECKS PASSED - READY FOR DEPLOYMENT" in text

    deployment = tmp_path / "deployment.yaml"
    deployment.write_text("deployment:\n  optimization:\n    paired_episodes: 10\n  safety:\n    extends: default\n")
    code, text, _ = run(capsys, "optimize", out, "-o", tmp_path / "small", "--config", deployment)
    assert code == 0
    assert "fp32 stays" in text


def test_validate_prints_json_and_says_inconclusive(
    capsys: pytest.CaptureFixture[str], bundle: Bundle, quick: Path
) -> None:
    quick.write_text(quick.read_text().replace("strict: false", "strict: true"))
    code, out, _ = run(capsys, "validate", bundle.path, "--config", quick, "--json")
    data = json.loads(out)
    assert (code, data["verdict"]) == (3, "inconclusive")
    hil = next(c for c in data["checks"] if c["name"] == "HIL Performance")
    assert hil["outcome"] == "inconclusive"
    assert hil["metrics"]["episodes_needed"] == 9
    assert data["pending"]


def test_validate_fails_with_1_and_names_mistakes_with_2(
    capsys: pytest.CaptureFixture[str], quick: Path, tmp_path: Path
) -> None:
    unflyable = make_bundle(tmp_path / "b").path
    assert run(capsys, "validate", unflyable, "--config", quick)[0] == 1
    quick.write_text("validation:\n  stict: true\n")
    code, _, err = run(capsys, "validate", unflyable, "--config", quick)
    assert code == 2
    assert "quick.yaml:2" in err
    assert "did you mean 'strict'" in err


def test_an_installed_release_is_tested_and_flown(
    capsys: pytest.CaptureFixture[str], bundle: Bundle, quick: Path, tmp_path: Path
) -> None:
    target = f"local:{tmp_path / 'target'}"
    code, _, err = run(capsys, "test-inference", target)
    assert code == 2
    assert "nothing is installed" in err or "No such file" in err
    deliver(local_target(tmp_path / "target"), bundle)
    code, out, _ = run(capsys, "test-inference", target)
    assert code == 0
    assert "✓ PASS" in out
    data = json.loads(run(capsys, "test-inference", target, "--samples", "300", "--json")[1])
    assert data["verdict"] == "pass"
    assert data["latency"]["n"] == 300
    code, out, _ = run(capsys, "hil", target, "--config", quick, "--link", "tcp", "-o", tmp_path / "logs", "--json")
    data = json.loads(out)
    assert (code, data["verdict"], data["metrics"]["episodes"]) == (0, "pass", 5)
    assert (tmp_path / "logs" / "hil_plant.h5").exists()
    assert run(capsys, "test-inference", target, "--max-latency-ms", "0.000001")[0] == 1


def test_deploy_prints_its_verdict_as_json_alone(
    capsys: pytest.CaptureFixture[str], agent: Path, quick: Path, tmp_path: Path
) -> None:
    deployment = tmp_path / "d.yaml"
    deployment.write_text(
        "deployment:\n  optimization:\n    quantize: false\n  validation:\n    sim_validation_episodes: 30\n"
        "    hil_validation_episodes: 5\n  safety:\n    extends: default\n"
    )
    arguments = ("deploy", "linear", agent, f"local:{tmp_path / 'target'}", "--config", deployment)
    code, out, err = run(capsys, *arguments, "--validation", quick, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] == "pass"
    assert "[6/6] Running HIL validation..." in err


# Misuse ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("export",),
        ("export", "x.zip"),
        ("export", "nowhere.zip", "-o", "x"),
        ("validate", "nowhere"),
        ("validate", "--config", "nowhere.yaml"),
        ("deploy", "name"),
        ("deploy", "name", "x.zip", "jetson@192.168.1.100"),
        ("test-inference", "nonsense"),
        ("hil", "ssh://host"),
        ("info", "--no-such-flag"),
        ("train", "/tmp/x", "--timesteps", "many"),
        ("export", "x.zip", "-o", "y", "--format", "tflite"),
    ],
)
def test_misuse_is_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sim2sky", *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert done.stdout == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("info", "export", "optimize", "validate", "test-inference", "deploy", "hil", "train"):
        assert command in out
    assert run(capsys, "--version")[:2] == (0, "0.1.0\n")
    assert "local:FOLDER" in run(capsys, "deploy", "--help")[1]


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"'{sys.executable}' -m sim2sky info | head -c 5; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True
    )
    assert re.search(r"(0|141)$", done.stdout.splitlines()[-1])
    assert done.stderr == ""


def test_ctrl_c_is_130(bundle: Bundle) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2sky", "validate", str(bundle.path)],
        env={**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    children, deadline = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 60.0
    while not children.read_text():  # until it flies episodes: before, the interpreter and libraries are starting
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [(), ("only_a_name",)])
def test_the_script_without_arguments_prints_its_usage(arguments: tuple[str, ...]) -> None:
    script = ROOT / "scripts" / "deploy_agent.sh"
    done = subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "<agent_name> <model_path> [target_host]" in done.stderr


def test_the_script_passes_the_exit_code_on() -> None:
    script = ROOT / "scripts" / "deploy_agent.sh"
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [str(script), "name", "nowhere.zip", "jetson@192.168.1.100"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot read the agent nowhere.zip" in done.stderr


# The base install -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which only the packages of the base install, and what they require, can be imported."""
    site = tmp_path_factory.mktemp("base") / "site"
    link_site(site, BASE)
    return site


def in_base(base: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.path[:0] = [{str(SRC)!r}, {str(base)!r}]; from sim2sky.cli import run; "
        "code = run(sys.argv[1:]); assert not {'torch', 'jsbsim', 'scipy'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_base_install_has_none_of_the_heavy_packages(base: Path) -> None:
    names = {p.name for p in base.iterdir()}
    assert not names & {"torch", "jsbsim", "gymnasium", "scipy", "joblib", "stable_baselines3", "distributed"}
    assert {"numpy", "onnx", "pydantic", "rich"} <= names


def test_info_and_the_on_target_commands_run_in_the_base_install(base: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = in_base(base, "info")
    assert done.returncode == 0, done.stderr
    assert re.search(r"torch\s+not installed", done.stdout)
    assert in_base(base, "info", bundle.path).returncode == 0
    deliver(local_target(tmp_path / "target"), bundle)
    done = in_base(base, "test-inference", f"local:{tmp_path / 'target'}")
    assert done.returncode == 0, done.stderr


def test_without_an_extra_the_command_that_installs_it_is_named(base: Path, bundle: Bundle, agent: Path) -> None:
    for arguments, extra in (
        (("validate", bundle.path), "sim"),
        (("export", agent, "-o", "never"), "train"),
        (("train", "never"), "train|sim"),
        (("deploy", "x", agent), "sim|train"),
        (("hil", "local:never"), "sim"),
    ):
        done = in_base(base, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert re.search(rf"pip install 'sim2sky\[({extra})\]'", done.stderr), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert in_base(base, "info", agent).returncode == 0
