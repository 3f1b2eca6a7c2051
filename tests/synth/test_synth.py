"""The rendered set: the same people from the same seed, labels that agree with what is drawn, PA-100K's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
from PIL import Image

from seqpar_deploy.datasets.pa100k import RENDERED_MARK
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.synth import contact_sheet, render_person, write_pa100k
from seqpar_deploy.synth.attributes import NAMES, labels, sample_person
from seqpar_deploy.synth.dataset import PICTURES
from seqpar_deploy.synth.render import person_of

COLUMN = {name: k for k, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def many() -> npt.NDArray[np.int8]:
    """Labels of 3,000 people."""
    return np.stack([labels(person_of(7, i)[0]) for i in range(3000)])


def test_names_are_the_label_sets() -> None:
    assert tuple(attribute.name for attribute in load_label_set("pa100k").attributes) == NAMES


def test_a_picture_depends_on_its_seed_and_number_only() -> None:
    first, truth = render_person(3, 17)
    render_person(3, 18)
    again, truth_again = render_person(3, 17)
    assert np.array_equal(first, again)
    assert np.array_equal(truth, truth_again)
    other, _ = render_person(4, 17)
    assert other.shape != first.shape or not np.array_equal(other, first)


@pytest.mark.parametrize("number", range(12))
def test_pictures_are_crops_of_people(number: int) -> None:
    crop, truth = render_person(5, number)
    assert crop.dtype == np.uint8
    assert truth.shape == (26,)
    assert truth.dtype == np.int8
    height, width = crop.shape[:2]
    assert 60 <= height <= 400
    assert 0.3 < width / height < 0.6
    assert crop.std() > 8  # something is on it
    assert np.array_equal(truth, labels(person_of(5, number)[0]))


def test_exactly_one_of_each_exclusive_group(many: npt.NDArray[np.int8]) -> None:
    for group in (
        ("AgeOver60", "Age18-60", "AgeLess18"),
        ("Front", "Side", "Back"),
        ("ShortSleeve", "LongSleeve"),
        ("Trousers", "Shorts", "Skirt&Dress"),
    ):
        assert (many[:, [COLUMN[name] for name in group]].sum(axis=1) == 1).all(), group


def test_every_attribute_is_common_enough_to_learn(many: npt.NDArray[np.int8]) -> None:
    share = many.mean(axis=0)
    assert share.min() > 0.04, NAMES[int(share.argmin())]
    assert share.max() < 0.8


def test_what_cannot_be_seen_is_not_labelled(many: npt.NDArray[np.int8]) -> None:
    def both(*names: str) -> int:
        return int(many[:, [COLUMN[name] for name in names]].all(axis=1).sum())

    assert both("Back", "Glasses") == 0
    assert both("Back", "HoldObjectsInFront") == 0
    assert both("Back", "Backpack", "UpperLogo") == 0
    assert both("LongCoat", "Skirt&Dress", "LowerPattern") == 0
    small = [person_of(8, i)[0] for i in range(2000)]
    assert not any(person.glasses for person in small if person.height < 100)
    assert any(person.glasses for person in small)


def test_habits_are_tendencies_not_rules(many: npt.NDArray[np.int8]) -> None:
    female = many[:, COLUMN["Female"]] == 1
    skirt = many[:, COLUMN["Skirt&Dress"]] == 1
    assert 0.25 < skirt[female].mean() < 0.6
    assert 0 < skirt[~female].mean() < 0.05


@pytest.mark.parametrize("attribute", ["hat", "backpack", "stride", "boots", "holds"])
def test_an_attribute_changes_the_picture(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers draw another picture once only this field of the person differs."""
    import dataclasses

    from seqpar_deploy.synth import render

    person = dataclasses.replace(
        sample_person(np.random.default_rng(1)),
        height=160,
        view="front",
        yaw=0.1,
        lower="trousers",
        **{attribute: False},
    )
    crops = []
    for value in (False, True):
        changed = dataclasses.replace(person, **{attribute: value})  # type: ignore[arg-type]
        monkeypatch.setattr(
            render, "person_of", lambda seed, index, changed=changed: (changed, np.random.default_rng([seed, index]))
        )
        crops.append(render.render_person(2, 4)[0])
    assert crops[0].shape == crops[1].shape
    assert not np.array_equal(*crops)


def test_writes_pa100ks_own_files(tmp_path: Path) -> None:
    folder, calls = tmp_path / "set", []
    truth = write_pa100k(
        folder, train=4, val=2, test=3, seed=9, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    annotation = scipy.io.loadmat(folder / "annotation.mat")
    assert [str(cell[0][0]) for cell in annotation["attributes"]] == list(NAMES)
    assert calls[0] == (0, 9)
    assert calls[-1] == (9, 9)
    numbers = []
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        assert annotation[f"{split}_label"].dtype == np.uint8
        assert np.array_equal(annotation[f"{split}_label"], truth[split])
        names = [str(cell[0][0]) for cell in annotation[f"{split}_images_name"]]
        assert len(names) == count
        numbers += names
    assert numbers == [f"{k:06d}.jpg" for k in range(1, 10)]
    assert sorted(path.name for path in (folder / PICTURES).iterdir()) == numbers
    drawn, _ = render_person(9, 0)
    with Image.open(folder / PICTURES / "000001.jpg") as picture:
        assert picture.size == drawn.shape[1::-1]
        assert np.abs(np.asarray(picture).astype(int) - drawn).mean() < 12  # but for the compression
    assert "SYNTHETIC" in (folder / RENDERED_MARK).read_text()
    assert "seed 9" in (folder / RENDERED_MARK).read_text()


def test_splits_do_not_share_pictures_and_growing_one_leaves_the_others(tmp_path: Path) -> None:
    small = write_pa100k(tmp_path / "a", train=2, val=1, test=2, seed=1, workers=1)
    large = write_pa100k(tmp_path / "b", train=5, val=1, test=2, seed=1, workers=1)
    assert np.array_equal(large["train"][:2], small["train"])
    assert np.array_equal(large["test"], small["test"])
    pictures = {path.read_bytes() for path in (tmp_path / "b" / PICTURES).iterdir()}
    assert len(pictures) == 8


def test_goes_on_with_what_was_begun(tmp_path: Path) -> None:
    write_pa100k(tmp_path, train=3, val=0, test=1, seed=2, workers=1)
    kept, lost = tmp_path / PICTURES / "000001.jpg", tmp_path / PICTURES / "000002.jpg"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / PICTURES / ".000003.jpg.1").write_bytes(b"half")
    write_pa100k(tmp_path, train=3, val=0, test=1, seed=2, workers=2)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    assert not list((tmp_path / PICTURES).glob(".*"))


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    write_pa100k(tmp_path / "set", train=1, val=0, test=0, seed=2, workers=1)
    with pytest.raises(DatasetError, match=r"got another .*seed 2"):
        write_pa100k(tmp_path / "set", train=1, val=0, test=0, seed=3, workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="new or empty"):
        write_pa100k(tmp_path / "other", train=1, val=0, test=0, workers=1)
    with pytest.raises(DatasetError, match="got 0, 0 and 0"):
        write_pa100k(tmp_path / "none", train=0, val=0, test=0, workers=1)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"/file cannot be created"):
        write_pa100k(tmp_path / "file", train=1, val=0, test=0, workers=1)
    with pytest.raises(DatasetError, match=r"sheet\.png cannot be written"):
        contact_sheet(tmp_path / "file" / "sheet.png", count=1, columns=1)


def test_contact_sheet(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", seed=1, count=3, columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (300, 696)
