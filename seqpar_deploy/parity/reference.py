"""The reference of the parity gate, which is the checkpoint's outputs on the parity crops, and its form as golden data.

It needs no torch. Without a checkpoint, the golden data in the bundle are the reference.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array, StepOutput
from seqpar_deploy.bundle import GOLDEN, Bundle, Dimensions
from seqpar_deploy.decoding import Beam, Greedy
from seqpar_deploy.errors import BundleFormatError
from seqpar_deploy.parity.crops import ParityCrop
from seqpar_deploy.preprocess import CropBatch, Trimming, batches_by_columns, wrong_columns
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import BOS, EOS, PAD

BATCH = 4  # crops per batch: small, since the reference has no cache and full-size batches need much memory
BEAM = Beam(width=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspect:
    """Hold the log-probabilities (V,) after `<bos>` for one crop under a known mistake."""

    mistake: str
    crop: int
    log_probs: Float32Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Hold the checkpoint's outputs on G prepared crops. Older golden data have only the first three attributes.

    Attributes:
        crops: Prepared crops, whole squares, uint8 (G, H, H, 3).
        tokens: Greedy sequences that start with `<bos>`, int64 (G, C), right-padded.
        log_probs: Log-probabilities of the token after each token but the last, float32 (G, C - 1, V). Only the first
            `lengths[g]` belong to the sequence of crop g.
        beam_tokens: Sequences of beam search with `BEAM`, like `tokens`. Rows without a search are all `<pad>`.
        beam_margins: The smallest score difference by which each search kept or dropped a beam, float32 (G,).
        people: The crops before preprocessing.
        attributes: The names of the tokens from 3 on. Empty for those that the bundle withholds.
        suspects: Outputs for a few crops under each known mistake.
        trimming: How the checkpoint trims crops. Default: None, it reads whole squares.
        columns: Patch columns that the checkpoint reads of each crop, int64 (G,). 0 is the whole square. Default: None,
            0 for all.
        pooled: Mean, maximum and class token of each crop's projected image tokens, float32 (G, 3d). No sequence
            depends on it, but drafts do.
        source: `checkpoint` or `golden data`. Default: `checkpoint`.
    """

    crops: npt.NDArray[np.uint8]
    tokens: Int64Array
    log_probs: Float32Array
    beam_tokens: Int64Array | None = None
    beam_margins: Float32Array | None = None
    people: tuple[ParityCrop, ...] = ()
    attributes: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    trimming: Trimming | None = None
    columns: Int64Array | None = None
    pooled: Float32Array | None = None
    source: str = "checkpoint"

    @property
    def lengths(self) -> Int64Array:
        """The number of tokens generated for each crop, `<eos>` included, int64 (G,)."""
        ended = np.cumsum(self.tokens[:, 1:] == EOS, axis=1) - (self.tokens[:, 1:] == EOS)
        return np.asarray(np.count_nonzero(ended == 0, axis=1), dtype=np.int64)

    @property
    def beamed(self) -> list[int]:
        """The crops that have a beam search."""
        return [] if self.beam_tokens is None else np.flatnonzero(self.beam_tokens[:, 0] == BOS).tolist()

    @property
    def widths(self) -> list[int]:
        """The width of each crop in patch columns, 0 for a whole square of a checkpoint that does not trim."""
        return [0] * len(self.crops) if self.columns is None else self.columns.tolist()

    def batches(self, crops: Sequence[int], size: int) -> list[list[int]]:
        """Group crops into batches of at most `size` with one width each, as a `Recognizer` does."""
        widths = self.widths
        return [[crops[row] for row in rows] for rows in batches_by_columns([widths[crop] for crop in crops], size)]

    def prepared(self, crops: Sequence[int]) -> CropBatch:
        """Return crops of one width as the bundle reads them, uint8 (B, H, W, 3), trimmed as a `Recognizer` does."""
        batch = self.crops[list(crops)]
        if self.trimming is None:
            return batch
        return np.ascontiguousarray(self.trimming.trim(batch, self.widths[crops[0]]))

    def first(self, count: int) -> list[int]:
        """Return the first `count` crops, see `first_of_each_width`."""
        return first_of_each_width(self.widths, count)

    def sequence(self, crop: int) -> tuple[int, ...]:
        """Return a crop's greedy tokens after `<bos>`, with the `<eos>` if there is one."""
        return tuple(self.tokens[crop, 1 : 1 + self.lengths[crop]].tolist())

    def beam(self, crop: int) -> tuple[int, ...]:
        """Return a crop's best beam, like `sequence`."""
        assert self.beam_tokens is not None
        row = self.beam_tokens[crop, 1:]
        return tuple(row[row != PAD].tolist())

    @property
    def kinds(self) -> dict[str, int]:
        """The number of crops of each kind."""
        kinds = [person.kind for person in self.people]
        return {kind: kinds.count(kind) for kind in ("real", "rendered", "adversarial")}

    def name(self, crop: int) -> str:
        return self.people[crop].name if self.people else f"crop {crop}"

    def attribute_names(self, tokens: Sequence[int]) -> list[str]:
        """Return the names of the attributes among these tokens, in token order. Unknown names are numbers.

        Golden data have no names of attributes that the bundle withholds. These are left out.
        """
        named = sorted({token for token in tokens if token > PAD})
        names = [self.attributes[token - PAD - 1] if self.attributes else str(token) for token in named]
        return [name for name in names if name]

    def subset(self, rows: Sequence[int]) -> Reference:
        """Return the reference of these crops only."""
        index = np.asarray(rows, dtype=np.int64)
        places = {crop: place for place, crop in enumerate(rows)}
        return dataclasses.replace(
            self,
            crops=self.crops[index],
            tokens=self.tokens[index],
            log_probs=self.log_probs[index],
            beam_tokens=None if self.beam_tokens is None else self.beam_tokens[index],
            beam_margins=None if self.beam_margins is None else self.beam_margins[index],
            people=tuple(self.people[row] for row in rows) if self.people else (),
            suspects=tuple(
                dataclasses.replace(known, crop=places[known.crop]) for known in self.suspects if known.crop in places
            ),
            columns=None if self.columns is None else self.columns[index],
            pooled=None if self.pooled is None else self.pooled[index],
        )


