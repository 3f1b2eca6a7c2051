"""A rendered pedestrian set: people drawn from their attributes. Synthetic, and said so wherever it is used."""

from __future__ import annotations

from seqpar_deploy.synth.dataset import contact_sheet, write_pa100k
from seqpar_deploy.synth.render import render_person

__all__ = ["contact_sheet", "render_person", "write_pa100k"]
