"""Golden data without the attributes that a bundle withholds, and how backends are compared with them.

A golden sequence keeps the tokens that are shown. A row of its log-probabilities is that of the step that emitted the
token, over the tokens that are shown: renormalised, because the sum of the others would tell the rest.

A backend decodes fully. Its own output fills in what golden data lack, so that it is compared in all that is shown and
with itself in the rest. Whether it is right in the rest was checked at the export, where the checkpoint was at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array
from seqpar_deploy.vocab import BOS, EOS, FIRST_ATTRIBUTE, PAD, LabelSet

_LEAST = 1e-12  # share of the tokens that are shown, so that its logarithm is finite


def withheld_tokens(label_set: LabelSet, names: Collection[str]) -> frozenset[int]:
    """Return the token ids of attributes."""
    return frozenset(FIRST_ATTRIBUTE + place for place, one in enumerate(label_set.attributes) if one.name in names)


def without_withheld(arrays: Mapping[str, npt.NDArray[Any]], withheld: Collection[int]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of golden data (`parity/reference.py`) without some tokens."""
    kept = dict(arrays)
    if not withheld:
        return kept
    places = [token - FIRST_ATTRIBUTE for token in withheld]
    tokens, log_probs = arrays["tokens"], arrays["log_probs"]
    kept["tokens"], kept["log_probs"] = np.full_like(tokens, PAD), np.zeros_like(log_probs)
    for crop, row in enumerate(tokens):
        steps = [step for step, token in enumerate(_up_to_eos(row[1:].tolist())) if token not in withheld]
        kept["tokens"][crop, : 1 + len(steps)] = [row[0], *row[1:][steps]]
        kept["log_probs"][crop, : len(steps)] = _shown(log_probs[crop, steps], withheld)
    if (beams := arrays.get("beam_tokens")) is not None:
        kept["beam_tokens"] = np.full_like(beams, PAD)
        for crop, row in enumerate(beams):
            left = [token for token in row.tolist() if token not in withheld]
            kept["beam_tokens"][crop, : len(left)] = left
    if len(names := arrays.get("attributes", ())):
        kept["attributes"] = np.array(["" if place in places else name for place, name in enumerate(names)])
    if len(known := arrays.get("suspect_log_probs", ())):
        kept["suspect_log_probs"] = _shown(np.asarray(known), withheld)
    return kept


def completed(
    backend: Backend[Any],
    encode: Callable[[int], Any],
    tokens: Int64Array,
    log_probs: Float32Array,
    withheld: Collection[int],
) -> tuple[Int64Array, Float32Array]:
    """Fill in golden sequences with what a backend emits of the tokens that they lack.

    Each sequence is followed token by token. Where the backend chooses a withheld token, it is taken, else the next
    golden one is, whether the backend chooses it or not.

    Args:
        backend: The backend under test.
        encode: Returns a fresh state of one golden crop by its number.
        tokens: Golden sequences that start with `<bos>`, int64 (G, C), right-padded.
        log_probs: Their log-probabilities, float32 (G, C - 1, V).
        withheld: The tokens that they lack.

    Returns:
        The sequences and log-probabilities to expect of the backend, of the same shapes.

    Raises:
        BackendError: The backend fails.
    """
    whole: Int64Array = np.full_like(tokens, PAD)
    rows: Float32Array = np.zeros_like(log_probs)
    for crop in range(len(tokens)):
        state, place, last = encode(crop), 0, BOS
        shown = _without_padding(tokens[crop, 1:].tolist())
        whole[crop, 0] = BOS
        for step in range(log_probs.shape[1]):
            own = np.array(backend.step(state, np.array([[last]], dtype=np.int64)).log_probs[0, 0])
            if (best := int(own.argmax())) in withheld:
                last, rows[crop, step] = best, own
            elif place < len(shown):
                last, rows[crop, step] = shown[place], filled(log_probs[crop, place], own, withheld)
                place += 1
            else:
                break
            whole[crop, 1 + step] = last
            if last == EOS:
                break
    return whole, rows


def filled(shown: Float32Array, own: Float32Array, withheld: Collection[int]) -> Float32Array:
    """Return a row of golden log-probabilities (V,) with what it lacks from the backend's own row."""
    places = sorted(withheld)
    share = np.maximum(1 - np.exp(own[places].astype(np.float64)).sum(), _LEAST)  # NaN stays NaN
    row: Float32Array = (shown + np.log(share)).astype(np.float32)
    row[places] = own[places]
    return row


def _shown(log_probs: Float32Array, withheld: Collection[int]) -> Float32Array:
    """Return log-probabilities (..., V) over the tokens that are shown only."""
    rows = np.array(log_probs, dtype=np.float64)
    rows[..., sorted(withheld)] = -np.inf
    most = rows.max(axis=-1, keepdims=True)
    total = most + np.log(np.exp(rows - most).sum(axis=-1, keepdims=True))
    return np.asarray(rows - total, dtype=np.float32)


def _up_to_eos(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def _without_padding(tokens: list[int]) -> list[int]:
    while tokens and tokens[-1] == PAD:
        tokens = tokens[:-1]
    return tokens
