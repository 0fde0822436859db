"""The training recipe: how long it takes, how well it flies, and what randomised delay is worth.

Trains PPO on heading, speed and altitude twice: as shipped (randomised dynamics, 0-150 ms of action delay) and without
any delay or randomisation. Both fly the same unseen episodes of the nominal aircraft at several action delays, beside
the classical autopilot.

    python benchmarks/hsa_training.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe_machine

from sim2sky.config import default_path, load_settings
from sim2sky.config.environment import DisturbanceSettings, EnvironmentSettings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.training import TrainingSettings
from sim2sky.deployment.bundling import export_bundle
from sim2sky.training.train import train
from sim2sky.validation.campaign import campaign_seeds, fly_campaign
from sim2sky.validation.evaluation import EVALUATION_STREAM, evaluate_agent, render_evaluation
from sim2sky.validation.flight import FlightJob
from sim2sky.validation.flying_export import safety_of
from sim2sky.validation.statistics import clopper_pearson

EPISODES = 200
DELAYS_S = (0.0, 0.05, 0.10, 0.15)


def main() -> None:
    shipped = load_settings(default_path("training", "hawk"), TrainingSettings)
    nominal = EnvironmentSettings(aircraft=shipped.environment.aircraft, task=shipped.environment.task)
    runs = {"randomised": shipped, "no delay": shipped.model_copy(update={"environment": nominal})}
    limits = resolve_safety(SafetySettings(extends="default")).values
    seeds = campaign_seeds(0, EPISODES, stream=EVALUATION_STREAM)
    print(describe_machine("torch", "stable-baselines3", "jsbsim"))
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in runs.items():
            folder = Path(scratch) / name.replace(" ", "_")
            result = train(settings, folder)
            print(f"{name}: {result.timesteps} steps in {result.seconds:.0f} s", flush=True)
            if name == "randomised":
                print(render_evaluation(evaluate_agent(folder, episodes=EPISODES)), flush=True)
            bundle = export_bundle(
                folder / "model.zip",
                folder / "bundle",
                agent_name=folder.name,
                safety=lambda vehicle: safety_of(limits, vehicle),
            ).bundle
            for delay in DELAYS_S:
                flown_in = nominal.model_copy(
                    update={"disturbances": DisturbanceSettings(action_delay_s=(delay, delay))}
                )
                outcomes = fly_campaign(FlightJob.of(bundle, flown_in), seeds)
                rows[name, delay] = sum(o.success for o in outcomes)
    print(f"\nsuccess on the nominal aircraft, {EPISODES} unseen episodes (exact one-sided 95 % lower bound)")
    print(f"{'trained':<14}" + "".join(f"{delay * 1000:>14.0f} ms" for delay in DELAYS_S))
    for name in runs:
        cells = [
            f"{rows[name, d]} ({clopper_pearson(rows[name, d], EPISODES, side='lower').low:.3f})" for d in DELAYS_S
        ]
        print(f"{name:<14}" + "".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()
