"""Engines beside a bundle, and what each is good for.

    BUNDLE/engines/<runtime>-<version>-<gpu>-<precision>/{encoder,decoder_step}.plan, engine.json

Opening an engine runs native code that was compiled for one runtime and one GPU. So `engine.json` says which graphs,
runtime, GPU and driver a plan was made from and for, and holds its SHA-256; what does not fit is refused, never tried.
This is also the one file that imports TensorRT, in either of its flavours.
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
USED_OUTPUTS = frozenset({"cross_kv", "log_probs", "next_token", "self_kv_out"})  # not `pooled`: no drafts on the GPU

Shape = tuple[int, ...]
InputShapes = dict[str, tuple[Shape, Shape, Shape]]  # of each input: the least, the usual and the most


def installed_runtimes() -> list[Runtime]:
    """Which flavours of TensorRT are installed, without importing them."""
    return [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]


def import_runtime(name: Runtime) -> Any:
    """The module of a flavour. Raises BackendUnavailableError."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: its libraries are another package, which may be missing
        raise BackendUnavailableError(
            f"backend {name} cannot be loaded: {error}; pip install 'seqpar-deploy[{EXTRAS[name]}]'"
            + (" (its libraries lie in NVIDIA's own package index; JetPack brings them)" if name == "tensorrt" else "")
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineIdentity:
    """What a pair of engines was made from and for. A field that says None binds nothing.

    TensorRT-RTX builds without a GPU, for every GPU it knows: then `gpu`, `compute_capability` and `driver` are None.
    """

    runtime: Runtime
    version: str
    gpu: str | None
    compute_capability: str | None
    driver: int | None
    precision: str
    onnx: Mapping[str, str]  # SHA-256 of every file that makes up the graphs
    batches: tuple[BatchProfile, ...]
    version_compatible: bool = False  # runs on later versions of the same major one
    hardware_compatible: bool = False  # runs on every GPU from Ampere on
    strip_weights: bool = False  # its weights have to be put back from the graphs

    @property
    def folder_name(self) -> str:
        gpu = _slug(self.gpu) if self.gpu else "any-gpu"
        return f"{self.runtime}-{self.version}-{gpu}-{self.precision}"

    def why_not(self, wanted: EngineIdentity) -> str | None:
        """Why engines of this identity must not run where `wanted` is what a new build would be; None if they may."""
        if self.onnx != wanted.onnx or self.precision != wanted.precision:
            return "they were built from other graphs than the bundle's"
        built, installed = _numbers(self.version), _numbers(wanted.version)
        # Compatible with later versions, never with earlier ones (TensorRT's documentation).
        compatible = self.version_compatible and built[0] == installed[0] and built <= installed
        if self.version != wanted.version and not compatible:
            return f"they were built by {self.runtime} {self.version}, installed is {wanted.version}"
        if self.gpu is None:
            return None
        if self.hardware_compatible:
            if _numbers(wanted.compute_capability or "0") < [8, 0]:
                return f"they need compute capability 8.0, this GPU has {wanted.compute_capability}"
        elif (self.gpu, self.compute_capability) != (wanted.gpu, wanted.compute_capability):
            return f"they were built for {self.gpu} ({self.compute_capability}), this is {_gpu_text(wanted)}"
        elif self.driver != wanted.driver:
            return f"they were built under driver {self.driver}, this is {wanted.driver}"
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
    """The identity that engines built here and now would have."""
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
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        strip_weights=strip_weights,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plans:
    """SHA-256 of each plan."""

    encoder: str
    decoder_step: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EngineJson:
    """`engine.json`, beside the fields of EngineIdentity. `compiled` holds the SHA-256 of each runtime cache."""

    format: Literal[1]
    plans: _Plans
    compiled: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engines:
    """A pair of engines that may run here: what they are, and the plans, whose hashes have been checked."""

    path: Path
    identity: EngineIdentity
    plans: Mapping[str, bytes]

    def compiled(self, gpu: Gpu) -> bytes | None:
        """What the runtime had compiled for this GPU when it was last closed, if the file is still what was saved."""
        try:
            content = (self.path / _compiled_name(gpu)).read_bytes()
            saved = _read(self.path)[1].compiled
        except (OSError, EngineError):
            return None
        return content if hashlib.sha256(content).hexdigest() == saved.get(_compiled_name(gpu)) else None


def has_engines(bundle: Bundle, runtime: Runtime) -> bool:
    """Whether engines of a flavour lie beside the bundle, for whatever GPU."""
    return bool(_folders(bundle, runtime))


def open_engines(bundle: Bundle, wanted: EngineIdentity) -> Engines:
    """The engines beside a bundle that may run where `wanted` is what a new build would be.

    Raises EngineError, with the command that builds them: none there, stale, foreign or damaged.
    """
    rebuild = f"build them here: seqpar-export engine {bundle.path} --runtime {wanted.runtime}"
    reasons = []
    for folder in _folders(bundle, wanted.runtime):
        try:
            identity, described = _read(folder)
        except EngineError as error:
            reasons.append(f"engines in {folder} cannot be used: {error}")
            continue
        reason = identity.why_not(wanted)
        if reason is None:
            return Engines(
                path=folder, identity=identity, plans=_plans(folder, dataclasses.asdict(described.plans), rebuild)
            )
        reasons.append(f"engines in {folder} cannot be used: {reason}")
    if not reasons:
        raise EngineError(f"{bundle.path} has no engines for {wanted.runtime}; {rebuild}")
    raise EngineError(f"{reasons[0]}; {rebuild}")


def list_engines(bundle: Bundle) -> Iterator[tuple[Path, EngineIdentity | EngineError]]:
    """Yield the folder of each pair of engines beside a bundle, and what it was made for, or why that is unknown."""
    for runtime in RUNTIMES:
        for folder in _folders(bundle, runtime):
            try:
                yield folder, _read(folder)[0]
            except EngineError as error:
                yield folder, error


def write_engine_json(folder: Path, identity: EngineIdentity) -> None:
    """Write `engine.json`, with the hash of each plan in the folder, as its last file."""
    plans = {name: hashlib.sha256((folder / f"{name}.plan").read_bytes()).hexdigest() for name in GRAPHS}
    values = {"format": FORMAT, **dataclasses.asdict(identity), "plans": plans}
    (folder / ENGINE_JSON).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_compiled(engines: Engines, gpu: Gpu, content: bytes | None) -> None:
    """Keep what the runtime compiled beside the engines, with its hash; where they cannot be written, do without."""
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


def graph_profiles(bundle: Bundle, batches: Sequence[BatchProfile]) -> dict[str, list[InputShapes]]:
    """The optimisation profiles of each graph, in the order they have in its engine.

    The encoder has one a batch profile; the decoder step two, for one token a row and for any number of them.
    """
    capacity = bundle.dimensions.capacity
    one, any_number = (1, 1, 1), (1, min(8, capacity), capacity)
    profiles: dict[str, list[InputShapes]] = {}
    for graph in GRAPHS:
        inputs = bundle.manifest["graphs"][graph]["inputs"]
        tokens_a_row = (one, any_number) if any("T" in spec["shape"] for spec in inputs) else (one,)
        profiles[graph] = [
            {spec["name"]: _shapes(spec["shape"], batch, tokens) for spec in inputs}
            for batch in batches
            for tokens in tokens_a_row
        ]
    return profiles


def _shapes(shape: Sequence[int | str], batch: BatchProfile, tokens: Shape) -> tuple[Shape, Shape, Shape]:
    sizes = {"B": (batch.min, batch.opt, batch.max), "T": tokens}
    least, usual, most = (tuple(sizes[s][i] if isinstance(s, str) else s for s in shape) for i in range(3))
    return least, usual, most


def _folders(bundle: Bundle, runtime: Runtime) -> list[Path]:
    """Folders of one flavour's engines, the newest first."""
    found = [file.parent for file in (bundle.path / ENGINES).glob(f"{runtime}-*/{ENGINE_JSON}")]
    return sorted(found, key=lambda folder: (folder / ENGINE_JSON).stat().st_mtime, reverse=True)


def _read(folder: Path) -> tuple[EngineIdentity, _EngineJson]:
    """Raises EngineError."""
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
    """The plans, read once: what was hashed is what is run."""
    plans = {}
    for name, wanted in hashes.items():
        file = folder / f"{name}.plan"
        try:
            plans[name] = file.read_bytes()
        except OSError as error:
            raise EngineError(f"{file} cannot be read: {error.strerror}; {rebuild}") from None
        if (digest := hashlib.sha256(plans[name]).hexdigest()) != wanted:
            raise EngineError(f"{file} has sha256 {digest[:12]}.., engine.json says {wanted[:12]}..; {rebuild}")
    return plans


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _numbers(text: str) -> list[int]:
    """`10.8.0.43` -> [10, 8, 0, 43]."""
    return [int(part) for part in re.findall(r"\d+", text)] or [0]


def _gpu_text(identity: EngineIdentity) -> str:
    return f"{identity.gpu} ({identity.compute_capability})" if identity.gpu else "a machine without a GPU"
