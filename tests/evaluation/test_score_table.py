"""Tables, the paper's row, and files that are written whole or not at all."""

from __future__ import annotations

import builtins
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy.datasets import UNKNOWN, Dataset
from seqpar_deploy.errors import BackendUnavailableError, SeqparError
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.picture import draw_metrics
from seqpar_deploy.evaluation.score_table import format_attributes, format_overall, paper_scores
from seqpar_deploy.files import write_whole
from seqpar_deploy.vocab import LabelSet


@pytest.fixture
def metrics(label_set: LabelSet) -> Metrics:
    """Two people: everybody is female, nobody is over 60, of the next attribute nothing is known."""
    labels = np.zeros((2, len(label_set)), np.int8)
    labels[:, 0] = 1
    labels[:, 2] = UNKNOWN
    labels[0, 3] = 1
    return compute_metrics(labels == 1, labels)


def test_scores_that_are_a_share_of_nothing_are_dashes(metrics: Metrics, label_set: LabelSet) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in format_attributes(metrics, label_set).splitlines()}
    assert rows["attribute"] == ["yes", "known", "predicted", "recall+", "recall-", "mA", "F1"]
    assert rows["Female"] == ["2", "2", "2", "100.0", "-", "50.0", "100.0"]
    assert rows["AgeOver60"] == ["0", "2", "0", "-", "100.0", "50.0", "-"]
    assert rows["Age18-60"] == ["0", "0", "0", "-", "-", "-", "-"]
    assert rows["AgeLess18"] == ["1", "2", "1", "100.0", "100.0", "100.0", "100.0"]
    assert len(rows) == 1 + len(label_set)


def test_the_papers_row_stands_under_the_models(metrics: Metrics, label_set: LabelSet) -> None:
    assert len(format_overall(metrics).splitlines()) == 2
    heading, ours, paper = format_overall(metrics, label_set.paper).splitlines()
    assert heading.split() == ["mA", "Acc", "Prec", "Recall", "F1"]
    assert ours.split() == ["this", "model", "52.00", "100.00", "100.00", "100.00", "100.00"]
    assert paper.split() == ["paper", "-", "83.94", "90.38", "90.23", "90.10"]
    assert len(heading) == len(ours) == len(paper)


def test_the_paper_speaks_only_of_the_published_test_split(label_set: LabelSet) -> None:
    labels = np.zeros((1, len(label_set)), np.int8)
    test = Dataset(name="pa100k", split="test", label_set=label_set, images=(Path("a"),), labels=labels)
    assert paper_scores(test, published_files=True) == label_set.paper
    assert label_set.paper is not None
    assert paper_scores(test, published_files=False) is None
    assert paper_scores(dataclasses.replace(test, split="val"), published_files=True) is None
    assert paper_scores(dataclasses.replace(test, name="rendered"), published_files=True) is None


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "scores.json"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SeqparError, match=r"scores\.json cannot be written: No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_picture_names_the_extra_it_needs(
    metrics: Metrics, label_set: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_matplotlib(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name="matplotlib")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(BackendUnavailableError, match=r"seqpar-deploy\[eval\]"):
        draw_metrics(metrics, label_set, "title")
