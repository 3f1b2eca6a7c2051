"""The network in training: with teacher forcing, crops of several widths, and a second loss on the image tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqpar_deploy.modeling.sequencepar import ImageTower, ResidualConvolutions, SequencePAR
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

    def forward(self, images: Tensor, inputs: Tensor, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read images (B, 3, H, W) as trimmed to `columns` (B,) patch columns each, or as they are if it is 0.

        Returns:
            Log-probabilities (B, T, V) of the token after each of `inputs` (B, T), and presence logits (B, n) if
                enabled.
        """
        # The token table is computed in each step, because the text tower is trained too.
        token_table = self.model.token_table(self._phrases)
        widths = sorted(set(columns.tolist()))
        groups = [torch.nonzero(columns == width).flatten().to(images.device) for width in widths]
        if trimming := self.model.architecture.trimming:
            cuts = [(trimming.columns[-1] - width) // 2 * trimming.patch_size for width in widths]
            trimmed = [images[rows, :, :, cut : images.shape[3] - cut] for rows, cut in zip(groups, cuts, strict=True)]
            tower = self.model.clip_model.visual
            assert isinstance(tower, ImageTower)
            image_tokens = [tower.tokens(patches) for patches in _together(tower.conv1, trimmed)]
        else:
            image_tokens = [self.model.encode_image(images)]
        decoder = self.model.decoder
        log_probs = [
            decoder(inputs[rows], token_table[inputs[rows]], decoder.cross_kv(tokens))[0]
            for rows, tokens in zip(groups, image_tokens, strict=True)
        ]
        order = torch.argsort(torch.cat(groups))
        if self.presence is None:
            return torch.cat(log_probs)[order], None
        return torch.cat(log_probs)[order], self.presence(torch.cat(list(map(self._grid, image_tokens)))[order])

    def _grid(self, image_tokens: Tensor) -> Tensor:
        """Return the patches of image tokens (B, N, d), flat, in their places on a whole square of zeros."""
        grid = self.model.architecture.grid
        patches = image_tokens[:, 1:].unflatten(1, (grid, -1))  # (B, rows, columns, d)
        beside = (grid - patches.shape[2]) // 2
        return F.pad(patches, (0, 0, beside, beside)).flatten(1)


def _together(stem: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Apply a stem to images of several widths, with batch statistics of all pixels, as of one batch."""
    if isinstance(stem, nn.Sequential):
        found = list(images)
        for layer in stem:
            found = _together(layer, found)
        return found
    if isinstance(stem, ResidualConvolutions):
        return [F.relu(x + changed) for x, changed in zip(images, _together(stem.body, images), strict=True)]
    if isinstance(stem, nn.BatchNorm2d):
        pixels = torch.cat([x.transpose(0, 1).flatten(1) for x in images], dim=1)  # (c, pixels)
        parts = stem(pixels[None, :, :, None])[0, :, :, 0].split([x.numel() // x.shape[1] for x in images], dim=1)
        shapes = [(x.shape[1], x.shape[0], *x.shape[2:]) for x in images]
        return [part.view(shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)]
    return [stem(x) for x in images]


def derived_seed(*parts: int) -> int:
    """Return a seed for a combination of numbers, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
