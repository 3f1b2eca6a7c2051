"""Drafts that are accepted unverified, planted where guesses are compared: the gate's check of tokens catches them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import speculative
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.report import ParityReport
from seqpar_deploy.parity.tolerances import tolerances_of


def all_accepted(fed: list[int], answers: list[int]) -> list[int]:
    return [*fed[1:], answers[-1]]


def one_wrong_guess_accepted(fed: list[int], answers: list[int]) -> list[int]:
    wrong = next((place for place, guess in enumerate(fed[1:]) if guess != answers[place]), None)
    return answers if wrong is None else [*answers[:wrong], fed[wrong + 1], *answers[wrong + 1 :]]


def checked(bundle_dir: Path) -> ParityReport:
    bundle = Bundle.open(bundle_dir, verify=False)
    tolerances = dataclasses.replace(tolerances_of(bundle), largest_batch=2, beams=4)
    with closing(open_backend(bundle, "onnxruntime")) as backend:
        return check_parity(backend, reference_from_golden(bundle), tolerances, bundle=bundle)


@pytest.mark.parametrize("fault", [all_accepted, one_wrong_guess_accepted])
def test_a_draft_that_is_accepted_unverified_is_caught(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[int], list[int]], list[int]]
) -> None:
    take = speculative._Sequence.take

    def planted(self: Any, fed: list[int], answers: list[int], *rest: Any) -> None:
        take(self, fed, fault(fed, answers), *rest)

    monkeypatch.setattr(speculative._Sequence, "take", planted)
    report = checked(bundle_dir)
    assert [line.split(":")[0] for line in report.breaches][:1] == ["speculative"]


def test_wrong_drafts_that_are_verified_pass(bundle_dir: Path) -> None:
    assert checked(bundle_dir).breaches == []
