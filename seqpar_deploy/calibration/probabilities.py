"""The probability of every attribute, from the decoder's distributions along a generated sequence.

SequencePAR emits attributes in the order of the label set, and `<eos>` after the last one. So the first token that is
attribute i or a later one, or that ends the sequence, answers whether the person has attribute i:

    h(i) = p(i) / (sum of p(j) for j >= i  +  p(<eos>) + p(<pad>) + p(<bos>)  +  sum of p(j) for j <= M)

p is the distribution at that step, and M the greatest attribute emitted before it. h(i) is the chance that i comes
next, given that no attribute between M and i does. It needs no extra decoder step.

Sequences that do not follow this order:

- **A sequence ends** with the first step after its last new attribute. That is usually the `<eos>`. Checkpoints that
  never emit `<eos>` repeat themselves until the steps run out, and the first of these repeats is their end. If the
  steps run out before that, the last step is the end.
- **A repeat or a special token before the end** answers nothing. Its own probability counts as that of an end (`j <= M`
  in the formula).
- **An attribute out of order**, emitted after a greater one, had two chances: h(i) and its probability p at the step
  that emitted it. Its probability is 1 - (1 - h(i)) (1 - p).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.vocab import FIRST_ATTRIBUTE

Float32Array = npt.NDArray[np.float32]


def attribute_probabilities(tokens: Sequence[int], log_probs: Float32Array) -> Float32Array:
    """Return the probability of each attribute, not calibrated.

    Args:
        tokens: The S tokens of a sequence after `<bos>`, at least one.
        log_probs: Log-probabilities of each step's token, float32 (S, V).

    Returns:
        Probabilities, 0 to 1, float32 (n,), in the label set's order. NaN if the log-probabilities are.
    """
    end, greatest, late = _read_order(tokens)
    distributions = np.exp(log_probs[: end + 1], dtype=np.float64)
    attributes = distributions[:, FIRST_ATTRIBUTE:]
    up_to = attributes.cumsum(axis=1)
    from_on = attributes[:, ::-1].cumsum(axis=1)[:, ::-1]

    index = np.arange(attributes.shape[1])
    step = np.minimum(np.searchsorted(greatest[: end + 1], index), end)  # that answers for each attribute
    before = np.concatenate([[-1], greatest])[step]  # M
    mass = from_on[step, index] + distributions[step, :FIRST_ATTRIBUTE].sum(axis=1)
    mass += np.where(before >= 0, up_to[step, before], 0.0)
    found = np.divide(attributes[step, index], mass, out=np.zeros(len(index)), where=mass != 0)
    for attribute, at in late:
        found[attribute] = 1 - (1 - found[attribute]) * (1 - attributes[at, attribute])
    return np.asarray(found, dtype=np.float32)


def _read_order(tokens: Sequence[int]) -> tuple[int, npt.NDArray[np.int64], list[tuple[int, int]]]:
    """Return the step that ends a sequence, the greatest attribute so far per step, and (attribute, step) out of order.

    Attributes count from 0. The greatest is -1 before the first one.
    """
    seen: set[int] = set()
    greatest, last_new, late = [], -1, []
    most = -1
    for step, token in enumerate(tokens):
        attribute = token - FIRST_ATTRIBUTE
        if attribute >= 0 and attribute not in seen:
            seen.add(attribute)
            last_new = step
            if attribute < most:
                late.append((attribute, step))
        most = max(most, attribute)
        greatest.append(most)
    return min(last_new + 1, len(tokens) - 1), np.array(greatest, dtype=np.int64), late
