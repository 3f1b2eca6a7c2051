"""Backends that run the graphs of `exporting.baseline_graphs` in ONNX Runtime. They support greedy decoding only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.backends.sessions import OnnxRuntimeSession

Floats = npt.NDArray[np.float32]
Run = Callable[..., list[Any]]


def open_graph(path: Path, *, threads: int | None) -> Run:
    """Open a graph as a function from its named inputs to its outputs. Raises BackendError."""
    session = OnnxRuntimeSession(path, threads=threads)
    return lambda **inputs: list(session.run(inputs).values())


class _GrowingState:
    """Base of the states, without truncation, which greedy decoding does not use."""

    def truncate(self, lengths: Int64Array) -> None:
        raise NotImplementedError("baselines decode greedily and never truncate")


class PlainState(_GrowingState):
    """Image tokens (B, N, d) and the sequences so far (B, T)."""

    def __init__(self, image_tokens: Floats) -> None:
        self.image_tokens = image_tokens
        self.sequences = np.empty((len(image_tokens), 0), dtype=np.int64)

    @property
    def lengths(self) -> Int64Array:
        return np.full(len(self.sequences), self.sequences.shape[1], dtype=np.int64)

    def reorder(self, rows: Int64Array) -> None:
        self.image_tokens, self.sequences = self.image_tokens[rows], self.sequences[rows]


class PlainOnnxBackend:
    """Encoder and whole-sequence decoder, without a cache."""

    name = "onnx-plain"
    device = "cpu"
    max_rows = None

    def __init__(self, encoder: Run, decoder: Run) -> None:
        self._encoder, self._decoder = encoder, decoder

    def encode(self, crops: npt.NDArray[np.uint8]) -> PlainState:
        return PlainState(self._encoder(crops=crops)[0])

    def step(self, state: PlainState, tokens: Int64Array) -> StepOutput:
        state.sequences = np.concatenate([state.sequences, tokens], axis=1)
        log_probs = self._decoder(tokens=state.sequences, image_tokens=state.image_tokens)[0][:, -tokens.shape[1] :]
        return StepOutput(log_probs, log_probs.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""


class ConcatState(_GrowingState):
    """A cache (2L, B, h, T, k), which each step copies into one that is a slot longer, and `cross_kv`."""

    def __init__(self, past_kv: Floats, cross_kv: Floats) -> None:
        self.past_kv, self.cross_kv = past_kv, cross_kv

    @property
    def lengths(self) -> Int64Array:
        return np.full(self.past_kv.shape[1], self.past_kv.shape[3], dtype=np.int64)

    def reorder(self, rows: Int64Array) -> None:
        self.past_kv, self.cross_kv = self.past_kv[:, rows], self.cross_kv[:, rows]


class ConcatOnnxBackend:
    """Encoder, and a decoder step whose cache grows by concatenation."""

    name = "onnx-concat"
    device = "cpu"
    max_rows = None

    def __init__(self, encoder: Run, cross_kv: Run, step: Run) -> None:
        self._encoder, self._cross_kv, self._step = encoder, cross_kv, step

    def encode(self, crops: npt.NDArray[np.uint8]) -> ConcatState:
        cross_kv: Floats = self._cross_kv(image_tokens=self._encoder(crops=crops)[0])[0]
        pairs, rows, heads, _, head_size = cross_kv.shape
        return ConcatState(np.empty((pairs, rows, heads, 0, head_size), dtype=np.float32), cross_kv)

    def step(self, state: ConcatState, tokens: Int64Array) -> StepOutput:
        log_probs, state.past_kv = self._step(tokens=tokens, past_kv=state.past_kv, cross_kv=state.cross_kv)
        return StepOutput(log_probs, log_probs.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""
