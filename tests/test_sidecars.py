"""Sidecars lie beside the bundle, or in the user's cache folder, and change no digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.bundle import VERIFIED
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.sidecars import read_sidecar, sidecars, write_sidecar


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def block(folder: Path) -> None:
    """Make it impossible to write a sidecar here: also for root, who may write anywhere."""
    (folder / VERIFIED).mkdir(parents=True)


def test_it_lies_beside_the_bundle_and_leaves_the_digest(bundle: Bundle) -> None:
    assert read_sidecar(bundle, VERIFIED) is None
    digest = bundle.digest
    assert write_sidecar(bundle, VERIFIED, b"{}") == bundle.path / VERIFIED
    assert read_sidecar(bundle, VERIFIED) == b"{}"
    assert Bundle.open(bundle.path).digest == digest


def test_the_cache_takes_what_the_folder_cannot(bundle: Bundle, tmp_path: Path) -> None:
    block(bundle.path)
    wanted = tmp_path / "cache" / "seqpar-deploy" / bundle.digest / VERIFIED
    assert write_sidecar(bundle, VERIFIED, b"mine") == wanted
    assert read_sidecar(bundle, VERIFIED) == b"mine"
    (bundle.path / VERIFIED).rmdir()
    (bundle.path / VERIFIED).write_bytes(b"theirs")
    assert read_sidecar(bundle, VERIFIED) == b"theirs"
    assert [content for _, content in sidecars(bundle, VERIFIED)] == [b"theirs", b"mine"]


def test_a_relative_cache_home_is_ignored(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block(bundle.path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert write_sidecar(bundle, VERIFIED, b"") == (
        tmp_path / "home" / ".cache" / "seqpar-deploy" / bundle.digest / VERIFIED
    )


def test_nowhere_to_write_names_both_places(bundle: Bundle, tmp_path: Path) -> None:
    block(bundle.path)
    block(tmp_path / "cache" / "seqpar-deploy" / bundle.digest)
    with pytest.raises(SeqparError) as caught:
        write_sidecar(bundle, VERIFIED, b"")
    assert str(bundle.path / VERIFIED) in str(caught.value)
    assert bundle.digest in str(caught.value)
