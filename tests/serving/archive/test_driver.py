"""The driver on a stand-in for Ray: what becomes of shards whose workers fail, die or hang."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes.predictions import predicted
from fakes.ray_calls import FakeRay

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive import driver as driving
from seqpar_deploy.serving.archive.driver import Driver, RayLostError, StoppedError
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.job import finished_shards, shard_file
from seqpar_deploy.serving.archive.plan import Plan, Settings
from seqpar_deploy.serving.archive.rows import Rows
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.serving.archive.worker import WorkerOptions

SETTINGS = Settings(bundle="b" * 64, calibration="c" * 64, shard_size=10, batch=4)


class FakeWorker:
    """Predicts from the name of an entry."""

    problem = ""

    def __init__(self, options: WorkerOptions, metadata: ResultMetadata | None = None) -> None:
        self.metadata = metadata

    def open(self) -> str:
        return self.problem

    def recognize(self, entries: Sequence[Entry], set_aside: Sequence[int], why: str) -> Any:
        assert self.metadata is not None
        rows = Rows(self.metadata)
        for place, entry in enumerate(entries):
            if place in set_aside:
                rows.add_error(entry, why)
            else:
                rows.add(entry, predicted({"Hat": 0.9}, self.metadata.label_set))
        return rows.to_batch()

    def watch(self, entry: Entry) -> Any:
        return self.recognize([entry], [], "")

    def frames(self) -> int:
        return 0


@pytest.fixture
def run(tmp_path: Path, metadata: ResultMetadata, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`run(ray, names)`: plan entries of these names, and drive them to the end. Returns the folder."""
    monkeypatch.setattr(driving, "Worker", lambda options: FakeWorker(options, metadata))
    monkeypatch.setattr(driving, "_LOOK_EVERY", 0.0)

    def start(
        ray: FakeRay, names: Sequence[str], *, stop: Callable[[], bool] = lambda: False, time_limit: float = 1e9
    ) -> Path:
        entries = [Entry(kind="video" if name.startswith("v") else "picture", source=f"/{name}") for name in names]
        plan = Plan(settings=SETTINGS).extended(tmp_path, ["/"], entries, lambda _count: None)
        done: list[int] = []
        Driver(
            ray,
            tmp_path,
            WorkerOptions(bundle="/bundle", settings=SETTINGS, thresholds=None, threads=1),
            metadata,
            workers=2,
            tries=2,
            time_limit=time_limit,
            on_done=done.append,
            should_stop=stop,
        ).run(plan.shards())
        assert sum(done) == len(names)
        return tmp_path

    return start


def rows(folder: Path) -> dict[str, str | None]:
    """The error of each row, by ID, and no ID twice."""
    found: dict[str, str | None] = {}
    for number in sorted(finished_shards(folder)):
        for row in pq.read_table(shard_file(folder, number)).to_pylist():
            assert row["id"] not in found
            assert (row["states"] is None) == (row["probabilities"] is None) == (row["error"] is not None)
            found[row["id"]] = row["error"]
    return found


def names(count: int) -> list[str]:
    return [f"{number:03d}" for number in range(count)]


def of(arguments: tuple[Any, ...]) -> list[str]:
    """The names of the entries of a call."""
    entries = arguments[0] if isinstance(arguments[0], (list, tuple)) else [arguments[0]]
    return [entry.source[1:] for entry in entries]


def test_each_shard_is_one_file_with_its_rows_in_order(run: Callable[..., Path]) -> None:
    ray = FakeRay()
    folder = run(ray, [*names(25), "v1"])
    assert finished_shards(folder) == {0, 1, 2, 3}
    assert list(rows(folder)) == [f"/{name}" for name in [*names(25), "v1"]]
    sizes = sorted(len(of(arguments)) for method, arguments in ray.calls if method == "recognize")
    assert sizes == [1, 2, 2, 4, 4, 4, 4, 4]  # shards of 10, 10 and 5 in calls of 4


def test_few_calls_wait_at_a_worker_and_few_shards_are_open(run: Callable[..., Path]) -> None:
    ray = FakeRay()
    run(ray, names(400))
    assert ray.most_waiting <= 2


