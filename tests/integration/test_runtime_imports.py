"""The flight computer has numpy, onnxruntime, pymavlink, perhaps h5py: all it runs must start with just those."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.flight_support import SRC, agent_environment, make_bundle, sample, settings
from tests.recorder_support import wait_for, without_h5py

from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.flight_agent import Tick
from sim2sky.runtime.recorder import Recorder, state_row
from sim2sky.runtime.state import Command, Setpoint
from sim2sky.telemetry.flight_log import LogMetadata, read_flight_log

ALLOWED = {"numpy", "onnxruntime", "pymavlink", "sim2sky"}

IMPORT = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not installed on the flight computer")
sys.meta_path.insert(0, Wall())
before = set(sys.modules)
{code}
print(sorted({{m.partition(".")[0] for m in set(sys.modules) - before}}))
"""
BLOCKED = {
    "torch", "jsbsim", "pydantic", "gymnasium", "stable_baselines3", "sb3_contrib", "onnx", "scipy", "rich", "cyclopts",
    "ruamel", "joblib", "h5py", "pandas", "matplotlib",
}  # fmt: skip

MODULES = sorted(path.stem for path in (Path(SRC) / "sim2sky" / "runtime").glob("*.py") if path.stem != "__init__")


def run(
    code: str, blocked: set[str], *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    script = IMPORT.format(blocked=blocked, code=code)
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    given = environment or agent_environment()
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=60, check=False)


@pytest.mark.parametrize("module", [f"sim2sky.runtime.{m}" for m in MODULES] + ["sim2sky.telemetry.flight_log"])
def test_every_runtime_module_imports_alone(module: str) -> None:
    result = run(f"import {module}", BLOCKED)
    assert result.returncode == 0, result.stderr
    third_party = set(eval(result.stdout)) - set(sys.stdlib_module_names)  # noqa: S307
    assert "sim2sky" in third_party
    assert not {m for m in third_party if m in BLOCKED}
    assert not [m for m in third_party if m.startswith(("hil", "config", "environments"))]


def test_the_wall_really_blocks() -> None:
    assert "not installed on the flight computer" in run("import pydantic", BLOCKED).stderr


def test_without_h5py_the_agent_says_so_and_flies_on(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", settings())
    code = """
from sim2sky.runtime.main import main
code = main(sys.argv[1:])
print("exit", code)
"""
    arguments = ("--bundle", str(bundle.path), "--link", "udp:127.0.0.1:9", "--log", str(tmp_path / "x.h5"))
    environment = without_h5py(tmp_path / "site")
    result = run(code, BLOCKED, *arguments, "--connect-timeout", "0.2", environment=environment)
    assert "h5py is missing here: the log stays in" in result.stderr
    assert "the plant never spoke" in result.stderr and "exit 1" in result.stdout
    assert not (tmp_path / "x.h5").exists()


def test_a_recorder_keeps_flying_when_it_cannot_write(tmp_path: Path) -> None:
    contract = make_contract(settings())
    folder = tmp_path / "logs"
    folder.mkdir()
    recorder = Recorder(folder / "f.h5", LogMetadata("hil"), contract)
    observation = [0.0] * len(contract.observation_names)
    tick = Tick(Command(0.1, 0.2, 0.3, 0.4), [0.0] * 4, observation, 1, 5)  # type: ignore[arg-type]

    def fly(ticks: int) -> None:
        recorder.begin(7)
        for k in range(ticks):
            recorder.record(state_row(sample(roll_rad=k), k / 20), Setpoint(altitude_m=k), tick, (k, k, k), reward=1.0)
        recorder.end(success=True, termination="completed")

    fly(37)
    recorder.end(success=False, termination="twice")  # no episode is open: nothing is written
    fly(0)
    assert recorder.problem == "" and not recorder.recording
    wait_for((folder / "f.h5.parts" / "episode_0000.h5").exists, "the first episode")
    (folder / "f.h5.parts").rename(tmp_path / "moved")
    fly(3)  # the folder is gone from under us
    wait_for(lambda: "cannot write the flight log" in recorder.problem, "the recorder to say so")
    recorder.close()  # before the folder is back, so that nothing can be tried again
    (tmp_path / "moved").rename(folder / "f.h5.parts")
    with read_flight_log(folder / "f.h5") as log:
        (episode,) = log.episodes
        assert len(episode) == 37 and episode.column("states", "roll")[36] == 36.0 and episode.seed == 7
        assert episode.column("setpoints", "altitude")[36] == 36.0 and episode.attrs["total_reward"] == 37.0
        assert episode["guard"][0].tolist() == [1, 5] and episode.column("time_s", "time")[20] == 1.0


def test_a_recorder_without_a_file_costs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(None, LogMetadata("hil"), make_contract(settings()))
    recorder.begin(1)
    recorder.end(success=True, termination="")
    recorder.close()
    assert recorder.problem == "" and list(tmp_path.iterdir()) == []
