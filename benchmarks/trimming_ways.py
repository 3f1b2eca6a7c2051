"""Ways to compute less on padding, tried on a checkpoint in eager PyTorch. Part of trimming.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seqpar_deploy.bench.margins import Reference, measure_shifts
from seqpar_deploy.bench.table import Row, format_columns
from seqpar_deploy.datasets import load_dataset
from seqpar_deploy.decoding import Generation, Greedy
from seqpar_deploy.evaluation.generate import attributes_of
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.evaluation.paired import paired_difference
from seqpar_deploy.modeling.eager import CachedEagerBackend, CachedState, normalise
from seqpar_deploy.modeling.load import LoadedNetwork, load_network
from seqpar_deploy.preprocess import Crop, Trimming, batches_by_columns, default_columns, prepare_batch
from seqpar_deploy.progress import OnProgress, Progress
from seqpar_deploy.synth.render import render_person
from seqpar_deploy.vocab import BOS, PAD

SEED, MEANS_SEED = 2000, 4000  # of rendered people: tests, and the means of frozen keys and values
MEANS = 64  # crops
BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to treat the columns of padding.

    Attributes:
        name: Name in the table.
        columns: The allowed widths. None: those of a new model.
        extra: Columns of padding that are kept on each side, beyond the needed ones.
        whole_stem: Whether the stem or patch embedding reads the whole square, and not the trimmed one.
        padding: "drop", "row" (one weighted token per row), "one" (one in all), or "frozen".
    """

    name: str
    columns: tuple[int, ...] | None = None
    extra: int = 0
    whole_stem: bool = False
    padding: str = "drop"


def ways(grid: int) -> list[Way]:
    usual = default_columns(grid)
    return [
        Way(name="all columns", columns=(grid,)),
        Way(name="trimmed"),
        Way(name="trimmed behind the stem", whole_stem=True),
        Way(name="trimmed, one column of padding kept", extra=1),
        *([Way(name="trimmed, two columns of padding kept", extra=2)] if grid > 8 else []),
        Way(name=f"trimmed to {' or '.join(map(str, usual[1:]))}", columns=usual[1:]),
        Way(name="merged, a token per row", padding="row", whole_stem=True),
        Way(name="merged, one token", padding="one", whole_stem=True),
        Way(name="frozen keys and values", padding="frozen", whole_stem=True),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestSet:
    """Crops with labels."""

    name: str
    crops: list[Crop]
    labels: npt.NDArray[np.int8]
    groups: tuple[str, ...] | None


def test_sets(people: Path | None, street: Path | None, most: int) -> list[TestSet]:
    """Return the sets, with at most `most` crops each, evenly spaced."""
    from seqpar_deploy.resources import load_label_set

    sets = []
    for name, table, split in (("real", people, "test"), ("street", street, "held_out")):
        if table:
            data = load_dataset(load_label_set("pa100k"), table, split)
            data = data.subset(np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).astype(np.int64)))
            crops = [data.crop(row) for row in range(len(data))]
            sets.append(TestSet(name=name, crops=crops, labels=data.labels, groups=data.groups))
    drawn = [render_person(SEED, index) for index in range(most)]
    labels = np.array([labels for _, labels in drawn])
    return [*sets, TestSet(name="rendered", crops=[crop for crop, _ in drawn], labels=labels, groups=None)]


