"""A bundle: the folder that holds everything an edge device needs, and nothing of PyTorch.

    manifest.json   encoder.onnx (+ .data)   decoder_step.onnx (+ .data)   golden.npz   model_card.md
    encoder_int8.onnx, decoder_step_int8.onnx (+ .data), if the recipe asks for them

The manifest lists what `export` wrote, with sizes and hashes, and nothing that is made later: its SHA-256, the
digest, names the bundle to engines, tuning and checks. `Bundle.open` trusts nothing: the manifest's form, the SHA-256
of every file, and the places where the ONNX graphs look for their weights are checked before a runtime sees any of it.

Format 1 opens too, read-only: full padding, no draft, no calibration. What is written is format 2.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.config import NotNegative, Positive, parse_json, typed
from seqpar_deploy.errors import BundleError, BundleFormatError, BundleIntegrityError
from seqpar_deploy.files import new_folder, sha256_of
from seqpar_deploy.onnx_file import external_data_locations
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, SPECIAL_TOKENS, LabelSet

FORMAT = 2
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
DECODER_STEP = "decoder_step.onnx"
INT8_ENCODER = "encoder_int8.onnx"
INT8_DECODER_STEP = "decoder_step_int8.onnx"
GOLDEN = "golden.npz"
MODEL_CARD = "model_card.md"

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
    """The sizes of one model's graphs."""

    image_size: Positive  # pixels per side of the encoder's input
    image_tokens: Positive  # N: class token and patches
    layers: Positive  # L: decoder layers
    heads: Positive  # attention heads of the decoder
    head_size: Positive  # channels per head
    capacity: Positive  # C = n + 1: tokens a row's cache holds, `<bos>` included
    vocabulary: Positive  # V = n + 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Crops per batch: the fewest, the usual and the most that an engine is tuned for."""

    min: Positive = 1
    opt: Positive = 8
    max: Positive = 32

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"min <= opt <= max must hold, got {self.min}, {self.opt}, {self.max}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle as its manifest lists it."""

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

    def __post_init__(self) -> None:
        n, d = len(self.label_set), self.dimensions
        if self.special_tokens != SPECIAL_TOKENS:
            raise ValueError(f"special_tokens must be {SPECIAL_TOKENS}, got {self.special_tokens}")
        if d.vocabulary != n + FIRST_ATTRIBUTE:
            raise ValueError(f"dimensions.vocabulary must be {n} attributes + 3, got {d.vocabulary}")
        if d.capacity != n + 1:
            raise ValueError(f"dimensions.capacity must be {n} attributes + 1, got {d.capacity}")
        if not self.batches:
            raise ValueError("batches must be one or more, got none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle. `manifest` is the JSON as it stands in the file.

    `padding` says what the model was made for: crops padded to squares (`full`), or `trimmed` to the patch columns
    that the person covers, in one of the widths `columns`; None allows any width.
    """

    path: Path
    manifest: Mapping[str, Any]
    label_set: LabelSet
    dimensions: Dimensions
    precision: Precision
    batches: tuple[BatchProfile, ...]
    padding: Padding = "full"
    columns: tuple[int, ...] | None = None

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """Read and check a bundle.

        Args:
            path: The bundle's folder.
            verify: Check the hashes too, which takes about a second per gigabyte.

        Raises:
            BundleFormatError: the folder holds no manifest, or one that is malformed or newer than this package.
            BundleIntegrityError: a file is not the one the manifest lists.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise BundleFormatError(f"{path} {what}, wanted a bundle folder; make one with seqpar-export")
        file = path / MANIFEST
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise BundleFormatError(f"{path} holds no {MANIFEST}, so it is no bundle; {_EXPORT_AGAIN}") from None
        except OSError as error:
            raise BundleFormatError(f"{file} cannot be read: {error.strerror}; {_EXPORT_AGAIN}") from None
        manifest = parse_json(content, source=str(file), error=BundleFormatError)
        bundle = cls.from_manifest(path, manifest)
        _check_files(path, manifest["files"], verify=verify)
        return bundle

    @classmethod
    def from_manifest(cls, path: Path, manifest: Mapping[str, Any]) -> Bundle:
        """A bundle in the folder `path` from its manifest's values; the files are not looked at.

        Export compares its graphs with the checkpoint this way, before there is a `manifest.json`.

        Raises:
            BundleFormatError: the manifest is malformed or newer than this package.
        """
        source = str(path / MANIFEST)
        number = manifest.get("format")
        if type(number) is not int or number < 1:
            raise BundleFormatError(f"{source}: format must be 1 to {FORMAT}, got {number!r}; {_EXPORT_AGAIN}")
        if number > FORMAT:
            raise BundleFormatError(
                f"{source} has format {number}, this package reads up to {FORMAT}; update seqpar-deploy"
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
        )

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    @property
    def decoder_step(self) -> Path:
        return self.path / DECODER_STEP

    @property
    def has_int8(self) -> bool:
        """Whether the bundle holds faster graphs with 8-bit weights beside the exact ones."""
        return {INT8_ENCODER, INT8_DECODER_STEP} <= set(self.manifest.get("files", {}))

    @property
    def int8_encoder(self) -> Path:
        return self.path / INT8_ENCODER

    @property
    def int8_decoder_step(self) -> Path:
        return self.path / INT8_DECODER_STEP

    @property
    def max_batch(self) -> int:
        """The most rows a batch may have."""
        return max(batch.max for batch in self.batches)

    @property
    def preprocessing(self) -> Preprocessing:
        return self.label_set.preprocessing

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the SHA-256 of every file that export wrote: it names the bundle."""
        return sha256_of(self.path / MANIFEST)

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """The checkpoint's own answers on a few crops: real ones first, then rendered and adversarial ones.

        `crops` uint8 (G, H, W, 3) prepared, `tokens` int64 (G, C) greedy and right-padded, starting with `<bos>`,
        `log_probs` float32 (G, C - 1, V) of the step that follows each token; and what `parity/reference.py` says
        of bundles made since the parity gate, `kinds` (G,) among it.

        Raises BundleFormatError.
        """
        import zipfile  # 8 ms, which opening a bundle does not need

        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise BundleFormatError(f"{self.path / GOLDEN} cannot be read: {error}; {_EXPORT_AGAIN}") from None


def new_bundle_dir(out: Path, *, overwrite: bool = False) -> AbstractContextManager[Path]:
    """A folder to write a bundle into, which becomes `out` when the block ends well and vanishes when it does not.

    Raises BundleError where `out` exists, unless `overwrite` says to replace the bundle there, or cannot be written.
    """
    return new_folder(out, marker=MANIFEST, overwrite=overwrite, error=BundleError)


def file_entries(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a manifest says of these files: bytes and SHA-256."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `manifest.json`; `values["files"]` lists what the bundle consists of, see `file_entries`."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _check_files(path: Path, files: Mapping[str, Mapping[str, Any]], *, verify: bool) -> None:
    if not {ENCODER, DECODER_STEP, GOLDEN} <= set(files):
        raise BundleFormatError(
            f"{path / MANIFEST} does not list {ENCODER}, {DECODER_STEP} and {GOLDEN}; {_EXPORT_AGAIN}"
        )
    root = path.resolve()
    for name, entry in files.items():
        file = path / name
        if not _stays_inside(name) or not file.resolve().is_relative_to(root):
            raise BundleIntegrityError(
                f"{path / MANIFEST} lists {name!r}, which lies outside the bundle; do not use it"
            )
        if not file.is_file():
            raise BundleIntegrityError(f"{file} is missing, the manifest lists it; {_EXPORT_AGAIN} or copy it whole")
        if file.stat().st_size != entry["bytes"]:
            raise BundleIntegrityError(
                f"{file} has {file.stat().st_size} bytes, manifest says {entry['bytes']}; "
                f"{_EXPORT_AGAIN} or copy it whole"
            )
        if verify and (digest := sha256_of(file)) != entry["sha256"]:
            raise BundleIntegrityError(
                f"{file} has sha256 {digest[:12]}.., manifest says {entry['sha256'][:12]}..; "
                f"{_EXPORT_AGAIN} or copy it whole"
            )
    for graph in (ENCODER, DECODER_STEP, INT8_ENCODER, INT8_DECODER_STEP):
        if graph not in files:
            continue
        for location in external_data_locations(path / graph):
            if location not in files:
                raise BundleIntegrityError(
                    f"{path / graph} keeps weights in {location!r}, which the manifest does not list; do not use it"
                )


def _stays_inside(name: str) -> bool:
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and ":" not in name
