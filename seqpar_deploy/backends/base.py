"""The protocol between decoding strategies and the runtimes that run the graphs.

A backend encodes crops to a `DecodeState` and advances it step by step. The state owns the self-attention cache and
`cross_kv`, so both can stay on a device. Strategies handle token ids and log-probabilities only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

ComputePrecision = Literal["native", "bf16", "int8"]
"""The precision a backend computes in: that of the bundle's graphs, bfloat16, or the bundle's 8-bit graphs. `bf16` and
`int8` are faster and may change low-margin tokens. A `Recognizer` can re-run those crops in native precision."""
REDUCED_PRECISIONS: tuple[ComputePrecision, ...] = ("bf16", "int8")


@dataclasses.dataclass(frozen=True, slots=True)
class StepOutput:
    """Hold the outputs of one decoder step.

    Attributes:
        log_probs: Log-probabilities of the token that follows each input token, float32 (B, T, V).
        next_token: The most probable of those tokens, int64 (B, T).
    """

    log_probs: Float32Array
    next_token: Int64Array


class DecodeState(Protocol):
    """Hold B sequences that are being generated. One thread may use a state at a time."""

    @property
    def lengths(self) -> Int64Array:
        """Tokens that each row has consumed so far, int64 (B,)."""
        ...

    @property
    def pooled(self) -> Float32Array | None:
        """Pooled image tokens of each row, float32 (B, 3d), for drafts. None if the encoder does not return them."""
        ...

    def truncate(self, lengths: Int64Array) -> None:
        """Discard the tokens that each row consumed beyond a length. This is free: stale cache slots are masked.

        Args:
            lengths: The new length of each row, int64 (B,), at most its current one.
        """
        ...

    def reorder(self, rows: Int64Array) -> None:
        """Replace the rows with `state[rows]`, which can drop, repeat and permute them.

        Args:
            rows: Indices of current rows, int64 (new B,).
        """
        ...


State = TypeVar("State", bound=DecodeState)


@runtime_checkable
class GreedyBackend(Protocol):
    """Decode greedily on a device.

    The device works asynchronously: `encode` returns before it is done. Greedy decoding is the backend's own, since a
    return to the host at each step would be slow.
    """

    def greedy(self, state: Any, *, stop: int, max_steps: int) -> StepOutput:
        """Feed `<bos>`, then each row's most probable token, until every row has emitted `stop`.

        Args:
            state: A fresh state. It cannot be used afterwards.
            stop: The token that ends a row, `<eos>`.
            max_steps: The largest number of steps.

        Returns:
            Log-probabilities (B, S, V) and tokens (B, S) of S steps. Ignore a row's values after its `stop`.
        """
        ...


class Backend(Protocol[State]):
    """Run one bundle on one device. Threads may share a backend, each with its own states."""

    @property
    def name(self) -> str:
        """Name of the backend, for example `onnxruntime`."""
        ...

    @property
    def device(self) -> str:
        """Device of the backend, for example `cpu` or `cuda`."""
        ...

    @property
    def max_rows(self) -> int | None:
        """The largest batch in rows, or None if there is no limit."""
        ...

    def encode(self, crops: npt.NDArray[np.uint8]) -> State:
        """Encode crops and start one sequence per crop.

        Args:
            crops: Prepared crops, uint8 RGB (B, H, W, 3), all trimmed to the same width or not at all.

        Returns:
            A state of B rows, with no tokens consumed.

        Raises:
            BackendError: The runtime fails.
        """
        ...

    def step(self, state: State, tokens: Int64Array) -> StepOutput:
        """Feed tokens to the rows of a state, and advance each row by T.

        Args:
            state: A state of this backend, B rows.
            tokens: Token ids, int64 (B, T), T >= 1.

        Returns:
            Log-probabilities (B, T, V) and most probable tokens (B, T).

        Raises:
            BackendError: A row would exceed the capacity of the cache, or the runtime fails.
        """
        ...

    def close(self) -> None:
        """Release the device. Safe to call twice."""
        ...
