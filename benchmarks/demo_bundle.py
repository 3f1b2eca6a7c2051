"""Exports the demo model for the benchmarks that need a bundle."""

from __future__ import annotations

from pathlib import Path

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.progress import Progress, silent

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "models" / "demo" / "demo.safetensors"


def export_demo(out: Path, recipe: str = "fp32", *, progress: Progress = silent) -> Bundle:
    """Export the demo model to the folder `out`. torch is imported here, so that `--help` of the scripts is fast."""
    from seqpar_deploy.exporting.export import export_bundle
    from seqpar_deploy.exporting.recipe import load_recipe

    return export_bundle(CHECKPOINT, load_recipe(recipe), out, overwrite=True, progress=progress)
