"""Find a network's weights in a checkpoint, under the wrappers and prefixes that training code adds.

The content of a file is flattened to dotted names: {"state_dict": {"module.decoder.fc.weight": ...}} holds
`state_dict.module.decoder.fc.weight`. Wrappers and prefixes are then the same thing: all that comes before the name
that the network itself gives to a weight. Weights with one such prefix are one set of weights. A file may hold several,
for example the trained weights and their moving average.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqpar_deploy.errors import CheckpointError

_log = logging.getLogger(__name__)

_SEQUENCEPAR = frozenset({"clip_model", "decoder", "bos_embedding", "eos_embedding", "pad_embedding"})
_CLIP = frozenset(
    {"visual", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "logit_scale"}
    | {"input_resolution", "context_length", "vocab_size", "attn_mask"}
)

# Layers that wrap a module without changing it, at any depth: DataParallel, torch.compile, FSDP, DeepSpeed.
_TRANSPARENT = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module"}
)
# Names of the trained weights, the first being the likeliest. Other names may be a moving average or another network.
_TRAINED = (
    "model_state_dict", "state_dict", "state_dicts", "model_state", "model", "net", "network", "weights", "params",
    "backbone", "model_dict", "net_state_dict",
)  # fmt: skip
_AVERAGE = re.compile(r"(?<!sch)ema(?!ntic)|swa|averag|shadow|polyak", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r".*(optim|sched|scaler|momentum|callbacks)|exp_avg|loops$", re.IGNORECASE)
_COUNTERS = ("total_ops", "total_params", "n_averaged", "num_updates", "_extra_state")  # buffers of profilers and EMA
_DEEPEST, _LONGEST = 8, 100  # levels of nested dictionaries; entries of a list that is looked into


@dataclasses.dataclass
class _Weights:
    """One set of weights: their prefix in the file, and their values by the network's own names."""

    prefix: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    containers: set[str] = dataclasses.field(default_factory=set)  # names of the dictionaries that hold them

    @property
    def label(self) -> str:
        return self.prefix or "(no prefix)"

    @property
    def own_name(self) -> str:
        """The prefix without the names that only say "trained weights". Empty for the trained weights."""
        return ".".join(part for part in self.prefix.split(".") if part not in (*_TRAINED, *_TRANSPARENT, ""))

    @property
    def rank(self) -> tuple[int, int]:
        parts = self.prefix.split(".")
        return min((_TRAINED.index(part) for part in parts if part in _TRAINED), default=-1), len(parts)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    name: str
    value: Any
    container: str