def first_of_each_width(widths: Sequence[int], count: int) -> list[int]:
    """Return `count` indices, the first ones or, if there are several widths, the first ones of each width in turn."""
    turns = [(list(widths[:row]).count(width), row) for row, width in enumerate(widths)]
    return sorted(row for _, row in sorted(turns)[:count])


def reference_generations(
    backend: Backend[Any],
    crops: npt.NDArray[np.uint8],
    *,
    max_steps: int,
    beams: Sequence[int] = (),
    encode: Callable[[list[int]], Any] | None = None,
    columns: Sequence[int] | None = None,
    batch_size: int = BATCH,
    on_progress: OnProgress | None = None,
) -> Reference:
    """Generate the reference on an eager backend: greedy sequences, their log-probabilities, and beams of some crops.

    `encode` replaces the backend's `encode` for some of the crops, to prepare them in another way. `columns` are the
    crops' widths, so that those of one width form a batch. Default: all have the same.
    """
    encode = encode or (lambda rows: backend.encode(crops[rows]))
    tokens = _no_tokens(len(crops), max_steps)
    tokens[:, 0] = BOS
    log_probs: dict[int, Float32Array] = {}
    pooled: dict[int, Float32Array] = {}
    for rows in _of_one_width(columns or [0] * len(crops), batch_size):
        state = encode(rows)
        if (features := getattr(state, "pooled", None)) is not None:  # not every backend has them
            pooled.update(zip(rows, features, strict=True))
        used_up = copy.deepcopy(state)
        for crop, generation in zip(rows, Greedy().generate(backend, used_up, max_steps=max_steps), strict=True):
            tokens[crop, 1 : 1 + len(generation.tokens)] = generation.tokens
        log_probs.update(zip(rows, backend.step(state, tokens[rows, :-1]).log_probs, strict=True))
        if on_progress:
            on_progress(len(log_probs), len(crops))
    beam_tokens, beam_margins = _no_tokens(len(crops), max_steps), np.zeros(len(crops), np.float32)
    for crop in beams:
        watched: Any = _ClosestChoice(backend)
        (generation,) = BEAM.generate(watched, encode([crop]), max_steps=max_steps)
        beam_tokens[crop, : 1 + len(generation.tokens)] = [BOS, *generation.tokens]
        beam_margins[crop] = watched.margin
    return Reference(
        crops=crops,
        tokens=tokens,
        log_probs=np.stack([log_probs[crop] for crop in range(len(crops))]),
        beam_tokens=beam_tokens,
        beam_margins=beam_margins,
        pooled=np.stack([pooled[crop] for crop in range(len(crops))]) if pooled else None,
    )


