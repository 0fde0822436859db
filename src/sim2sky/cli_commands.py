"""Bodies of the commands: arguments in, library calls, printed text and exit code out."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim2sky.config.deployment import DeploymentSettings
from sim2sky.config.loader import default_path, load_settings, validate_settings
from sim2sky.config.validation import ValidationSettings
from sim2sky.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_PASS, ConfigError, MissingExtraError

if TYPE_CHECKING:
    from sim2sky.validation.campaign import Progress

__all__ = [
    "extras",
    "print_json",
    "run_deploy",
    "run_hil_command",
    "run_optimize",
    "run_test_inference",
    "run_train",
    "run_validate",
]

Hook = Callable[[str, "Progress"], None]
_EXIT = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}
_EXTRA_OF = {
    "jsbsim": "sim", "gymnasium": "sim", "joblib": "sim", "scipy": "sim",
    "torch": "train", "stable_baselines3": "train", "sb3_contrib": "train", "tensorboard": "train",
    "distributed": "cluster", "mcap": "logs",
}  # fmt: skip


@contextlib.contextmanager
def extras() -> Generator[None, None, None]:
    """A missing optional package names the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in _EXTRA_OF:
            raise MissingExtraError(name, _EXTRA_OF[name]) from error
        raise


@contextlib.contextmanager
def _bars() -> Generator[Hook, None, None]:
    """Progress bars on stderr with the running interval; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("      {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def hook(name: str, p: Progress_) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=p.total, rate="")
            rate = f"{p.successes}/{p.done} succeed, 95 % interval {p.interval.low:.2f}..{p.interval.high:.2f}"
            bars.update(tasks[name], completed=p.done, total=p.total, rate=rate)
            if p.done >= p.total:
                bars.remove_task(tasks.pop(name))

        yield hook


if TYPE_CHECKING:
    Progress_ = Progress


def print_json(data: object) -> None:
    """Print a result for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def _validation(config: Path | None) -> ValidationSettings:
    return load_settings(config or default_path("validation"), ValidationSettings, section="validation")


def _deployment(config: Path | None) -> DeploymentSettings:
    return load_settings(config or default_path("deployment"), DeploymentSettings, section="deployment")


def run_optimize(bundle: Path, output: Path, *, config: Path | None, as_json: bool) -> int:
    """`sim2sky optimize`."""
    from sim2sky.agent.bundle import open_bundle

    deployment = _deployment(config)
    with extras(), _bars() as hook:
        from sim2sky.validation.flying_export import optimise_bundle

        validation = deployment.validation_settings(_validation(None))
        found = optimise_bundle(open_bundle(bundle), output, deployment.optimization, validation, progress=hook)
    if as_json:
        print_json({"kept": found.kept, "bundle": str(found.bundle.path), "decision": found.sentence})
    else:
        print(found.table)
        print(f"bundle: {found.bundle.path}")
    return EXIT_PASS


def run_validate(
    bundle: Path | None,
    *,
    config: Path | None,
    cluster: str | None,
    target: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """`sim2sky validate`."""
    settings = _validation(config)
    if bundle is not None:
        settings = settings.model_copy(update={"model_path": str(bundle)})
    with extras(), _bars() as hook:
        from sim2sky.deployment.targets import open_target
        from sim2sky.validation.deployment_validator import DeploymentValidator, exit_code, report_json

        where = open_target(target) if target else None
        validator = DeploymentValidator(settings, cluster=cluster, target=where, folder=output, progress=hook)
        results = validator.run_checks()
    if as_json:
        print_json(report_json(validator, results))
    else:
        validator.print_report(results)
    return exit_code(results)


def run_test_inference(target: str, *, samples: int, max_latency_ms: float, as_json: bool) -> int:
    """`sim2sky test-inference`."""
    from sim2sky.deployment.chip_target import is_chip
    from sim2sky.deployment.targets import open_target, runtime_lines, test_on_target

    if is_chip(target):
        from sim2sky.cli_chip import test_chip

        return test_chip(target, as_json=as_json)
    where = open_target(target)
    report = test_on_target(where, samples=samples, max_latency_ms=max_latency_ms)
    if as_json:
        print_json({"verdict": "pass", "release": where.active(), **report})
        return EXIT_PASS
    latency = report["latency"]
    print(f"✓ PASS - {report['agent']} ({report['digest'][:12]}, {report['format']}) on {where.name}")
    print(f"  golden vectors: {report['golden_vectors']}, largest error {report['golden_max_error']:.2g}")
    print(
        f"  latency: mean {latency['mean_ms']:.4f} ms, p95 {latency['p95_ms']:.4f}, p99 {latency['p99_ms']:.4f}, "
        f"max {latency['max_ms']:.4f}, later than {latency['deadline_ms']:g} ms: {latency['deadline_miss_rate']:.2%}"
    )
    for line in runtime_lines(report.get("runtimes", [])):
        print(f"  {line}")
    print(f"  {report['machine']}, Python {report['python']}, onnxruntime {report['onnxruntime']}")
    return EXIT_PASS


def run_deploy(
    name: str,
    model: Path,
    target: str,
    *,
    targets: Path | None,
    config: Path | None,
    validation: Path | None,
    output: Path | None,
    vecnormalize: Path | None,
    contract: Path | None,
    cluster: str | None,
    fresh: bool,
    key: str,
    as_json: bool,
) -> int:
    """`sim2sky deploy`."""
    if target and targets:
        raise ConfigError("TARGET and --targets exclude each other", hint="name one target, or a fleet file")
    deployment, base = _deployment(config), _validation(validation)
    with extras(), _bars() as hook:
        from sim2sky.deployment.deploy_agent import DeployPlan, deploy

        plan = DeployPlan(
            name=name,
            model_path=model,
            output=output or Path("models") / name,
            settings=deployment,
            validation=base,
            target=target,
            vecnormalize=vecnormalize,
            contract=contract,
            cluster=cluster,
            fresh=fresh,
            key=key,
        )
        say = functools.partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)

        def now() -> str:
            return datetime.now(UTC).isoformat(timespec="seconds")

        try:
            if targets:
                from sim2sky.cli_fleet import run_fleet

                fleet = run_fleet(plan, targets, say=say, progress=hook, now=now)
                if as_json:
                    print_json(fleet.to_json())
                return _EXIT[fleet.outcome]
            result = deploy(plan, say=say, progress=hook, now=now)
        except KeyboardInterrupt:
            print("the same command goes on from the last finished step", file=sys.stderr)
            raise
    if as_json:
        print_json(result.to_json())
    else:
        from sim2sky.validation.checks import shown

        print("\nWritten:")
        for path in result.written:
            print(f"  {shown(path)}")
    return _EXIT[result.outcome]