def find_weights(content: object, *, source: str, choice: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a SequencePAR or CLIP network by the network's own names.

    Args:
        content: The content of a checkpoint: nested dictionaries of tensors.
        source: Name of the file, for messages.
        choice: The set of weights to return, for example "model_ema", if the file holds several. Default: the trained
            weights, or the only set.

    Returns:
        The tensors. Unknown ones of the same state dict are among them, so that they are not left out in silence.

    Raises:
        CheckpointError: The file holds no such network, several and no default, none that is called `choice`, or a
            weight that is not a dense tensor.
    """
    leaves = list(_flattened(content))
    with_tensors = {leaf.container for leaf in leaves if isinstance(leaf.value, Tensor)}
    leaves = [leaf for leaf in leaves if leaf.container in with_tensors]  # without settings and scores
    for roots, needed in ((_SEQUENCEPAR, ("clip_model", "decoder")), (_CLIP, ("visual",))):
        found = _merged(_grouped(leaves, roots))
        whole = [one for one in found if {name.split(".")[0] for name in one.values}.issuperset(needed)]
        parts = [one for one in found if any(name.startswith("clip_model.") for name in one.values)]
        if whole or parts:
            chosen = _chosen(whole or parts, source, choice)
            return _tensors(chosen, _beside(chosen, leaves, roots), source)
    raise _no_network(leaves, content, source)


def _flattened(content: object, container: str = "", depth: int = 0) -> Iterator[_Leaf]:
    """Yield the values with dotted names. Dictionaries whose keys are not text belong to an optimizer."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, Mapping):
        items = list(content.items())
    elif isinstance(content, (list, tuple)) and len(content) < _LONGEST:
        items = [(str(place), value) for place, value in enumerate(content)]
    for key, value in items:
        if not isinstance(key, str) or _NOT_WEIGHTS.match(key):
            continue
        name = f"{container}.{key}" if container else key
        if isinstance(value, (Mapping, list, tuple)):
            if depth < _DEEPEST:
                yield from _flattened(value, name, depth + 1)
        else:
            yield _Leaf(name, value, container)


def _grouped(leaves: Sequence[_Leaf], roots: frozenset[str]) -> list[_Weights]:
    groups: dict[str, _Weights] = {}
    for leaf in leaves:
        parts = leaf.name.split(".")
        start = next((place for place, part in enumerate(parts) if part in roots), None)
        if start is None:
            continue
        own = ".".join(part for part in parts[start:] if part not in _TRANSPARENT)
        prefix = ".".join(parts[:start])
        group = groups.setdefault(prefix, _Weights(prefix))
        if own in group.values:  # decoder.x beside decoder.module.x: two sets
            prefix = ".".join([*parts[:start], *(part for part in parts[start:] if part in _TRANSPARENT)])
            group = groups.setdefault(prefix, _Weights(prefix))
        group.values[own] = leaf.value
        group.containers.add(leaf.container)
    return list(groups.values())


def _merged(groups: Sequence[_Weights]) -> list[_Weights]:
    """Put together the weights that a prefix on only some of the names has set apart."""
    merged: list[_Weights] = []
    for group in sorted(groups, key=lambda group: group.rank):
        for other in merged:
            if other.own_name == group.own_name and not other.values.keys() & group.values.keys():
                other.values |= group.values
                other.containers |= group.containers
                break
        else:
            merged.append(group)
    return merged


def _chosen(found: Sequence[_Weights], source: str, choice: str | None) -> _Weights:
    names = ", ".join(one.label for one in found)
    if choice is not None:
        fitting = [one for one in found if one.label == choice] or [
            one for one in found if f".{choice}." in f".{one.prefix}."
        ]
        if len(fitting) != 1:
            raise CheckpointError(f"--weights must be one of the weights in {source}: {names}; got {choice!r}")
        return fitting[0]
    trained = [one for one in found if not one.own_name]
    others = [one for one in found if one.own_name and not _AVERAGE.search(one.own_name)]
    if not trained and len(others) > 1:
        raise CheckpointError(
            f"{source} must hold the weights of one network, got {len(found)}: {names}; choose one with --weights"
        )
    chosen = (trained or others or found)[0]
    if rest := ", ".join(one.label for one in found if one is not chosen):
        _log.warning(
            "%s holds several sets of weights: using %s, not %s; --weights NAME chooses another",
            *(source, chosen.label, rest),
        )
    return chosen


def _beside(chosen: _Weights, leaves: Sequence[_Leaf], roots: frozenset[str]) -> dict[str, Tensor]:
    """Return the tensors of the same state dict that have no name of the network."""
    start = f"{chosen.prefix}." if chosen.prefix else ""
    return {
        leaf.name[len(start) :]: leaf.value
        for leaf in leaves
        if isinstance(leaf.value, Tensor)
        and leaf.container in chosen.containers
        and leaf.name.startswith(start)
        and not roots.intersection(leaf.name.split("."))
    }


def _tensors(chosen: _Weights, beside: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    tensors = {}
    for name, value in {**chosen.values, **beside}.items():
        if name.rsplit(".", 1)[-1] in _COUNTERS:
            continue
        kind = _unusable(value)
        if kind is not None:
            raise CheckpointError(
                f"{name!r} of the state dict in {source} must be a dense tensor of numbers, got {kind}; "
                "pass the checkpoint that the training saved"
            )
        tensors[name] = value
    return tensors


def _unusable(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return f"a value of type {type(value).__name__}"
    if value.is_meta:
        return "a shape without values (a meta tensor)"
    if value.is_quantized or value.is_complex():
        return f"one of type {str(value.dtype).removeprefix('torch.')}"
    return None if value.layout is torch.strided else "a sparse one"


def _no_network(leaves: Sequence[_Leaf], content: object, source: str) -> CheckpointError:
    tensors = [leaf.name for leaf in leaves if isinstance(leaf.value, Tensor)]
    if tensors:
        got = f"{len(tensors)} other weights such as {tensors[0]!r}"
    elif isinstance(content, Mapping):
        keys = [str(key) for key in content]
        optimizer = " (the state of an optimizer)" if {"state", "param_groups"}.issubset(keys) else ""
        got = f"none, but {', '.join(keys[:4]) or 'an empty dictionary'}{optimizer}"
    else:
        got = f"an object of type {type(content).__name__}"
    return CheckpointError(
        f"{source} must have a state dict of SequencePAR, got {got}; pass the checkpoint that the training saved"
    )
