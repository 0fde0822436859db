"""What export and optimisation need from flight: observations that occur, limits for the airframe, paired success."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
from sim2sky.config.deployment import OptimizationSettings
from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.bundling import rebundle
from sim2sky.deployment.candidates import BASELINE, Flight, candidates_for, measure
from sim2sky.deployment.choice import choose, render_table
from sim2sky.environments.episode import channel_names
from sim2sky.environments.tasks import tolerances
from sim2sky.runtime.inference import GOLDEN_TOLERANCE
from sim2sky.validation.campaign import Progress, campaign_seeds, fly_campaign
from sim2sky.validation.checks import ProgressHook
from sim2sky.validation.flight import FlightJob, collect_observations, is_flyable, safety_of

__all__ = ["Optimised", "optimise_bundle", "rollout_of", "safety_of"]

ROLLOUT_EPISODES = 6
ROLLOUT_SEED = 7
PAIRED_STREAM = 2
ERROR_MARGIN = 1.5  # int8 products round differently on other processors


def _ignore(_: str, __: Progress) -> None:
    """The default listener."""


def rollout_of(environment: EnvironmentSettings, bundle: Bundle) -> dict[str, NDArray[Any]] | None:
    """Observations of a few flights of a bundle; None where it cannot be flown."""
    if not is_flyable(bundle.contract) or bundle.safety() is None:
        return None
    job = FlightJob.of(bundle, environment)
    return collect_observations(job, campaign_seeds(ROLLOUT_SEED, ROLLOUT_EPISODES))


@dataclass(frozen=True)
class Optimised:
    """What optimisation found.

    Attributes:
        bundle: to fly: the original, or the version that won.
        kept: name of the candidate.
        table: every measurement and every verdict.
        sentence: the decision.
    """

    bundle: Bundle
    kept: str
    table: str
    sentence: str


def optimise_bundle(
    bundle: Bundle,
    out: Path,
    settings: OptimizationSettings,
    validation: ValidationSettings,
    *,
    progress: ProgressHook | None = None,
) -> Optimised:
    """Measure smaller versions against the exported policy and keep one only if it pays and flies as well.

    Args:
        bundle: the export.
        out: folder for the new bundle, if one wins.
        settings: which versions are made.
        validation: conditions and workers of the paired flights.
        progress: told after every episode.

    Raises:
        ConfigError, ExportError, BundleError: see `candidates` and `bundling`.
    """
    flyable = is_flyable(bundle.contract)
    observations = rollout_of(validation.environment, bundle)
    methods: list[str] = []
    if settings.quantize:
        methods.append(f"dynamic_{settings.quantization_type}")
        methods += ["static_qdq"] if observations is not None else []
    if settings.prune and observations is not None:
        methods.append("pruned")
    opset = bundle.provenance.get("opset")
    candidates = candidates_for(
        bundle.network(),
        methods,
        observations=observations,
        profile=bundle.profile,
        opset_version=opset if isinstance(opset, int) else None,
        prune_amount=settings.pruning_amount,
    )
    seeds = campaign_seeds(validation.seed, settings.paired_episodes, stream=PAIRED_STREAM)
    with tempfile.TemporaryDirectory(prefix="sim2sky-optimise-") as folder:
        count = 0

        def evaluate(model: bytes) -> Sequence[Flight]:
            nonlocal count
            count += 1
            other = rebundle(bundle, Path(folder) / str(count), model, method="candidate")
            job = FlightJob.of(other, validation.environment)
            told = progress or _ignore
            name = f"candidate {count}/{len(candidates)}"
            flown = fly_campaign(job, seeds, workers=validation.workers, progress=functools.partial(told, name))
            units = dict(zip(channel_names(job.environment.task.name), tolerances(job.environment.task), strict=True))
            return [
                Flight(o.success, statistics.fmean(o.tracking_rmse[c] / units[c] for c in units), o.action_rate)
                for o in flown
            ]

        decision = choose(measure(candidates, bundle.golden(), evaluate if flyable else None))
    kept, table = decision.kept, render_table(decision)
    name = kept.candidate.name
    if name == BASELINE:
        return Optimised(bundle, name, table, decision.sentence)
    tolerance = max(GOLDEN_TOLERANCE, ERROR_MARGIN * kept.max_error)
    made = rebundle(bundle, out, kept.candidate.model, method=name, golden_tolerance=tolerance, replace=True)
    return Optimised(made, name, table, decision.sentence)