def _of_one_width(columns: Sequence[int], size: int) -> list[list[int]]:
    """Group crops into batches. The reference does not use `batches_by_columns`, which the gate tests."""
    batches = []
    for width in sorted(set(columns)):
        rows = [row for row, own in enumerate(columns) if own == width]
        batches += [rows[start : start + size] for start in range(0, len(rows), size)]
    return batches


class _ClosestChoice:
    """Wrap a backend for a beam search on one crop, and track `margin`, the smallest score difference by which a beam
    was kept or dropped."""

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend = backend
        self._sums: Float32Array = np.zeros(1, dtype=np.float32)  # one per beam, best first
        self.margin = float("inf")

    def step(self, state: Any, tokens: Int64Array) -> StepOutput:
        output = self._backend.step(state, tokens)
        sums = self._sums[:, None] + output.log_probs[:, 0]  # (beams, V)
        ranked, going_on = (-np.sort(-some, axis=None) for some in (sums, np.delete(sums, EOS, axis=1)))
        k = BEAM.width
        self.margin = min(self.margin, *(float(scores[k - 1] - scores[k]) for scores in (ranked, going_on)))
        self._sums = going_on[:k]
        return output


def _no_tokens(rows: int, max_steps: int) -> Int64Array:
    return np.full((rows, max_steps + 1), PAD, dtype=np.int64)


