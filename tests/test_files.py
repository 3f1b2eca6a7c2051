"""A full disk, a read-only folder and their kin are one line, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqpar_deploy.errors import BundleError, SeqparError
from seqpar_deploy.files import (
    check_space,
    check_writable,
    new_folder,
    temporary_folder,
    why_not_written,
    write_whole,
)


def chained() -> Exception:
    error = RuntimeError("the writer failed")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    return error


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (OSError(errno.EROFS, "x"), "Read-only"),
        (OSError(errno.EACCES, "x"), "Permission denied"),
        (OSError(errno.EFBIG, "x"), "ulimit -f"),
        (OSError(errno.ENAMETOOLONG, "x"), "shorter"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "free some space"),
        (ValueError("cannot write: Read-only file system"), "another disk"),
        (chained(), "quota"),
        (RuntimeError("shapes do not fit"), None),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
    ],
)
def test_the_reason_of_a_failed_write(tmp_path: Path, error: Exception, named: str | None) -> None:
    why = why_not_written(error, tmp_path / "missing" / "file")
    assert (why is None) if named is None else (why is not None and named in why)


def full(_path: object) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=1, f_frsize=4096, f_files=9, f_favail=5)


def test_an_error_without_a_reason_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnx and NumPy report it."""
    error = OSError("5120000 requested and 12288 written")
    assert why_not_written(error, tmp_path) is None
    monkeypatch.setattr(os, "statvfs", full)
    assert "No space left" in (why_not_written(error, tmp_path) or "")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=9**9, f_frsize=1, f_files=9, f_favail=0))
    assert "inodes" in (why_not_written(OSError(errno.ENOSPC, "x"), tmp_path) or "")


def write_folder(out: Path, problem: Exception | None = None) -> None:
    with new_folder(out, marker="m", overwrite=False, error=BundleError) as folder:
        (folder / "half").write_bytes(b"x")
        if problem:
            raise problem
        out.mkdir()
        (out / "theirs").touch()


@pytest.mark.parametrize(
    "problem", [OSError(errno.ENOSPC, "x"), RuntimeError("Disk quota exceeded"), OSError(errno.EROFS, "x")]
)
def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, problem: Exception) -> None:
    with pytest.raises(BundleError, match="bundle cannot be written: "):
        write_folder(tmp_path / "bundle", problem)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_pass(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        new_folder(tmp_path / "bundle", marker="m", overwrite=False, error=BundleError),
    ):
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["file/bundle", "file/deeper/bundle", "x" * 300])
def test_paths_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BundleError, match=r"cannot be written: .*; .*choose"),
        new_folder(tmp_path / name, marker="m", overwrite=False, error=BundleError),
    ):
        pytest.fail("a folder was made")
    with pytest.raises(SeqparError, match="cannot be written: "):
        check_writable(tmp_path / name)


def test_a_folder_that_another_process_wrote_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle"):
        write_folder(tmp_path / "bundle")
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["theirs"]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_earlier_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.json"
    write_whole(path, b"earlier")

    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(SeqparError, match=r"scores\.json cannot be written: .*quota"):
        write_whole(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


MODES = """
import os, sys
from pathlib import Path
from seqpar_deploy.cli.video.config import write_example
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import new_folder, replacing, write_whole
os.umask(int(sys.argv[1], 8))
write_whole(Path("whole"), b"x")
write_whole(Path("given"), b"x", mode=0o640)
write_example(Path("config"))
with new_folder(Path("bundle"), marker="manifest", overwrite=False, error=SeqparError) as made:
    (made / "manifest").touch()
with replacing(Path("replaced")) as staging:
    during = staging.stat().st_mode
    staging.write_bytes(b"x")
assert during == Path("replaced").stat().st_mode
with replacing(Path("secret"), mode=0o644) as staging:
    assert staging.stat().st_mode & 0o777 == 0o600  # until it is whole
"""


@pytest.mark.parametrize(("umask", "mode"), [("077", 0o600), ("027", 0o640), ("022", 0o644), ("002", 0o664)])
def test_files_have_the_mode_of_the_umask_unless_one_is_given(tmp_path: Path, umask: str, mode: int) -> None:
    subprocess.run([sys.executable, "-c", MODES, umask], cwd=tmp_path, check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.pop("bundle") == 0o777 & ~int(umask, 8)
    assert modes == {"whole": mode, "config": mode, "replaced": mode, "given": 0o640, "secret": 0o644}


def test_a_file_with_the_name_of_a_temporary_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["0" * 8, "1" * 8])
    monkeypatch.setattr("secrets.token_hex", lambda _size: next(names))
    (tmp_path / ".scores.00000000").write_bytes(b"theirs")
    write_whole(tmp_path / "scores", b"ours")
    assert (tmp_path / ".scores.00000000").read_bytes() == b"theirs"
    assert {path.name for path in tmp_path.iterdir()} == {".scores.00000000", "scores"}


def test_space_is_checked_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path / "missing" / "bundle", 1)
    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(BundleError, match=r"bundle .*5\.0 MB .*got 0\.0 MB"):
        check_space(tmp_path / "bundle", 5_000_000, error=BundleError)


def test_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_folder() as folder:
        (folder / "x").touch()
    assert not folder.exists()
    with pytest.raises(SeqparError, match=r"No space left.*TMPDIR"), temporary_folder():
        raise OSError(errno.ENOSPC, "x")

    def fail(**_: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    with pytest.raises(SeqparError, match="TMPDIR"), temporary_folder():
        pytest.fail("a folder was made")


def export(
    checkpoint: Path, out: Path, *, limit: int | None = None, mount: str = ""
) -> subprocess.CompletedProcess[str]:
    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "seqpar_deploy", "export", "checkpoint", str(checkpoint), "--out", str(out)]
    if mount:
        command = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{mount} && "$@"; code=$?; ls -A {out.parent}; exit $code',
            "sh",
            *command,
        ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, preexec_fn=prepare)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20_000, 5_000])
def test_an_export_that_is_cut_short(checkpoint_file: Path, tmp_path: Path, limit: int) -> None:
    done = export(checkpoint_file, tmp_path / "bundle", limit=limit)
    assert done.returncode == 2, done.stderr
    assert "bundle cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mount", "named"),
    [("size=400k", "MB of free space"), ("size=9m,ro", "Read-only"), ("nr_inodes=5", "No space left")],
)
def test_an_export_onto_a_small_disk(checkpoint_file: Path, tmp_path: Path, mount: str, named: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o {mount} none {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root and unshare")
    done = export(checkpoint_file, disk / "bundle", mount=mounted)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""  # nothing is left on the disk


def test_a_folder_made_beside_another_is_not_seen_in_its_place(tmp_path: Path) -> None:
    watched = tmp_path / "models" / "seqpar"
    watched.mkdir(parents=True)
    out = watched / "2"
    with new_folder(out, beside=tmp_path / "models", marker="m", overwrite=False, error=BundleError) as folder:
        assert list(watched.iterdir()) == []
        assert folder.parent == tmp_path
        (folder / "m").touch()
    assert [path.relative_to(watched).as_posix() for path in sorted(watched.rglob("*"))] == ["2", "2/m"]
    assert list(tmp_path.iterdir()) == [tmp_path / "models"]
