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
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import BOS, EOS, PAD

BATCH = 4  # crops per batch: small, since the reference has no cache and full-size batches need much memory
BEAM = Beam(width=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Hold the checkpoint's outputs on G prepared crops. Older golden data have only the first three attributes.

    Attributes:
        crops: Prepared crops, uint8 (G, H, W, 3).
        tokens: Greedy sequences that start with `<bos>`, int64 (G, C), right-padded.
        log_probs: Log-probabilities of the token after each token but the last, float32 (G, C - 1, V). Only the first
            `lengths[g]` belong to the sequence of crop g.
        beam_tokens: Sequences of beam search with `BEAM`, like `tokens`. Rows without a search are all `<pad>`.
        beam_margins: The smallest score difference by which each search kept or dropped a beam, float32 (G,).
        people: The crops before preprocessing.
        attributes: The names of the tokens from 3 on.
        suspects: Log-probabilities (V,) after `<bos>` for the first crop under each known mistake, by description.
        source: `checkpoint` or `golden data`. Default: `checkpoint`.
    """

    crops: npt.NDArray[np.uint8]
    tokens: Int64Array
    log_probs: Float32Array
    beam_tokens: Int64Array | None = None
    beam_margins: Float32Array | None = None
    people: tuple[ParityCrop, ...] = ()
    attributes: tuple[str, ...] = ()
    suspects: Mapping[str, Float32Array] = dataclasses.field(default_factory=dict)
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

    def sequence(self, crop: int) -> tuple[int, ...]:
        """Return a crop's greedy tokens after `<bos>`, with the `<eos>` if there is one."""
        return tuple(self.tokens[crop, 1 : 1 + self.lengths[crop]].tolist())

    def beam(self, crop: int) -> tuple[int, ...]:
        """Return a crop's best beam, like `sequence`."""
        assert self.beam_tokens is not None
        row = self.beam_tokens[crop, 1:]
        return tuple(row[row != PAD].tolist())

    def name(self, crop: int) -> str:
        return self.people[crop].name if self.people else f"crop {crop}"

    def attribute_names(self, tokens: Sequence[int]) -> list[str]:
        """Return the names of the attributes among these tokens, in token order. Unknown names are numbers."""
        named = sorted({token for token in tokens if token > PAD})
        return [self.attributes[token - PAD - 1] if self.attributes else str(token) for token in named]

    def subset(self, rows: Sequence[int]) -> Reference:
        """Return the reference of these crops only. Keep the first crop first, since `suspects` belong to it."""
        index = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            crops=self.crops[index],
            tokens=self.tokens[index],
            log_probs=self.log_probs[index],
            beam_tokens=None if self.beam_tokens is None else self.beam_tokens[index],
            beam_margins=None if self.beam_margins is None else self.beam_margins[index],
            people=tuple(self.people[row] for row in rows) if self.people else (),
        )


def reference_generations(
    backend: Backend[Any],
    crops: npt.NDArray[np.uint8],
    *,
    max_steps: int,
    beams: Sequence[int] = (),
    encode: Callable[[slice], Any] | None = None,
    batch_size: int = BATCH,
    on_progress: OnProgress | None = None,
) -> Reference:
    """Generate the reference on an eager backend: greedy sequences, their log-probabilities, and beams of some crops.

    `encode` replaces the backend's `encode` for a slice of the crops, to prepare them in another way.
    """
    encode = encode or (lambda rows: backend.encode(crops[rows]))
    tokens = _no_tokens(len(crops), max_steps)
    tokens[:, 0] = BOS
    log_probs = []
    for start in range(0, len(crops), batch_size):
        rows = slice(start, min(start + batch_size, len(crops)))
        state = encode(rows)
        used_up = copy.deepcopy(state)
        for crop, generation in enumerate(Greedy().generate(backend, used_up, max_steps=max_steps), start):
            tokens[crop, 1 : 1 + len(generation.tokens)] = generation.tokens
        log_probs.append(backend.step(state, tokens[rows, :-1]).log_probs)
        if on_progress:
            on_progress(rows.stop, len(crops))
    beam_tokens, beam_margins = _no_tokens(len(crops), max_steps), np.zeros(len(crops), np.float32)
    for crop in beams:
        watched: Any = _ClosestChoice(backend)
        (generation,) = BEAM.generate(watched, encode(slice(crop, crop + 1)), max_steps=max_steps)
        beam_tokens[crop, : 1 + len(generation.tokens)] = [BOS, *generation.tokens]
        beam_margins[crop] = watched.margin
    return Reference(
        crops=crops,
        tokens=tokens,
        log_probs=np.concatenate(log_probs),
        beam_tokens=beam_tokens,
        beam_margins=beam_margins,
    )


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
        "suspect_names": np.array(list(reference.suspects), dtype=np.str_),
        "suspect_log_probs": np.array(list(reference.suspects.values()), dtype=np.float32),
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
    for name, (array, shape, dtype) in expected.items():
        if (array.shape, array.dtype.name) != (shape, dtype):
            raise ValueError(f"{name} must be {dtype} {shape}, got {array.dtype.name} {array.shape}")
    for tokens in (reference.tokens, reference.beam_tokens):
        if tokens is not None and not ((tokens >= 0) & (tokens < d.vocabulary)).all():
            raise ValueError(f"tokens must be 0 to {d.vocabulary - 1}, got {tokens.min()} to {tokens.max()}")
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
    suspects = zip(golden.get("suspect_names", ()), golden.get("suspect_log_probs", ()), strict=True)
    return Reference(
        crops=golden["crops"],
        tokens=golden["tokens"],
        log_probs=golden["log_probs"],
        beam_tokens=golden.get("beam_tokens"),
        beam_margins=golden.get("beam_margins"),
        people=tuple(people),
        attributes=tuple(str(name) for name in golden.get("attributes", ())),
        suspects={str(name): log_probs for name, log_probs in suspects},
        source="golden data",
    )
