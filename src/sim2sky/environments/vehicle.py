"""A simulated aircraft flying one task: scenario, delays, sensors, judge. What `AircraftEnv`, campaigns and HIL step.

The truth stays inside; what comes out is what the sensors say, as late as the scenario has them.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.disturbances import Scenario, SensorModel, draw_scenario
from sim2sky.environments.jsbsim_plant import JsbsimPlant
from sim2sky.environments.tasks import envelope_violation, tracking_errors, within_tolerance
from sim2sky.runtime.state import Command, Sample, Setpoint

__all__ = ["SimVehicle"]

_NS = 1_000_000_000


class SimVehicle:
    """The simulated aircraft.

    Args:
        settings: aircraft, task, disturbances, randomisation.

    Attributes:
        setpoint: what to follow now (it moves in the `rate` task).
        done: the episode has ended; `termination` says why, `success` whether the task was fulfilled.
        true_state: for judging and logging only. beta_rad: function giving the true sideslip.
    """

    def __init__(self, settings: EnvironmentSettings) -> None:
        self.settings = settings
        self.airframe = airframe(settings.aircraft)
        self._plant = JsbsimPlant(self.airframe, settings.physics_hz)
        # Looked up once: these are read on every training step.
        self._tick_ns = round(_NS / settings.rate_hz)
        self._substeps, self._ticks = settings.substeps, settings.ticks
        self._moving_setpoint = settings.task.name == "rate"
        self._inside = within_tolerance(settings.task)
        self._hold_ticks = math.ceil(settings.task.hold_s * settings.rate_hz - 1e-9)

    def reset(self, seed: int | np.random.SeedSequence) -> Sample:
        """Draw the scenario from the seed, start the aircraft, and return the first measurement."""
        return self.start(draw_scenario(self.settings, self.airframe, seed))

    def start(self, scenario: Scenario) -> Sample:
        """As `reset`, for a given scenario."""
        self._scenario = scenario
        substeps = self._substeps
        self._plant.reset(
            scenario.initial, scenario.parameters, scenario.air, self.airframe.trim, scenario.turbulence_seed
        )
        self.beta_rad = self._plant.beta_rad
        self._sensors = SensorModel(scenario, self._ticks + 1)
        self.tick = 0
        self.setpoint = self._setpoint_at(0.0)
        self.done = self.success = False
        self.termination = ""
        self._held = True

        # Delays in physics steps: whole ticks by queues, the rest by splitting the tick.
        whole, self._split = divmod(scenario.action_delay_substeps, substeps)
        self._commands = deque([self.airframe.trim] * (whole + 1 + (self._split > 0)), maxlen=whole + 2)
        whole_observation, late = divmod(scenario.observation_delay_substeps, substeps)
        self._sample_at = substeps - late
        self._samples: deque[Sample] = deque(maxlen=whole_observation + 1)
        breaks = sorted({0, self._split, self._sample_at, substeps})
        self._segments = [
            (end - start, start == self._split, start < self._split and start == 0, end == self._sample_at)
            for start, end in itertools.pairwise(breaks)
        ]
        self._whole = whole
        self.true_state = self._plant.sample(0)
        self._samples.extend([self.true_state] * (whole_observation + 1))
        return self._sensors.measure(self.true_state, 0)

    @property
    def scenario(self) -> dict[str, Any]:
        """What was drawn, JSON-compatible."""
        return self._scenario.to_json()

    @property
    def time_s(self) -> float:
        """Since the start of the episode."""
        return self.tick / self.settings.rate_hz

    def state_row(self) -> tuple[float, ...]:
        """The 16 state columns of the flight log (truth)."""
        return self._plant.state_row()

    def step(self, command: Command) -> Sample:
        """Fly one control tick with a new command and return what the sensors say at its end."""
        plant = self._plant
        commands = self._commands
        commands.append(command)
        time_ns = (self.tick + 1) * self._tick_ns
        for runs, takes_new, takes_old, sampled in self._segments:
            if takes_new:
                plant.command(commands[-1 - self._whole])
            elif takes_old:
                plant.command(commands[-2 - self._whole])
            plant.run(runs)
            if sampled:
                self._samples.append(plant.sample(time_ns))
        self.tick += 1
        truth = self._samples[-1] if self._sample_at == self._substeps else plant.sample(time_ns)
        self.true_state = truth
        self._judge(truth)
        if self._moving_setpoint:
            self.setpoint = self._setpoint_at(self.time_s)
        return self._sensors.measure(self._samples[0], self.tick)

    def _setpoint_at(self, time_s: float) -> Setpoint:
        setpoint = self._scenario.setpoint
        if not self._moving_setpoint:
            return setpoint
        p, q, r = (
            amplitude * math.cos(2.0 * math.pi * time_s / period)
            for amplitude, period in zip(
                self._scenario.rate_amplitudes_radps, self._scenario.rate_periods_s, strict=True
            )
        )
        return replace(setpoint, p_radps=p, q_radps=q, r_radps=r)

    def _judge(self, truth: Sample) -> None:
        ticks = self._ticks
        violation = envelope_violation(self.airframe, truth)
        if violation:
            self.done, self.termination = True, violation
            return
        if self.tick > ticks - self._hold_ticks and self._held:
            self._held = self._inside(truth, self.setpoint)
        if self.tick >= ticks:
            self.done, self.termination, self.success = True, "completed", self._held

    def tracking_errors(self) -> tuple[float, float, float]:
        """True errors of the task's three channels."""
        return tracking_errors(self.settings.task.name, self.true_state, self.setpoint)
