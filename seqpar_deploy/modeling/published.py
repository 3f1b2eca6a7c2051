"""The published procedure with all its costs: the baseline of the benchmark.

Each call runs the text tower on every phrase. Each step reads the whole sequence again, recomputes the image tokens'
keys and values, and looks up embeddings one by one in Python. The outputs equal those of the eager reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Preprocessing


class PublishedState:
    """Hold the image tokens, the word-to-vector dictionary of this call, and the sequences so far."""

    def __init__(self, image_tokens: Tensor, word_to_vector: dict[int, Tensor]) -> None:
        self.image_tokens = image_tokens
        self.word_to_vector = word_to_vector
        self.sequences: Tensor | None = None

    @property
    def lengths(self) -> Int64Array:
        length = 0 if self.sequences is None else self.sequences.shape[1]
        return np.full(self.image_tokens.shape[0], length, dtype=np.int64)

    def truncate(self, lengths: Int64Array) -> None:
        raise NotImplementedError("the published code cannot truncate sequences; use another strategy")

    def reorder(self, rows: Int64Array) -> None:
        index = torch.from_numpy(rows)
        self.image_tokens = self.image_tokens[index]
        self.sequences = None if self.sequences is None else self.sequences[index]


class PublishedBackend:
    """Run the published procedure behind the backend protocol. For benchmarks only."""

    name = "published"
    max_rows = None

    def __init__(self, model: SequencePAR, phrases: Sequence[str], preprocessing: Preprocessing) -> None:
        self._model = model
        self._phrases = phrases
        self._preprocessing = preprocessing

    @property
    def device(self) -> str:
        return str(self._model.bos_embedding.device.type)

    @torch.inference_mode()
    def encode(self, crops: npt.NDArray[np.uint8]) -> PublishedState:
        images = normalise(torch.from_numpy(crops).to(self.device), self._preprocessing)
        image_tokens = self._model.encode_image(images)
        word_to_vector = dict(enumerate(self._model.token_table(self._phrases)))
        return PublishedState(image_tokens, word_to_vector)

    @torch.inference_mode()
    def step(self, state: PublishedState, tokens: Int64Array) -> StepOutput:
        new = torch.from_numpy(tokens)
        state.sequences = new if state.sequences is None else torch.cat([state.sequences, new], dim=1)
        embedded = torch.empty(*state.sequences.shape, self._model.architecture.embed_dim, device=self.device)
        for row, sequence in enumerate(state.sequences):
            for place, token in enumerate(sequence):
                embedded[row, place] = state.word_to_vector[int(token)]
        decoder = self._model.decoder
        log_probs, _ = decoder(state.sequences.to(self.device), embedded, decoder.cross_kv(state.image_tokens))
        last = log_probs[:, -tokens.shape[1] :].cpu().numpy()
        return StepOutput(last, last.argmax(-1))

    def close(self) -> None:
        """Nothing to release."""
