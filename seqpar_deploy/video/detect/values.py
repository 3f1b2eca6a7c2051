"""Signs in a graph's outputs of what their values mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.video.detect.decoding import PER_PICTURE


def has_no_object(logits: npt.NDArray[Any], classes: int) -> bool:
    """Return whether the last class is "no object", which nearly all queries of a blank picture have."""
    last = logits[:, -1]
    return classes == 92 or (classes > 1 and float(np.median(last)) >= -1 and bool(_last_is_most(logits)))


def _last_is_most(logits: npt.NDArray[Any]) -> bool:
    return float((logits.argmax(axis=1) == logits.shape[1] - 1).mean()) > 0.5


def are_edges(box: npt.NDArray[Any]) -> str | None:
    """Return the reason if the boxes of all places are edges, else None.

    Left and right edges are both near their place, while some sizes are smaller than the distance of their centre.
    """
    box = box[np.any(box != 0, axis=1)]
    if len(box) < 100:
        return None
    if float(np.mean(box[:, 2:] >= box[:, :2])) > 0.99:
        return "no size below its centre"
    with np.errstate(all="ignore"):  # sizes that are all equal
        along = [float(np.corrcoef(box[:, axis], box[:, axis + 2])[0, 1]) for axis in (0, 1)]
    return "sizes that grow with their centres" if min(along) > 0.9 else None


def has_no_class(table: npt.NDArray[Any]) -> str | None:
    """Return the reason if objects have no class: what is taken for the objectness is a class."""
    sure = table[table[:, 4] >= 0.5]
    return "objects without a class" if len(sure) and float(np.mean(sure[:, 5:].max(axis=1) < 0.1)) > 0.5 else None


def are_relative(rows: npt.NDArray[Any]) -> bool:
    """Return whether the boxes of a blank picture are parts of its size. YOLO's are in pixels, or all 0 after NMS."""
    return 0 < float(np.abs(rows[..., :4]).max(initial=0)) <= PER_PICTURE
