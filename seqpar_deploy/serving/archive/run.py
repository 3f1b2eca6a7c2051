"""Plan a job, or resume it: the whole of `seqpar archive`, without its options and output."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy import cgroups
from seqpar_deploy.backends import BackendName, ComputePrecision
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.thresholds import read_thresholds
from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.machine import total_memory, usable_cores
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.serving.archive.cluster import local_ray, remote_ray
from seqpar_deploy.serving.archive.driver import Driver, RayLostError, StoppedError
from seqpar_deploy.serving.archive.entries import list_entries
from seqpar_deploy.serving.archive.job import finished_shards, locked
from seqpar_deploy.serving.archive.naming import Naming
from seqpar_deploy.serving.archive.places import absolute
from seqpar_deploy.serving.archive.plan import Plan, Settings, Shard
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.serving.archive.sdk import check_installed
from seqpar_deploy.serving.archive.worker import WorkerOptions, calibration_hash
from seqpar_deploy.video.sources.connection import load_av

_RESTARTS = 3  # of a local Ray in a row, without a finished shard between them
_BASE = 500e6  # bytes of a worker without its model: Python, the runtime, and pictures that wait

_log = logging.getLogger(__name__)

StopSoon = Callable[[], contextlib.AbstractContextManager[Sequence[int]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """Options of a run that do not decide its results.

    Attributes:
        address: Ray cluster: `auto` or HOST:PORT. Default: a local Ray, for this run alone.
        workers: Number of workers. Default: one per core, as far as half of the memory allows; of a cluster, one per
            CPU.
        threads: CPU threads per worker. Default: the cores, shared by the workers; of a cluster, 1.
        list_again: Whether to list inputs again that the plan has, for files that are new. Default: False.
        tries: Losses of a worker after which a picture is set aside, once with those beside it and once alone.
            Default: 2.
        time_limit: Seconds that a call of a worker may take, or a video may take without a new frame. Default: 600.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    list_again: bool = False
    tries: int = 2
    time_limit: float = 600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that decide the results of the model.

    Attributes:
        backend: Backend that runs the bundle. Default: `auto`.
        compute_precision: Precision of the computation. Default: the backend's.
        fallback_margin: Margin below which a crop is re-run in native precision. Default: none.
        thresholds: Path of the thresholds. Default: those of the calibration.
        without: Names or patterns of attributes to keep out of the results. Default: none.
    """

    backend: BackendName = "auto"
    compute_precision: ComputePrecision | None = None
    fallback_margin: float | None = None
    thresholds: Path | None = None
    without: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Result of a run.

    Attributes:
        plan: The plan.
        done: Number of entries done in this run.
        stopped: Whether it was stopped before the end.
    """

    plan: Plan
    done: int
    stopped: bool


