"""`seqpar predict` with names and files as people have them: each is in the answer, or in one line of error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy.cli.predict import annotated_paths
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.slow

CROPS = sample_crops()
STRANGE = [b"a.png", b"caf\xe9.png", b"\xff\xfe.png", b"new\nline.png", b"esc\x1b[31m.png", "rtl\u202e.png".encode()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for crop, name in zip(CROPS, [*STRANGE, b"photo[1].png", b"[red]x[red].png"], strict=False):
        shutil.copy(crop, os.fsencode(tmp_path / "pictures") + b"/" + name)
    return tmp_path / "pictures"


@pytest.mark.parametrize("locale", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_names_of_any_bytes_are_one_line_each(bundle_dir: Path, folder: Path, locale: dict[str, str]) -> None:
    command = [sys.executable, "-m", "seqpar_deploy", "predict", str(folder), "-b", str(bundle_dir)]
    environment = {**os.environ, **locale}
    table = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert len(table.splitlines()) == len(list(folder.iterdir()))
    assert b"\x1b" not in table
    assert b"udce9.png" in table
    rows = subprocess.run([*command, "--json"], capture_output=True, check=True, env=environment).stdout
    images = [json.loads(row)["image"] for row in rows.splitlines()]
    if "PYTHONIOENCODING" not in locale:
        assert {os.fsencode(image) for image in images} == {os.fsencode(path) for path in folder.iterdir()}


def test_a_folder_with_anything_in_it(bundle_dir: Path, tmp_path: Path) -> None:
    """Files that cannot be read are one line each, the others are predicted, and the exit code tells."""
    (tmp_path / "away").mkdir()
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(CROPS[0], tmp_path / "in" / "good.PNG")
    shutil.copy(CROPS[1], tmp_path / "in" / "sub" / "deep.png")
    shutil.copy(CROPS[2], tmp_path / "away" / "linked.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "away")
    (tmp_path / "in" / "cut.png").write_bytes(CROPS[3].read_bytes()[:300])
    (tmp_path / "in" / "empty.jpg").touch()
    (tmp_path / "in" / "gone.avif").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.tif")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    done = run("seqpar", "predict", tmp_path / "in", "-b", bundle_dir, "--json", code=2)
    assert [Path(json.loads(line)["image"]).name for line in done.stdout.splitlines()] == [
        "good.PNG",
        "linked.png",
        "deep.png",
    ]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for name in ("cut.png", "empty.jpg", "gone.avif", "pipe.tif"):
        assert len([line for line in errors if name in line]) == 1
    assert len(errors) == 4


def test_a_file_that_disappears_after_it_was_listed(
    bundle_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqpar_deploy.cli import predict

    find = predict.find_pictures

    def find_and_remove(*arguments: object) -> list[Path]:
        paths = find(*arguments)  # type: ignore[arg-type]
        (folder / "a.png").unlink()
        return paths

    monkeypatch.setattr(predict, "find_pictures", find_and_remove)
    done = run("seqpar", "predict", folder, "-b", bundle_dir, "--json", code=2)
    assert len(done.stdout.splitlines()) == len(list(folder.iterdir()))
    assert "a.png" in done.error


def test_annotated_images_are_all_there_and_visible(bundle_dir: Path, tmp_path: Path) -> None:
    names = ["a/b.png", "a_b.png", "x/b.png", "A/B.png", ".hidden.png", "a/.hidden.png"]
    for crop, name in zip(CROPS, names, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(crop, tmp_path / name)
    shutil.copy(CROPS[7], tmp_path / f"{'long' * 60}.png")
    run("seqpar", "predict", tmp_path, "-b", bundle_dir, "--annotate", tmp_path / "out")
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(written) == len(names) + 1
    assert len({name.lower() for name in written}) == len(written)
    assert not [name for name in written if name.startswith(".")]
    assert max(map(len, written)) < 140


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a/b.jpg", "a_b.jpg", "A_B.JPG"], ["a_b.jpg.png", "a_b.jpg-2.png", "A_B.JPG-3.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg.png", "a.jpg-2.png", "a.png"]),
        (["../x.png", "x.png", "../../x.png"], ["x.png", "x-2.png", "x-3.png"]),
        (["caf\u00e9.png", "cafe\u0301.png"], ["caf\u00e9.png", "cafe\u0301-2.png"]),  # one file on a Mac
        (["...png", ".png"], ["png.png", "png-2.png"]),
        (["a-2.png", "a.png", "A.png"], ["a-2.png", "a.png", "A-3.png"]),
        ([r"caf\udce9:1.png"], ["caf_udce9_1.png"]),
        (["人" * 90 + ".png", "人" * 91 + ".png"], ["人" * 40 + ".png", "人" * 40 + "-2.png"]),
    ],
)
def test_names_of_annotated_images(names: list[str], files: list[str]) -> None:
    given = {Path(f"{number}"): name for number, name in enumerate(names)}
    assert [path.name for path in annotated_paths(Path("out"), given).values()] == files


def test_an_annotated_image_never_replaces_an_input(bundle_dir: Path, tmp_path: Path) -> None:
    shutil.copy(CROPS[0], tmp_path / "a.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "folder"):
        done = run("seqpar", "predict", tmp_path / "a.png", "-b", bundle_dir, "--annotate", out, code=2)
        assert "a.png" in done.error
    assert (tmp_path / "a.png").read_bytes() == CROPS[0].read_bytes()
