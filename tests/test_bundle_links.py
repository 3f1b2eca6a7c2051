"""Bundles whose files are links, as in caches and under git-annex: hashes decide, and every runtime opens them."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.bundle import TUNED, file_entries
from seqpar_deploy.errors import BundleError, BundleFormatError, BundleIntegrityError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.sidecars import read_sidecar, write_sidecar

DATA = "encoder.onnx.data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seqpar-deploy"


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def move_out(bundle: Path, *names: str, to: Path, relative: bool = False) -> None:
    """Replace files of a bundle by links to their content in another folder, named by hash as in a cache."""
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = to / hashlib.sha256(name.encode()).hexdigest()
        shutil.move(bundle / name, target)
        (bundle / name).symlink_to(os.path.relpath(target, bundle) if relative else target)


def everything(bundle: Path) -> list[str]:
    return [file.name for file in bundle.iterdir()]


def cached(bundle: Path, tmp_path: Path) -> Path:
    move_out(bundle, *everything(bundle), to=tmp_path / "blobs", relative=True)
    return bundle


def weights_elsewhere(bundle: Path, tmp_path: Path) -> Path:
    move_out(bundle, DATA, "decoder_step.onnx.data", to=tmp_path / "disk")
    return bundle


def graph_elsewhere(bundle: Path, tmp_path: Path) -> Path:
    move_out(bundle, "encoder.onnx", to=tmp_path / "disk")
    return bundle


def linked_folder(bundle: Path, tmp_path: Path) -> Path:
    (tmp_path / "linked").symlink_to(bundle)
    return tmp_path / "linked"


def hard_links(bundle: Path, tmp_path: Path) -> Path:
    (tmp_path / "hard").mkdir()
    for name in everything(bundle):
        os.link(bundle / name, tmp_path / "hard" / name)
    return tmp_path / "hard"


def chain_of_links(bundle: Path, tmp_path: Path) -> Path:
    cached(bundle, tmp_path)
    (tmp_path / "chain").mkdir()
    for name in everything(bundle):
        (tmp_path / "chain" / name).symlink_to(bundle / name)
    return tmp_path / "chain"


def inside(bundle: Path, tmp_path: Path) -> Path:
    move_out(bundle, DATA, to=bundle / "objects", relative=True)
    return bundle


def no_text(bundle: Path, tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8, which ONNX Runtime does not open."""
    return bundle.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n[red]"))


LAYOUTS = [no_text, cached, weights_elsewhere, graph_elsewhere, linked_folder, hard_links, chain_of_links, inside]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_runtime_opens_it(
    copy: Path, tmp_path: Path, cpu_backend: str, crops: list[Crop], layout: Callable[[Path, Path], Path], cache: Path
) -> None:
    with Recognizer.from_bundle(copy, backend=cpu_backend) as recognizer:  # type: ignore[arg-type]
        wanted = recognizer.predict(crops[:2])
    with Recognizer.from_bundle(layout(copy, tmp_path), backend=cpu_backend) as recognizer:  # type: ignore[arg-type]
        assert recognizer.predict(crops[:2]) == wanted


def test_links_are_gathered_for_as_long_as_the_bundle_is_used(copy: Path, tmp_path: Path, cache: Path) -> None:
    bundle = Bundle.open(weights_elsewhere(copy, tmp_path))
    assert not list(cache.glob("*")) if cache.exists() else True
    folder = bundle.encoder.parent
    assert folder.parent == cache
    assert not (folder / DATA).is_symlink()
    assert (folder / DATA).samefile(copy / DATA)  # takes no space
    assert bundle.decoder_step.parent == folder
    del bundle
    gc.collect()
    assert not folder.exists()
    assert Bundle.open(copy).path == copy


