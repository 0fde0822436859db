"""The checks of a deployment, each a function from what is validated to a `ValidationResult`. Nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle, open_bundle
from sim2sky.config.safety import resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.deployment.native_build import backend_here
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.runtime.inference import Backend, measure_latency, onnx_session, replay_golden, tolerance_of
from sim2sky.runtime.state import PolicyState
from sim2sky.validation.campaign import Progress, campaign_seeds, fly_campaign
from sim2sky.validation.flight import FlightJob, why_not_flyable
from sim2sky.validation.safety_check import check_safety
from sim2sky.validation.statistics import Outcome, Verdict, verdict

__all__ = [
    "ProgressHook",
    "Subject",
    "ValidationResult",
    "check_inference_latency",
    "check_model_export",
    "check_safety_compliance",
    "check_sim_performance",
    "golden_tolerance",
    "judge_episodes",
    "limits_of",
    "open_subject",
    "shown",
]

Status = Outcome | Literal["not supported"]
ProgressHook = Callable[[str, Progress], None]


def shown(path: Path) -> str:
    """A path as a person would type it here: relative below the working folder, else absolute."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass
class ValidationResult:
    """Validation test result.

    Attributes:
        passed: True only for `outcome` "pass".
        outcome: `pass`, `fail`, `inconclusive` or `not supported`; from `passed` where it is not given.
    """

    name: str
    passed: bool
    metrics: dict[str, Any]
    notes: str
    outcome: Status = field(default="fail")

    def __post_init__(self) -> None:
        if self.passed:
            self.outcome = "pass"

    @classmethod
    def of(cls, name: str, outcome: Status, metrics: dict[str, Any], notes: str) -> ValidationResult:
        """A result of any outcome; the notes begin with it, as specified."""
        return cls(name, outcome == "pass", metrics, f"{outcome.upper()}: {notes}", outcome)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-compatible mapping."""
        return {"name": self.name, "outcome": self.outcome, "metrics": self.metrics, "notes": self.notes}


@dataclass(frozen=True)
class Subject:
    """What is validated: a bundle, or a bare ONNX file about which less can be said."""

    path: Path
    bundle: Bundle | None

    @property
    def why_not_flown(self) -> str:
        """Why nothing can be flown with it."""
        contract = self.bundle.contract if self.bundle is not None else None
        reason = why_not_flyable(contract) if contract is not None else "a bare ONNX file has no contract"
        return f"it cannot be flown here: {reason}"


def open_subject(settings: ValidationSettings) -> Subject:
    """The model the settings name.

    Raises:
        ConfigError: none is named, or it is neither a bundle nor an ONNX file.
        BundleError: the bundle is damaged.
    """
    if settings.model_path is None:
        raise ConfigError("no model to validate", hint="give --model BUNDLE, or model_path in the configuration")
    path = Path(settings.model_path)
    if path.suffix == ".zip":
        raise ConfigError(f"{path} is a trained agent, not an export", hint=f"sim2sky export {path} -o BUNDLE")
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        return Subject(path, None)
    return Subject(path, open_bundle(path))


def check_model_export(subject: Subject, settings: ValidationSettings) -> ValidationResult:
    """Checker, session, and the golden vectors replayed one by one."""
    import onnx

    name = "Model Export"
    metrics: dict[str, Any] = {}
    try:
        backend = _backend(subject)
        data = _onnx_bytes(subject)
        if data is not None:
            model = onnx.load_from_string(data)
            onnx.checker.check_model(model, full_check=True)
            metrics = {"opset": model.opset_import[0].version, "ir_version": model.ir_version, "bytes": len(data)}
        if settings.obs_dim is not None and (width := _width(subject, backend)) != settings.obs_dim:
            return ValidationResult.of(
                name, "fail", metrics, f"the model observes {width} values, not {settings.obs_dim}"
            )
        if subject.bundle is None:
            note = "the model loads, but a bare ONNX file has no golden vectors to show that it answers as trained"
            return ValidationResult.of(name, "fail" if settings.strict else "pass", metrics, note)
        golden = subject.bundle.golden()
        error = float(replay_golden(backend, golden))
    except Sim2SkyError as error:
        return ValidationResult.of(name, "fail", metrics, f"Export error: {error.message}")
    except Exception as error:  # onnx's checker raises several unrelated classes
        return ValidationResult.of(name, "fail", metrics, f"Export error: {str(error).strip().splitlines()[0]}")
    tolerance = golden_tolerance(subject.bundle, settings)
    metrics |= {"golden_vectors": len(golden), "golden_max_error": error, "golden_tolerance": tolerance}
    good = error <= tolerance
    note = f"largest golden error {error:.2g}, allowed {tolerance:.2g}" + (
        "" if good else ": it does not answer as trained"
    )
    return ValidationResult.of(name, "pass" if good else "fail", metrics, f"Model loads successfully; {note}")


def golden_tolerance(bundle: Bundle, settings: ValidationSettings) -> float:
    """Largest golden error allowed: of the settings, unless an optimisation recorded its own in the bundle."""
    return tolerance_of(bundle, settings.golden_tolerance)


def _onnx_bytes(subject: Subject) -> bytes | None:
    if subject.bundle is None:
        return subject.path.read_bytes()
    name = subject.bundle.formats.get("onnx")
    return None if name is None else subject.bundle.read(name)


def _backend(subject: Subject) -> Backend:
    if subject.bundle is not None:
        return backend_here(subject.bundle)
    session = onnx_session(subject.path.read_bytes(), source=str(subject.path))

    class Bare:
        """Steps a bare ONNX policy; its only input may have any name."""

        state = PolicyState.ANSWERED

        def __call__(self, observation: Mapping[str, NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
            value = observation if isinstance(observation, np.ndarray) else next(iter(observation.values()))
            return np.asarray(session.run(None, {session.get_inputs()[0].name: value.reshape(1, -1)})[0])[0]

        def reset(self) -> None:
            """There is no state."""

        def width(self) -> int:
            """Values of one observation; 0 where the file leaves it open."""
            size = session.get_inputs()[0].shape[-1]
            return size if isinstance(size, int) else 0

    if len(session.get_inputs()) != 1:
        raise ConfigError(f"{subject.path} has several inputs", hint="validate the bundle it came from")
    return Bare()


def _width(subject: Subject, backend: Backend) -> int:
    if subject.bundle is not None:
        return len(subject.bundle.contract.observation_names)
    return int(backend.width())  # type: ignore[attr-defined]


def check_inference_latency(subject: Subject, settings: ValidationSettings) -> ValidationResult:
    """Mean as specified, and how many single inferences miss the deadline; on this machine."""
    name = "Inference Latency"
    try:
        backend = _backend(subject)
        if subject.bundle is not None:
            golden = subject.bundle.golden()
        else:
            from sim2sky.agent.golden import GoldenVectors

            width = settings.obs_dim or _width(subject, backend)
            rows = np.random.default_rng(settings.seed).standard_normal((256, width)).astype(np.float32)
            golden = GoldenVectors({"observation": rows}, np.zeros((256, 1)), None, np.full(256, "sampled"))
        deadline = settings.deadline_ms or settings.max_latency_ms
        report = measure_latency(backend, golden, n=settings.latency_samples, deadline_ms=deadline)
    except Sim2SkyError as error:
        return ValidationResult.of(name, "fail", {}, error.message)
    except Exception as error:  # a bare ONNX file may refuse the observation in onnxruntime's own words
        return ValidationResult.of(name, "fail", {}, str(error).strip().splitlines()[0])
    slow = report["mean_ms"] >= settings.max_latency_ms
    late = report["deadline_miss_rate"] > settings.max_deadline_miss_rate
    text = f"Mean latency {report['mean_ms']:.3f} ms, p99 {report['p99_ms']:.3f} ms"
    if late:
        text += f", {report['deadline_miss_rate']:.1%} later than {deadline:g} ms"
    metrics = {**report, "n": int(report["n"])}
    return ValidationResult.of(name, "fail" if slow or late else "pass", metrics, text)


def limits_of(settings: ValidationSettings) -> dict[str, float | bool]:
    return resolve_safety(settings.safety).values


def check_sim_performance(
    subject: Subject,
    settings: ValidationSettings,
    *,
    cluster: str | None = None,
    folder: Path | None = None,
    progress: ProgressHook | None = None,
) -> tuple[ValidationResult, list[EpisodeOutcome]]:
    """The seeded campaign in pure simulation, and its outcomes.

    Raises:
        LinkError: the cluster cannot be reached; that says nothing about the agent.
        ConfigError: the folder cannot be written.
        MissingExtraError: the simulator is not installed.
    """
    name = "Simulation Performance"
    if subject.bundle is None or why_not_flyable(subject.bundle.contract):
        return ValidationResult.of(name, "not supported", {}, subject.why_not_flown), []
    job = FlightJob.of(subject.bundle, settings.environment, limits_of(settings))
    seeds = campaign_seeds(settings.seed, settings.sim_validation_episodes)
    hook = None if progress is None else lambda p: progress(name, p)
    outcomes = fly_campaign(job, seeds, workers=settings.workers, cluster=cluster, folder=folder, progress=hook)
    return judge_episodes(name, outcomes, settings.sim_success_threshold, settings), outcomes


def judge_episodes(
    name: str, outcomes: list[EpisodeOutcome], threshold: float, settings: ValidationSettings
) -> ValidationResult:
    successes = sum(o.success for o in outcomes)
    v = verdict(successes, len(outcomes), threshold, confidence=settings.confidence, strict=settings.strict)
    return ValidationResult.of(name, v.outcome, _metrics(v, outcomes), str(v))


def _metrics(v: Verdict, outcomes: list[EpisodeOutcome]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "episodes": v.trials,
        "successes": v.successes,
        "success_rate": v.rate,
        "lower_bound": v.lower,
        "upper_bound": v.upper,
        "threshold": v.threshold,
        "confidence": v.confidence,
        "strict": v.strict,
    }
    if v.trials_needed:
        metrics["episodes_needed"] = v.trials_needed
    for channel in outcomes[0].tracking_rmse:
        values = np.array([o.tracking_rmse[channel] for o in outcomes])
        if np.isfinite(values).any():
            metrics[f"median_{channel}"] = float(np.nanmedian(values))
    metrics["mean_action_rate"] = float(np.mean([o.action_rate for o in outcomes]))
    metrics["episodes_with_intervention"] = sum(o.interventions > 0 for o in outcomes)
    ended = sorted({o.termination for o in outcomes} - {"completed"})
    for reason in ended:
        metrics[f"ended by {reason}"] = sum(o.termination == reason for o in outcomes)
    return metrics


def check_safety_compliance(subject: Subject, settings: ValidationSettings) -> ValidationResult:
    """Are limits present and sane, in the configuration and in the bundle that flies."""
    name = "Safety Compliance"
    vehicle = subject.bundle.contract.vehicle if subject.bundle is not None else ""
    airframe = AIRFRAMES.get(vehicle)
    missing, problems = check_safety(limits_of(settings), airframe)
    carried = subject.bundle.safety() if subject.bundle is not None else None
    if carried is not None:
        theirs = {k: v for k, v in carried.items() if k != "fallback"}
        missing_there, problems_there = check_safety(theirs, airframe)
        missing += [f"{n} (in the bundle)" for n in missing_there]
        problems += [f"{p} (in the bundle)" for p in problems_there if p not in problems]
        if airframe is not None and not carried.get("fallback"):
            missing.append("fallback (in the bundle)")
    metrics: dict[str, Any] = {"airframe": vehicle or "unknown", "limits": len(limits_of(settings))}
    notes = []
    if missing:
        notes.append(f"Missing params: {missing}")
    if problems:
        notes.append(f"Not sane: {'; '.join(problems)}")
    if not notes:
        notes.append("all limits present" + (" and sane for the airframe" if airframe else "; the airframe is unknown"))
    return ValidationResult.of(name, "fail" if missing or problems else "pass", metrics, ". ".join(notes))
