"""Write a Triton model repository, or the next version of a model in one.

    REPOSITORY/
      seqpar/
        config.pbtxt                the configuration of the version that is served
        warmup/VERSION/             crops of the warm-up requests
        VERSION/
          model.py, config.pbtxt    the model, and its configuration for rolling back to this version
          __pycache__               an empty file
          bundle/                   copies of the bundle's files: onnx refuses weights that have several hard links

Everything is made beside the repository and renamed, so that a server that polls it sees whole versions only.
`config.pbtxt` names one version and is replaced last, which is the swap.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from seqpar_deploy.bundle import CALIBRATION, ENGINES, MANIFEST, TUNED, TUNED_DRAFT, VERIFIED, Bundle
from seqpar_deploy.calibration.sidecar import load_calibration
from seqpar_deploy.errors import TritonError
from seqpar_deploy.files import new_folder, write_whole
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.preprocess import Crop, columns_read
from seqpar_deploy.serving.protocol import served_labels
from seqpar_deploy.serving.triton.config import ModelOptions, WarmUp, config_text
from seqpar_deploy.serving.triton.golden import golden_crops
from seqpar_deploy.serving.triton.model import BUNDLE
from seqpar_deploy.sidecars import read_sidecar
from seqpar_deploy.vocab import LabelSet

CONFIG = "config.pbtxt"
MODEL_PY = '''"""The model of seqpar-deploy, which must be installed in the Python of the server."""

from seqpar_deploy.serving.triton.model import TritonPythonModel  # noqa: F401
'''
_SERVED = re.compile(r"^version_policy: .*versions: \[ (\d+) \]", re.MULTILINE)
_LABELS = re.compile(r'^parameters \{ key: "label_set", value: \{ string_value: (".*") \} \}$', re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SIDECARS = (CALIBRATION, TUNED_DRAFT, TUNED, VERIFIED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """Describe a version that was written.

    Attributes:
        model: Folder of the model.
        version: Its number, 1 for a new model.
        replaced: The version that was served before, or None.
    """

    model: Path
    version: int
    replaced: int | None


def write_version(
    bundle: Bundle,
    repository: Path,
    *,
    name: str = "seqpar",
    options: ModelOptions = ModelOptions(),
    without: Sequence[str] = (),
    link: bool = False,
) -> Written:
    """Write a model, or the next version of one, atomically, and make it the one that is served.

    Args:
        bundle: The opened bundle.
        repository: Folder of the repository. It is made if it is missing.
        name: Name of the model: letters, digits, `_`, `-` and `.`. Default: `seqpar`.
        options: How Triton runs the model.
        without: Names or patterns of attributes that are not served. Default: none.
        link: Link to the bundle's folder, for a temporary repository. Default: False, its files are copied.

    Returns:
        The version.

    Raises:
        TritonError: The repository cannot be written, the name is invalid, or the model has another label set.
        BundleFormatError: The golden data are malformed.
        LabelSetError: `without` matches no attribute, or all.
    """
    if not _NAME.fullmatch(name):
        raise TritonError(
            f"name must be letters, digits, _, - and ., and begin with one of the first three, got {name!r}; for "
            "example seqpar"
        )
    model = repository / name
    there = versions(model)
    version = max(there, default=0) + 1
    replaced = served_version(model)
    label_set = bundle.shown.without(bundle.shown.matching(without))
    if there:
        _check_same_labels(bundle, label_set, model / str(there[-1]), name)
    crops = _warm_up_crops(bundle)
    calibration = load_calibration(bundle)
    text = config_text(
        name,
        version,
        bundle,
        label_set=label_set,
        thresholds=None if calibration is None else calibration.limited_to(label_set).thresholds(label_set),
        options=options,
        warm_ups=_warm_ups(bundle, version, crops),
    )
    repository.mkdir(parents=True, exist_ok=True)
    out = model / str(version) if model.exists() else model
    with new_folder(out, beside=repository, marker=CONFIG, overwrite=False, error=TritonError) as staging:
        folder = staging / str(version) if out == model else staging
        folder.mkdir(exist_ok=True)
        _copy_bundle(bundle, folder / BUNDLE, link=link)
        (folder / "model.py").write_text(MODEL_PY, encoding="utf-8")
        (folder / CONFIG).write_text(text, encoding="utf-8")
        (folder / "__pycache__").touch()  # a file, so that Python writes none: a poll would load the version again
        if out == model:
            _write_crops(staging, version, crops)
            (staging / CONFIG).write_text(text, encoding="utf-8")
    if out != model:
        _write_crops(model, version, crops)
        write_whole(model / CONFIG, text.encode())
    return Written(model=model, version=version, replaced=replaced)


def versions(model: Path) -> list[int]:
    """Return the versions in a model's folder, ascending."""
    return sorted(int(entry.name) for entry in model.glob("*") if entry.name.isdecimal() and entry.is_dir())


