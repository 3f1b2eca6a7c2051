"""The optimisation profiles of a bundle's engines: which shapes each one covers, and which one serves a batch.

TensorRT chooses the kernels that are fastest at a profile's `opt` shape and valid from `min` to `max`, one set per
profile. So profiles should be narrow (NVIDIA/TensorRT#1166), and one per kind of shape: a single one for all lengths
chooses kernels that fit none (pytorch/TensorRT#4312). TensorRT-RTX also compiles kernels for the exact shapes at run
time, so it depends less on `opt`. Profiles are built one after the other, which the timing cache shortens (#2516).

So the encoder, which is most of the work, has a profile per batch profile and width, with a fixed width. A decoder step
reads its weights for most of its time, whatever the width. It has profiles per batch profile, for one token per row and
for many, which cover all widths and are tuned for the commonest. A bundle without trimming has one width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seqpar_deploy.backends.gpu.engine_files import GRAPHS, InputShapes, Shape
from seqpar_deploy.bundle import BatchProfile, Bundle, Dimensions

_COMMONEST = (250, 100)  # height and width of a crop: people are about 1:2.5

Sizes = Mapping[str, Shape]  # least, usual and most, by the letter of a dimension


def columns_read(bundle: Bundle) -> tuple[int, ...]:
    """Return the widths of prepared crops in patch columns, ascending. The last one is the whole square."""
    return bundle.columns or (bundle.dimensions.grid,)


def image_tokens(dimensions: Dimensions, columns: int) -> int:
    """Return N, the image tokens of a crop of this width in patch columns: the class token and the patches."""
    return 1 + dimensions.grid * columns


def graph_profiles(bundle: Bundle, batches: Sequence[BatchProfile]) -> dict[str, list[InputShapes]]:
    """Return the optimisation profiles of each graph, in engine order: see `encoder_profile` and `step_profile`."""
    d, columns = bundle.dimensions, columns_read(bundle)
    rows = [{"B": (batch.min, batch.opt, batch.max)} for batch in batches]
    widths = [{"W": (d.patch_size * width,) * 3} for width in columns]
    least, usual, most = (image_tokens(d, width) for width in (columns[0], _commonest(bundle), columns[-1]))
    tokens = [{"T": (1, 1, 1)}, {"T": (1, min(8, d.capacity), d.capacity)}]
    sizes: dict[str, list[Sizes]] = {
        "encoder": [batch | width for batch in rows for width in widths],
        "decoder_step": [batch | count | {"N": (least, usual, most)} for batch in rows for count in tokens],
    }
    inputs = {graph: bundle.manifest["graphs"][graph]["inputs"] for graph in GRAPHS}
    return {
        graph: [{spec["name"]: _shapes(spec["shape"], one) for spec in inputs[graph]} for one in sizes[graph]]
        for graph in GRAPHS
    }


def encoder_profile(batch: int, columns: Sequence[int], width: int) -> int:
    """Return the index of the encoder's profile for a batch profile and a width in patch columns."""
    return batch * len(columns) + columns.index(width)


def step_profile(batch: int, tokens: int) -> int:
    """Return the index of the decoder step's profile for a batch profile and a number of tokens per row."""
    return 2 * batch + (tokens > 1)


def _commonest(bundle: Bundle) -> int:
    """Return the width of the commonest crops in patch columns."""
    if bundle.trimming is None:
        return bundle.dimensions.grid
    return bundle.trimming.columns_of(np.empty((*_COMMONEST, 3), np.uint8), bundle.preprocessing)


def _shapes(shape: Sequence[int | str], sizes: Sizes) -> tuple[Shape, Shape, Shape]:
    least, usual, most = (tuple(sizes[s][i] if isinstance(s, str) else s for s in shape) for i in range(3))
    return least, usual, most
