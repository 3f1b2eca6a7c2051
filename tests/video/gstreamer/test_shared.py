"""Recognizers that elements share."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from video.gstreamer.people import FakeRecognizer

from seqpar_deploy.errors import BundleError
from seqpar_deploy.video.gstreamer import shared
from seqpar_deploy.video.gstreamer.shared import BundleRequest, lease


def test_equal_requests_share_and_the_last_one_closes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    opened: list[FakeRecognizer] = []

    def open_it(_request: BundleRequest) -> FakeRecognizer:
        opened.append(FakeRecognizer())
        return opened[-1]

    leases = [lease(BundleRequest(bundle=tmp_path / name), open_it) for name in ("b", "link", "b/../b")]
    other = lease(BundleRequest(bundle=tmp_path / "b", threads=1), open_it)
    assert len(opened) == 2
    assert shared.in_use() == 2
    assert len({id(one.recognizer) for one in leases}) == 1
    for one in leases[:2]:
        one.close()
        one.close()
    assert opened[0].closed == 0
    leases[2].close()
    other.close()
    assert [one.closed for one in opened] == [1, 1]
    assert shared.in_use() == 0


def test_a_bundle_that_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    def fails(_request: BundleRequest) -> FakeRecognizer:
        raise BundleError("no bundle")

    for _ in range(2):
        with pytest.raises(BundleError, match="no bundle"):
            lease(BundleRequest(bundle=tmp_path), fails)
    assert shared.in_use() == 0
    lease(BundleRequest(bundle=tmp_path), lambda _request: FakeRecognizer()).close()


def test_elements_that_start_at_once_open_one(tmp_path: Path) -> None:
    started, go, opened = threading.Event(), threading.Event(), []

    def open_it(_request: BundleRequest) -> FakeRecognizer:
        started.set()
        assert go.wait(30)
        opened.append(FakeRecognizer())
        return opened[-1]

    found: list[object] = []

    def use() -> None:
        one = lease(BundleRequest(bundle=tmp_path), open_it)
        found.append(one.recognizer)
        one.close()

    threads = [threading.Thread(target=use) for _ in range(4)]
    keep: list[shared.Lease] = []
    first = threading.Thread(target=lambda: keep.append(lease(BundleRequest(bundle=tmp_path), open_it)))
    first.start()
    assert started.wait(30)
    for thread in threads:
        thread.start()
    go.set()
    for thread in (first, *threads):
        thread.join(30)
    assert len(opened) == 1
    assert set(map(id, found)) == {id(opened[0])}
    assert opened[0].closed == 0
    keep[0].close()
    assert opened[0].closed == 1
