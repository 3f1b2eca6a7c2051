"""Renders synthetic pedestrians: people drawn from their attributes. All files are marked as synthetic."""

from __future__ import annotations

from seqpar_deploy.synth.dataset import contact_sheet, write_pa100k
from seqpar_deploy.synth.render import render_person

__all__ = ["contact_sheet", "render_person", "write_pa100k"]
