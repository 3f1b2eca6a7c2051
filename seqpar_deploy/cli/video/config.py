"""The config file of `seqpar video`: options of the command, and cameras."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from typer.models import ParameterInfo

from seqpar_deploy.cli.video.request import UNCERTAIN_CROPS, VideoRequest
from seqpar_deploy.config import parse_toml, typed
from seqpar_deploy.errors import VideoError
from seqpar_deploy.files import check_writable, replacing
from seqpar_deploy.video.cameras.reloading import FileState, state_of
from seqpar_deploy.video.cameras.settings import CameraSettings, example
from seqpar_deploy.video.detect.opening import MOTION

DEFAULT = Path("cameras.toml")
_HINT = "seqpar video --init writes an example"
_NOT_IN_FILE = ("sources", "config", "init", "dry_run")  # and `cameras` in place of sources
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The contents of a config file.

    Attributes:
        path: The file.
        options: Value by name of the fields of `VideoRequest` that it sets. Files are relative to its folder.
        cameras: Settings by name of the camera.
        state: `state_of` the file when it was read. Default: unknown.
    """

    path: Path
    options: Mapping[str, Any]
    cameras: Mapping[str, CameraSettings]
    state: FileState | None = None

    def check_sources(self, request: VideoRequest) -> None:
        """Raise VideoError if there are sources besides the cameras of the file."""
        if self.cameras and request.sources:
            raise VideoError(f"sources must be SOURCES or the cameras of {self.path}, got both; omit one of them")

    def over(self, request: VideoRequest) -> VideoRequest:
        """Return a request with the options of the file, except those that the command line has."""
        return dataclasses.replace(request, **{k: v for k, v in self.options.items() if k not in request.given})


def read_config(path: Path) -> Config:
    """Read a config file. Raises VideoError with the key path of the first fault."""
    state = state_of(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VideoError(f"--config {path} cannot be read: {error.strerror}; {_HINT}") from None
    return dataclasses.replace(parse_config(content, path), state=state)


def parse_config(content: bytes, path: Path) -> Config:
    """Parse the content of a config file. `path` names it in errors, and files are relative to its folder."""
    values = parse_toml(content, source=str(path), error=VideoError)
    file = typed(values, _file_type(), source=str(path), error=VideoError, hint=_HINT, known_keys_only=True)
    for name in file.cameras:
        if not _NAME.fullmatch(name):
            raise VideoError(
                f"{path}: cameras.{name} must be a name of 1 to 40 letters, digits, - _ and ., without - or . first, "
                f"got {name!r}; rename it"
            )
    folder = path.absolute().parent
    options = {key: _option(key, getattr(file, key), folder) for key in values if key != "cameras"}
    if "keep_uncertain" in options:
        options.setdefault("uncertain_crops", folder / UNCERTAIN_CROPS)
    cameras = {name: _camera(camera, folder) for name, camera in file.cameras.items()}
    return Config(path=path, options=options, cameras=cameras)


def write_example(path: Path) -> None:
    """Write a commented config file. Raises VideoError if the file exists."""
    if path.exists():
        raise VideoError(f"{path} must be a new file, got an existing one; name another with --config")
    check_writable(path)
    with replacing(path) as staging:
        staging.write_text(example(), encoding="utf-8")


@functools.cache
def _file_type() -> type[Any]:
    """Return the dataclass of a config file: a field per option of the command, and the cameras."""
    hints = typing.get_type_hints(VideoRequest, include_extras=True)
    fields = [
        (field.name, _plain(hints[field.name]), dataclasses.field(default=None))
        for field in dataclasses.fields(VideoRequest)
        if hasattr(hints[field.name], "__metadata__") and field.name not in _NOT_IN_FILE
    ]
    cameras: tuple[str, Any, Any] = ("cameras", dict[str, CameraSettings], dataclasses.field(default_factory=dict))
    return dataclasses.make_dataclass("_File", [cameras, *fields], kw_only=True)


def _plain(hint: Any) -> Any:
    """Return the type of a value in TOML for the annotation of an option, with the option's limits."""
    kind, *extras = typing.get_args(hint)
    option = next(one for one in extras if isinstance(one, ParameterInfo))
    inner = _without_none(kind)
    if inner is Path:
        inner = Annotated[str, msgspec.Meta(pattern=r"\S")]
    elif inner in (int, float) and (option.min is not None or option.max is not None):
        inner = Annotated[inner, msgspec.Meta(ge=option.min, le=option.max)]
    return inner


def _without_none(kind: Any) -> Any:
    rest = [one for one in typing.get_args(kind) if one is not type(None)]
    return rest[0] if type(None) in typing.get_args(kind) and len(rest) == 1 else kind


def _option(key: str, value: Any, folder: Path) -> Any:
    """Return the value of an option. Relative files belong to the file's folder."""
    if key in _path_fields():
        return folder / value
    return _file_or_name(value, folder) if key in ("detector", "events") else value


def _camera(camera: CameraSettings, folder: Path) -> CameraSettings:
    """Return the settings of a camera, whose relative files belong to the file's folder."""
    is_file = not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|\d+$|\$\{", camera.address)
    return dataclasses.replace(
        camera,
        address=str(folder / camera.address) if is_file else camera.address,
        detector=camera.detector and _file_or_name(camera.detector, folder),
        thresholds=camera.thresholds and str(folder / camera.thresholds),
    )


def _file_or_name(value: str, folder: Path) -> str:
    return value if value in ("", "-", MOTION) else str(folder / value)


@functools.cache
def _path_fields() -> frozenset[str]:
    hints = typing.get_type_hints(VideoRequest)
    return frozenset(name for name, hint in hints.items() if _without_none(hint) is Path)
