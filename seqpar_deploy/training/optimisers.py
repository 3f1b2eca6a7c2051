"""The optimisers of the network's three parts (AdamW, and Muon if the recipe enables it), and the learning rate."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqpar_deploy.errors import TrainingError
from seqpar_deploy.machine import has_bf16
from seqpar_deploy.training.recipe import Optimiser

_HEADS = ("decoder.fc.weight", "presence.weight")  # Muon is not for the last layers
_UNUSED = "clip_model.logit_scale"  # of CLIP's contrastive loss


def learning_rate(recipe: Optimiser, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay that counts from the first epoch."""
    epoch = step // steps_per_epoch if recipe.schedule == "epoch" else step / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        share = recipe.warmup_start + (1 - recipe.warmup_start) * epoch / recipe.warmup_epochs
    else:
        share = recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    return recipe.learning_rate * share


def make_optimisers(taught: nn.Module, recipe: Optimiser) -> list[torch.optim.Optimizer]:
    """Return the optimisers. Each of the three parts has its share of the rate. A part with share 0 is frozen."""
    shares = {"image": recipe.image_tower, "text": recipe.text_tower, "decoder": recipe.decoder}
    adamw: dict[str, list[nn.Parameter]] = {part: [] for part in shares}
    muon: dict[str, list[nn.Parameter]] = {part: [] for part in shares}
    for name, parameter in taught.named_parameters():
        image = name.startswith(("model.clip_model.visual.", "presence."))
        part = "image" if image else "text" if name.startswith("model.clip_model.") else "decoder"
        if shares[part] == 0 or name.endswith(_UNUSED):
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and "embedding" not in name and not name.endswith(_HEADS)
            (muon if recipe.muon and inside else adamw)[part].append(parameter)
    if not any([*adamw.values(), *muon.values()]):
        raise TrainingError(
            "image_tower, text_tower or decoder must be above 0, got 0 for all; change [optimiser] in the recipe"
        )

    def groups(parameters: dict[str, list[nn.Parameter]], rate: float) -> list[dict[str, Any]]:
        return [{"params": parameters[part], "full_rate": rate * shares[part]} for part in shares if parameters[part]]

    made: list[torch.optim.Optimizer] = []
    if any(adamw.values()):
        made.append(
            torch.optim.AdamW(
                groups(adamw, recipe.learning_rate),
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                fused=True,
            )
        )
    if any(muon.values()):
        made.append(_Muon(groups(muon, recipe.muon), lr=recipe.muon, weight_decay=recipe.weight_decay))
    return made


class _Muon(torch.optim.Muon):
    """Muon that multiplies in float32 on processors without bf16, which need 100 times as long in bf16."""

    def step(self, closure: Any = None) -> Any:
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        with _Float32Products() if on_cpu and not has_bf16() else contextlib.nullcontext():
            return super().step(closure)


class _Float32Products(TorchFunctionMode):
    """Computes products of bf16 matrices in float32 and rounds them, like processors with bf16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.addmm, Tensor.matmul, Tensor.__matmul__) or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        return func(*(matrix.float() for matrix in args), **(kwargs or {})).bfloat16()
