"""The SequencePAR network, which generates pedestrian attributes as a sequence (arXiv 2312.01640).

    crops ── CLIP image tower ── image tokens ──┐ keys and values
                                                │
    <bos> hat jeans ── token table ── decoder: masked self-attention, cross-attention, feed-forward, x L ── next token
                          │
    phrases ── CLIP text tower

Module names follow the published code (Event-AHU/OpenPAR), so its state dicts load unchanged. Training, the eager
reference and the export share one decoder: it reads whole sequences without a cache, and continues them with one.

Shapes: B rows, T tokens per row, N image tokens, C cache slots, V vocabulary, L layers, d model width, h heads of k
channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.vocab import PAD

# Far below any attention score, but finite in FP32, so that a row with all keys masked does not become NaN.
_MASKED = -1e9


class SequencePAR(nn.Module):
    """The whole network. `forward` is for teacher forcing. `decoder` continues sequences with a cache."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        d = architecture.embed_dim
        # With pool_type "none", open_clip's tower returns all tokens, projected.
        vision = {**architecture.vision, "pool_type": "none", "output_tokens": False}
        self.clip_model = open_clip.CLIP(d, vision, dict(architecture.text), quick_gelu=architecture.quick_gelu)
        self.clip_model.visual.__class__ = ImageTower
        self.clip_model.visual.ln_post = nn.Identity()  # in the checkpoint, but not applied by the published model
        if architecture.stem:
            self.clip_model.visual.conv1 = convolutional_stem(
                *architecture.stem, self.clip_model.visual.conv1.out_channels
            )
        self.decoder = Decoder(architecture)
        self.bos_embedding = nn.Parameter(torch.ones(1, d), requires_grad=False)
        self.eos_embedding = nn.Parameter(-torch.ones(1, d), requires_grad=False)
        self.pad_embedding = nn.Parameter(torch.zeros(1, d), requires_grad=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, H, W) to image tokens (B, N, d), class token first.

        W is a whole number of patches: of the square, or of its middle columns if the images are trimmed.
        """
        return self.clip_model.encode_image(images)

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """Encode attribute phrases to text features (n, d), not normalised."""
        ids = open_clip.tokenize(list(phrases), context_length=self.clip_model.context_length)
        return self.clip_model.encode_text(ids.to(self.bos_embedding.device))

    def token_table(self, phrases: Sequence[str]) -> Tensor:
        """Return the embedding of every token id, (V, d). It is constant after training."""
        special = [self.bos_embedding, self.eos_embedding, self.pad_embedding]
        return torch.cat([*special, self.encode_phrases(phrases)])

    def forward(self, images: Tensor, tokens: Tensor, token_table: Tensor) -> Tensor:
        """Return the log-probabilities (B, T, V) of the token that follows each of the tokens (B, T)."""
        cross_kv = self.decoder.cross_kv(self.encode_image(images))
        return self.decoder(tokens, token_table[tokens], cross_kv)[0]


class ImageTower(VisionTransformer):  # type: ignore[misc]  # open_clip has no types
    """open_clip's image tower, which also reads the middle columns of a square: each patch keeps its position."""

    def _embeds(self, images: Tensor) -> Tensor:
        return self._placed(self.conv1(images))

    def tokens(self, patches: Tensor) -> Tensor:
        """Return image tokens (B, N, d) of patch embeddings (B, width, rows, columns), the outputs of `conv1`."""
        _, tokens = self._pool(self.transformer(self._placed(patches)))
        return tokens @ self.proj

    def _placed(self, patches: Tensor) -> Tensor:
        columns = patches.shape[3]
        start = (self.grid_size[1] - columns) // 2
        positions = self.positional_embedding.to(patches.dtype)  # (1 + rows * whole, width)
        of_patches = positions[1:].unflatten(0, self.grid_size).narrow(1, start, columns)
        tokens = torch.cat(
            [
                (self.class_embedding.to(patches.dtype) + positions[0]).expand(patches.shape[0], 1, -1),
                patches.flatten(2).transpose(1, 2) + of_patches.flatten(0, 1),
            ],
            dim=1,
        )
        embedded: Tensor = self.ln_pre(self.patch_dropout(tokens))
        return embedded


