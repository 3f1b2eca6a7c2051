"""Choose the strategy of a recogniser that names none."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqpar_deploy.backends.base import Backend, GreedyBackend
from seqpar_deploy.decoding.base import Strategy
from seqpar_deploy.decoding.drafts import DraftHead
from seqpar_deploy.decoding.greedy import Greedy
from seqpar_deploy.decoding.speculative import Speculative

# A step of 8 tokens per row, about a draft of the demo model, takes 1.26, 1.53, 1.78, 1.88 and 2.56 times the CPU time
# of one of 1 token in batches of 1, 2, 4, 8 and 16 crops (ONNX Runtime, one thread). A batch takes as many steps as its
# slowest row, greedily too. At 16 crops that leaves little to gain.
_WIDE_STEP = 1.9
_LARGEST_BATCH = 8


def default_strategy(backend: Backend[Any], head: DraftHead | None) -> Strategy:
    """Return the strategy that is used if none is named. Its tokens are those of greedy decoding in any case.

    It is `Speculative` for small batches if the decoder calls that the drafts need (on held-out crops of their fit)
    take less time than those of greedy decoding. NVIDIA GPUs decode greedily on the device, because speculation has
    not been measured there.

    Args:
        backend: The opened backend.
        head: The bundle's draft head, or None.

    Returns:
        `Speculative` or `Greedy`.
    """
    if head is None or isinstance(backend, GreedyBackend) or head.calls * _WIDE_STEP > head.greedy_calls:
        return Greedy()
    return small_batches(head)


def small_batches(head: DraftHead | None) -> Speculative:
    """Return the strategy that speculates in small batches, where it pays, and decodes larger ones greedily."""
    return Speculative(head=head, largest_batch=_LARGEST_BATCH)


def with_head(strategy: Strategy, head: DraftHead | None) -> Strategy:
    """Return the strategy with the bundle's draft head, if it speculates and has none of its own."""
    if isinstance(strategy, Speculative) and strategy.head is None:
        return dataclasses.replace(strategy, head=head)
    return strategy


def verifying(strategy: Strategy) -> Strategy:
    """Return the strategy that re-runs crops whose tokens of reduced precision are the drafts.

    These are nearly always right, so they are verified as they are, without the head, and in batches of any size.
    """
    if isinstance(strategy, Speculative):
        return dataclasses.replace(strategy, head=None, largest_batch=None)
    return strategy


def largest_batch(rows: int, backend: Backend[Any], strategy: Strategy, wanted: int | None = None) -> int:
    """Return the crops per batch: `wanted`, or as many as fit into `rows`, within the backend's `max_rows`."""
    per_crop = strategy.rows_per_crop()
    crops = wanted or rows // per_crop
    return max(1, crops if backend.max_rows is None else min(crops, backend.max_rows // per_crop))