class Encoder:
    """The image tower, with each of the ways."""

    def __init__(self, loaded: LoadedNetwork) -> None:
        self.loaded = loaded
        self.tower: Any = loaded.network.clip_model.visual
        self.grid = loaded.network.architecture.grid
        self.patch = loaded.network.architecture.image_size // self.grid
        self.means: dict[int, tuple[list[tuple[Tensor, Tensor]], Tensor]] = {}  # by width: frozen keys and values

    def trimming(self, way: Way) -> Trimming:
        return Trimming(columns=way.columns or default_columns(self.grid), patch_size=self.patch)

    def columns_of(self, crop: Crop, way: Way) -> int:
        """Return the kept columns of a crop. With `extra`, widths are not rounded to those of `columns`."""
        if not way.extra:
            return self.trimming(way).columns_of(crop, self.loaded.label_set.preprocessing)
        every = Trimming(columns=tuple(range(2 - self.grid % 2, self.grid + 1, 2)), patch_size=self.patch)
        needed = every.columns_of(crop, self.loaded.label_set.preprocessing)
        return min(self.grid, max(needed, default_columns(self.grid)[0]) + 2 * way.extra)

    def tokens(self, images: Tensor, columns: int, way: Way) -> Tensor:
        """Return image tokens (B, N, d) of whole squares (B, 3, H, W)."""
        cut = (self.grid - columns) // 2
        if way.whole_stem:
            patches = self.tower.conv1(images)
        else:
            patches = self.tower.conv1(images[..., cut * self.patch : images.shape[3] - cut * self.patch])
        x = self._placed(patches[..., cut : self.grid - cut] if way.whole_stem else patches)
        if way.padding == "drop" or not cut:
            return self._transformer(x) @ self.tower.proj
        if way.padding == "frozen":
            of_layers, last = self.means[columns]
            kept = self._transformer(x, frozen=of_layers)
            return torch.cat([kept, last.expand(len(images), -1, -1)], dim=1) @ self.tower.proj
        padding = self._padding(self._placed(patches), columns)  # (B, rows, dropped, width)
        merged = padding.mean(2) if way.padding == "row" else padding.mean((1, 2))[:, None]
        times = padding[0, ..., 0].numel() // merged.shape[1]
        weights = torch.zeros(x.shape[1] + merged.shape[1])
        weights[x.shape[1] :] = float(np.log(times))
        done = self._transformer(torch.cat([x, merged], dim=1), weights)
        # Tokens that are repeated count as often in the decoder's softmax as those with a weight.
        copies = torch.tensor([1] * x.shape[1] + [times] * merged.shape[1])
        return done.repeat_interleave(copies, dim=1) @ self.tower.proj

    def freeze(self, images: Tensor) -> None:
        """Set the means of the padding's keys, values and last tokens from whole squares, which are as narrow."""
        for columns in default_columns(self.grid)[:-1]:
            of_layers: list[tuple[Tensor, Tensor]] = []
            last = self._transformer(self._placed(self.tower.conv1(images)), keep=of_layers)
            flat = torch.arange(1, 1 + self.grid**2).reshape(1, self.grid, self.grid, 1).float()
            places = self._padding(torch.cat([torch.zeros(1, 1, 1), flat.flatten(1, 2)], dim=1), columns)
            index = places.flatten().long()
            self.means[columns] = (
                [(keys[:, :, index].mean(0), values[:, :, index].mean(0)) for keys, values in of_layers],
                last[:, index].mean(0),
            )

    def _padding(self, tokens: Tensor, columns: int) -> Tensor:
        """Return the tokens of the columns that are left away, (B, rows, dropped columns, width)."""
        cut = (self.grid - columns) // 2
        square = tokens[:, 1:].unflatten(1, (self.grid, self.grid))
        return torch.cat([square[:, :, :cut], square[:, :, self.grid - cut :]], dim=2)

    def _placed(self, patches: Tensor) -> Tensor:
        """Return patches (B, width, rows, columns) with their positions, behind the class token."""
        start = (self.grid - patches.shape[3]) // 2
        positions = self.tower.positional_embedding
        of_patches = positions[1:].unflatten(0, (self.grid, self.grid)).narrow(1, start, patches.shape[3])
        first = (self.tower.class_embedding + positions[0]).expand(len(patches), 1, -1)
        placed = torch.cat([first, patches.flatten(2).transpose(1, 2) + of_patches.flatten(0, 1)], dim=1)
        return self.tower.ln_pre(placed)

    def _transformer(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        frozen: list[tuple[Tensor, Tensor]] | None = None,
        keep: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Run the blocks. `weights` (N,) are added to the scores of the keys. `keep` receives keys and values."""
        for number, block in enumerate(self.tower.transformer.resblocks):
            attention = block.attn
            q, k, v = (
                part.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
                for part in torch.nn.functional.linear(
                    block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias
                ).chunk(3, dim=-1)
            )
            if keep is not None:
                keep.append((k, v))
            if frozen is not None:
                keys, values = (one.expand(len(x), -1, -1, -1) for one in frozen[number])
                k, v = torch.cat([k, keys], dim=2), torch.cat([v, values], dim=2)
            scores = (q * attention.head_dim**-0.5) @ k.transpose(-1, -2)
            if weights is not None:
                scores = scores + weights
            x = x + block.ls_1(attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return x


def measure(
    checkpoint: Path, sets: Sequence[TestSet], progress: Progress, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure every way on every set. `keep` receives the results after each set."""
    loaded = load_network(checkpoint)
    encoder = Encoder(loaded)
    size, preprocessing = loaded.network.architecture.image_size, loaded.label_set.preprocessing
    crops = [render_person(MEANS_SEED, index)[0] for index in range(MEANS)]
    with torch.inference_mode():
        others = prepare_batch(crops, image_size=size, preprocessing=preprocessing)
        encoder.freeze(normalise(torch.from_numpy(others), preprocessing))
        flops = {way.name: _flops(encoder, way) for way in ways(encoder.grid)}
    result: dict[str, Any] = {
        "what": "the checkpoint as it is, with all padding: what each way changes; flops and shares of the crops",
        "checkpoint": loaded.sha256,
        "people": {one.name: len(one.crops) for one in sets},
    }
    rows = []
    for one in sets:
        prepared = prepare_batch(one.crops, image_size=size, preprocessing=preprocessing)
        reference: Reference | None = None
        for way in ways(encoder.grid):
            columns = [encoder.columns_of(crop, way) for crop in one.crops]
            with progress(f"{one.name}: {way.name}") as on_progress:
                found, log_probs, reference = _decode(encoder, way, prepared, columns, reference, on_progress)
            shares = [flops[way.name][width] / flops["all columns"][encoder.grid] for width in columns]
            rows.append(
                {
                    "set": one.name,
                    "way": way.name,
                    "widths": {str(width): columns.count(width) for width in sorted(set(columns))},
                    "flops": float(np.mean(shares)),
                    **_scores(one, found, log_probs, reference, float(np.mean(shares))),
                }
            )
        keep(result | {"rows": rows})
    return result | {"rows": rows}


def _decode(
    encoder: Encoder,
    way: Way,
    prepared: Crop,
    columns: Sequence[int],
    reference: Reference | None,
    on_progress: OnProgress,
) -> tuple[list[Generation], npt.NDArray[np.float32], Reference]:
    """Return greedy sequences, and log-probabilities along the reference's, which the first way becomes."""
    loaded = encoder.loaded
    network, steps = loaded.network, loaded.network.architecture.capacity - 1
    backend = CachedEagerBackend(network, loaded.token_table, loaded.label_set.preprocessing)

    def state_of(cross_kv: Tensor) -> CachedState:
        pairs, crops, heads, _, head_size = cross_kv.shape
        return CachedState(cross_kv.new_zeros(pairs, crops, heads, steps + 1, head_size), cross_kv)

    found: dict[int, Generation] = {}
    sequences = np.full((len(prepared), steps + 1), PAD, dtype=np.int64) if reference is None else reference.sequences
    sequences[:, 0] = BOS
    log_probs = np.empty((len(prepared), steps, network.architecture.vocabulary), dtype=np.float32)
    for rows in batches_by_columns(columns, BATCH):
        images = normalise(torch.from_numpy(prepared[rows]), loaded.label_set.preprocessing)
        with torch.inference_mode():
            cross_kv = network.decoder.cross_kv(encoder.tokens(images, columns[rows[0]], way))
        found |= zip(rows, Greedy().generate(backend, state_of(cross_kv), max_steps=steps), strict=True)
        if reference is None:
            for row in rows:
                sequences[row, 1 : 1 + len(found[row].tokens)] = found[row].tokens
        log_probs[rows] = backend.step(state_of(cross_kv), sequences[rows][:, :-1]).log_probs
        on_progress(len(found), len(prepared))
    generations = [found[row] for row in range(len(prepared))]
    made = Reference(generations=generations, sequences=sequences, log_probs=log_probs)
    return generations, log_probs, reference or made


def _scores(
    one: TestSet, found: list[Generation], log_probs: npt.NDArray[np.float32], reference: Reference, flops: float
) -> dict[str, Any]:
    attributes = one.labels.shape[1]
    before, after = attributes_of(reference.generations, attributes), attributes_of(found, attributes)
    metrics, difference = (
        compute_metrics(after, one.labels),
        paired_difference(before, after, one.labels, groups=one.groups),
    )
    changed = np.array([a.tokens != b.tokens for a, b in zip(found, reference.generations, strict=True)])
    margin = measure_shifts(log_probs, reference).margin
    margins = np.array([generation.margin for generation in found])
    low = margins < margin
    # With as many re-runs as the saved FLOPs pay for, those of the lowest margins: what changes all the same?
    paid = np.argsort(margins, kind="stable")[round(len(found) * (1 - flops)) :]
    return {
        "changed": float(changed.mean()),
        "attributes_changed": float((before != after).any(axis=1).mean()),
        "f1": metrics.f1,
        "ma": metrics.ma,
        "difference": difference.to_dict(),
        "fallback_margin": margin,
        "fallback_share": float(low.mean()),
        "changed_after_fallback": float((changed & ~low).mean()),
        "flops_with_fallback": flops + float(low.mean()),
        "changed_at_break_even": float(changed[paid].sum() / len(found)),
    }


def _flops(encoder: Encoder, way: Way) -> dict[int, int]:
    """Return the encoder's FLOPs per crop, by width. Matrix products and convolutions count."""
    side, counted = encoder.loaded.network.architecture.image_size, {}
    widths = set(default_columns(encoder.grid)) | set(range(2 - encoder.grid % 2, encoder.grid + 1, 2))
    for columns in sorted(widths):
        if way.padding == "frozen" and columns not in {*encoder.means, encoder.grid}:
            continue
        with FlopCounterMode(display=False) as counter:
            encoder.tokens(torch.zeros(1, 3, side, side), columns, way)
        counted[columns] = counter.get_total_flops()
    return counted


def table(values: Mapping[str, Any]) -> str:
    rows: list[Row] = [
        ("", "crops", "FLOPs", "changed", "F1", "difference", "margin", "re-run", "FLOPs then", "changed at 1.0")
    ]
    for row in values["rows"]:
        f1 = row["difference"]["f1"]
        rows.append(
            (
                f"{row['set']}: {row['way']}",
                str(values["people"][row["set"]]),
                f"{row['flops']:.2f}",
                f"{row['changed']:.1%}",
                f"{row['f1']:.4f}",
                f"{f1['value']:+.4f} ({f1['low']:+.4f} to {f1['high']:+.4f})",
                f"{row['fallback_margin']:.2f}",
                f"{row['fallback_share']:.1%}",
                f"{row['flops_with_fallback']:.2f}",
                f"{row['changed_at_break_even']:.1%}",
            )
        )
    return format_columns(rows)
