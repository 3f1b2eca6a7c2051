from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from seqpar_deploy import Recognizer
from seqpar_deploy.ahead import map_ahead
from seqpar_deploy.errors import BackendError
from seqpar_deploy.preprocess import Crop


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def take(results: Iterable[object], into: list[object]) -> None:
    for result in results:
        into.append(result)  # unlike with `list`, those before an error count


@pytest.mark.parametrize("items", [[], [3], [1, 2], list(range(50)), range(5)], ids=str)
def test_results_come_in_order(items: Sequence[int]) -> None:
    assert list(map_ahead(lambda item: item * item, items)) == [item * item for item in items]
    assert not running()


def test_a_single_item_starts_no_thread() -> None:
    assert list(map_ahead(lambda _: threading.current_thread(), [0])) == [threading.current_thread()]
    assert threading.current_thread() not in list(map_ahead(lambda _: threading.current_thread(), [0, 1]))


def test_the_next_item_is_computed_while_the_caller_works_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        begun[item].set()
        return item

    for item in map_ahead(work, range(4)):
        assert all(event.wait(10) for event in begun[: item + 2])  # the caller still has `item`
        assert not any(event.wait(0.02) for event in begun[item + 2 :])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_error_comes_at_the_place_of_its_item(at: int) -> None:
    seen: list[object] = []
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        if item == at:
            raise BackendError(f"item {item}")
        return item

    with pytest.raises(BackendError, match=f"item {at}"):
        take(map_ahead(work, range(5)), seen)
    assert seen == list(range(at))
    assert done == list(range(at + 1))
    assert not running()


@pytest.mark.parametrize("taken", [1, 2])
def test_a_caller_that_stops_leaves_no_thread(taken: int) -> None:
    done: list[int] = []
    results = map_ahead(done.append, range(100))
    for _ in range(taken):
        next(results)
    results.close()
    assert not running()
    assert len(done) <= taken + 1


def test_predictions_that_are_not_taken_leave_no_thread(bundle_dir: Path, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir, backend="onnxruntime", batch_size=2) as recognizer:
        every = [prediction.tokens for prediction in recognizer.predict(crops)]
        some = recognizer.predict_iter(crops)
        assert [next(some).tokens for _ in range(3)] == every[:3]
        some.close()
        assert not running()


@pytest.mark.parametrize("batch", [0, 2])
def test_a_backend_that_fails_leaves_no_thread(
    batch: int, bundle_dir: Path, crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recognizer.from_bundle(bundle_dir, backend="onnxruntime", batch_size=2) as recognizer:
        encode = recognizer.backend.encode
        calls: list[int] = []

        def failing(prepared: Crop) -> object:
            calls.append(len(prepared))
            if len(calls) > batch:
                raise BackendError("out of memory")
            return encode(prepared)

        monkeypatch.setattr(recognizer.backend, "encode", failing)
        got: list[object] = []
        with pytest.raises(BackendError, match="out of memory"):
            take(recognizer.predict_iter(crops), got)
        assert len(got) == 2 * batch
        assert not running()
