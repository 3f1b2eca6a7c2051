"""The engine files of a bundle, and the checks before they are opened.

    BUNDLE/engines/<runtime>-<version>-<gpu>-<precision>/{encoder,decoder_step}.plan, engine.json

Opening an engine runs native code that was compiled for one runtime and one GPU. So `engine.json` records the graphs,
runtime, GPU and driver of each plan, and its SHA-256. Engines that do not match are rejected, never tried. This is also
the only file that imports TensorRT and TensorRT-RTX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from seqpar_deploy.backends.gpu.cuda import Gpu
from seqpar_deploy.bundle import DECODER_STEP, ENCODER, ENGINES, BatchProfile, Bundle
from seqpar_deploy.config import parse_json, typed
from seqpar_deploy.errors import BackendUnavailableError, EngineError, SeqparError
from seqpar_deploy.files import write_whole

Runtime = Literal["tensorrt", "tensorrt_rtx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
EXTRAS: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}

FORMAT = 1
ENGINE_JSON = "engine.json"
GRAPHS = {"encoder": ENCODER, "decoder_step": DECODER_STEP}
USED_OUTPUTS = frozenset({"cross_kv", "pooled", "log_probs", "next_token", "self_kv_out"})

Shape = tuple[int, ...]
InputShapes = dict[str, tuple[Shape, Shape, Shape]]  # per input: the smallest, the tuned and the largest shape


def installed_runtimes() -> list[Runtime]:
    """Return the TensorRT runtimes that are installed, without importing them."""
    return [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]


def import_runtime(name: Runtime) -> Any:
    """Import a TensorRT runtime. Raises BackendUnavailableError."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: its libraries are in another package, which may be missing
        raise BackendUnavailableError(
            f"backend {name} cannot be loaded: {error}; pip install 'seqpar-deploy[{EXTRAS[name]}]'"
            + (" (its libraries are in NVIDIA's package index, JetPack has them)" if name == "tensorrt" else "")
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineIdentity:
    """Identify a pair of engines: the graphs they were built from, and the runtime and GPU they were built for.

    A field that is None is not checked. TensorRT-RTX builds without a GPU, for every GPU it supports: then `gpu`,
    `compute_capability` and `driver` are None.
    """

    runtime: Runtime
    version: str
    gpu: str | None
    compute_capability: str | None
    driver: int | None
    precision: str
    onnx: Mapping[str, str]  # SHA-256 of every file of the graphs
    batches: tuple[BatchProfile, ...]
    columns: tuple[int, ...] = ()  # the widths of trimmed crops. None: crops are whole squares
    pooled: bool = False  # the encoder returns it. Engines made before 2026-11-29 do not
    version_compatible: bool = False  # also runs on later versions of the same major release
    hardware_compatible: bool = False  # also runs on every GPU from Ampere on
    strip_weights: bool = False  # needs its weights refitted from the graphs

    @property
    def folder_name(self) -> str:
        gpu = _slug(self.gpu) if self.gpu else "any-gpu"
        return f"{self.runtime}-{self.version}-{gpu}-{self.precision}"

    def why_not(self, here: EngineIdentity) -> str | None:
        """Return the reason if these engines must not run on this machine, else None.

        `here` is the identity that a new build on this machine would have.
        """
        if self.onnx != here.onnx or self.precision != here.precision:
            return "they were built from other graphs than the bundle's"
        if self.columns != here.columns:
            return f"they must be built for columns {list(here.columns)}, got {list(self.columns)}"
        built, installed = _numbers(self.version), _numbers(here.version)
        # Compatible with later versions, never with earlier ones (TensorRT's documentation).
        compatible = self.version_compatible and built[0] == installed[0] and built <= installed
        if self.version != here.version and not compatible:
            return f"{self.runtime} must be {self.version}, which built them, got {here.version}"
        if self.gpu is None:
            return None
        if self.hardware_compatible:
            if _numbers(here.compute_capability or "0") < [8, 0]:
                return f"the GPU must have compute capability 8.0 or higher, got {here.compute_capability}"
        elif (self.gpu, self.compute_capability) != (here.gpu, here.compute_capability):
            return f"the GPU must be {self.gpu} ({self.compute_capability}), got {_gpu_text(here)}"
        elif self.driver != here.driver:
            return f"the driver must be {self.driver}, got {here.driver}"
        return None


def identity_of(
    bundle: Bundle,
    runtime: Runtime,
    version: str,
    gpu: Gpu | None,
    *,
    batches: Sequence[BatchProfile] | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    strip_weights: bool = False,
) -> EngineIdentity:
    """Return the identity of engines that are built on this machine now."""
    graph_files = {
        name: entry["sha256"]
        for name, entry in bundle.manifest["files"].items()
        if name.startswith(tuple(GRAPHS.values()))  # the graphs and the weights beside them
    }
    return EngineIdentity(
        runtime=runtime,
        version=version,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        driver=gpu.driver if gpu else None,
        precision=bundle.precision,
        onnx=graph_files,
        batches=tuple(bundle.batches if batches is None else batches),
        columns=bundle.columns or (),
        pooled=bundle.has_pooled,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        strip_weights=strip_weights,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plans:
    """Hold the SHA-256 of each plan."""

    encoder: str
    decoder_step: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EngineJson:
    """Hold the rest of `engine.json`, after EngineIdentity. `compiled` has the SHA-256 of each runtime cache."""

    format: Literal[1]
    plans: _Plans
    compiled: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engines:
    """Hold a pair of engines that may run on this machine, with checked plans."""

    path: Path
    identity: EngineIdentity
    plans: Mapping[str, bytes]

    def compiled(self, gpu: Gpu) -> bytes | None:
        """Return the runtime cache saved for this GPU, or None if it is missing or its hash does not match."""
        try:
            content = (self.path / _compiled_name(gpu)).read_bytes()
            saved = _read(self.path)[1].compiled
        except (OSError, EngineError):
            return None
        return content if hashlib.sha256(content).hexdigest() == saved.get(_compiled_name(gpu)) else None


def has_engines(bundle: Bundle, runtime: Runtime) -> bool:
    """Return whether the bundle has engines for a runtime, for any GPU."""
    return bool(_folders(bundle, runtime))


def open_engines(bundle: Bundle, here: EngineIdentity) -> Engines:
    """Open the newest engines of a bundle that may run on this machine.

    Args:
        bundle: The opened bundle.
        here: The identity that a new build on this machine would have.

    Raises:
        EngineError: There are no engines, or they do not match or are damaged. It names the command that builds them.
    """
    rebuild = f"build them here: seqpar-export engine {bundle.path} --runtime {here.runtime}"
    reasons = []
    for folder in _folders(bundle, here.runtime):
        try:
            identity, described = _read(folder)
        except EngineError as error:
            reasons.append(f"engines in {folder} cannot be used: {error}")
            continue
        reason = identity.why_not(here)
        if reason is None:
            return Engines(
                path=folder, identity=identity, plans=_plans(folder, dataclasses.asdict(described.plans), rebuild)
            )
        reasons.append(f"engines in {folder} cannot be used: {reason}")
    if not reasons:
        raise EngineError(f"{bundle.path} has no engines for {here.runtime}; {rebuild}")
    raise EngineError(f"{reasons[0]}; {rebuild}")


def list_engines(bundle: Bundle) -> Iterator[tuple[Path, EngineIdentity | EngineError]]:
    """Yield the folder of each pair of engines of a bundle, with its identity, or the error if it is unreadable."""
    for runtime in RUNTIMES:
        for folder in _folders(bundle, runtime):
            try:
                yield folder, _read(folder)[0]
            except EngineError as error:
                yield folder, error


def write_engine_json(folder: Path, identity: EngineIdentity) -> None:
    """Write `engine.json` as the folder's last file, with the hash of each plan."""
    plans = {name: hashlib.sha256((folder / f"{name}.plan").read_bytes()).hexdigest() for name in GRAPHS}
    values = {"format": FORMAT, **dataclasses.asdict(identity), "plans": plans}
    (folder / ENGINE_JSON).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_compiled(engines: Engines, gpu: Gpu, content: bytes | None) -> None:
    """Save a runtime cache and its hash beside the engines. A folder that cannot be written is skipped silently."""
    if content is None or content == engines.compiled(gpu):
        return
    file = engines.path / ENGINE_JSON
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values.setdefault("compiled", {})[_compiled_name(gpu)] = hashlib.sha256(content).hexdigest()
        write_whole(engines.path / _compiled_name(gpu), content)
        write_whole(file, (json.dumps(values, indent=2) + "\n").encode())
    except (OSError, ValueError, SeqparError):
        return


def _compiled_name(gpu: Gpu) -> str:
    return f"compiled-{_slug(gpu.name)}-{gpu.driver}.cache"


def _folders(bundle: Bundle, runtime: Runtime) -> list[Path]:
    """Return the engine folders of a runtime, newest first."""
    found = [file.parent for file in (bundle.path / ENGINES).glob(f"{runtime}-*/{ENGINE_JSON}")]
    return sorted(found, key=lambda folder: (folder / ENGINE_JSON).stat().st_mtime, reverse=True)


def _read(folder: Path) -> tuple[EngineIdentity, _EngineJson]:
    """Read `engine.json`. Raises EngineError."""
    file = folder / ENGINE_JSON
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EngineError(f"{file} cannot be read: {error.strerror}") from None
    values = parse_json(content, source=str(file), error=EngineError)
    described = typed(values, _EngineJson, source=str(file), error=EngineError)
    rest = {key: value for key, value in values.items() if not hasattr(described, key)}
    return typed(rest, EngineIdentity, source=str(file), error=EngineError, known_keys_only=True), described


def _plans(folder: Path, hashes: Mapping[str, str], rebuild: str) -> dict[str, bytes]:
    """Read the plans once, so that the bytes that run are the bytes that were hashed."""
    plans = {}
    for name, expected in hashes.items():
        file = folder / f"{name}.plan"
        try:
            plans[name] = file.read_bytes()
        except OSError as error:
            raise EngineError(f"{file} cannot be read: {error.strerror}; {rebuild}") from None
        if (digest := hashlib.sha256(plans[name]).hexdigest()) != expected:
            raise EngineError(f"{file} must have sha256 {expected[:12]}.., got {digest[:12]}..; {rebuild}")
    return plans


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _numbers(text: str) -> list[int]:
    """`10.8.0.43` -> [10, 8, 0, 43]."""
    return [int(part) for part in re.findall(r"\d+", text)] or [0]


def _gpu_text(identity: EngineIdentity) -> str:
    return f"{identity.gpu} ({identity.compute_capability})" if identity.gpu else "a machine without a GPU"
