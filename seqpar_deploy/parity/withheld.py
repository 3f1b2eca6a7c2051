"""The reference of a bundle that withholds attributes, filled in from the backend under test."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqpar_deploy.backends.base import Backend
from seqpar_deploy.backends.withheld import completed, filled, withheld_tokens
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.parity.reference import BEAM, Reference
from seqpar_deploy.vocab import BOS, PAD


def completed_reference(reference: Reference, bundle: Bundle, backend: Backend[Any]) -> Reference:
    """Return the golden data of a bundle with what they lack of the attributes that it withholds.

    Args:
        reference: The golden data of the bundle. The outputs of a checkpoint are returned as they are.
        bundle: The opened bundle.
        backend: The backend under test. What golden data lack is its own output, see `backends/withheld.py`.

    Returns:
        The reference to compare the backend with.

    Raises:
        BackendError: The backend fails.
    """
    if not bundle.withheld or reference.source == "checkpoint":
        return reference
    withheld = withheld_tokens(bundle.label_set, bundle.withheld)

    def encode(crop: int) -> Any:
        return backend.encode(reference.prepared([crop]))

    tokens, log_probs = completed(backend, encode, reference.tokens, reference.log_probs, withheld)
    beams = reference.beam_tokens
    if beams is not None and (backend.max_rows or BEAM.width) >= BEAM.width:
        beams = beams.copy()
        for crop in reference.beamed:
            (found,) = BEAM.generate(backend, encode(crop), max_steps=log_probs.shape[1])
            if tuple(token for token in found.tokens if token not in withheld) == reference.beam(crop):
                beams[crop] = PAD
                beams[crop, : 1 + len(found.tokens)] = [BOS, *found.tokens]
    suspects = tuple(
        dataclasses.replace(known, log_probs=filled(known.log_probs, log_probs[known.crop, 0], withheld))
        for known in reference.suspects
    )
    return dataclasses.replace(reference, tokens=tokens, log_probs=log_probs, beam_tokens=beams, suspects=suspects)
