"""The demo model as a bundle, for the benchmarks that need one."""

from __future__ import annotations

from pathlib import Path

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.progress import Progress, silent

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "models" / "demo" / "demo.safetensors"


def export_demo(out: Path, recipe: str = "fp32", *, progress: Progress = silent) -> Bundle:
    """Export the demo model to the folder `out`. It imports torch here, so that `--help` of the scripts is quick."""
    from seqpar_deploy.exporting.export import export_bundle
    from seqpar_deploy.exporting.recipe import load_recipe

    return export_bundle(CHECKPOINT, load_recipe(recipe), out, overwrite=True, progress=progress)
