"""Labels become sequences, and unknown labels teach nothing."""

from __future__ import annotations

import pytest
import torch

from seqpar_deploy.training.targets import sequence_loss, sequences_from_labels
from seqpar_deploy.vocab import BOS, EOS, PAD

LABELS = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, -1, 1, 1]], dtype=torch.int8)


def test_sequences_run_in_the_label_sets_order() -> None:
    inputs, targets = sequences_from_labels(LABELS, eos=True)
    assert inputs.tolist() == [[BOS, 4, 6, PAD], [BOS, PAD, PAD, PAD], [BOS, 3, 5, 6]]
    assert targets.tolist() == [[4, 6, EOS, PAD], [EOS, PAD, PAD, PAD], [3, 5, 6, EOS]]


def test_released_targets_have_no_eos() -> None:
    _, targets = sequences_from_labels(LABELS, eos=False)
    assert targets.tolist() == [[4, 6, PAD, PAD], [PAD] * 4, [3, 5, 6, PAD]]


def test_more_than_twenty_positives_are_fine() -> None:
    inputs, targets = sequences_from_labels(torch.ones(2, 57, dtype=torch.int8), eos=True)
    assert inputs.shape == targets.shape == (2, 58)


def test_the_loss_is_the_nll_of_all_but_padding() -> None:
    log_probs = torch.randn(3, 4, 7).log_softmax(-1)
    labels = LABELS.clamp(min=0)
    _, targets = sequences_from_labels(labels, eos=True)
    by_hand = -sum(
        log_probs[b, t, targets[b, t]] for b in range(3) for t in range(targets.shape[1]) if targets[b, t] != PAD
    )
    assert sequence_loss(log_probs, targets, labels) == pytest.approx(float(by_hand), rel=1e-6)


def test_an_unknown_attributes_score_has_no_gradient_and_no_weight() -> None:
    logits = torch.randn(3, 4, 7, requires_grad=True)
    _, targets = sequences_from_labels(LABELS, eos=True)
    for smoothing in (0.0, 0.1):
        loss = sequence_loss(logits.log_softmax(-1), targets, LABELS, label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[2, :, 4].abs().max() < 1e-6  # person 2, attribute 1
        assert gradient[0, :2, 4].abs().min() > 1e-4
        with torch.no_grad():
            moved = logits.clone()
            moved[2, :, 4] += 3
            again = sequence_loss(moved.log_softmax(-1), targets, LABELS, label_smoothing=smoothing)
        assert float(again) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_label_smoothing_mixes_in_the_mean_over_known_tokens() -> None:
    log_probs = torch.randn(1, 1, 7).log_softmax(-1)
    labels = torch.tensor([[0, 0, -1, 0]], dtype=torch.int8)
    targets = torch.tensor([[EOS]])
    known = [0, 1, 2, 3, 4, 6]
    renormalised = log_probs[0, 0, known].log_softmax(-1)
    wanted = -0.8 * renormalised[1] - 0.2 * renormalised.mean()
    assert sequence_loss(log_probs, targets, labels, label_smoothing=0.2) == pytest.approx(float(wanted), rel=1e-5)
