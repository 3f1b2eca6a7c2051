"""Build hook: put the demo bundle that `make wheel` exports into the wheel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DemoBundleHook(BuildHookInterface[Any]):
    """Adds build/demo-bundle, unless it was exported from another checkpoint or by another version.

    A wheel can also be built without the bundle, which needs torch to export: `seqpar demo` then prints how to get it.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / "build" / "demo-bundle"
        manifest_file = folder / "manifest.json"
        if version == "editable" or not manifest_file.is_file():
            return
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        checkpoint = Path(self.root) / "models" / "demo" / "demo.safetensors"
        expected = (hashlib.sha256(checkpoint.read_bytes()).hexdigest(), self.metadata.version)
        if (manifest["checkpoint"]["sha256"], manifest["producer"]["seqpar_deploy"]) != expected:
            self.app.display_warning(f"leaving out {folder}: it is stale; make wheel exports it again")
            return
        for name in ("manifest.json", *manifest["files"]):
            build_data["force_include"][str(folder / name)] = f"seqpar_deploy/_data/bundles/demo/{name}"
