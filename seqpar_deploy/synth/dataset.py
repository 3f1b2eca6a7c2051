"""Writes rendered pedestrians in PA-100K's file format, and a contact sheet."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from seqpar_deploy.datasets.pa100k import RENDERED_MARK
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.files import replacing
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.synth.attributes import NAMES, labels
from seqpar_deploy.synth.render import person_of, render_person

VERSION = 1  # of the renderer: the same seed and version render the same pictures
SPLITS = ("train", "val", "test")
PICTURES = Path("release_data") / "release_data"  # PA-100K's folder of pictures

# First index of each split. They are far apart, so that no picture is in two splits.
_FIRST = {"train": 0, "val": 1 << 30, "test": 2 << 30}
_QUALITY = 90


def write_pa100k(
    folder: str | Path,
    *,
    train: int = 50_000,
    val: int = 2_000,
    test: int = 5_000,
    seed: int = 0,
    workers: int | None = None,
    progress: OnProgress = lambda done, total: None,
) -> dict[str, npt.NDArray[np.uint8]]:
    """Render a data set in PA-100K's format: annotation.mat, and pictures from release_data/release_data/000001.jpg.

    Picture i of a split depends only on the seed and i. An interrupted run with the same seed and counts is resumed.

    Args:
        folder: Output folder, new or of an interrupted run.
        train: Number of training pictures. Default: 50,000.
        val: Number of validation pictures. Default: 2,000.
        test: Number of test pictures. Default: 5,000.
        seed: Seed of the data set. Default: 0.
        workers: Processes that render. Default: 2, or 1 if only one core is usable.
        progress: Called with pictures done and pictures in total. Default: no progress.

    Returns:
        The labels of each split, uint8 (n, 26).

    Raises:
        DatasetError: The counts are invalid, or the folder has other content or cannot be written.

    Example:
        write_pa100k("rendered", train=1000, val=100, test=200, seed=1)
        dataset = load_dataset("pa100k", "rendered", "test")
    """
    folder = Path(folder)
    counts = dict(zip(SPLITS, (train, val, test), strict=True))
    if min(counts.values()) < 0 or not sum(counts.values()):
        raise DatasetError(
            f"train, val and test must be 0 or more, and at least one above 0, got {train}, {val} and {test}"
        )
    jobs, names = _jobs(folder, counts, seed)
    total = len(jobs)
    _claim(folder, _notice(counts, seed))
    waiting = [job for job in jobs if not job[0].exists()]
    done = total - len(waiting)
    progress(done, total)
    try:
        with contextlib.closing(_each(waiting, workers or min(2, usable_cores()))) as finished:
            for _ in finished:
                done += 1
                progress(done, total)
    finally:
        for partial in (folder / PICTURES).glob(".*"):  # partial files of stopped workers
            partial.unlink(missing_ok=True)
    truth = {split: _labels(seed, _FIRST[split], count) for split, count in counts.items()}
    _write_annotation(folder / "annotation.mat", names, truth)
    return truth


def contact_sheet(path: str | Path, *, seed: int = 0, count: int = 48, columns: int = 12) -> None:
    """Write a PNG of rendered training pictures with their labels below them.

    Args:
        path: The PNG file.
        seed: Seed of the data set. Default: 0.
        count: Number of pictures. Default: 48.
        columns: Pictures per row. Default: 12.

    Raises:
        DatasetError: The file cannot be written.
    """
    wide, tall, text = 150, 300, 48
    sheet = Image.new("RGB", (columns * wide, -(-count // columns) * (tall + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        crop, truth = render_person(seed, _FIRST["train"] + i)
        image = Image.fromarray(crop)
        image = image.resize((round(image.width * tall / image.height), tall))
        x, y = (i % columns) * wide, (i // columns) * (tall + text)
        sheet.paste(image.crop((0, 0, min(image.width, wide), tall)), (x, y))
        draw.multiline_text((x + 2, y + tall), _wrap([n for n, yes in zip(NAMES, truth, strict=True) if yes]), "black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    _write(Path(path), buffer.getvalue())


def _wrap(words: list[str], width: int = 24) -> str:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(lines)


_Job = tuple[Path, int, int]  # file, seed, number


def _jobs(folder: Path, counts: dict[str, int], seed: int) -> tuple[list[_Job], dict[str, list[str]]]:
    """Return all pictures to render, and the file names of each split, numbered over all splits as in PA-100K."""
    jobs: list[_Job] = []
    names: dict[str, list[str]] = {}
    for split, count in counts.items():
        names[split] = [f"{len(jobs) + i + 1:06d}.jpg" for i in range(count)]
        jobs += [(folder / PICTURES / name, seed, _FIRST[split] + i) for i, name in enumerate(names[split])]
    return jobs, names


def _notice(counts: dict[str, int], seed: int) -> str:
    return (
        "SYNTHETIC PICTURES. These are drawings made by a program, not photographs: no real person is shown.\n"
        "They have PA-100K's attributes and file format, and nothing else from PA-100K.\n"
        f"Written by `seqpar synth`, renderer version {VERSION}, seed {seed}, "
        f"{counts['train']} train, {counts['val']} val, {counts['test']} test.\n"
    )


def _claim(folder: Path, notice: str) -> None:
    """Mark the folder as this data set, or check that it is. Raises DatasetError."""
    if not (folder / RENDERED_MARK).exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise DatasetError(f"folder {folder} must be new or empty, got one with other files; name another")
            (folder / PICTURES).mkdir(parents=True)
        except OSError as error:
            raise DatasetError(f"folder {folder} cannot be created: {error.strerror}; name another") from None
        _write(folder / RENDERED_MARK, notice.encode())
    elif (found := (folder / RENDERED_MARK).read_text(encoding="utf-8")) != notice:
        last = found.strip().splitlines()[-1]
        raise DatasetError(
            f"folder {folder} must be new or contain this data set, got another ({last}); name a new folder, or use "
            "the same seed and counts"
        )


def _each(jobs: list[_Job], workers: int) -> Any:
    """Render the pictures, and yield after each. Closing the generator stops the workers."""
    if workers <= 1 or len(jobs) < 2:
        yield from map(_draw, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_ignore_interrupt) as pool:
        yield from pool.imap_unordered(_draw, jobs, chunksize=16)


def _ignore_interrupt() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all; the parent stops the pool
        signal.signal(number, signal.SIG_IGN)


def _draw(job: _Job) -> None:
    path, seed, number = job
    crop, _ = render_person(seed, number)
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=_QUALITY)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises DatasetError."""
    try:
        with replacing(path) as staging:
            staging.write_bytes(content)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}; correct this, then resume") from None


def _labels(seed: int, first: int, count: int) -> npt.NDArray[np.uint8]:
    """Return the labels of a split without rendering: attributes are sampled before the drawing."""
    truth = np.zeros((count, len(NAMES)), dtype=np.uint8)
    for i in range(count):
        truth[i] = labels(person_of(seed, first + i)[0])
    return truth


def _write_annotation(path: Path, names: dict[str, list[str]], truth: dict[str, npt.NDArray[np.uint8]]) -> None:
    from scipy.io import savemat

    values: dict[str, Any] = {"attributes": _cells(NAMES)}
    for split in SPLITS:
        values[f"{split}_images_name"] = _cells(names[split])
        values[f"{split}_label"] = truth[split]
    buffer = io.BytesIO()
    savemat(buffer, values, do_compression=True)
    _write(path, buffer.getvalue())


def _cells(texts: Any) -> npt.NDArray[np.object_]:
    """Return a MATLAB column of cells with one text each."""
    cells = np.empty((len(texts), 1), dtype=object)
    for row, text in enumerate(texts):
        cells[row, 0] = np.array([text])
    return cells
