"""The PyTorch network behind the backend protocol, so that the decoding strategies run on it as on a bundle.

`EagerBackend` is the reference. It has no cache: each step reads the whole sequence again, like the published code.
That is slow, and independent of the optimisations in the exported graphs. `CachedEagerBackend` is the fastest eager
PyTorch baseline of the benchmarks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seqpar_deploy.backends.base import Float32Array, Int64Array, StepOutput
from seqpar_deploy.modeling.sequencepar import Decoder, SequencePAR
from seqpar_deploy.preprocess import Preprocessing


def normalise(crops: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert crops (B, H, W, 3) uint8 to images (B, 3, H, W) float32, like torchvision's ToTensor and Normalize."""
    mean = torch.tensor(preprocessing.mean, device=crops.device)
    std = torch.tensor(preprocessing.std, device=crops.device)
    # Cast before the transpose: TensorRT cannot parse a transpose of uint8.
    return ((crops.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class EagerState:
    """Hold each row's cross-attention keys and values, and its tokens."""

    pooled: Float32Array | None = None

    def __init__(self, cross_kv: Tensor) -> None:
        self.cross_kv = cross_kv
        self.tokens: list[list[int]] = [[] for _ in range(cross_kv.shape[1])]

    @property
    def lengths(self) -> Int64Array:
        return np.array([len(tokens) for tokens in self.tokens], dtype=np.int64)

    def truncate(self, lengths: Int64Array) -> None:
        self.tokens = [tokens[:length] for tokens, length in zip(self.tokens, lengths, strict=True)]

    def reorder(self, rows: Int64Array) -> None:
        self.cross_kv = self.cross_kv[:, torch.from_numpy(rows)]
        self.tokens = [list(self.tokens[row]) for row in rows]


class EagerBackend:
    """Run a SequencePAR network without export and without a cache."""

    name = "eager"
    max_rows = None

    def __init__(self, model: SequencePAR, token_table: Tensor, preprocessing: Preprocessing) -> None:
        self._model = model
        self._token_table = token_table
        self._preprocessing = preprocessing

    @property
    def device(self) -> str:
        return str(self._token_table.device.type)

    def encode(self, crops: npt.NDArray[np.uint8]) -> EagerState:
        return self.encode_images(normalise(torch.from_numpy(crops).to(self._token_table.device), self._preprocessing))

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> EagerState:
        """Start sequences from normalised images (B, 3, H, W) instead of crops."""
        return EagerState(self._model.decoder.cross_kv(self._model.encode_image(images)))

    @torch.inference_mode()
    def step(self, state: EagerState, tokens: Int64Array) -> StepOutput:
        for row, new in zip(state.tokens, tokens.tolist(), strict=True):
            row.extend(new)
        lengths = {len(row) for row in state.tokens}
        if len(lengths) > 1:
            raise ValueError(f"rows of the eager reference must have equal lengths, got {sorted(lengths)}")
        sequences = torch.tensor(state.tokens, device=self._token_table.device)
        log_probs, _ = self._model.decoder(sequences, self._token_table[sequences], state.cross_kv)
        new_log_probs = log_probs[:, -tokens.shape[1] :].cpu().numpy()
        return StepOutput(new_log_probs, new_log_probs.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""


class CachedState:
    """Hold each row's keys and values: of its tokens, in a cache of fixed capacity, and of its image tokens."""

    pooled = None

    def __init__(self, self_kv: Tensor, cross_kv: Tensor) -> None:
        self.self_kv, self.cross_kv = self_kv, cross_kv
        self.position = torch.zeros(cross_kv.shape[1], dtype=torch.int64, device=cross_kv.device)

    @property
    def lengths(self) -> Int64Array:
        return self.position.cpu().numpy()

    def truncate(self, lengths: Int64Array) -> None:
        self.position = torch.from_numpy(lengths).to(self.position)

    def reorder(self, rows: Int64Array) -> None:
        index = torch.from_numpy(rows).to(self.position.device)
        self.self_kv, self.cross_kv = self.self_kv[:, index], self.cross_kv[:, index]
        self.position = self.position[index]


class CachedEagerBackend:
    """Run the network without export, with the text tower folded into a table, and keys and values cached.

    For FP16, pass a model from `precision.converted`, and the token table in float16.
    """

    name = "eager-cached"
    max_rows = None

    def __init__(self, model: SequencePAR, token_table: Tensor, preprocessing: Preprocessing) -> None:
        self._model = model
        self._token_table = token_table
        self._preprocessing = preprocessing

    @property
    def device(self) -> str:
        return str(self._token_table.device.type)

    @torch.inference_mode()
    def encode(self, crops: npt.NDArray[np.uint8]) -> CachedState:
        images = normalise(torch.from_numpy(crops).to(self._token_table.device), self._preprocessing)
        cross_kv = self._model.decoder.cross_kv(self._model.encode_image(images.to(self._token_table.dtype)))
        pairs, rows, heads, _, head_size = cross_kv.shape
        capacity = self._model.architecture.capacity
        return CachedState(cross_kv.new_zeros(pairs, rows, heads, capacity, head_size), cross_kv)

    @torch.inference_mode()
    def step(self, state: CachedState, tokens: Int64Array) -> StepOutput:
        ids = torch.from_numpy(tokens).to(self._token_table.device)
        log_probs, state.self_kv = continue_sequences(
            self._model.decoder, ids, self._token_table, state.cross_kv, state.self_kv, state.position
        )
        state.position = state.position + ids.shape[1]
        return StepOutput(log_probs.cpu().numpy(), log_probs.argmax(-1).cpu().numpy())

    def close(self) -> None:
        """Nothing to release."""


def continue_sequences(
    decoder: Decoder, tokens: Tensor, token_table: Tensor, cross_kv: Tensor, self_kv: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    """Run one step of T tokens per row.

    Returns log-probabilities (B, T, V), and the cache with each row's slots `position` to `position + T - 1` written.
    """
    log_probs, new_kv = decoder(tokens, F.embedding(tokens, token_table), cross_kv, self_kv, position)
    # One write for all layers, since the step itself only reads the cache.
    slots = position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)  # (B, T)
    return log_probs, self_kv.scatter(3, slots[None, :, None, :, None].expand_as(new_kv), new_kv)
