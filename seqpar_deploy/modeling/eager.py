"""The network in PyTorch behind the backend protocol, so that the same strategies drive it as drive a bundle.

`EagerBackend` is the reference: it keeps no cache, each step reads the whole sequence again, as the published code
does. That is slow, and independent of everything the exported graphs do to be fast. `CachedEagerBackend` is the best
baseline of a benchmark: the fastest that PyTorch gets without export.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.modeling.sequencepar import Decoder, SequencePAR
from seqpar_deploy.preprocess import Preprocessing


def normalise(crops: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Prepared crops (B, H, W, 3) uint8 -> images (B, 3, H, W) float32, as torchvision's ToTensor and Normalize do."""
    mean = torch.tensor(preprocessing.mean, device=crops.device)
    std = torch.tensor(preprocessing.std, device=crops.device)
    # Cast before transposing: TensorRT does not parse a transpose of uint8.
    return ((crops.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class EagerState:
    """Cross-attention keys and values of each row, and the tokens it was fed."""

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
    """Runs a SequencePAR network without export and without a cache."""

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
        """Start from normalised images (B, 3, H, W) instead of crops."""
        return EagerState(self._model.decoder.cross_kv(self._model.encode_image(images)))

    @torch.inference_mode()
    def step(self, state: EagerState, tokens: Int64Array) -> StepOutput:
        for row, new in zip(state.tokens, tokens.tolist(), strict=True):
            row.extend(new)
        lengths = {len(row) for row in state.tokens}
        if len(lengths) > 1:
            raise ValueError(f"the eager reference steps rows of one length, got lengths {sorted(lengths)}")
        sequences = torch.tensor(state.tokens, device=self._token_table.device)
        log_probs, _ = self._model.decoder(sequences, self._token_table[sequences], state.cross_kv)
        new_log_probs = log_probs[:, -tokens.shape[1] :].cpu().numpy()
        return StepOutput(new_log_probs, new_log_probs.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""


class CachedState:
    """Keys and values of each row's tokens, in slots of fixed capacity, and of its image tokens."""

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
    """What PyTorch can do without export: text tower folded, embeddings looked up at once, keys and values cached.

    In FP16 as well: pass a model from `precision.converted`, and the token table in float16.
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
    """One step of T tokens a row: log-probabilities (B, T, V), and the cache with slots position .. position + T - 1
    of each row written."""
    log_probs, new_kv = decoder(tokens, F.embedding(tokens, token_table), cross_kv, self_kv, position)
    # One write for all layers: within the step the cache is only read.
    slots = position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)  # (B, T)
    return log_probs, self_kv.scatter(3, slots[None, :, None, :, None].expand_as(new_kv), new_kv)
