"""A bundle: the folder that holds everything an edge device needs, and nothing of PyTorch.

    manifest.json   encoder.onnx (+ .data)   decoder_step.onnx (+ .data)   golden.npz   model_card.md
    encoder_int8.onnx, decoder_step_int8.onnx (+ .data), where the recipe asks for them

`Bundle.open` trusts nothing: the manifest's form, the SHA-256 of every file, and the places where the ONNX graphs
look for their weights are checked before a runtime sees any of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import BundleError, BundleFormatError, BundleIntegrityError, LabelSetError
from seqpar_deploy.files import new_folder, sha256_of
from seqpar_deploy.onnx_file import external_data_locations
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, SPECIAL_TOKENS, LabelSet

FORMAT = 1
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
_EXPORT_AGAIN = "export the bundle again with seqpar-export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of one model's graphs."""

    image_size: int  # pixels a side of the encoder's input
    image_tokens: int  # N: class token and patches
    layers: int  # L: decoder layers
    heads: int  # attention heads of the decoder
    head_size: int  # channels a head
    capacity: int  # C = n + 1: tokens a row's cache holds, `<bos>` included
    vocabulary: int  # V = n + 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Crops a batch: the fewest, the usual and the most that an engine is tuned for."""

    min: int = 1
    opt: int = 8
    max: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle. `manifest` is the JSON as it stands in the file."""

    path: Path
    manifest: Mapping[str, Any]
    label_set: LabelSet
    dimensions: Dimensions
    precision: Precision
    batches: tuple[BatchProfile, ...]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """Read and check a bundle. `verify=False` leaves out the hashes, which takes about a second a gigabyte.

        Raises BundleFormatError or BundleIntegrityError.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise BundleFormatError(f"{path} {what}, wanted a bundle folder; make one with seqpar-export")
        manifest = _read_manifest(path)
        try:
            bundle = cls(
                path=path,
                manifest=manifest,
                label_set=LabelSet.from_dict(manifest["label_set"], source=f"{path.name}/{MANIFEST} label_set"),
                dimensions=_dataclass_from(Dimensions, manifest["dimensions"]),
                precision=manifest["precision"],
                batches=tuple(_dataclass_from(BatchProfile, batch) for batch in manifest["batches"]),
            )
            _check_consistency(bundle)
        except (KeyError, TypeError, ValueError, AttributeError, LabelSetError) as error:
            what = f"it misses key {error}" if isinstance(error, KeyError) else str(error)
            raise BundleFormatError(f"{path / MANIFEST} is malformed: {what}; {_EXPORT_AGAIN}") from None
        _check_files(path, manifest.get("files"), verify=verify)
        return bundle

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    @property
    def decoder_step(self) -> Path:
        return self.path / DECODER_STEP

    @property
    def has_int8(self) -> bool:
        """Whether quicker graphs with 8-bit weights lie beside the exact ones."""
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
        """SHA-256 of the manifest, which holds the SHA-256 of every other file: it names the bundle."""
        return sha256_of(self.path / MANIFEST)

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """The checkpoint's own answers on a few crops: real ones first, then rendered and adversarial ones.

        `crops` uint8 (G, H, W, 3) prepared, `tokens` int64 (G, C) greedy and right-padded, starting with `<bos>`,
        `log_probs` float32 (G, C - 1, V) of the step that follows each token; and what `parity/reference.py` says
        of bundles made since the parity gate, `kinds` (G,) among it.

        Raises BundleFormatError.
        """
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


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `manifest.json`, with the size and SHA-256 of every file that lies in the folder, as its last file."""
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    text = json.dumps({"format": FORMAT, **values, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _read_manifest(path: Path) -> Mapping[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleFormatError(f"{path} holds no {MANIFEST}, so it is no bundle; {_EXPORT_AGAIN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleFormatError(f"{file} cannot be read: {error}; {_EXPORT_AGAIN}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise BundleFormatError(f"{file} is no bundle manifest: it states no format number; {_EXPORT_AGAIN}")
    if manifest["format"] > FORMAT:
        raise BundleFormatError(
            f"{file} has format {manifest['format']}, this package reads up to {FORMAT}; update seqpar-deploy"
        )
    if manifest["format"] < 1:
        raise BundleFormatError(f"{file} has format {manifest['format']}, wanted {FORMAT}; {_EXPORT_AGAIN}")
    return manifest


def _dataclass_from(cls: Any, values: Mapping[str, Any]) -> Any:
    made = cls(**values)
    for field, value in dataclasses.asdict(made).items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{cls.__name__.lower()} {field} is {value!r}, wanted a whole number above 0")
    return made


def _check_consistency(bundle: Bundle) -> None:
    if bundle.precision not in get_args(Precision):
        raise ValueError(f"precision is {bundle.precision!r}, wanted one of {list(get_args(Precision))}")
    if bundle.manifest["special_tokens"] != SPECIAL_TOKENS:
        raise ValueError(f"special_tokens are {bundle.manifest['special_tokens']}, wanted {SPECIAL_TOKENS}")
    attributes = len(bundle.label_set)
    if bundle.dimensions.vocabulary != attributes + FIRST_ATTRIBUTE:
        raise ValueError(f"vocabulary is {bundle.dimensions.vocabulary}, wanted {attributes} attributes + 3")
    if bundle.dimensions.capacity != attributes + 1:
        raise ValueError(f"capacity is {bundle.dimensions.capacity}, wanted {attributes} attributes + 1")
    if not bundle.batches or not all(batch.min <= batch.opt <= batch.max for batch in bundle.batches):
        raise ValueError(f"batches are {list(bundle.batches)}, wanted one or more with min <= opt <= max")


def _check_files(path: Path, files: Any, *, verify: bool) -> None:
    if not isinstance(files, dict) or not {ENCODER, DECODER_STEP, GOLDEN} <= set(files):
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
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise BundleFormatError(f"{path / MANIFEST} gives no sha256 for {name}; {_EXPORT_AGAIN}")
        if file.stat().st_size != entry.get("bytes"):
            raise BundleIntegrityError(
                f"{file} has {file.stat().st_size} bytes, manifest says {entry.get('bytes')}; "
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