def run_archive(
    inputs: Sequence[str],
    bundle: Path,
    folder: Path,
    *,
    naming: Naming = Naming(),
    model: ModelOptions = ModelOptions(),
    shard_size: int | None = None,
    options: ArchiveOptions = ArchiveOptions(),
    progress: Progress = silent,
    stop: StopSoon = lambda: contextlib.nullcontext(()),
) -> RunSummary:
    """Plan a job in a folder, or resume the one that is there, and run it to its end.

    Args:
        inputs: Names of files, folders, globs and addresses. Those that the plan has are not listed again. May be empty
            if the folder has a job.
        bundle: Folder of the bundle.
        folder: Folder of the job.
        naming: How names tell camera and time.
        model: Options that decide the results.
        shard_size: Pictures per shard. Default: that of the plan, 1024 in a new one.
        options: Options that do not decide the results.
        progress: Opens stages of progress. Default: silent.
        stop: Context manager that yields a sequence, not empty once the run has to stop. Default: never.

    Returns:
        What was done.

    Raises:
        ArchiveError: The job is of another bundle or other options, runs already, or cannot go on.
        BundleError: The bundle cannot be opened.
        LabelSetError: `without` matches no attribute, or all.
        BackendUnavailableError: Ray, pyarrow or fsspec is not installed.
    """
    check_installed()  # before any work
    opened = Bundle.open(bundle)
    thresholds = None if model.thresholds is None else read_thresholds(model.thresholds, opened.label_set)
    label_set = opened.shown.without(opened.shown.matching(model.without))
    names = [absolute(name) for name in inputs]
    folder = Path(os.path.abspath(folder))
    with locked(folder):
        plan = Plan.load(folder)
        settings = Settings(
            bundle=opened.digest,
            calibration=calibration_hash(opened, thresholds),
            backend=model.backend,
            compute_precision=model.compute_precision,
            fallback_margin=model.fallback_margin,
            camera=naming.camera,
            captured_at=naming.captured_at,
            time_zone=naming.time_zone,
            shard_size=shard_size or (plan.settings.shard_size if plan else Settings.shard_size),
            attributes=tuple(one.name for one in label_set.attributes) if model.without else (),
        )
        plan = _planned(folder, plan, settings, names, naming, options.list_again, progress)
        finished = finished_shards(folder)
        missing = [shard for shard in plan.shards() if shard.number not in finished]
        if not missing:
            return RunSummary(plan=plan, done=0, stopped=False)
        if any(shard.video for shard in missing):
            load_av()
        metadata = ResultMetadata(bundle=opened.digest, label_set=label_set, plan=settings.hash)
        worker = WorkerOptions(
            bundle=str(bundle.absolute()),
            settings=settings,
            thresholds=None if model.thresholds is None else str(model.thresholds.absolute()),
            threads=options.threads or 1,
        )
        job = _Job(folder=folder, plan=plan, worker=worker, metadata=metadata, size=_size(opened), options=options)
        return _run(job, missing, progress, stop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    folder: Path
    plan: Plan
    worker: WorkerOptions
    metadata: ResultMetadata
    size: int  # bytes of the bundle's graphs
    options: ArchiveOptions


def _planned(
    folder: Path,
    plan: Plan | None,
    settings: Settings,
    names: Sequence[str],
    naming: Naming,
    list_again: bool,
    progress: Progress,
) -> Plan:
    """Return the plan of the job, with the inputs that it lacks."""
    if plan is None and not names:
        raise ArchiveError(f"{folder} must be a job to resume without inputs, got none; name pictures or videos")
    if plan is not None:
        plan.check_same(settings, folder)
    plan = plan or Plan(settings=settings)
    given = names or plan.inputs if list_again else names
    new = [name for name in given if list_again or name not in plan.inputs]
    if not new:
        return plan
    with progress("listing") as on_progress:
        before = plan.entries
        plan = plan.extended(
            folder, new, list_entries(new, naming, without=str(folder)), lambda count: on_progress(count, count)
        )
    _log.info("planned %d entries, %d of them new", plan.entries, plan.entries - before)
    return plan


def _run(job: _Job, missing: list[Shard], progress: Progress, stop: StopSoon) -> RunSummary:
    """Run the missing shards. A local Ray that is lost is started again."""
    total = job.plan.entries
    before = done = total - sum(shard.count for shard in missing)
    restarts, stopped = 0, False

    with progress("recognising") as on_progress:

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        while missing and not stopped:
            left = len(missing)
            try:
                most = _calls(job.plan, missing)
                with _connected(job, most) as (ray, workers, threads), stop() as received:
                    driver = Driver(
                        ray,
                        job.folder,
                        dataclasses.replace(job.worker, threads=threads),
                        job.metadata,
                        workers=workers,
                        tries=job.options.tries,
                        time_limit=job.options.time_limit,
                        on_done=on_done,
                        should_stop=lambda received=received: bool(received),  # type: ignore[misc]
                    )
                    driver.run(iter(sorted(missing, key=lambda shard: not shard.video)))  # videos are the longest
            except StoppedError:
                stopped = True
            except RayLostError:
                pass
            finished = finished_shards(job.folder)
            missing = [shard for shard in missing if shard.number not in finished]
            done = total - sum(shard.count for shard in missing)
            if missing and not stopped:
                restarts = 1 if len(missing) < left else restarts + 1
                if job.options.address is not None or restarts > _RESTARTS:
                    raise ArchiveError("Ray must run until the end of the job, got no node that is alive; run it again")
                _log.warning("Ray was lost and is started again; %d shards are missing", len(missing))
    return RunSummary(plan=job.plan, done=done - before, stopped=stopped)


@contextlib.contextmanager
def _connected(job: _Job, most: int) -> Iterator[tuple[Any, int, int]]:
    """Yield Ray, the number of workers, at most `most`, and the threads of each."""
    options = job.options
    if options.address is not None:
        with remote_ray(options.address) as ray:
            threads = options.threads or 1
            workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
            yield ray, min(workers, most), threads
        return
    workers = options.workers or _most_workers(job.size)
    threads = options.threads or max(1, usable_cores() // workers)  # of a full set: results depend on the threads
    workers = min(workers, most)
    with local_ray(workers * threads) as ray:
        yield ray, workers, threads


def _most_workers(size: int) -> int:
    """Return one worker per core, as far as half of the memory holds them. A runtime holds weights up to twice."""
    limits = [limit for limit in (total_memory(), cgroups.memory_limit()) if limit is not None]
    fitting = int(min(limits) / 2 / (_BASE + 2 * size)) if limits else 1
    return max(1, min(usable_cores(), fitting))


def _calls(plan: Plan, shards: Iterable[Shard]) -> int:
    """Return the number of calls of shards: more workers would have nothing to do."""
    return sum(-(-shard.count // plan.settings.batch) for shard in shards)


def _size(bundle: Bundle) -> int:
    return sum(int(entry["bytes"]) for entry in bundle.manifest["files"].values())