def test_without_hard_links_files_are_copied(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    bundle = Bundle.open(weights_elsewhere(copy, tmp_path))
    assert (bundle.encoder.parent / DATA).read_bytes() == (copy / DATA).read_bytes()
    assert (bundle.encoder.parent / DATA).stat().st_nlink == 1


def test_nowhere_to_gather_is_one_line(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    bundle = Bundle.open(weights_elsewhere(copy, tmp_path))
    with pytest.raises(BundleError, match="cp -rL") as caught:
        _ = bundle.encoder
    assert str(tmp_path / "file") in str(caught.value)


def test_leftovers_of_killed_processes_are_removed(copy: Path, tmp_path: Path, cache: Path) -> None:
    (cache / "seqpar-deploy-graphs-killed").mkdir(parents=True)
    bundle = Bundle.open(weights_elsewhere(copy, tmp_path))
    again = Bundle.open(copy)
    assert bundle.encoder.exists()
    assert again.encoder.exists()
    assert bundle.encoder.exists()  # the second one removed nothing that is in use
    assert not (cache / "seqpar-deploy-graphs-killed").exists()


@pytest.mark.parametrize("verify", [True, False])
def test_a_link_out_of_the_bundle_counts_only_if_its_hash_fits(copy: Path, tmp_path: Path, verify: bool) -> None:
    """Even if other files are not hashed."""
    weights_elsewhere(copy, tmp_path)
    real = (copy / DATA).resolve()
    content = bytearray(real.read_bytes())
    content[7] ^= 1
    real.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match=rf"{DATA} .*sha256"):
        Bundle.open(copy, verify=verify)


def test_a_folder_in_the_bundle_may_be_a_link_too(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("notes")
    (copy / "more").symlink_to(tmp_path / "elsewhere")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] |= file_entries(copy, ["more/notes.txt"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    Bundle.open(copy, verify=False)
    (tmp_path / "elsewhere" / "notes.txt").write_text("other")
    with pytest.raises(BundleIntegrityError, match=r"more/notes\.txt .*sha256"):
        Bundle.open(copy, verify=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("encoder.onnx.data", "is a link to encoder.onnx.data"),  # to itself
        ("../blobs/never-downloaded", "never-downloaded.*download the bundle again"),
        (".git/annex/objects/Jq/7f/SHA256E-s42--aa", "git annex get"),
        ("/dev/zero", "must be a file, got a device"),
        (".", "must be a file, got a folder"),
    ],
)
def test_links_that_lead_to_no_file(copy: Path, target: str, message: str) -> None:
    (copy / DATA).unlink()
    (copy / DATA).symlink_to(target)
    with pytest.raises(BundleIntegrityError, match=message) as caught:
        Bundle.open(copy)
    assert DATA in str(caught.value)


def test_a_file_of_the_system_is_no_weights(copy: Path) -> None:
    """Whoever lists a secret file needs its hash, so knows it. It is read as weights, and never written or printed."""
    (copy / "model_card.md").unlink()
    (copy / "model_card.md").symlink_to("/etc/passwd")
    with pytest.raises(BundleIntegrityError, match=r"model_card\.md must have \d+ bytes"):
        Bundle.open(copy, verify=False)
    before = Path("/etc/passwd").stat().st_ino
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] |= file_entries(copy, ["model_card.md"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    Bundle.open(copy)
    assert Path("/etc/passwd").stat().st_ino == before


def test_a_sidecar_replaces_a_link_and_does_not_write_through_it(copy: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.json"
    theirs.write_text("theirs")
    (copy / TUNED).symlink_to(theirs)
    bundle = Bundle.open(cached(copy, tmp_path))
    assert read_sidecar(bundle, TUNED) == b"theirs"
    assert write_sidecar(bundle, TUNED, b"mine") == copy / TUNED
    assert read_sidecar(bundle, TUNED) == b"mine"
    assert theirs.read_text() == "theirs"
    assert not (copy / TUNED).is_symlink()


@pytest.mark.parametrize(
    ("name", "pointer", "command"),
    [
        (DATA, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 516640\n", "git lfs pull"),
        ("encoder.onnx", "/annex/objects/SHA256E-s31621--aa\n", "git annex get"),
        ("manifest.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10686\n", "git lfs pull"),
    ],
)
def test_pointers_of_version_control_are_named(copy: Path, name: str, pointer: str, command: str) -> None:
    (copy / name).write_text(pointer)
    with pytest.raises(BundleError, match=command) as caught:
        Bundle.open(copy)
    assert name in str(caught.value)


def test_a_manifest_that_is_no_file_is_refused(copy: Path) -> None:
    """A pipe would be waited for without end."""
    file = copy / "manifest.json"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleFormatError, match=r"manifest\.json must be a file .*pipe"):
        Bundle.open(copy)
    file.unlink()
    file.symlink_to("gone.json")
    with pytest.raises(BundleFormatError, match=r"manifest\.json is a link to gone\.json"):
        Bundle.open(copy)
