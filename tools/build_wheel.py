"""Build the wheel, with the demo bundle in it: `make wheel`.

    .venv/bin/python tools/build_wheel.py [--out dist]

Exports models/demo to build/demo-bundle, in FP32, which runs on every backend. An earlier export is kept if the
sources, the data files and the exporting libraries are the same. `seqpar demo` runs this bundle.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_WHEEL = "seqpar_deploy/_data/bundles/demo"
LARGEST = 40_000_000  # bytes
_INPUTS = ("seqpar_deploy", "export", "models", "samples")
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="output folder; default: dist")
    out = parser.parse_args().out.resolve()
    export_demo_bundle(ROOT)
    [wheel] = build(ROOT, out, "--wheel")
    if problems := check_bundle_in(wheel):
        sys.exit(f"error: {wheel}: {problems[0]}")
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")


def export_demo_bundle(root: Path) -> Path:
    """Export the demo checkpoint of a checkout, unless the export there is of the same inputs. Returns the bundle."""
    bundle, stamp = root / "build" / "demo-bundle", root / "build" / "demo-bundle.sha256"
    inputs = hash_of_inputs(root)
    if (bundle / "manifest.json").is_file() and stamp.is_file() and stamp.read_text() == inputs:
        print(f"{bundle} is up to date", flush=True)
        return bundle
    stamp.unlink(missing_ok=True)  # an export that is interrupted leaves none
    checkpoint = Path("models") / "demo" / "demo.safetensors"
    words: list[str | Path] = ["-m", "seqpar_deploy", "export", "checkpoint", checkpoint, "--recipe", "fp32"]
    run([*words, "--out", bundle, "--overwrite"], root)
    stamp.write_text(inputs)
    return bundle


def hash_of_inputs(root: Path) -> str:
    """Return the SHA-256 of everything that the demo bundle is made from, versions of libraries included."""
    digest = hashlib.sha256()
    for library in _LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    for folder in _INPUTS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def build(root: Path, out: Path, *kinds: str, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Build archives with the tools of this environment, which constraints.txt pins. Returns the new files."""
    out.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run(["-m", "build", "--no-isolation", *kinds, "--outdir", out, root], root, environment)
    made = [path for path in sorted(out.iterdir()) if before.get(path) != path.stat().st_mtime_ns]
    return [path for path in made if path.suffix in (".whl", ".gz")]


def run(words: list[str | Path], root: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run Python in a checkout, with the package of that checkout. Exits if it fails."""
    variables = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=root, env=variables, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, words))} failed with exit code {done.returncode}")


def check_bundle_in(wheel: Path) -> list[str]:
    """Return the problems of the demo bundle in a wheel, and of its size."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    problems = []
    if f"{IN_WHEEL}/manifest.json" not in names:
        problems.append("the demo bundle is missing; see the warnings of the build")
    if (size := wheel.stat().st_size) > LARGEST:
        problems.append(f"size must be at most {LARGEST:,} bytes, got {size:,}")
    return problems


if __name__ == "__main__":
    main()
