"""The eager reference: the network in PyTorch behind the backend protocol, so that the same strategies drive it.

It keeps no cache: each step reads the whole sequence again, as the published code does. That is slow, and independent
of everything the exported graphs do to be fast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.modeling.sequencepar import SequencePAR
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
        log_probs, _ = self._model.decoder(sequences, self._token_table, state.cross_kv)
        new_log_probs = log_probs[:, -tokens.shape[1] :].cpu().numpy()
        return StepOutput(new_log_probs, new_log_probs.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""
