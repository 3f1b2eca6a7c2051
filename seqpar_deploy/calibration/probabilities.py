"""The probability of every attribute, from the decoder's distributions along a generated sequence.

SequencePAR emits attributes in the order of the label set, and `<eos>` after the last one. So the first token that is
attribute i or a later one, or that ends the sequence, answers whether the person has attribute i:

    h(i) = p(i) / (sum of p(j) for j >= i  +  p(<eos>) + p(<pad>) + p(<bos>)  +  sum of p(j) for j <= M)

p is the distribution at that step, and M the greatest attribute emitted before it. h(i) is the chance that i comes
next, given that no attribute between M and i does. It needs no extra decoder step. If the denominator is 0, h(i) is 0.

Sequences that do not follow this order:

- **A sequence ends** with the first step after its last new attribute. That is usually the `<eos>`. Checkpoints that
  never emit `<eos>` repeat themselves until the steps run out, and the first of these repeats is their end. Later steps
  are not read. If the steps run out right after a new attribute, its own step is also the end, for the attributes that
  are greater. A sequence without attributes ends with its first step.
- **A repeat or a special token before the end** answers nothing. Its own probability counts as that of an end (`j <= M`
  in the formula).
- **An attribute out of order**, emitted after a greater one, had two chances: h(i) and its probability p at the step
  that emitted it. Its probability is 1 - (1 - h(i)) (1 - p).

Two properties are easy to miss:

- **An emitted attribute may have a probability below 0.5**, and one that was not emitted a probability above it. Greedy
  decoding emits the most probable token, which may be less probable than all others together.
- **The probabilities are those along one sequence.** If two tokens are nearly as probable, a numerical error may change
  the sequence, and with it all later probabilities. Along one sequence they are smooth functions of the
  log-probabilities: an error of at most e changes h(i) by at most e/2, and the probability of an attribute out of order
  by at most e.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from seqpar_deploy.vocab import FIRST_ATTRIBUTE

Float32Array = npt.NDArray[np.float32]


def attribute_probabilities(tokens: Sequence[int], log_probs: Float32Array) -> Float32Array:
    """Return the probability of each attribute, not calibrated.

    Args:
        tokens: The S tokens of a sequence after `<bos>`, at least one.
        log_probs: Log-probabilities of each step's token, float32 (S, V). -inf is a probability of 0.

    Returns:
        Probabilities, 0 to 1, float32 (n,), in the label set's order. NaN if a log-probability in their formula is
        NaN.
    """
    return np.asarray(probabilities_of_many([(tokens, log_probs)])[0])


def probabilities_of_many(sequences: Sequence[tuple[Sequence[int], Float32Array]]) -> Float32Array:
    """Return the probabilities of M sequences, 1 or more, float32 (M, n). See `attribute_probabilities`.

    NumPy is called once for all of them: one call per sequence and operation took 3 to 5 % of a batch of 16 crops.
    """
    vocabulary = sequences[0][1].shape[1]
    read: list[Float32Array] = []
    steps: list[int] = []
    before: list[int] = []
    late: list[tuple[int, int, int]] = []  # sequence, token, row
    first = 0  # row of the sequence's first step
    for place, (tokens, log_probs) in enumerate(sequences):
        end, own_steps, own_before, own_late = _read_order(tokens, vocabulary)
        read.append(log_probs[: end + 1])
        steps += [first + step for step in own_steps]
        before += own_before
        late += [(place, token, first + step) for token, step in own_late]
        first += end + 1
    columns = np.tile(np.arange(FIRST_ATTRIBUTE, vocabulary), len(sequences))
    rows = np.array(steps)
    with np.errstate(over="ignore", invalid="ignore"):
        distributions = np.exp(np.concatenate(read), dtype=np.float64)
        # Two sums, not one and a difference: each adds values above 0, so small ones keep their precision.
        up_to = distributions.cumsum(axis=1)  # of the special tokens too, which are the first
        from_on = distributions[:, ::-1].cumsum(axis=1)[:, ::-1]
        flat = distributions[rows, columns]
        mass = from_on[rows, columns] + up_to[rows, before]
        np.divide(flat, mass, out=flat, where=mass != 0)
        found = flat.reshape(len(sequences), -1)
        for place, token, row in late:
            chance = np.minimum(distributions[row, token], 1)  # rounding may bring it above 1
            found[place, token - FIRST_ATTRIBUTE] += (1 - found[place, token - FIRST_ATTRIBUTE]) * chance
    return np.asarray(found, dtype=np.float32)


def largest_changes(tokens: Sequence[int], attributes: int, error: float) -> npt.NDArray[np.float64]:
    """Return how far each of n probabilities along a sequence may move, (n,), if log-probabilities move by `error`.

    The log-odds of h are a difference of two log-probabilities, so they move by 2 * error at most, and h by error / 2,
    since the slope of the logistic function is 1/4 at most. An attribute out of order has h and a second chance p. It
    moves by error at most.
    """
    changes = np.full(attributes, error / 2)
    for token, greatest in zip(tokens, accumulate(tokens, max), strict=True):
        if FIRST_ATTRIBUTE <= token < greatest:
            changes[token - FIRST_ATTRIBUTE] = error
    return changes


def _read_order(tokens: Sequence[int], vocabulary: int) -> tuple[int, list[int], list[int], list[tuple[int, int]]]:
    """Read the order of the attributes in a sequence.

    Returns the last step that is read, the step that answers for each attribute, the greatest token before that step,
    and (token, step) of each attribute out of order.

    Before the first attribute, the greatest token is the last special one.
    """
    steps: list[int] = []
    before: list[int] = []
    late: list[tuple[int, int]] = []
    seen: set[int] = set()
    greatest = greatest_before = FIRST_ATTRIBUTE - 1
    end = 0
    for step, token in enumerate(tokens):
        if token < FIRST_ATTRIBUTE or token in seen:
            continue
        seen.add(token)
        end, greatest_before = step + 1, greatest
        if token < greatest:
            late.append((token, step))
        else:
            steps += [step] * (token - greatest)
            before += [greatest] * (token - greatest)
            greatest = token
    if end == len(tokens):  # the steps ran out right after a new attribute
        end, at_end = end - 1, greatest_before
    else:
        at_end = greatest
    rest = vocabulary - 1 - greatest
    return end, steps + [end] * rest, before + [at_end] * rest, late
