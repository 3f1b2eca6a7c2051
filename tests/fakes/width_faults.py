"""Faults of batches of several widths and of pooled features, planted one by one: the stress test must find each."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import numpy as np

from seqpar_deploy.backends.gpu import buffers, decode, graph_runner, lanes, state


def step_reads_the_whole_square() -> Any:
    """The decoder reads as many image tokens as whole squares have: beyond its own are those of an earlier batch."""
    init = state.DeviceState.__init__

    def changed(self: Any, backend: Any, *arguments: Any, **options: Any) -> None:
        init(self, backend, *arguments, **options)
        self.image_tokens = backend._dimensions.image_tokens

    return mock.patch.object(state.DeviceState, "__init__", changed)


def context_of_another_width() -> Any:
    """Batches of as many rows share a context, and its CUDA graphs, whatever their width."""
    held = graph_runner.Engine._held

    def one(self: Any, turn: Any, profile: int, shapes: Any, addresses: Any) -> Any:
        first = self.__dict__.setdefault("_first_shapes", {})
        key = (profile, *((name, shape[:2]) for name, shape in shapes.items()))
        return held(self, turn, profile, first.setdefault(key, shapes), addresses)

    return mock.patch.object(graph_runner.Engine, "_held", one)


def crops_uploaded_as_squares() -> Any:
    """Crops are written with the row stride of squares: the encoder reads parts of other rows and of old batches."""
    write = lanes.Staging.write

    def padded(self: Any, *arrays: Any, at: Any = (0,)) -> None:
        def wide(array: Any) -> Any:
            return np.pad(array, ((0, 0), (0, 0), (0, array.shape[1] - array.shape[2]), (0, 0)))

        write(self, *(wide(array) if array.ndim == 4 else array for array in arrays), at=at)

    return mock.patch.object(lanes.Staging, "write", padded)


def _gather_strides(tokens: Any) -> Any:
    """Rows of `cross_kv` are as far apart as those of `tokens(own, whole)` image tokens."""
    cross_row = buffers.Buffers.cross_row

    def changed(self: Any, image_tokens: int) -> int:
        whole = self.__dict__.setdefault("_whole", image_tokens)  # first called for the size of the buffer
        return cross_row(self, tokens(image_tokens, whole))

    return mock.patch.object(buffers.Buffers, "cross_row", changed)


def gather_strides_of_squares() -> Any:
    return _gather_strides(lambda own, whole: whole)


def gather_strides_without_class_token() -> Any:
    return _gather_strides(lambda own, whole: own - (own < whole))


def _pooled(rows: Any) -> Any:
    """`pooled` is that of `rows(state)`."""

    def pooled(self: Any) -> Any:
        self.keep_pooled()
        return None if self._pooled_of_crop is None else self._pooled_of_crop[rows(self)]

    return mock.patch.object(state.DeviceState, "pooled", property(pooled))


def pooled_of_the_neighbour() -> Any:
    return _pooled(lambda held: np.roll(held.crop_of_row, 1))


def pooled_is_not_reordered() -> Any:
    return _pooled(lambda held: np.arange(held.rows) % held.crops)


def pooled_is_read_after_the_batch_moved() -> Any:
    """The rows have gone to a larger batch, whose memory holds what another encoder run left."""
    gather = decode.DeviceBackend.gather

    def without(self: Any, held: Any, rows: Any) -> None:
        with contextlib.ExitStack() as stack:
            if not held._knows_pooled:
                stack.enter_context(mock.patch.object(held, "keep_pooled", return_value=None))
            gather(self, held, rows)

    return mock.patch.object(decode.DeviceBackend, "gather", without)
