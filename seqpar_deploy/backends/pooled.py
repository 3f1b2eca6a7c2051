"""Compare pooled image tokens with the checkpoint's.

No token depends on them: heads that draft attributes read them, and a wrong draft costs steps only. So nothing else
would show that a backend returns those of another person.

The tolerance is the recipe's `log_prob_median`, as a relative error of each part. Both bound what a precision does to
values after a whole network: 1e-4 in FP32, where 24 layers cause 1e-5 or less, and 2e-2 in FP16.
"""

from __future__ import annotations

import math

import numpy as np

from seqpar_deploy.backends.base import Float32Array

_PARTS = ("mean", "maximum", "class token")
_NEARER = 4  # a row is another's if it is this many times as near to that one's features as to its own


def pooled_errors(expected: Float32Array, got: Float32Array) -> Float32Array:
    """Return the relative error of each row and part, (B, 3): RMS of the difference over RMS of `expected` (B, 3d).

    It is infinite if a value is NaN or infinity.
    """
    wanted, found = (rows.astype(np.float64).reshape(len(rows), len(_PARTS), -1) for rows in (expected, got))
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    errors[(found == wanted).all(axis=-1)] = 0  # also if all are 0
    return np.asarray(np.nan_to_num(errors, nan=math.inf), dtype=np.float32)


def wrong_pooled(expected: Float32Array, got: Float32Array, tolerance: float) -> tuple[int, str] | None:
    """Return the first row (B, 3d) with wrong features and a line on it, or None."""
    if got.shape != expected.shape:
        return 0, f"pooled features must have shape {expected.shape}, got {got.shape}"
    errors = pooled_errors(expected, got)
    distances = np.linalg.norm(got[:, None].astype(np.float64) - expected[None], axis=-1)  # (B, B): got, expected
    for row, own in enumerate(distances.diagonal().tolist()):
        nearest = int(np.argmin(np.nan_to_num(distances[row], nan=math.inf)))
        if nearest != row and own > _NEARER * distances[row, nearest]:
            return row, f"row {row} of a batch of {len(got)} has the pooled features of row {nearest}"
        if not errors[row].max() <= tolerance:
            part = int(np.argmax(errors[row]))
            return row, (
                f"the {_PARTS[part]} of the image tokens, pooled for drafts, must have a relative error of at most "
                f"{tolerance:.3g}, got {errors[row, part]:.3g}"
            )
    return None