def golden_arrays(reference: Reference) -> dict[str, npt.NDArray[Any]]:
    """Convert a reference to plain arrays for `golden.npz`.

    Raw crops have different sizes: `raw_pixels` has all pixels, and `raw_shapes` (G, 2) the heights and widths.
    """
    images = [person.image for person in reference.people]
    arrays: dict[str, npt.NDArray[Any] | None] = {
        "crops": reference.crops,
        "tokens": reference.tokens,
        "log_probs": reference.log_probs,
        "beam_tokens": reference.beam_tokens,
        "beam_margins": reference.beam_margins,
        "raw_pixels": np.concatenate([image.ravel() for image in images]),
        "raw_shapes": np.array([image.shape[:2] for image in images], dtype=np.int64),
        "names": np.array([person.name for person in reference.people]),
        "kinds": np.array([person.kind for person in reference.people]),
        "attributes": np.array(reference.attributes),
        "suspect_names": np.array([known.mistake for known in reference.suspects], dtype=np.str_),
        "suspect_crops": np.array([known.crop for known in reference.suspects], dtype=np.int64),
        "suspect_log_probs": np.array([known.log_probs for known in reference.suspects], dtype=np.float32),
        "widths": None if reference.trimming is None else np.array(reference.trimming.columns, dtype=np.int64),
        "columns": np.array(reference.widths, dtype=np.int64),
        "pooled": reference.pooled,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def reference_from_golden(bundle: Bundle) -> Reference:
    """Read the reference in a bundle's golden data. Parts that older bundles lack are empty.

    Args:
        bundle: The opened bundle.

    Returns:
        The reference, with `source` `golden data`.

    Raises:
        BundleFormatError: The golden data cannot be read, or are malformed.
    """
    try:
        reference = _reference_from_arrays(bundle.golden())
        _check_shapes(reference, bundle.dimensions)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleFormatError(
            f"{bundle.path / GOLDEN} is malformed: {problem}; export the bundle again with seqpar-export"
        ) from None
    return reference


def _check_shapes(reference: Reference, d: Dimensions) -> None:
    rows = len(reference.crops)
    if not rows:
        raise ValueError("it must have crops, got none")
    expected: dict[str, tuple[Any, tuple[int, ...], str]] = {
        "crops": (reference.crops, (rows, d.image_size, d.image_size, 3), "uint8"),
        "tokens": (reference.tokens, (rows, d.capacity), "int64"),
        "log_probs": (reference.log_probs, (rows, d.capacity - 1, d.vocabulary), "float32"),
    }
    if reference.beam_tokens is not None:
        expected["beam_tokens"] = reference.beam_tokens, (rows, d.capacity), "int64"
    if reference.beam_margins is not None:
        expected["beam_margins"] = reference.beam_margins, (rows,), "float32"
    if reference.columns is not None:
        expected["columns"] = reference.columns, (rows,), "int64"
    if reference.pooled is not None:
        expected["pooled"] = reference.pooled, (rows, *reference.pooled.shape[1:2]), "float32"
    for name, (array, shape, dtype) in expected.items():
        if (array.shape, array.dtype.name) != (shape, dtype):
            raise ValueError(f"{name} must be {dtype} {shape}, got {array.dtype.name} {array.shape}")
    for tokens in (reference.tokens, reference.beam_tokens):
        if tokens is not None and not ((tokens >= 0) & (tokens < d.vocabulary)).all():
            raise ValueError(f"tokens must be 0 to {d.vocabulary - 1}, got {tokens.min()} to {tokens.max()}")
    allowed = reference.trimming.columns if reference.trimming else (0,)
    if problem := wrong_columns(allowed if reference.trimming else (), d.grid):
        raise ValueError(f"widths must be {problem}, got {list(allowed)}")
    if wrong := set(reference.widths) - set(allowed):
        raise ValueError(f"columns must be of {list(allowed)}, got {sorted(wrong)}")
    if wrong := {known.crop for known in reference.suspects} - set(range(rows)):
        raise ValueError(f"suspect_crops must be 0 to {rows - 1}, got {sorted(wrong)}")
    if reference.people and len(reference.people) != rows:
        raise ValueError(f"raw crops must be as many as the {rows} prepared ones, got {len(reference.people)}")


def _reference_from_arrays(golden: Mapping[str, npt.NDArray[Any]]) -> Reference:
    people: list[ParityCrop] = []
    if "raw_pixels" in golden:
        ends = np.cumsum([3 * height * width for height, width in golden["raw_shapes"].tolist()])
        pieces = np.split(golden["raw_pixels"], ends[:-1])
        for piece, shape, name, kind in zip(
            pieces, golden["raw_shapes"].tolist(), golden["names"].tolist(), golden["kinds"].tolist(), strict=True
        ):
            people.append(ParityCrop(name=name, kind=kind, image=piece.reshape(*shape, 3)))
    names = golden.get("suspect_names", np.array([], dtype=np.str_)).tolist()
    of_crops = golden.get("suspect_crops", np.zeros(len(names), dtype=np.int64)).tolist()
    suspects = zip(names, of_crops, golden.get("suspect_log_probs", ()), strict=True)
    widths = tuple(golden.get("widths", np.array([], dtype=np.int64)).tolist())
    return Reference(
        crops=golden["crops"],
        tokens=golden["tokens"],
        log_probs=golden["log_probs"],
        beam_tokens=golden.get("beam_tokens"),
        beam_margins=golden.get("beam_margins"),
        people=tuple(people),
        attributes=tuple(str(name) for name in golden.get("attributes", ())),
        suspects=tuple(Suspect(mistake=name, crop=crop, log_probs=log_probs) for name, crop, log_probs in suspects),
        trimming=Trimming(columns=widths, patch_size=golden["crops"].shape[1] // widths[-1]) if widths else None,
        columns=golden.get("columns"),
        pooled=golden.get("pooled"),
        source="golden data",
    )
