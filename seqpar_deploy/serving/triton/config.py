"""The model configuration, `config.pbtxt`: tensors, batching, instances, warm-up, and parameters for clients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from seqpar_deploy import __version__
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.errors import TritonError
from seqpar_deploy.vocab import LabelSet

_MOST_QUEUED = 256  # requests: about 10 s of work for a small model, and at most 8 GB of pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Configure how Triton runs a model.

    Attributes:
        instances: Processes that run the model, per GPU with `gpu`. CPU instances share the cores. Default: 1.
        gpu: Run on GPUs. Default: False.
        queue_delay_ms: Milliseconds that a request may wait for others to share its batch. Default: 2.
    """

    instances: int = 1
    gpu: bool = False
    queue_delay_ms: float = 2.0

    def __post_init__(self) -> None:
        if self.instances < 1:
            raise TritonError(f"instances must be 1 or more, got {self.instances}; pass 1 for a single process")
        if not 0 <= self.queue_delay_ms <= 10_000:
            raise TritonError(f"queue delay must be 0 to 10000 ms, got {self.queue_delay_ms}; for example 2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Describe a warm-up request: the file with its crop, of shape (h, w, 3), and the crops per batch."""

    file: str
    shape: tuple[int, ...]
    batch: int


def config_text(
    name: str,
    version: int,
    bundle: Bundle,
    *,
    label_set: LabelSet,
    thresholds: Thresholds | None,
    options: ModelOptions,
    warm_ups: Sequence[WarmUp],
) -> str:
    """Return the content of `config.pbtxt`.

    Args:
        name: Name of the model.
        version: The version to serve.
        bundle: The opened bundle.
        label_set: The attributes to serve. The model reads from here which of the bundle's they are.
        thresholds: The thresholds of these that the states follow, or None.
        options: How Triton runs the model.
        warm_ups: The warm-up requests.
    """
    n = len(label_set)
    limits = None if thresholds is None else thresholds.limits(label_set)
    parameters = {
        "bundle": bundle.digest,
        "version": __version__,
        "label_set": _compact(label_set.to_dict()),
        "thresholds": _compact(limits and {name: dataclasses.asdict(one) for name, one in limits.items()}),
    }
    # On a CPU, the time per crop is the same from 8 to 32 crops, so that larger batches only make requests wait.
    sizes = sorted({profile.opt for profile in bundle.batches} | ({bundle.max_batch} if options.gpu else set()))
    kind = "KIND_GPU" if options.gpu else "KIND_CPU"
    lines = [
        f"# Written by seqpar export triton, seqpar-deploy {__version__}.",
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {bundle.max_batch}",
        "# This version is served. To roll back, put the config.pbtxt of an earlier version's folder in place of this.",
        f"version_policy: {{ specific: {{ versions: [ {version} ] }} }}",
        "",
        "# A request has image or crop. Requests with crops of different sizes share a batch.",
        "input [",
        *_joined(
            [
                f'{{ name: "image", data_type: TYPE_STRING, dims: [ 1 ], {_RAGGED} }}',
                f'{{ name: "crop", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ], {_RAGGED} }}',
                f'{{ name: "draft", data_type: TYPE_INT32, dims: [ -1 ], {_RAGGED} }}',
            ]
        ),
        "]",
        "output [",
        *_joined(
            [
                f'{{ name: "tokens", data_type: TYPE_INT32, dims: [ {n + 1} ] }}',
                f'{{ name: "scores", data_type: TYPE_FP32, dims: [ {n} ] }}',
                f'{{ name: "probabilities", data_type: TYPE_FP32, dims: [ {n} ] }}',
                f'{{ name: "states", data_type: TYPE_UINT8, dims: [ {n} ] }}',
                '{ name: "steps", data_type: TYPE_INT32, dims: [ 1 ] }',
                '{ name: "json", data_type: TYPE_STRING, dims: [ 1 ] }',
            ]
        ),
        "]",
        "",
        "# Batch sizes that the bundle's profiles are made for. A full queue refuses requests with status 503.",
        "dynamic_batching {",
        f"  preferred_batch_size: [ {', '.join(map(str, sizes))} ]",
        f"  max_queue_delay_microseconds: {round(1000 * options.queue_delay_ms)}",
        f"  default_queue_policy: {{ max_queue_size: {_MOST_QUEUED} }}",
        "}",
        "# Each instance is a process with its own copy of the model. CPU instances share the cores.",
        f"instance_group [ {{ kind: {kind}, count: {options.instances} }} ]",
        "",
        *_warm_up_lines(warm_ups),
        "# For clients: the digest of the bundle, and what they need to name its outputs.",
        *(
            f"parameters {{ key: {_quoted(key)}, value: {{ string_value: {_quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


_RAGGED = "optional: true, allow_ragged_batch: true"


def _warm_up_lines(warm_ups: Sequence[WarmUp]) -> list[str]:
    made = []
    for one in warm_ups:
        dims = ", ".join(map(str, one.shape))
        data = f'data_type: TYPE_UINT8, dims: [ {dims} ], input_data_file: "{one.file}"'
        made.append(
            f'{{ name: "{one.file} x {one.batch}", batch_size: {one.batch}, '
            f'inputs {{ key: "crop", value: {{ {data} }} }} }}'
        )
    return ["# Golden crops, one per width that the model reads.", "model_warmup [", *_joined(made), "]", ""]


def _joined(entries: Sequence[str]) -> list[str]:
    return [f"  {entry}{',' if place < len(entries) - 1 else ''}" for place, entry in enumerate(entries)]


def _compact(values: Any) -> str:
    return json.dumps(values, ensure_ascii=True, separators=(",", ":"))


def _quoted(text: str) -> str:
    """Return a string of the text format. It and JSON escape the same way, as long as the text is ASCII."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
