"""Measure the first minutes of a new user: install the wheel in a fresh environment, then run `seqpar demo`.

    make wheel && .venv/bin/python benchmarks/first_minutes.py [--wheel dist/seqpar_deploy-*.whl]

The environment and the working folder are outside the checkout. The wheel is installed with [openvino,video], and two
cores are used. The script fails if PyTorch is installed, or if an output of the demo is missing. Times are wall time.
Processor seconds are recorded too, because other work on the machine does not change them much.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from seqpar_deploy.files import sha256_of, write_whole
from seqpar_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "first-minutes.json"
EXTRAS = "openvino,video"
LIMIT = 30.0  # seconds from the end of the installation to the end of the demo
CORES = 2
OUTPUTS = ("people.html", "people.jsonl", "people.png", "pictures", "street.mp4")
ABSENT = ("torch", "torchvision", "onnx", "onnxscript", "open_clip", "safetensors")
FACTS = f"""
import importlib.metadata, importlib.util, json
print(json.dumps({{
    "present": [name for name in {ABSENT!r} if importlib.util.find_spec(name)],
    "packages": {{d.name: d.version for d in importlib.metadata.distributions()}},
}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="wheel to install; default: the newest in dist/")
    parser.add_argument("--python", default=sys.executable, help="Python of the environment; default: this one")
    parser.add_argument("--constraint", type=Path, help="versions for pip; default: the newest of each package")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    wheel = options.wheel or newest_wheel()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))
    with tempfile.TemporaryDirectory(prefix="first-minutes-") as folder:
        values = measure(wheel.resolve(), Path(folder), options.python, options.constraint)
    values |= {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    print(json.dumps({name: values[name] for name in ("install", "demo", "within_limit")}, indent=2))


def newest_wheel() -> Path:
    """Return the newest wheel in dist/. Exits if there is none."""
    wheels = sorted((ROOT / "dist").glob("seqpar_deploy-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit("error: dist/ must hold a wheel, got none; run make wheel, or pass --wheel")
    return wheels[-1]


def measure(wheel: Path, folder: Path, python: str, constraint: Path | None) -> dict[str, Any]:
    """Install and run the demo twice in a folder outside the checkout. Exits if a check fails."""
    environment = folder / "venv"
    run([python, "-m", "venv", str(environment)], folder)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    limits = ["--constraint", str(constraint.resolve())] if constraint else []
    install, _ = run([*pip, *limits, f"{wheel}[{EXTRAS}]"], folder)
    load = os.getloadavg()[0]
    first, printed = run([str(environment / "bin" / "seqpar"), "demo"], folder)
    again, _ = run([str(environment / "bin" / "seqpar"), "demo"], folder)
    out = folder / "seqpar-demo"
    if missing := [name for name in OUTPUTS if not (out / name).exists()]:
        sys.exit(f"error: seqpar demo must write {', '.join(OUTPUTS)}; missing: {', '.join(missing)}")
    if (people := printed.count("\nperson-") + printed.startswith("person-")) != 20:
        sys.exit(f"error: seqpar demo must print 20 people, got {people}")
    if (out / "people.html").resolve().as_uri() not in printed:
        sys.exit("error: seqpar demo must name the page to open, got no address of people.html")
    _, answer = run([str(environment / "bin" / "python"), "-c", FACTS], folder)
    facts = json.loads(answer)
    if facts["present"]:
        sys.exit(f"error: the environment must be without PyTorch, got {', '.join(facts['present'])}")
    return {
        "wheel": {"name": wheel.name, "bytes": wheel.stat().st_size, "sha256": sha256_of(wheel)},
        "extras": EXTRAS,
        "constrained": constraint is not None,
        "cores": CORES,
        "load_before_the_demo": round(load, 2),
        "install": install,
        "demo": {"first": first, "again": again, "limit_seconds": LIMIT},
        "within_limit": first["seconds"] <= LIMIT,
        "people_printed": people,
        "absent": list(ABSENT),
        "packages": dict(sorted(facts["packages"].items(), key=lambda item: item[0].lower())),
    }


def run(command: list[str], folder: Path) -> tuple[dict[str, float], str]:
    """Run a command in a folder. Returns its wall and processor seconds, and its output. Exits if it fails."""
    # Nothing of this environment: neither PYTHONPATH nor the variables of an activated one.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "processor_seconds": round(processor, 1)}, done.stdout


if __name__ == "__main__":
    main()
