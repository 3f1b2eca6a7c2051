"""Base of the backends with tensors in host memory: the cache as NumPy arrays, and the checks around a step."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import ComputePrecision, Float32Array, Int64Array, StepOutput
from seqpar_deploy.backends.sessions import Session
from seqpar_deploy.bundle import (
    DECODER_STEP,
    HOST_DECODER_STEP,
    INT8_DECODER_STEP,
    INT8_HOST_DECODER_STEP,
    Bundle,
    Dimensions,
)
from seqpar_deploy.errors import BackendError, BackendUnavailableError

Cache = npt.NDArray[Any]  # float32 or float16

_log = logging.getLogger(__name__)


def graphs_for(bundle: Bundle, compute_precision: ComputePrecision) -> tuple[Path, Path]:
    """Return the encoder and decoder step graphs of a precision. Raises BackendUnavailableError if there are none."""
    if compute_precision != "int8":
        return bundle.encoder, bundle.decoder_step
    if not bundle.has_int8:
        raise BackendUnavailableError(f"{bundle.path} has no 8-bit graphs; export the bundle with --recipe int8")
    return bundle.int8_encoder, bundle.int8_decoder_step


def host_graphs_for(bundle: Bundle, compute_precision: ComputePrecision) -> tuple[Path, Path]:
    """Return the graphs of a precision for a host: with the variant of the decoder step that does not copy the cache.

    Raises BackendUnavailableError.
    """
    encoder, decoder_step = graphs_for(bundle, compute_precision)
    return encoder, host_graph(bundle, decoder_step)


def host_graph(bundle: Bundle, decoder_step: Path) -> Path:
    """Return the variant of a decoder step for hosts, or the graph itself if the bundle is from before the variant."""
    name = {DECODER_STEP: HOST_DECODER_STEP, INT8_DECODER_STEP: INT8_HOST_DECODER_STEP}[decoder_step.name]
    return decoder_step.with_name(name) if name in bundle.manifest.get("files", {}) else decoder_step


def copies_cache(decoder_step: Path) -> bool:
    """Return whether a decoder step takes the whole cache and returns a new one, as that of earlier bundles does."""
    return decoder_step.name not in (HOST_DECODER_STEP, INT8_HOST_DECODER_STEP)


class HostState:
    """Hold a decode state in host memory: `self_kv` (2L, B, heads, C, k) and `cross_kv` (2L, B, heads, N, k).

    Both are contiguous, since runtimes copy other arrays in each step.
    """

    def __init__(self, self_kv: Cache, cross_kv: Cache, pooled: Float32Array | None) -> None:
        self.self_kv = self_kv
        self.cross_kv = cross_kv
        self.pooled = pooled
        rows = cross_kv.shape[1]
        self._lengths = np.zeros(rows, dtype=np.int64)
        self._crop_of_row = np.arange(rows)

    @property
    def lengths(self) -> Int64Array:
        return self._lengths

    def advance(self, tokens: int) -> None:
        self._lengths = self._lengths + tokens

    def truncate(self, lengths: Int64Array) -> None:
        if np.any(lengths > self._lengths) or np.any(lengths < 0):
            raise ValueError(f"truncated lengths must be 0 to the rows' lengths {self._lengths}, got {lengths}")
        self._lengths = np.array(lengths, dtype=np.int64)

    def reorder(self, rows: Int64Array) -> None:
        self.self_kv = self.self_kv.take(rows, axis=1)
        self._lengths = self._lengths[rows]
        if self.pooled is not None:
            self.pooled = self.pooled[rows]
        crop_of_row = self._crop_of_row[rows]
        # `cross_kv` takes megabytes per row. Each step of a beam search permutes rows of the same crop, and their
        # `cross_kv` are equal. Gather only if a row changes its crop.
        if not np.array_equal(crop_of_row, self._crop_of_row):
            self.cross_kv = self.cross_kv.take(rows, axis=1)
        self._crop_of_row = crop_of_row


class HostBackend(abc.ABC):
    """Base class of the host-memory backends. A subclass runs the two graphs on NumPy arrays."""

    name: str
    device: str
    max_rows = None

    def __init__(self, bundle: Bundle) -> None:
        self._path = bundle.path
        self._dimensions: Dimensions = bundle.dimensions
        self._dtype = np.dtype(np.float16 if bundle.precision == "fp16" else np.float32)
        self._has_pooled = bundle.has_pooled

    @abc.abstractmethod
    def _run_encoder(self, crops: npt.NDArray[np.uint8]) -> tuple[Cache, Float32Array | None]:
        """Return `cross_kv` and `pooled` of prepared crops."""

    @abc.abstractmethod
    def _run_decoder_step(
        self, tokens: Int64Array, position: Int64Array, self_kv: Cache, cross_kv: Cache
    ) -> tuple[npt.NDArray[np.float32], Int64Array, Cache]:
        """Return (`log_probs`, `next_token`, cache) of one step. The cache may be `self_kv` itself, with new slots."""

    def encode(self, crops: npt.NDArray[np.uint8]) -> HostState:
        cross_kv, pooled = self._run_encoder(np.ascontiguousarray(crops))
        d = self._dimensions
        self_kv = np.zeros((2 * d.layers, len(crops), d.heads, d.capacity, d.head_size), dtype=self._dtype)
        return HostState(self_kv, cross_kv, pooled)

    def step(self, state: HostState, tokens: Int64Array) -> StepOutput:
        tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.shape[0] != len(state.lengths) or tokens.shape[1] < 1:
            raise ValueError(f"tokens must have shape ({len(state.lengths)}, T >= 1), got {tokens.shape}")
        # Runtimes behave differently past the end of the cache. TensorRT, for example, drops the write silently.
        longest = int(state.lengths.max(initial=0)) + tokens.shape[1]
        if longest > self._dimensions.capacity:
            raise BackendError(
                f"rows must have at most {self._dimensions.capacity} tokens, the capacity of the cache, got {longest}"
            )
        log_probs, next_token, state.self_kv = self._run_decoder_step(
            tokens, state.lengths, state.self_kv, state.cross_kv
        )
        state.advance(tokens.shape[1])
        return StepOutput(log_probs, next_token)

    def close(self) -> None:  # noqa: B027
        """Release nothing. A subclass may override it."""


class SessionBackend(HostBackend):
    """Run a bundle's graphs in two sessions of a CPU runtime.

    `copies_cache` describes the decoder step.
    """

    device = "cpu"

    def __init__(
        self, bundle: Bundle, *, name: str, encoder: Session, decoder_step: Session, copies_cache: bool
    ) -> None:
        super().__init__(bundle)
        self.name, self._encoder, self._decoder_step = name, encoder, decoder_step
        self._copies_cache = copies_cache

    def _run_encoder(self, crops: npt.NDArray[np.uint8]) -> tuple[Cache, Float32Array | None]:
        d = self._dimensions
        image_tokens = 1 + d.grid * (crops.shape[2] // d.patch_size)
        shapes: dict[str, Sequence[int | None]] = {
            "cross_kv": (2 * d.layers, len(crops), d.heads, image_tokens, d.head_size),
            **({"pooled": (len(crops), None)} if self._has_pooled else {}),
        }
        cross_kv, *pooled = self._run(self._encoder, "encoder", {"crops": crops}, shapes)
        return cross_kv, pooled[0] if pooled else None

    def _run_decoder_step(
        self, tokens: Int64Array, position: Int64Array, self_kv: Cache, cross_kv: Cache
    ) -> tuple[npt.NDArray[np.float32], Int64Array, Cache]:
        d, (rows, steps) = self._dimensions, tokens.shape
        feed = {"tokens": tokens, "position": position}
        shapes = {"log_probs": (rows, steps, d.vocabulary), "next_token": tokens.shape}
        if self._copies_cache:
            feed |= {"self_kv": self_kv, "cross_kv": cross_kv}
            shapes["self_kv_out"] = self_kv.shape
        else:
            for index in range(2 * d.layers):
                feed[f"self_kv.{index}"], feed[f"cross_kv.{index}"] = self_kv[index], cross_kv[index]
            shapes["new_kv"] = (rows, 2 * d.layers * d.heads, steps, d.head_size)
        log_probs, next_token, written = self._run(self._decoder_step, "decoder step", feed, shapes)
        if next_token.size and not 0 <= next_token.min() <= next_token.max() < d.vocabulary:
            raise BackendError(self._unlike("decoder step", "a token that is not in its vocabulary"))
        if self._copies_cache:
            return log_probs, next_token, written
        _write(self_kv, written, position)
        return log_probs, next_token, self_kv

    def _run(
        self, session: Session, graph: str, feed: Mapping[str, Any], shapes: Mapping[str, Sequence[int | None]]
    ) -> list[npt.NDArray[Any]]:
        """Return the outputs of a graph. Raises BackendError if it fails, or they do not have these shapes.

        A graph can open and still not be the one that the manifest describes.
        """
        try:
            outputs = session.run(feed, list(shapes))
        except Exception as error:  # each runtime has its own exceptions
            _log.debug("the %s fails on %s", graph, self.name, exc_info=error)
            raise BackendError(self._unlike(graph, "an error of the runtime")) from None
        for name, shape in shapes.items():
            got = outputs[name].shape
            if len(got) != len(shape) or any(size not in (None, side) for size, side in zip(shape, got, strict=True)):
                raise BackendError(self._unlike(graph, f"{name} of shape {got}"))
        return [outputs[name] for name in shapes]

    def _unlike(self, graph: str, got: str) -> str:
        return (
            f"the {graph} of {self._path} must run on {self.name} as its manifest describes, got {got}; "
            "export the bundle again, or try another backend"
        )


def _write(self_kv: Cache, new_kv: Cache, position: Int64Array) -> None:
    """Write the keys and values of new tokens (B, 2L * heads, T, k) into the slots from each row's position on."""
    pairs, rows, heads, _, size = self_kv.shape
    steps = new_kv.shape[2]
    new = new_kv.reshape(rows, pairs, heads, steps, size).swapaxes(0, 1)  # (2L, B, heads, T, k)
    first = int(position.min(initial=0))
    if (position == first).all():
        self_kv[:, :, :, first : first + steps] = new
        return
    for row, start in enumerate(position.tolist()):
        self_kv[:, row, :, start : start + steps] = new[:, row]
