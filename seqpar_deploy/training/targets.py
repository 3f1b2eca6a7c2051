"""Converts labels to token sequences, and computes the losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqpar_deploy.datasets import UNKNOWN, YES
from seqpar_deploy.vocab import BOS, EOS, FIRST_ATTRIBUTE, PAD


def sequences_from_labels(labels: Tensor, *, eos: bool) -> tuple[Tensor, Tensor]:
    """Convert labels (B, n) to inputs and targets (B, T), int64.

    Inputs are `<bos>` and the positive attributes in the label set's order. Targets are the same, one step later, ended
    by `<eos>` if `eos` is set. `<pad>` fills both up to the longest row. Unknown attributes are left out.
    """
    rows = [[FIRST_ATTRIBUTE + i for i in row.nonzero().flatten().tolist()] for row in labels == YES]
    length = 1 + max(map(len, rows))
    inputs = torch.full((len(rows), length), PAD)
    targets = torch.full((len(rows), length), PAD)
    for row, tokens in enumerate(rows):
        inputs[row, : len(tokens) + 1] = torch.tensor([BOS, *tokens])
        ended = [*tokens, EOS] if eos else tokens
        targets[row, : len(ended)] = torch.tensor(ended, dtype=torch.int64)
    return inputs, targets


def sequence_loss(log_probs: Tensor, targets: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum the negative log-likelihood over all targets but `<pad>`, for log_probs (B, T, V), targets (B, T).

    If an attribute of a person is unknown, the softmax of that person excludes its token, so the network learns neither
    yes nor no.
    """
    special = labels.new_zeros(len(labels), FIRST_ATTRIBUTE, dtype=torch.bool)
    unknown = torch.cat([special, labels == UNKNOWN], dim=1)  # (B, V)
    if unknown.any():
        log_probs = log_probs.masked_fill(unknown[:, None], -1e9).log_softmax(-1)
    nll = F.nll_loss(log_probs.transpose(1, 2), targets, ignore_index=PAD, reduction="sum")
    if label_smoothing == 0:
        return nll
    known = ~unknown
    spread = -(log_probs * known[:, None]).sum(-1) / known.sum(-1, keepdim=True)  # (B, T)
    return (1 - label_smoothing) * nll + label_smoothing * spread[targets != PAD].sum()


def presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the binary cross-entropy over people and known attributes, for logits (B, n)."""
    known = labels != UNKNOWN
    return F.binary_cross_entropy_with_logits(logits[known], (labels[known] == YES).float(), reduction="sum")