def test_nothing_waits_at_a_worker_for_a_video(run: Callable[..., Path]) -> None:
    ray = FakeRay()
    run(ray, [f"v{number}" for number in range(6)])
    assert ray.most_waiting == 1


def test_a_worker_that_dies_once_costs_nothing(run: Callable[..., Path]) -> None:
    deaths: list[str] = []

    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        if method == "recognize" and of(arguments)[0] in ("008", "010") and of(arguments)[0] not in deaths:
            deaths.append(of(arguments)[0])
            return "dies"
        return "runs"

    folder = run(FakeRay(fate), names(30))
    assert len(deaths) == 2
    assert rows(folder) == dict.fromkeys([f"/{name}" for name in names(30)])


@pytest.mark.parametrize("poison", [["005"], ["004", "007", "021"]])
@pytest.mark.parametrize("kind", ["dies", "raises"])
def test_a_picture_that_costs_workers_is_set_aside_alone(
    run: Callable[..., Path], poison: list[str], kind: str
) -> None:
    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        if method != "recognize":
            return "runs"
        tried = [name for place, name in enumerate(of(arguments)) if place not in arguments[1]]
        return kind if set(tried) & set(poison) else "runs"

    ray = FakeRay(fate)
    folder = run(ray, names(30))
    wrong = {name: error for name, error in rows(folder).items() if error is not None}
    assert set(wrong) == {f"/{name}" for name in poison}
    assert all("2 times" in str(error) for error in wrong.values())
    assert list(rows(folder)) == [f"/{name}" for name in names(30)]
    # The last call with a poisoned picture still has its neighbours: batches are those of the plan.
    last = [of(arguments) for _, arguments in ray.calls if arguments and poison[0] in of(arguments)][-1]
    assert last == ["004", "005", "006", "007"]


def test_a_picture_that_hangs_is_set_aside(run: Callable[..., Path]) -> None:
    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        return "hangs" if method == "recognize" and "005" in of(arguments) and not arguments[1] else "runs"

    folder = run(FakeRay(fate), names(12), time_limit=0.02)
    assert {name for name, error in rows(folder).items() if error} == {"/005"}


@pytest.mark.parametrize("kind", ["dies", "raises"])
def test_a_video_that_costs_workers_is_a_row_with_an_error(run: Callable[..., Path], kind: str) -> None:
    folder = run(FakeRay(lambda method, _: kind if method == "watch" else "runs"), ["v1", *names(6)])
    assert {name for name, error in rows(folder).items() if error} == {"/v1"}


def test_pictures_that_are_fatal_only_together_are_set_aside_together(run: Callable[..., Path]) -> None:
    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        return "dies" if method == "recognize" and {"004", "005"} <= set(of(arguments)) else "runs"

    folder = run(FakeRay(fate), names(12))
    assert {name for name, error in rows(folder).items() if error} == {"/004", "/005", "/006", "/007"}


@pytest.mark.parametrize("kind", ["dies", "raises"])
def test_a_model_that_never_answers_fails_the_job(run: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    with pytest.raises(ArchiveError, match="20 losses"):
        run(FakeRay(lambda method, _: kind if method == "recognize" else "runs"), names(30))
    assert finished_shards(tmp_path) == set()


def test_a_bundle_that_a_worker_cannot_open_fails_the_job(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "problem", "/bundle does not exist; copy it")
    with pytest.raises(ArchiveError, match="/bundle does not exist"):
        run(FakeRay(), names(3))


def test_workers_that_die_at_their_start_fail_the_job(run: Callable[..., Path]) -> None:
    with pytest.raises(ArchiveError, match="20 losses"):
        run(FakeRay(lambda method, _: "dies" if method == "open" else "runs"), names(3))


def test_without_a_living_node_the_run_ends(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "_NODES_EVERY", 0.0)
    ray = FakeRay()
    ray.alive = False
    with pytest.raises(RayLostError):
        run(ray, names(3))


def test_a_stop_keeps_finished_shards(run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(FakeRay(), names(100), stop=lambda: len(finished_shards(tmp_path)) >= 2)
    assert 2 <= len(finished_shards(tmp_path)) < 10
    found = rows(tmp_path)
    assert len(found) == 10 * len(finished_shards(tmp_path))
