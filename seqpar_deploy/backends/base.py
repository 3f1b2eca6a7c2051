"""What a decoding strategy asks of the thing that runs the graphs.

A backend turns crops into a `DecodeState` and steps it. The state owns the self-attention cache and `cross_kv`, so that
both can stay on a device; strategies only ever see token ids and log-probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

# How a backend computes: exactly as the bundle's graphs say; in bfloat16; or with its 8-bit graphs. The last two are
# faster, and may change low-margin tokens (a `Recognizer` re-runs those crops in native precision).
ComputePrecision = Literal["native", "bf16", "int8"]
REDUCED_PRECISIONS: tuple[ComputePrecision, ...] = ("bf16", "int8")


@dataclasses.dataclass(frozen=True, slots=True)
class StepOutput:
    """What follows each token: log-probabilities (B, T, V) and the most probable token (B, T)."""

    log_probs: Float32Array
    next_token: Int64Array


class DecodeState(Protocol):
    """B sequences being generated. Used by one thread at a time."""

    @property
    def lengths(self) -> Int64Array:
        """Tokens each row has consumed so far (B,)."""
        ...

    def truncate(self, lengths: Int64Array) -> None:
        """Forget what each row consumed beyond `lengths` (B,). Costs nothing: stale slots are masked."""
        ...

    def reorder(self, rows: Int64Array) -> None:
        """Make the rows `state[rows]`: drops, repeats and permutes them."""
        ...


State = TypeVar("State", bound=DecodeState)


@runtime_checkable
class GreedyBackend(Protocol):
    """A backend whose device works on its own: `encode` returns while it is at work, and greedy decoding, where going
    back to the host at each step would cost, is the backend's own."""

    def greedy(self, state: Any, *, stop: int, max_steps: int) -> StepOutput:
        """Feed `<bos>` and then each row's most probable token, until all have said `stop` or `max_steps` are done.

        Log-probabilities (B, S, V) and tokens (B, S) of S steps. What a row says after its `stop` means nothing. Uses
        the state up.
        """
        ...


class Backend(Protocol[State]):
    """Runs one bundle on one device. Threads may share it: each works on states of its own."""

    @property
    def name(self) -> str:
        """`onnxruntime`, `openvino`, ..."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda`, ..."""
        ...

    @property
    def max_rows(self) -> int | None:
        """The most rows of a batch, where what was built for it sets a limit."""
        ...

    def encode(self, crops: npt.NDArray[np.uint8]) -> State:
        """Start B sequences from prepared crops (B, H, W, 3) uint8."""
        ...

    def step(self, state: State, tokens: Int64Array) -> StepOutput:
        """Feed tokens (B, T), T >= 1, to the rows of `state` and advance them by T."""
        ...

    def close(self) -> None:
        """Release the device. Safe to call twice."""
        ...
