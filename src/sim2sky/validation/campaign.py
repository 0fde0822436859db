"""Campaigns: many seeded episodes of one bundle, in parallel, on this machine's cores or on a Dask cluster.

All seeds come from one `numpy.random.SeedSequence`, and an episode is a function of its seed alone, so one worker, many
workers and a cluster give the same outcomes in the same order. Finished episodes are appended to a file named by a hash
of everything that decides them; a campaign that was interrupted, by Ctrl-C or a power cut, goes on from there.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

from sim2sky.agent.contract import canonical_json
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError, LinkError, MissingExtraError, Sim2SkyError
from sim2sky.validation.flight import FlightJob, Flyer
from sim2sky.validation.statistics import Interval, clopper_pearson

__all__ = ["Progress", "campaign_hash", "campaign_seeds", "code_fingerprint", "fly_campaign"]

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a campaign stands: episodes done and to do, successes, exact two-sided 95 % interval of the rate."""

    done: int
    total: int
    successes: int
    interval: Interval


def campaign_seeds(seed: int, n: int, *, stream: int = 0) -> list[int]:
    """`n` episode seeds from one seed; a longer campaign begins with the same ones. Streams are independent."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream,))
    return [int(word >> np.uint64(1)) for word in sequence.generate_state(n, np.uint64)]


@functools.cache
def code_fingerprint() -> str:
    """sha256 of the source that decides an episode: another version of the simulator does not resume this one's."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("agent", "environments", "runtime"):
        for path in sorted((package / folder).rglob("*")):
            if path.suffix in (".py", ".xml"):
                digest.update(path.relative_to(package).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def campaign_hash(job: FlightJob) -> str:
    """Names a campaign: bundle, conditions, limits, the simulator's source; neither seeds nor the number of workers."""
    record = {"job": job.to_json(), "code": code_fingerprint()}
    return hashlib.sha256(canonical_json(record)).hexdigest()


class _Journal:
    """Append-only JSON lines, one finished episode each; a torn last line is dropped."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.done: dict[int, EpisodeOutcome] = {}
        self._file = None
        if folder is None:
            return
        path = folder / f"campaign-{name[:24]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            for line in whole.splitlines():
                outcome = EpisodeOutcome.from_json(json.loads(line))
                self.done[outcome.seed] = outcome
            if len(whole) != len(data):
                os.truncate(path, len(whole))
            self._file = path.open("ab")
        except OSError as error:
            raise ConfigError(
                f"cannot keep the campaign in {path}: {error.strerror}", hint="name a writable folder"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is not a campaign's file: {error!r}", hint="remove it and run again") from error

    def add(self, outcome: EpisodeOutcome) -> None:
        self.done[outcome.seed] = outcome
        if self._file is None:
            return
        try:
            self._file.write(canonical_json(outcome.to_json()) + b"\n")
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"cannot write {self._file.name}: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def fly_campaign(
    job: FlightJob,
    seeds: Sequence[int],
    *,
    workers: int = 0,
    cluster: str | None = None,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[EpisodeOutcome]:
    """Fly one episode per seed.

    Args:
        job: what flies, and in which conditions.
        seeds: of the episodes.
        workers: processes on this machine; 0 for one per core. With one, nothing is started.
        cluster: `dask://host:port` of a running scheduler, instead of processes.
        folder: where finished episodes are kept, so that the campaign can be resumed; None keeps nothing.
        progress: told after every episode, in the order they finish.

    Returns:
        Outcomes in the order of `seeds`.

    Raises:
        ConfigError: the folder cannot be written, or the cluster's address is none.
        LinkError: no scheduler at that address, or it lost its workers.
        MissingExtraError: joblib or distributed is not installed.
        Sim2SkyError: whatever stops a single episode, e.g. a bundle that changed.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError("a campaign's seeds must differ from each other")
    journal = _Journal(folder, campaign_hash(job))
    with closing(journal):
        waiting = [seed for seed in seeds if seed not in journal.done]
        seen = [journal.done[seed].success for seed in seeds if seed in journal.done]
        successes, done = sum(seen), len(seen)

        def report() -> None:
            if progress is not None and done:
                progress(Progress(done, len(seeds), successes, clopper_pearson(successes, done)))

        report()
        with closing(_outcomes(job, waiting, workers, cluster)) as outcomes:
            for outcome in outcomes:
                journal.add(outcome)
                successes, done = successes + outcome.success, done + 1
                report()
        return [journal.done[seed] for seed in seeds]


def _outcomes(job: FlightJob, seeds: Sequence[int], workers: int, cluster: str | None) -> Generator[EpisodeOutcome]:
    if cluster is not None:
        yield from _on_cluster(job, seeds, cluster)
        return
    count = min(workers or os.cpu_count() or 1, len(seeds))
    if count <= 1:
        if seeds:
            yield from map(Flyer(job).fly, seeds)
        return
    yield from _in_processes(job, seeds, count)


def _in_processes(job: FlightJob, seeds: Sequence[int], workers: int) -> Generator[EpisodeOutcome]:
    try:
        import joblib
    except ImportError as error:
        raise MissingExtraError("joblib", "sim") from error
    stopped = False

    def tasks() -> Generator[Any]:
        for seed in seeds:
            if stopped:
                return
            yield joblib.delayed(_fly)(job, seed)

    parallel: Any = joblib.Parallel
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        results: Iterable[Any] = ()
        try:
            with _deaf_to_interrupts():
                results = pool(tasks())
            for result in results:
                yield _unwrapped(result)
        finally:
            # After an error or Ctrl-C the few episodes under way are flown to their end: cancelling them races with
            # the pool's own thread, which then prints a traceback.
            stopped = True
            for _ in results:
                pass


@contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """What is started meanwhile never hears Ctrl-C, which a terminal sends to the whole group: this process answers it.

    Workers would print a traceback each. A blocked signal stays blocked in what is started. Another thread may take one
    that comes meanwhile, so it is noted and acted upon at the end: ignoring it would lose it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    resource_tracker.ensure_running()  # starting it later would unblock the signal (CPython 3.11)
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if noted:
        raise KeyboardInterrupt


@functools.lru_cache(maxsize=2)
def _flyer(key: bytes, bundle: str) -> Flyer:
    """Loaded once per process; `key` is the job as JSON, which unlike the job can be hashed."""
    data = json.loads(key)
    from sim2sky.config.environment import EnvironmentSettings

    environment = EnvironmentSettings.model_validate(data["environment"])
    return Flyer(FlightJob(bundle, data["digest"], environment, data["safety"], data["format"]))


Answer = EpisodeOutcome | tuple[str, str, str]


def _fly(job: FlightJob, seed: int) -> Answer:
    """On a worker. Errors come back as data: our exceptions do not survive pickling with their hints."""
    try:
        return _flyer(canonical_json(job.to_json()), job.bundle).fly(seed)
    except Sim2SkyError as error:
        return type(error).__name__, error.message, error.hint


def _unwrapped(answer: Answer) -> EpisodeOutcome:
    if isinstance(answer, EpisodeOutcome):
        return answer
    import sim2sky.errors

    name, message, hint = answer
    kind: type[Sim2SkyError] = getattr(sim2sky.errors, name, Sim2SkyError)
    error = Sim2SkyError(message, hint=hint)
    error.exit_code = kind.exit_code
    raise error


def _on_cluster(job: FlightJob, seeds: Sequence[int], cluster: str) -> Generator[EpisodeOutcome]:
    scheme, _, address = cluster.partition("://")
    if scheme != "dask" or not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"'{cluster}' is no cluster", hint="write dask://host:port")
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster") from error
    try:
        client: Any = distributed.Client(f"tcp://{address}", timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise LinkError(
            f"no Dask scheduler answers at {address}",
            hint=f"start one with: dask scheduler --port {address.rpartition(':')[2]}",
        ) from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise LinkError(f"the Dask scheduler at {address} has no workers", hint=f"start one: dask worker {address}")
        files = {path.name: path.read_bytes() for path in Path(job.bundle).iterdir() if path.is_file()}
        # The workers may not see this machine's disk, so the bundle travels with the job, once per worker.
        shared: Any = client.scatter([(job, files)], broadcast=True)[0]
        futures = client.map(_fly_shipped, [shared] * len(seeds), seeds, pure=False, retries=2)
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                try:
                    yield _unwrapped(future.result())
                except (distributed.KilledWorker, OSError) as error:
                    raise LinkError(f"the Dask cluster at {address} lost its workers: {error}") from error
        finally:
            client.cancel(futures)


def _fly_shipped(shared: tuple[FlightJob, dict[str, bytes]], seed: int) -> Answer:
    """On a cluster's worker: unpack the bundle into a folder of this process, then as everywhere."""
    job, files = shared
    return _fly(replace(job, bundle=_unpacked(job.digest, tuple(sorted(files.items())))), seed)


@functools.lru_cache(maxsize=4)
def _unpacked(digest: str, files: tuple[tuple[str, bytes], ...]) -> str:
    folder = Path(tempfile.mkdtemp(prefix=f"sim2sky-{digest[:12]}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, data in files:
        if "/" in name or name.startswith("."):
            raise ConfigError(f"a bundle came with a file named {name!r}")
        (folder / name).write_bytes(data)
    return str(folder)
