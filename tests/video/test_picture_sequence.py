"""Sequences of pictures as a video: by folder, glob, pattern and shell."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video.clips import grey, make_clip, number_of

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.types import Frame


def make_pictures(folder: Path, names: list[str], size: tuple[int, int] = (160, 120)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = np.full((size[1], size[0], 3), grey(number), np.uint8)
        Image.fromarray(image).save(folder / name)
    return folder


def _one(*names: object, **options: float) -> SourceSpec:
    (spec,) = expand_sources([str(name) for name in names], **options)  # type: ignore[arg-type]
    return spec


def _numbers(spec: SourceSpec) -> list[int]:
    return [number_of(frame.image) for frame in Source(spec)]


@pytest.mark.parametrize(
    "names",
    [
        [f"frame{number}.png" for number in range(12)],  # frame2 before frame10
        [f"{number:06d}.jpg" for number in (1, 2, 5, 10, 11, 400)],  # gaps
        ["a1.png", "a2.JPG", "a3.bmp", "a04.PNG"],  # kinds, capitals, padding
        ["2026-01-01 09.59.59.png", "2026-01-01 10.00.00.png", "2026-01-02 00.00.00.png"],
    ],
)
def test_a_folder_of_numbered_pictures_is_a_video(tmp_path: Path, names: list[str]) -> None:
    folder = make_pictures(tmp_path / "cam.1", names)
    (folder / "notes.txt").write_text("1")
    (folder / ".hidden1.png").write_bytes(b"x")
    spec = _one(folder)
    assert (spec.name, spec.live) == ("cam.1", False)
    frames = list(Source(spec))
    assert [number_of(frame.image) for frame in frames] == list(range(len(names)))
    assert [frame.timestamp for frame in frames] == pytest.approx([number / 25 for number in range(len(names))])
    assert [frame.index for frame in frames] == list(range(len(names)))


def test_fps_and_the_length(tmp_path: Path) -> None:
    source = Source(_one(make_pictures(tmp_path / "f", [f"{n}.png" for n in range(5)]), fps=2.0))
    assert source.probe_length() == 5
    assert [frame.timestamp for frame in source] == [0, 0.5, 1, 1.5, 2]
    assert (source.stats.frames, source.stats.state) == (5, "ended")


@pytest.mark.parametrize("pattern", ["frame_%d.png", "frame_%02d.png", "frame_%2d.png", "frame_*.png", "*", "*.[pP]ng"])
def test_patterns(tmp_path: Path, pattern: str) -> None:
    folder = make_pictures(tmp_path / "a[1] 50%", [f"frame_{n:02d}.png" for n in range(8, 14)])
    assert _numbers(_one(folder / pattern)) == list(range(6))


def test_a_pattern_matches_numbers_of_its_width_only(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path, ["f_0001.png", "f_0002.png", "f_3.png", "g_0004.png", "f_0005.png.bak.png"])
    assert [Path(file).name for file in _one(folder / "f_%04d.png").pictures] == ["f_0001.png", "f_0002.png"]
    with pytest.raises(VideoError, match=r"f_%06d\.png.* got none"):
        _one(folder / "f_%06d.png")


def test_a_file_that_is_named_as_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("clip[1].mp4", "50%d.mp4"):
        make_clip(tmp_path / name, frames=2)
        assert _one(tmp_path / name).place == str(tmp_path / name)
    assert _one(tmp_path / "clip[[]1].mp4").name == "clip-1"


def test_names_that_a_shell_expanded_are_one_source_in_order(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "walk", [f"f{n}.png" for n in range(11)])
    other = make_pictures(tmp_path / "other", ["1.png", "2.png"])
    specs = expand_sources([*map(str, sorted(folder.iterdir())), *map(str, sorted(other.iterdir()))])
    assert [spec.name for spec in specs] == ["walk", "other"]
    assert _numbers(specs[0]) == list(range(11))


def test_each_subfolder_and_each_kind_of_name_is_a_source(tmp_path: Path) -> None:
    make_pictures(tmp_path / "run" / "cam1", ["1.png", "2.png"])
    make_pictures(tmp_path / "run" / "stereo", ["left_1.png", "left_2.png", "right_1.png", "right_2.png", "mask.png"])
    specs = expand_sources([str(tmp_path / "run")])
    assert [(spec.name, len(spec.pictures)) for spec in specs] == [
        ("cam1", 2),
        ("stereo-left_", 2),
        ("stereo-right_", 2),
    ]
    assert [spec.name for spec in expand_sources([str(tmp_path / "run" / "*")])] == [spec.name for spec in specs]
    both = expand_sources([str(tmp_path / "run" / "*" / "*_1.png"), str(tmp_path / "run" / "c*" / "%d.png")])
    assert [(spec.name, len(spec.pictures)) for spec in both] == [("stereo", 2), ("cam1", 2)]


def test_the_same_number_in_two_kinds_is_one_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    spec = _one(make_pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg", "1.png", "2.png"]))
    assert [Path(file).suffix for file in spec.pictures] == [".jpg"] * 3
    assert "another suffix" in caplog.text


def test_beside_videos_pictures_are_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    make_pictures(tmp_path / "thumbs", ["1.jpg", "2.jpg"])
    make_clip(tmp_path / "clip.mp4", frames=2)
    assert _one(tmp_path).name == "clip"
    (line,) = caplog.messages
    assert "left out, 2" in line


def test_a_damaged_picture_is_a_line_and_the_others_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_pictures(tmp_path / "f", [f"{n}.png" for n in range(6)])
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:90])
    (folder / "4.png").write_bytes(b"")
    source = Source(_one(folder, fps=10.0))
    with pytest.raises(VideoError, match="2 of its 6 pictures"):
        list(source)
    assert (source.stats.frames, source.stats.decode_errors) == (6, 2)
    assert [name for name in ("2.png", "4.png") if sum(name in line for line in caplog.messages) == 1] == [
        "2.png",
        "4.png",
    ]
    assert len(caplog.messages) == 2


def test_frames_around_a_damaged_picture_keep_their_time(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "f", [f"{n}.png" for n in range(4)])
    (folder / "1.png").write_bytes(b"no picture")
    frames: list[Frame] = []
    with pytest.raises(VideoError, match="1 of its 4"):
        frames.extend(Source(_one(folder, fps=10.0)))
    assert [(frame.index, frame.timestamp) for frame in frames] == [(0, 0), (2, 0.2), (3, 0.3)]


def test_sizes_may_change_and_exif_turns(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "f", ["1.jpg", "2.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 50)).save(folder / "3.jpg", exif=exif)
    assert [frame.image.shape[:2] for frame in Source(_one(folder))] == [(120, 160), (120, 160), (100, 50)]


def test_a_single_picture_is_a_video_of_one_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    make_pictures(tmp_path, ["photo.png"])
    assert _numbers(_one(tmp_path / "photo.png")) == [0]
    assert "seqpar predict" in caplog.text
    with pytest.raises(VideoError, match="seqpar predict"):
        _one(tmp_path)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    pictures, clip = make_pictures(tmp_path / "f", ["1.png", "2.png"]), make_clip(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(VideoError, match="--live"):
        _one(pictures, live=True)
    with pytest.raises(VideoError, match="--fps"):
        check_fps([_one(clip)], 5.0)
    check_fps([_one(clip), _one(pictures)], 5.0)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / os.fsdecode(b"caf\xe9"), [os.fsdecode(b"b\xe9_%d.png" % n) for n in range(3)])
    spec = _one(folder)
    assert spec.name.encode() == b"caf"
    assert _numbers(spec) == [0, 1, 2]
    assert _numbers(_one(folder / os.fsdecode(b"b\xe9_%d.png"))) == [0, 1, 2]
