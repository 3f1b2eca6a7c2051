"""The model card that travels with a bundle: what it is, where it came from, what was checked and what was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqpar_deploy.vocab import LabelSet


def model_card(manifest: Mapping[str, Any], label_set: LabelSet) -> str:
    """Markdown, from a manifest with its parity report."""
    parity, dimensions, producer = manifest["parity"], manifest["dimensions"], manifest["producer"]
    attributes = "\n".join(f"| {a.name} | {a.group} | {a.phrase} |" for a in label_set.attributes)
    checks = ", ".join(check["name"] for check in parity["checks"] if check["status"] == "passed")
    kinds = ", ".join(f"{number} {kind}" for kind, number in parity["kinds"].items())
    return f"""# SequencePAR, {label_set.title or label_set.name}, {manifest["precision"]}

Pedestrian attributes generated as a sequence (SequencePAR, arXiv 2312.01640), split into an image encoder and a
decoder step for ONNX runtimes. Made by seqpar-deploy {producer["seqpar_deploy"]} with torch {producer["torch"]},
opset {producer["opset"]}.

| | |
|---|---|
| checkpoint | `{manifest["checkpoint"]["file"]}`, SHA-256 `{manifest["checkpoint"]["sha256"]}` |
| input | person crops, uint8 RGB, padded and resized to {dimensions["image_size"]} x {dimensions["image_size"]} |
| decoder | {dimensions["layers"]} layers, {dimensions["heads"]} heads of {dimensions["head_size"]} |
| longest sequence | {dimensions["capacity"] - 1} attributes |

## What was checked
Against the checkpoint (PyTorch, FP32, no cache) on {parity["crops"]} crops ({kinds}), run on
{parity["backend"]}: {parity["identical"]} greedy sequences identical, {parity["ties"]} leaving it at a numerical tie.
Log-probabilities along the checkpoint's sequences differ by {parity["log_prob_median"]:.2g} in the median and
{parity["log_prob_max"]:.2g} at most. Checked as well: {checks}. `seqpar parity` repeats this on any machine.
{_int8(manifest.get("int8"))}
That the bundle equals its checkpoint says nothing of how good the checkpoint is. Accuracy was not measured here.

## Attributes
| name | group | phrase given to the text tower |
|---|---|---|
{attributes}
"""


def _int8(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"""
The 8-bit graphs beside the exact ones run only if asked for. As they come, {found["identical"]} of {found["crops"]}
of these sequences are the checkpoint's, and log-probabilities differ by {found["log_prob_median"]:.2g} in the median
and {found["log_prob_max"]:.2g} at most. `seqpar tune` finds the margin below which crops are re-run with the native
graphs.
"""
