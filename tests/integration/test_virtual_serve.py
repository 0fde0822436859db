"""A virtual aircraft behind an autopilot: it flies like its scenario, and every log of it is virtual."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.flight_support import agent_environment, make_bundle, settings
from tests.virtual_support import STEP_NS, S

from sim2sky.cli import run
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import Scenario, draw_scenario
from sim2sky.environments.hidden_aircraft import nominal_aircraft
from sim2sky.environments.jsbsim_plant import Air
from sim2sky.hil.virtual_autopilot import PHYSICS_HZ, VirtualAutopilot
from sim2sky.runtime.clock import ManualClock
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.link import open_link
from sim2sky.runtime.state import Command
from sim2sky.telemetry.flight_log import read_flight_log

CALM = replace(
    draw_scenario(nominal_aircraft(settings()), airframe("ultrastick25e"), 1),
    air=Air(),
    sensor_bias=(0.0,) * 9,
    sensor_sigma=(0.0,) * 9,
)


class Aircraft:
    """A virtual autopilot in MANUAL mode on a clock of its own, commanded directly."""

    def __init__(self, scenario: Scenario | None) -> None:
        self.clock = ManualClock(100 * S)
        self.link = open_link("udpin:127.0.0.1:0", system=1, component=1)
        self.autopilot = VirtualAutopilot(self.link, self.clock, scenario=scenario)

    def fly(self, seconds: float, command: Command | None = None) -> None:
        """With a command of ours in the place of the autopilot's."""
        if command is not None:
            self.autopilot._control = lambda _: command  # type: ignore[method-assign]
        for _ in range(round(seconds * S / STEP_NS)):
            self.clock.time_ns += STEP_NS
            self.autopilot.step(0.0)

    def close(self) -> None:
        self.link.close()


def flown(scenario: Scenario | None, seconds: float, command: Command | None) -> Aircraft:
    aircraft = Aircraft(scenario)
    aircraft.fly(seconds, command)
    aircraft.close()
    return aircraft


ROLL = Command(0.3, 0.0, 0.0, 0.5)


def test_a_calm_nominal_scenario_changes_nothing():
    plain, same = (flown(s, 1.0, ROLL).autopilot for s in (None, CALM))
    assert plain.truth() == same.truth() == plain._estimate() == same._estimate()


def test_its_parameters_fly():
    backwards = replace(CALM, parameters=replace(CALM.parameters, command_scale={"aileron": -1.0}))
    assert flown(CALM, 0.5, ROLL).autopilot.truth().p_radps > 0.5
    assert flown(backwards, 0.5, ROLL).autopilot.truth().p_radps < -0.5
    windy = flown(replace(CALM, air=Air(wind_east_mps=8.0)), 0.5, None).autopilot.truth()
    assert windy.east_mps > 7.0


@pytest.mark.parametrize("substeps", [0, 6, 24])
def test_commands_come_late_by_its_delay(substeps: int):
    late = Aircraft(replace(CALM, action_delay_substeps=substeps))
    turned = math.nan
    for step in range(200):
        late.fly(STEP_NS / S, ROLL)
        if abs(late.autopilot.truth().p_radps) > 0.02:
            turned = step * STEP_NS / S
            break
    late.close()
    assert turned == pytest.approx(substeps / PHYSICS_HZ, abs=0.05)


def test_what_it_sees_is_old_by_its_delay_and_biased():
    scenario = replace(CALM, observation_delay_substeps=24, sensor_bias=(0.1, 0, 0, 0, 0, 0, 1.5, 0, 0))
    aircraft = Aircraft(scenario)
    seen = []
    for _ in range(100):
        aircraft.fly(1.0 / 60.0 + 1e-4, ROLL)
        seen.append((aircraft.autopilot.truth(), aircraft.autopilot._estimate()))
    aircraft.close()
    late = 12  # 24 physics steps at 120 Hz are 12 control periods at 60 Hz
    rolls = np.array([(truth.roll_rad, estimate.roll_rad) for truth, estimate in seen])
    assert np.abs(rolls[late:, 1] - (rolls[:-late, 0] + 0.1)).max() < 0.1  # within a period
    assert np.abs(rolls[late:, 1] - (rolls[late:, 0] + 0.1)).max() > 0.2  # not what is true now
    assert seen[0][1].airspeed_mps == pytest.approx(seen[0][0].airspeed_mps + 1.5, abs=0.1)


def test_noise_is_that_of_the_scenario():
    sigma = (0.0,) * 6 + (0.5, 0.0, 0.0)
    aircraft = flown(replace(CALM, sensor_sigma=sigma), 0.1, None).autopilot
    speeds = [aircraft._estimate().airspeed_mps for _ in range(400)]
    assert 0.4 < np.std(speeds) < 0.6
    assert len({aircraft._estimate().roll_rad for _ in range(10)}) == 1


def test_fly_takes_it_for_an_aircraft_and_labels_its_log_virtual(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "hand", settings(), limits=SafetyLimits(max_range_m=3000.0))
    serve = [sys.executable, "-m", "sim2sky", "virtual-aircraft", "serve", "udpin:127.0.0.1:0", "--seed", "5"]
    with subprocess.Popen([*serve, "--kind", "px4"], stdout=subprocess.PIPE, env=agent_environment(), text=True) as p:
        try:
            assert p.stdout is not None
            said = p.stdout.readline().strip()
            assert said.startswith("virtual aircraft 5 (ultrastick25e) behind a virtual PX4 on ")
            address = said.split()[-1].replace("in:", ":")
            words = ["fly", str(bundle.path), "--vehicle", address, "--engage", "now", "--duration", "3"]
            done = subprocess.run(
                [sys.executable, "-m", "sim2sky", *words, "--log", str(tmp_path / "real.h5")],
                env=agent_environment(), capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        finally:
            p.send_signal(signal.SIGINT)
            assert p.wait(60) == 0
    assert done.returncode == 0, done.stderr
    assert "virtual PX4" in done.stdout
    with read_flight_log(tmp_path / "real.h5") as log:
        assert log.metadata.source == "virtual"
        assert log.metadata.config == {"vehicle": "ultrastick25e", "task": "hsa"}
        assert len(log.episodes[0]) > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["udpin:127.0.0.1:0", "--seed", "-1"], "0 or above"),
        (["usb:0:1", "--seed", "1"], "unknown kind"),
        (["udpin:127.0.0.1:0", "--seed", "1", "--kind", "betaflight"], "betaflight"),
        (["udpin:127.0.0.1:0", "--seed", "1", "--aircraft", "cessna"], "cessna"),
    ],
)
def test_misuse(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["virtual-aircraft", "serve", *words]) == 2
    assert said in "".join(capsys.readouterr())
