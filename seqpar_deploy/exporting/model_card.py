"""Write the model card of a bundle: its model, its checkpoint and the checks that were run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqpar_deploy.vocab import LabelSet


def model_card(manifest: Mapping[str, Any], label_set: LabelSet) -> str:
    """Return the model card in Markdown, from a manifest with its parity report, and the attributes that are shown."""
    parity, dimensions, producer = manifest["parity"], manifest["dimensions"], manifest["producer"]
    attributes = "\n".join(f"| {a.name} | {a.group} | {a.phrase} |" for a in label_set.attributes)
    if count := len(manifest.get("withheld", ())):
        attributes += f"\n\n{count} more are withheld: the model decodes them, and no prediction has them."
    checks = ", ".join(check["name"] for check in parity["checks"] if check["status"] == "passed")
    kinds = ", ".join(f"{number} {kind}" for kind, number in parity["kinds"].items())
    return f"""# SequencePAR, {label_set.title or label_set.name}, {manifest["precision"]}

SequencePAR (arXiv 2312.01640) generates pedestrian attributes as a sequence. This bundle has it as an image encoder and
a decoder step for ONNX runtimes. It was made by seqpar-deploy {producer["seqpar_deploy"]} with torch
{producer["torch"]}, opset {producer["opset"]}.

| | |
|---|---|
| checkpoint | `{manifest["checkpoint"]["file"]}`, SHA-256 `{manifest["checkpoint"]["sha256"]}` |
| input | person crops, uint8 RGB, padded and resized to {dimensions["image_size"]} x {dimensions["image_size"]} |
| padding | {_padding(manifest)} |
| decoder | {dimensions["layers"]} layers, {dimensions["heads"]} heads of {dimensions["head_size"]} |
| longest sequence | {dimensions["capacity"] - 1} attributes |

## Checks
The bundle was compared with its checkpoint (PyTorch, FP32, no cache) on {parity["crops"]} crops ({kinds}), on backend
{parity["backend"]}. {parity["identical"]} greedy sequences are identical, {parity["ties"]} differ at a numerical tie.
Log-probabilities along the checkpoint's sequences differ by {parity["log_prob_median"]:.2g} in the median and
{parity["log_prob_max"]:.2g} at most. These checks passed: {checks}. `seqpar parity` repeats them on any machine.
{_int8(manifest.get("int8"))}
These checks compare the bundle with its checkpoint. They do not measure the checkpoint's accuracy.

## Attributes
| name | group | phrase given to the text tower |
|---|---|---|
{attributes}
"""


def _padding(manifest: Mapping[str, Any]) -> str:
    columns = manifest.get("columns")
    if not columns:
        return "full: the whole square is read"
    *narrow, whole = columns
    text = (
        f"trimmed: the middle {', '.join(map(str, narrow))} or all {whole} patch columns are read, by the crop's shape"
    )
    if manifest["checkpoint"].get("redefined"):
        text += (
            ". **Redefined by the export** (`--trim`): the checkpoint was trained on whole squares, so its accuracy "
            "may differ. The checks below compare with the trimmed checkpoint. Compare scores with `seqpar eval`"
        )
    return text


def _int8(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"""
The bundle also has 8-bit graphs, which run only on request. Without the fallback, {found["identical"]} of
{found["crops"]} of these sequences equal the checkpoint's. Log-probabilities differ by {found["log_prob_median"]:.2g}
in the median and {found["log_prob_max"]:.2g} at most. `seqpar tune` finds the margin below which crops are re-run with
the native graphs.
"""
