"""The network in training: with teacher forcing, and a second loss on the image tower."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.vocab import LabelSet

_PRESENCE = 1 << 31  # above every step number, so that random streams differ


class TeacherForced(nn.Module):
    """The network with teacher forcing and a presence head on the image tower. Checkpoints do not contain the head.

    If the recipe enables it, the presence head predicts all attributes at once from all image tokens. Without it, an
    image tower with random weights learns very slowly: the decoder's attention stays uniform until image tokens carry
    information, and image tokens get no useful gradient while attention is uniform.
    """

    def __init__(self, model: SequencePAR, label_set: LabelSet, *, presence: bool, seed: int) -> None:
        super().__init__()
        self.model, self._phrases = model, label_set.phrases
        architecture = model.architecture
        patches = (architecture.image_tokens - 1) * architecture.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, _PRESENCE))
            self.presence = nn.Linear(patches, architecture.attributes) if presence else None

    def forward(self, images: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities (B, T, V) of each following token, and presence logits (B, n) if enabled."""
        image_tokens = self.model.encode_image(images)
        token_table = self.model.token_table(
            self._phrases
        )  # computed in each step, because the text tower is trained too
        log_probs, _ = self.model.decoder(inputs, token_table[inputs], self.model.decoder.cross_kv(image_tokens))
        return log_probs, None if self.presence is None else self.presence(image_tokens[:, 1:].flatten(1))


def derived_seed(*parts: int) -> int:
    """Return a seed for a combination of numbers, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
