"""Bundles: the folders that hold all files an edge device needs to run a model, without PyTorch.

    manifest.json   encoder.onnx (+ .data)   decoder_step.onnx (+ .data)   golden.npz   model_card.md
    encoder_int8.onnx, decoder_step_int8.onnx (+ .data), draft.npz, if the recipe includes them
    decoder_step_host.onnx, decoder_step_int8_host.onnx: the decoder steps for CPUs, with the weights of the others

The manifest lists the files that `export` wrote, with sizes and hashes. Files made later are never added, so the
SHA-256 of the manifest (the digest) identifies the bundle in engines, tuning results and checks. `Bundle.open` checks
the manifest's form, the SHA-256 of every file, and the external-data paths in the ONNX graphs before any runtime reads
them. `bundle_files.py` has these checks.

Bundles are written in format 2, or 3 if they withhold attributes. Format 1 opens read-only: full padding, no draft, no
calibration.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.bundle_files import cache_dir, check_files, plain_folder, read_manifest
from seqpar_deploy.config import NotNegative, Positive, parse_json, typed
from seqpar_deploy.errors import BundleError, BundleFormatError
from seqpar_deploy.files import new_folder, sha256_of
from seqpar_deploy.preprocess import Preprocessing, Trimming, wrong_columns
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, SPECIAL_TOKENS, LabelSet

FORMAT = 2
WITHHOLDING = 3  # written for bundles that withhold attributes, so that earlier versions of the package refuse them
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
DECODER_STEP = "decoder_step.onnx"
INT8_ENCODER = "encoder_int8.onnx"
INT8_DECODER_STEP = "decoder_step_int8.onnx"
HOST_DECODER_STEP = "decoder_step_host.onnx"
INT8_HOST_DECODER_STEP = "decoder_step_int8_host.onnx"
GRAPHS = (ENCODER, DECODER_STEP, HOST_DECODER_STEP, INT8_ENCODER, INT8_DECODER_STEP, INT8_HOST_DECODER_STEP)
GOLDEN = "golden.npz"
MODEL_CARD = "model_card.md"
DRAFT = "draft.npz"  # optional

# Sidecars: made after export, on some machine or data, and never in the manifest (`sidecars.py`).
CALIBRATION = "calibration.json"
TUNED_DRAFT = "draft.tuned.npz"
TUNED = "tuned.json"
VERIFIED = "verified.json"
ENGINES = "engines"  # a folder

Precision = Literal["fp32", "fp16"]
Padding = Literal["full", "trimmed"]
_EXPORT_AGAIN = "export the bundle again with seqpar-export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Describe the sizes of one model's graphs.

    Attributes:
        image_size: Pixels per side of a prepared crop, before trimming.
        image_tokens: N, image tokens per crop that is not trimmed: the class token and the patches.
        layers: L, decoder layers.
        heads: Attention heads per decoder layer.
        head_size: Channels per head.
        capacity: C = n + 1 for n attributes: tokens per row of the cache, `<bos>` included.
        vocabulary: V = n + 3: the attributes and the three special tokens.
    """

    image_size: Positive
    image_tokens: Positive
    layers: Positive
    heads: Positive
    head_size: Positive
    capacity: Positive
    vocabulary: Positive

    @property
    def grid(self) -> int:
        """Patches per side of a prepared crop."""
        return math.isqrt(self.image_tokens - 1)

    @property
    def patch_size(self) -> int:
        """Pixels per side of a patch."""
        return self.image_size // self.grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Describe the batch sizes that an engine is built for, in crops per batch.

    Attributes:
        min: The smallest batch. Default: 1.
        opt: The batch size that the engine is tuned for. Default: 8.
        max: The largest batch. Default: 32.
    """

    min: Positive = 1
    opt: Positive = 8
    max: Positive = 32

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch sizes must be min <= opt <= max, got {self.min}, {self.opt}, {self.max}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Describe one file in a bundle's manifest: its size in bytes and its SHA-256 in hexadecimal."""

    bytes: NotNegative
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Manifest:
    """The parts of a manifest that opening a bundle needs."""

    label_set: LabelSet
    dimensions: Dimensions
    precision: Precision
    batches: tuple[BatchProfile, ...]
    special_tokens: dict[str, int]
    files: dict[str, FileEntry]
    padding: Padding = "full"
    columns: tuple[Positive, ...] | None = None
    withheld: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, d = len(self.label_set), self.dimensions
        if self.special_tokens != SPECIAL_TOKENS:
            raise ValueError(f"special_tokens must be {SPECIAL_TOKENS}, got {self.special_tokens}")
        if d.vocabulary != n + FIRST_ATTRIBUTE:
            raise ValueError(f"dimensions.vocabulary must be {n} attributes + 3, got {d.vocabulary}")
        if d.capacity != n + 1:
            raise ValueError(f"dimensions.capacity must be {n} attributes + 1, got {d.capacity}")
        if not self.batches:
            raise ValueError("batches must have one profile or more, got none")
        if (self.padding == "trimmed") != bool(self.columns):
            raise ValueError(f"columns must be given if padding is 'trimmed', and only then, got {self.columns}")
        if self.columns and (problem := wrong_columns(self.columns, d.grid)):
            raise ValueError(f"columns must be {problem}, got {list(self.columns)}")
        names = {attribute.name for attribute in self.label_set.attributes}
        if unknown := [name for name in self.withheld if name not in names]:
            raise ValueError(f"withheld must be attributes of the label set, got {unknown[0]!r}")
        if names == set(self.withheld):
            raise ValueError("withheld must leave one attribute or more, got all of them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """Hold an opened bundle: its path, manifest, label set and sizes. Open one with `Bundle.open`.

    Attributes:
        path: The bundle's folder.
        manifest: The values of `manifest.json`.
        label_set: The attributes that the model recognises, in token order, the withheld ones too.
        dimensions: The sizes of the graphs.
        precision: The precision of the graphs, `fp32` or `fp16`.
        batches: The batch profiles that engines are built for.
        padding: How the model reads crops: `full` with all the padding of the square, or `trimmed` to the patch columns
            that the person covers. Default: `full`.
        columns: For `trimmed`, the allowed widths in patch columns, ascending. Default: None.
        withheld: Names of attributes that no prediction may show, in token order. Default: none.
    """

    path: Path
    manifest: Mapping[str, Any]
    label_set: LabelSet
    dimensions: Dimensions
    precision: Precision
    batches: tuple[BatchProfile, ...]
    padding: Padding = "full"
    columns: tuple[int, ...] | None = None
    withheld: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """Open a bundle and check its files.

        Args:
            path: The bundle's folder.
            verify: Check the SHA-256 of every file, which takes about one second per GB. Default: True. With False,
                only sizes are checked, and the SHA-256 of files that are links out of the folder.

        Returns:
            The opened bundle.

        Raises:
            BundleFormatError: The folder has no manifest, or one that is malformed or newer than this package.
            BundleIntegrityError: A file does not match the manifest.

        Examples:
            >>> bundle = Bundle.open("bundles/peta")
            >>> bundle.precision, len(bundle.label_set)
            ('fp32', 35)
        """
        path = Path(path)
        if not path.is_dir():
            if path.exists():
                raise BundleFormatError(f"{path} must be a bundle folder, got a file; pass the folder that holds it")
            raise BundleFormatError(f"{path} does not exist; make a bundle with seqpar-export")
        file = path / MANIFEST
        manifest = parse_json(read_manifest(file), source=str(file), error=BundleFormatError)
        bundle = cls.from_manifest(path, manifest)
        if not {ENCODER, DECODER_STEP, GOLDEN} <= set(manifest["files"]):
            raise BundleFormatError(f"{file}: files must list {ENCODER}, {DECODER_STEP} and {GOLDEN}; {_EXPORT_AGAIN}")
        check_files(path, manifest["files"], source=file, graphs=GRAPHS, verify=verify)
        return bundle

    @classmethod
    def from_manifest(cls, path: Path, manifest: Mapping[str, Any]) -> Bundle:
        """Make a bundle from its manifest's values, without checking its files.

        The export uses this to compare its graphs with the checkpoint before it writes `manifest.json`.

        Args:
            path: The bundle's folder.
            manifest: The values of `manifest.json`.

        Returns:
            The bundle.

        Raises:
            BundleFormatError: The manifest is malformed or newer than this package.
        """
        source = str(path / MANIFEST)
        number = manifest.get("format")
        if type(number) is not int or number < 1:
            raise BundleFormatError(f"{source}: format must be 1 to {WITHHOLDING}, got {number!r}; {_EXPORT_AGAIN}")
        if number > WITHHOLDING:
            raise BundleFormatError(
                f"{source}: format must be 1 to {WITHHOLDING}, got {number}; update seqpar-deploy to open newer bundles"
            )
        known = {key: value for key, value in manifest.items() if number > 1 or key not in ("padding", "columns")}
        values = typed(known, _Manifest, source=source, error=BundleFormatError, hint=_EXPORT_AGAIN)
        return cls(
            path=path,
            manifest=manifest,
            label_set=values.label_set,
            dimensions=values.dimensions,
            precision=values.precision,
            batches=values.batches,
            padding=values.padding,
            columns=values.columns,
            withheld=values.withheld,
        )

    @functools.cached_property
    def shown(self) -> LabelSet:
        """The label set of predictions: without the withheld attributes."""
        return self.label_set.without(self.withheld) if self.withheld else self.label_set

    @functools.cached_property
    def _graphs(self) -> Path:
        """The folder to open graphs from: `path`, or if files of the bundle are links, a temporary one without."""
        names = [name for name in self.manifest.get("files", {}) if name not in (GOLDEN, MODEL_CARD)]
        return plain_folder(self.path, names, cache=cache_dir(), owner=self)

    @property
    def encoder(self) -> Path:
        """Path of the encoder's ONNX graph. It is in a temporary folder if files of the bundle are links."""
        return self._graphs / ENCODER

    @property
    def decoder_step(self) -> Path:
        """Path of the decoder step's ONNX graph. It is in a temporary folder if files of the bundle are links."""
        return self._graphs / DECODER_STEP

    @property
    def has_int8(self) -> bool:
        """Whether the bundle also has the faster graphs with 8-bit weights."""
        return {INT8_ENCODER, INT8_DECODER_STEP} <= set(self.manifest.get("files", {}))

    @property
    def int8_encoder(self) -> Path:
        """Path of the 8-bit encoder graph. The file exists if `has_int8`."""
        return self._graphs / INT8_ENCODER

    @property
    def int8_decoder_step(self) -> Path:
        """Path of the 8-bit decoder step graph. The file exists if `has_int8`."""
        return self._graphs / INT8_DECODER_STEP

    @property
    def has_pooled(self) -> bool:
        """Whether the encoder also returns `pooled`. That of format 1 does not."""
        outputs = self.manifest.get("graphs", {}).get("encoder", {}).get("outputs", ())
        return any(output["name"] == "pooled" for output in outputs)

    @property
    def reads_any_width(self) -> bool:
        """Whether the encoder also reads trimmed crops. That of earlier bundles reads whole squares only."""
        inputs = self.manifest.get("graphs", {}).get("encoder", {}).get("inputs", ())
        return any(one["name"] == "crops" and one["shape"][2] == "W" for one in inputs)

    @property
    def max_batch(self) -> int:
        """The largest batch of any profile, in rows."""
        return max(batch.max for batch in self.batches)

    @property
    def preprocessing(self) -> Preprocessing:
        """How crops are padded, resized and normalised. It is part of the label set."""
        return self.label_set.preprocessing

    @property
    def trimming(self) -> Trimming | None:
        """How crops are trimmed, or None if the model reads them with all their padding."""
        return Trimming(columns=self.columns, patch_size=self.dimensions.patch_size) if self.columns else None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, in hexadecimal. It identifies the bundle: the manifest has every file's SHA-256."""
        return sha256_of(self.path / MANIFEST)

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """Read the checkpoint's outputs on the golden crops: real crops first, then rendered and adversarial ones.

        Returns:
            Arrays by name. `crops` is uint8 (G, H, W, 3), prepared. `tokens` is int64 (G, C): greedy, starting with
                `<bos>`, right-padded. `log_probs` is float32 (G, C - 1, V): the step that follows each token. Bundles
                made since the parity gate have more, listed in `parity/reference.py`, for example `kinds` (G,).

        Raises:
            BundleFormatError: `golden.npz` cannot be read.
        """
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # NumPy raises BadZipFile, zlib.error, TokenError, MemoryError and others for damage
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
            raise BundleFormatError(
                f"{self.path / GOLDEN} cannot be read: {reason}; copy the bundle again, or {_EXPORT_AGAIN}"
            ) from None


def new_bundle_dir(out: Path, *, overwrite: bool = False) -> AbstractContextManager[Path]:
    """Yield a folder to write a bundle into. It becomes `out` if the block succeeds, and is removed if it fails.

    Args:
        out: The bundle's folder.
        overwrite: Replace a bundle at `out`. Default: False.

    Raises:
        BundleError: `out` exists and may not be replaced, or cannot be written.
    """
    return new_folder(out, marker=MANIFEST, overwrite=overwrite, error=BundleError)


def file_entries(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries for these files: bytes and SHA-256."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `manifest.json`. `values["files"]` lists the bundle's files, as `file_entries` returns them."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