def run_hil_command(
    target: str,
    *,
    config: Path | None,
    episodes: int | None,
    link: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """`sim2sky hil`."""
    settings = _validation(config)
    changes: dict[str, Any] = {"hil_validation_episodes": episodes, "hil_link": link}
    settings = ValidationSettings.model_validate(
        {**settings.model_dump(), **{k: v for k, v in changes.items() if v is not None}}
    )
    with extras(), _bars() as hook:
        from sim2sky.deployment.chip_target import is_chip, open_chip
        from sim2sky.deployment.targets import open_target
        from sim2sky.validation.deployment_validator import result_text
        from sim2sky.validation.hil_check import fly_installed

        where = open_chip(target) if is_chip(target) else open_target(target)
        result = fly_installed(where, settings, log_dir=output, progress=hook)
    if as_json:
        print_json({"verdict": result.outcome, **result.to_json()})
    else:
        print(result_text(result))
    return _EXIT.get(result.outcome, EXIT_FAIL)


def run_train(
    output: Path,
    *,
    config: Path | None,
    resume: bool,
    seed: int | None,
    timesteps: int | None,
    randomization: Path | None,
    episodes: int,
) -> int:
    """`sim2sky train`."""
    from sim2sky.config.randomization import RandomizationPatch
    from sim2sky.config.training import TrainingSettings

    with extras():
        from sim2sky.training.train import train
    of_the_run = output / "config.yaml" if resume and (output / "config.yaml").is_file() else None
    settings = load_settings(config or of_the_run or default_path("training", "hawk"), TrainingSettings)
    changes = {"seed": seed, "total_timesteps": timesteps}
    settings = validate_settings(
        {**settings.model_dump(), **{k: v for k, v in changes.items() if v is not None}},
        TrainingSettings,
        source="command line",
    )
    if randomization is not None and not (resume and of_the_run):  # the run's own settings have it already
        patch = load_settings(randomization, RandomizationPatch)
        settings = settings.model_copy(update={"environment": patch.apply(settings.environment)})
    with extras():
        from rich.console import Console
        from rich.progress import Progress

        console = Console(file=sys.stderr)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("training", total=settings.total_timesteps)
            result = train(
                settings,
                output,
                resume=resume,
                command=["sim2sky", *sys.argv[1:]],
                on_progress=lambda p: bar.update(
                    task, completed=p.timesteps, description=f"training, success {p.success_rate:.0%}"
                ),
            )
    if not result.finished:
        print(f"{output}: interrupted after {result.timesteps} steps; go on with: sim2sky train {output} --resume")
        return EXIT_INTERRUPTED
    print(f"{output}: {result.timesteps} steps in {result.seconds:.0f} s")
    if episodes > 0:
        with extras():
            from sim2sky.validation.evaluation import evaluate_agent, render_evaluation, save_evaluation

            rows = evaluate_agent(output, episodes=episodes)
            save_evaluation(rows, output / "evaluation.json")
            print(render_evaluation(rows))
    return EXIT_PASS