def served_version(model: Path) -> int | None:
    """Return the version that a model's configuration names, or None for a missing or another configuration."""
    try:
        found = _SERVED.search((model / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return int(found[1]) if found else None


def _check_same_labels(bundle: Bundle, label_set: LabelSet, earlier: Path, name: str) -> None:
    """Raise TritonError if clients of an earlier version would misread the outputs of the next one."""
    before = _served_labels(earlier)
    wanted, got = ([one.name for one in labels.attributes] for labels in (before, label_set))
    if wanted != got:
        raise TritonError(
            f"{bundle.path} must be served with the {len(wanted)} attributes of {earlier}, in its order, since clients "
            f"hold on to them, got {len(got)} of {label_set.name}; pass another --name than {name}"
        )


def _served_labels(version: Path) -> LabelSet:
    """Return the label set in a version's configuration, or that of its bundle if it is not there."""
    try:
        found = _LABELS.search((version / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        found = None
    served = served_labels({"label_set": json.loads(found[1])}) if found else None
    return served or Bundle.open(version / BUNDLE, verify=False).shown


def _copy_bundle(bundle: Bundle, out: Path, *, link: bool) -> None:
    if link:
        out.symlink_to(bundle.path.resolve(), target_is_directory=True)
        return
    names = [MANIFEST, *bundle.manifest["files"]]
    engines = bundle.path / ENGINES
    names += [str(file.relative_to(bundle.path)) for file in sorted(engines.rglob("*")) if file.is_file()]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, out / name)
    for name in _SIDECARS:  # some may be in the user's cache, which a server of another user does not read
        if (content := read_sidecar(bundle, name)) is not None:
            (out / name).write_bytes(content)


def _warm_up_crops(bundle: Bundle) -> dict[int, Crop]:
    """Return a golden crop for each number of patch columns that the bundle reads, 0 for the whole square."""
    crops: dict[int, Crop] = {}
    for crop in golden_crops(reference_from_golden(bundle)):
        crops.setdefault(columns_read(crop, bundle.trimming, bundle.preprocessing), crop)
    return crops


def _warm_ups(bundle: Bundle, version: int, crops: dict[int, Crop]) -> list[WarmUp]:
    batches = sorted({1, bundle.batches[0].opt})
    return [
        WarmUp(file=_crop_file(version, columns), shape=crop.shape, batch=batch)
        for columns, crop in crops.items()
        for batch in batches
    ]


def _write_crops(model: Path, version: int, crops: dict[int, Crop]) -> None:
    for columns, crop in crops.items():
        write_whole(model / "warmup" / _crop_file(version, columns), crop.tobytes())


def _crop_file(version: int, columns: int) -> str:
    return f"{version}/columns-{columns}"


def models(repository: Path) -> Sequence[str]:
    """Return the names of the models in a repository, sorted."""
    return sorted(config.parent.name for config in repository.glob(f"*/{CONFIG}"))
