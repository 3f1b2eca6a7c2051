"""Running a model over a data set: order, batches, what is refused; and the sequences as a matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes.backend import FakeBackend
from PIL import Image

from seqpar_deploy.backends.base import Float32Array
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Beam, Generation, Greedy
from seqpar_deploy.errors import DatasetError, ImageError
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.sequences import read_sequences
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE, LabelSet

PEOPLE = 7


@pytest.fixture
def dataset(label_set: LabelSet, tmp_path: Path) -> Dataset:
    """Person k is a picture of the one colour k."""
    images = tuple(tmp_path / f"{k}.png" for k in range(PEOPLE))
    for k, path in enumerate(images):
        Image.new("RGB", (8, 8), (k, k, k)).save(path)
    labels = np.zeros((PEOPLE, len(label_set)), np.int8)
    return Dataset(name="colours", split="test", label_set=label_set, images=images, labels=labels)


@pytest.fixture
def model(label_set: LabelSet) -> Model:
    """Says of person k the attribute k, and no more."""

    def script(crop: int, tokens: Sequence[int]) -> Float32Array:
        answer = np.full(label_set.vocabulary_size, -50.0, np.float32)
        answer[FIRST_ATTRIBUTE + crop if len(tokens) == 1 else EOS] = 0
        return answer

    return Model(
        name="scripted",
        kind="bundle",
        precision="fp32",
        sha256="",
        label_set=label_set,
        image_size=8,
        max_rows=6,
        backend=FakeBackend(script),
    )


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 50])
@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=2)], ids=["greedy", "beam"])
def test_sequences_come_in_the_order_of_the_people(
    model: Model, dataset: Dataset, strategy: Greedy | Beam, batch_size: int | None
) -> None:
    seen: list[tuple[int, int]] = []
    generations = generate(
        model, dataset, strategy, batch_size=batch_size, progress=lambda done, total: seen.append((done, total))
    )
    assert [generation.tokens for generation in generations] == [(FIRST_ATTRIBUTE + k, EOS) for k in range(PEOPLE)]
    size = batch_size or (6 if isinstance(strategy, Greedy) else 3)
    assert seen == [(min(done, PEOPLE), PEOPLE) for done in range(size, PEOPLE + size, size)]


def test_a_picture_that_cannot_be_read_ends_the_run(model: Model, dataset: Dataset) -> None:
    dataset.images[5].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"5\.png .*Pillow"):
        generate(model, dataset, Greedy(), batch_size=2)


def test_people_labelled_with_other_attributes_are_refused(model: Model, dataset: Dataset) -> None:
    peta = load_label_set("peta")
    other = dataclasses.replace(dataset, label_set=peta, labels=np.zeros((PEOPLE, len(peta)), np.int8))
    with pytest.raises(DatasetError, match=r"26 attributes of pa100k, .* got 35 of peta"):
        generate(model, other, Greedy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image": "a", "tokens": []}\n{', "line 2 .*column 2"),
        ('{"image": "a"}', "line 1 without .* tokens"),
        ("7", "line 1 without .* tokens"),
        ("[" * 100_000, "line 1 without .* tokens"),
        ("\xff", "UTF-8 at offset 0"),
        ('{"image": "a", "tokens": []}', "7 people .* got 1 others"),
    ],
)
def test_another_file_in_place_of_sequences_is_named(
    dataset: Dataset, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(DatasetError, match=rf"a\.jsonl .*{message}") as refused:
        read_sequences(tmp_path / "a.jsonl", dataset)
    assert "\n" not in str(refused.value)


def test_order_repeats_and_special_tokens_do_not_matter() -> None:
    sequences = [(5, 3, 5, EOS), (EOS,), (4, 3)]
    generations = [
        Generation(tokens=s, log_probs=(0.0,) * len(s), steps=len(s), distributions=np.zeros((len(s), 6), np.float32))
        for s in sequences
    ]
    named = attributes_of(generations, 3)
    assert named.tolist() == [[True, False, True], [False, False, False], [True, True, False]]