def convolutional_stem(*channels: int) -> nn.Sequential:
    """Return convolutions that compute patch embeddings (B, width, H / p, W / p), in place of one of stride p.

    Each halves the sides. Small networks with random initial weights learn many times faster with it (Xiao et al.,
    Early Convolutions Help Transformers See Better, arXiv 2106.14881). The published model has none.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((3, *channels), channels)):  # noqa: B905
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if 0 < number < len(channels) - 1:  # not at the finest scale, which costs most, and not before the tower
            layers.append(ResidualConvolutions(after))
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], channels[-1], 1, bias=False))


class ResidualConvolutions(nn.Module):
    """ReLU(x + two convolutions of x), over (B, c, H, W)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Decoder(nn.Module):
    """Masked Transformer decoder, post-norm, with a fixed sinusoid position table."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        # Row 0 is for <pad>. The token at step t uses row t + 1.
        table = sinusoid_table(architecture.capacity + 1, architecture.embed_dim)
        self.pos_emb = nn.Embedding.from_pretrained(table, freeze=True)
        self.layers = nn.ModuleList(DecoderLayer(architecture) for _ in range(architecture.layers))
        self.fc = nn.Linear(architecture.embed_dim, architecture.vocabulary, bias=False)

    def decoder_layers(self) -> list[DecoderLayer]:
        """`layers`, typed."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def cross_kv(self, image_tokens: Tensor) -> Tensor:
        """Return each layer's cross-attention keys and values (2L, B, h, N, k) of image tokens (B, N, d)."""
        pairs = [layer.enc_att.attention.keys_values(image_tokens) for layer in self.decoder_layers()]
        return torch.stack([half for pair in pairs for half in pair])

    def forward(
        self,
        tokens: Tensor,
        embedded: Tensor,
        cross_kv: Tensor,
        self_kv: Tensor | None = None,
        position: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read tokens. Without a cache they are whole sequences that start with `<bos>`.

        Args:
            tokens: Token ids (B, T).
            embedded: Their embeddings (B, T, d).
            cross_kv: Keys and values of the image tokens (2L, B, h, N, k).
            self_kv: The cache: keys and values of earlier tokens (2L, B, h, C, k). Default: none.
            position: Earlier tokens per row (B,). Cache slots from there on are ignored. Required with `self_kv`.

        Returns:
            Log-probabilities (B, T, V) in float32, and keys and values of the new tokens (2L, B, h, T, k).
        """
        # Uses `<`, `>` and sums, which ONNX Runtime has long had on CUDA. Before version 1.27, Equal and ReduceMax run
        # on the CPU, and each step waits for copies in both directions (microsoft/onnxruntime#27754).
        real = (tokens < PAD) | (tokens > PAD)  # (B, T)
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)  # (T,)
        rows = steps if position is None else position[:, None] + steps  # (T,) or (B, T)
        x = embedded + self.pos_emb(torch.where(real, rows, 0))  # (B, T, d)

        visible = (steps <= steps[:, None]) & real[:, None, :]  # (B, T, T): earlier or same, and not <pad>
        if self_kv is not None:
            assert position is not None
            slots = torch.arange(self_kv.shape[3], device=tokens.device)  # (C,)
            # A <pad> leaves an all-zero key, so that later steps can ignore it. Keys of other tokens have biases.
            written = ~(self_kv[0][:, 0].abs().float().sum(-1) <= 0)  # (B, C); NaN counts as written
            cached = (slots < position[:, None]) & written  # (B, C)
            cached = cached[:, None, :].expand(-1, tokens.shape[1], -1)  # (B, T, C)
            visible = torch.cat([cached, visible], dim=-1)  # (B, T, C + T)

        new_kv = []
        kept = real[..., None].to(x.dtype)  # (B, T, 1): 0 for <pad>, 1 for the rest
        for i, layer in enumerate(self.layers):
            past = None if self_kv is None else (self_kv[2 * i], self_kv[2 * i + 1])
            cross = (cross_kv[2 * i], cross_kv[2 * i + 1])
            x, keys_values = layer(x, cross, kept, visible[:, None], past)
            new_kv.extend(keys_values)
        # The published decoder zeroes rows of <pad> after each sublayer. Their keys are masked, so once is enough.
        logits = self.fc((x * kept).to(self.fc.weight.dtype)).float()
        # One concatenation along the heads, since a stack costs another operation per tensor in each step.
        joined = torch.cat(new_kv, dim=1).unflatten(1, (len(new_kv), -1)).transpose(0, 1)  # (2L, B, h, T, k)
        return F.log_softmax(logits, dim=-1), joined


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward. Keys of `<pad>` tokens are all zero."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.self_att = ResidualAttention(architecture)
        self.enc_att = ResidualAttention(architecture)
        self.pwff = FeedForward(architecture.embed_dim, architecture.ffn)

    def forward(
        self,
        x: Tensor,  # (B, T, d)
        cross: tuple[Tensor, Tensor],  # keys, values (B, h, N, k)
        real: Tensor,  # (B, T, 1): 0 for <pad>, 1 for the rest
        visible: Tensor,  # (B, 1, T, T or C + T)
        past: tuple[Tensor, Tensor] | None,  # keys, values (B, h, C, k)
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        queries, keys, values = self.self_att.attention.queries_keys_values(x)  # (B, h, T, k)
        new_kv = keys * real[:, None], values
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = self.self_att(x, queries, (keys, values), visible)
        x = self.enc_att(x, self.enc_att.attention.queries(x), cross)
        return self.pwff(x), new_kv


class ResidualAttention(nn.Module):
    """LN(x + attention)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.attention = Attention(architecture.embed_dim, architecture.heads, architecture.head_size)
        self.dropout = nn.Dropout(0.1)
        self.layer_norm = LayerNorm(architecture.embed_dim)

    def forward(
        self, x: Tensor, queries: Tensor, keys_values: tuple[Tensor, Tensor], visible: Tensor | None = None
    ) -> Tensor:
        return self.layer_norm(x + self.dropout(self.attention(queries, keys_values, visible)))


class Attention(nn.Module):
    """Multi-head attention with an inner width h * k that may differ from the model's width d."""

    def __init__(self, d: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        inner = heads * head_size
        self.fc_q, self.fc_k, self.fc_v = nn.Linear(d, inner), nn.Linear(d, inner), nn.Linear(d, inner)
        self.fc_o = nn.Linear(inner, d)
        for linear in (self.fc_q, self.fc_k, self.fc_v, self.fc_o):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def queries(self, x: Tensor) -> Tensor:
        """Return the scaled queries (B, h, T, k) of x (B, T, d)."""
        return self.split(self.fc_q(x)) * (1 / math.sqrt(self.head_size))  # scaled first to stay in FP16's range

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, h, T, k) of x (B, T, d)."""
        return self.split(self.fc_k(x)), self.split(self.fc_v(x))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scaled queries, the keys and the values (B, h, T, k) of x (B, T, d)."""
        return self.queries(x), *self.keys_values(x)

    def forward(self, queries: Tensor, keys_values: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        keys, values = keys_values
        scores = (queries @ keys.transpose(-1, -2)).float()  # (B, h, T, keys)
        if visible is not None:
            scores = torch.where(visible, scores, _MASKED)
        attended = scores.softmax(-1).to(values.dtype) @ values  # (B, h, T, k)
        return self.fc_o(attended.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """Split the channels of x (B, T, m * k) into m heads: (B, m, T, k)."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class FeedForward(nn.Module):
    """LN(x + W2 gelu(W1 x)), with the exact (erf) GELU."""

    def __init__(self, d: int, ffn: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.dropout, self.dropout_2 = nn.Dropout(0.1), nn.Dropout(0.1)
        self.layer_norm = LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc2(self.dropout_2(F.gelu(self.fc1(x))))
        return self.layer_norm(x + self.dropout(out))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 for all model types, since squares of FP16 activations overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


def sinusoid_table(rows: int, d: int) -> Tensor:
    """Return fixed position embeddings (rows, d): even columns sin(p / 10000^(2i/d)), odd ones cos, row 0 zero."""
    position = torch.arange(rows, dtype=torch.float32)[:, None]
    angle = position / 10000 ** (2 * torch.arange(d // 2, dtype=torch.float32) / d)
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    table[0] = 0
    return table
