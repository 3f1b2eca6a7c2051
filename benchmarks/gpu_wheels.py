"""Copy the wheels for gpu_check.py to a GPU machine without a network, in small parts.

    python benchmarks/gpu_wheels.py plan                  # here: downloads, splits, and prints the calls in order
    python benchmarks/gpu_wheels.py keep FOLDER           # there, in each call: moves the copied parts to a safe folder
    python benchmarks/gpu_wheels.py install               # there, in the last call: joins, checks, and installs

`plan` writes groups of parts, each small enough for one call, and a manifest with the SHA-256 of each wheel and part.
The GPU machine needs Python 3.12 with torch, onnx, onnxscript and NVIDIA's CUDA libraries.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = "wheels.json"
MB = 1_000_000
PYTHON = "3.12"
# pip matches platforms literally, so all are listed, the newest first.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]
# The smallest first: they are sufficient for the demo model in eager PyTorch.
PACKAGES = (
    "msgspec",
    "wcwidth",
    "ftfy",
    "open_clip_torch",
    "onnx_ir",
    "onnxscript",
    "polygraphy",
    "cuda-pathfinder",
    "cuda-bindings",
    "tensorrt_rtx_cu13",
    "tensorrt_rtx_cu13_bindings",
    "tensorrt_rtx_cu13_libs",
    "onnxruntime-gpu",
)
# Packages with the same modules, of which only one may be installed.
EXCLUDES = {"onnxruntime_gpu": "onnxruntime"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a wheel, in one of the groups."""

    file: str
    group: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    file: str
    sha256: str
    parts: tuple[Part, ...]


class WheelError(Exception):
    """A wheel cannot be downloaded, joined or installed."""


def main() -> None:
    options = arguments()
    try:
        options.work(options)
    except WheelError as error:
        sys.exit(f"error: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    there = Path(tempfile.gettempdir()) / "gpu-wheels"

    plan = commands.add_parser("plan", help="download the wheels, split them, and print the calls in order")
    plan.add_argument("packages", nargs="*", default=PACKAGES, help="pip requirements; default: all of gpu_check.py's")
    plan.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu-wheels", help="folder for wheels and groups")
    plan.add_argument("--constraint", type=Path, help="constraints file for pip; default: the newest versions")
    plan.add_argument(
        "--call-mb", type=float, default=48, help="MB that one call can carry beside the checkout; default: 48"
    )
    plan.set_defaults(work=make_plan)

    keep = commands.add_parser("keep", help="move a carried group to a folder that stays between calls")
    keep.add_argument("group", type=Path, help="the carried folder")
    keep.add_argument("--kept", type=Path, default=there, help=f"folder that stays; default: {there}")
    keep.set_defaults(work=lambda options: keep_group(options.group, options.kept))

    install = commands.add_parser("install", help="join the parts, check them, and install all wheels offline")
    install.add_argument("--kept", type=Path, default=there, help=f"folder of the parts; default: {there}")
    install.add_argument("--target", type=Path, help="folder to install into; default: this Python's own packages")
    install.add_argument(
        "--some", action="store_true", help="install only the complete wheels; default: fail if one is incomplete"
    )
    install.add_argument("--replace", action="store_true", help="replace installed packages; default: keep them")
    install.set_defaults(work=install_wheels)
    return parser.parse_args()


def make_plan(options: argparse.Namespace) -> None:
    most = round(options.call_mb * MB)
    wheels = options.out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for package in options.packages:
        print(f"{package}: {download(package, wheels, options.constraint)}", flush=True)
    files = sorted(wheels.glob("*.whl"), key=lambda wheel: wheel.stat().st_size)
    groups = split(files, options.out, most)
    for line in calls(groups):
        print(line)


def download(package: str, folder: Path, constraint: Path | None) -> str:
    """Download one wheel without its dependencies, and return its name. A pure Python sdist is built to a wheel."""
    common = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    common += ["--constraint", str(constraint)] if constraint else []
    platform = [word for name in PLATFORMS for word in ("--platform", name)]
    target = [*platform, "--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory(dir=folder) as new:
        tried = [
            [*pip, "download", *common, *target, "--dest", new, package],
            [*pip, "wheel", *common, "--wheel-dir", new, package],
        ]
        for command in tried:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            made = sorted(Path(new).glob("*.whl"))
            if done.returncode == 0 and made:
                break
        else:
            raise WheelError(f"{package} cannot be downloaded: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        if command is tried[1] and not made[0].name.endswith("-none-any.whl"):
            raise WheelError(
                f"{package} must have a wheel for Python {PYTHON}, got {made[0].name}, which is for this machine only"
            )
        shutil.move(made[0], folder / made[0].name)
    return made[0].name


def split(files: Sequence[Path], out: Path, most: int) -> list[Path]:
    """Fill one group after the other with parts of wheels, each group of at most `most` bytes. Returns the groups."""
    for old in out.glob("group-*"):
        shutil.rmtree(old)
    groups: list[Path] = []
    room = 0
    wheels: list[Wheel] = []
    for file in files:
        parts: list[Part] = []
        with file.open("rb") as content:
            left = file.stat().st_size
            while left:
                if room == 0:
                    groups.append(out / f"group-{len(groups) + 1:02}")
                    groups[-1].mkdir(parents=True)
                    room = most
                piece = content.read(min(room, left))
                name = f"{file.name}.{len(parts):03}"
                (groups[-1] / name).write_bytes(piece)
                parts.append(Part(file=name, group=groups[-1].name, size=len(piece), sha256=sha256(piece)))
                room, left = room - len(piece), left - len(piece)
        wheels.append(Wheel(file=file.name, sha256=sha256(file.read_bytes()), parts=tuple(parts)))
    manifest = json.dumps({"wheels": [dataclasses.asdict(wheel) for wheel in wheels]}, indent=1)
    for group in groups:  # a few kB: the wheels of the first groups can be installed before the last ones come
        (group / MANIFEST).write_text(manifest)
    return groups


def calls(groups: Sequence[Path]) -> list[str]:
    """Return the groups to copy in each call, and the commands to run there."""
    lines = [f"{len(groups)} calls, in this order; run the commands in the checkout:"]
    for number, group in enumerate(groups, 1):
        path = group.relative_to(ROOT) if group.is_relative_to(ROOT) else group
        size = sum(file.stat().st_size for file in group.iterdir())
        wheels = json.loads((group / MANIFEST).read_text())["wheels"]
        whole = [wheel["file"].split("-")[0] for wheel in wheels if wheel["parts"][-1]["group"] == group.name]
        lines += [f"call {number}: carry {path} ({size / MB:.1f} MB), the last of: {', '.join(whole) or 'none'}"]
        lines += [f"    python3 benchmarks/gpu_wheels.py keep {path}"]
    lines += ["    python3 benchmarks/gpu_wheels.py install", "    PYTHONPATH=. python3 benchmarks/gpu_check.py"]
    lines += ["`install --some`, in an earlier call, installs the wheels that are whole by then."]
    return lines


def keep_group(group: Path, kept: Path) -> None:
    if not group.is_dir():
        raise WheelError(f"{group} must be a folder of parts, got none; carry it in this call")
    kept.mkdir(parents=True, exist_ok=True)
    for file in sorted(group.iterdir()):
        shutil.copyfile(file, kept / file.name)
    print(f"{kept} holds {len(list(kept.iterdir()))} files")


def install_wheels(options: argparse.Namespace) -> None:
    wheels = {wheel.name.split("-")[0]: wheel for wheel in join(options.kept, some=options.some)}
    there = {name: version for name in wheels if (version := installed_version(name))}
    if there and not options.replace:
        print(f"left alone: {', '.join(f'{name} {version}' for name, version in there.items())}; see --replace")
        wheels = {name: wheel for name, wheel in wheels.items() if name not in there}
    if not wheels:
        return
    pip, quiet = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check"]
    excluded = [EXCLUDES[name] for name in wheels if name in EXCLUDES and not options.target]
    if excluded:
        subprocess.run([*pip, "uninstall", "--yes", *quiet, *excluded], check=False)
    where = ["--target", str(options.target), "--upgrade"] if options.target else ["--force-reinstall"]
    offline = ["--no-index", "--no-deps", "--no-cache-dir"]
    command = [*pip, "install", *quiet, *offline, *where, *map(str, wheels.values())]
    if subprocess.run(command, check=False).returncode != 0:
        raise WheelError("pip failed to install the wheels; see its output above")
    print(f"installed {', '.join(wheels)}" + (f"; set PYTHONPATH={options.target}" if options.target else ""))


def installed_version(name: str) -> str | None:
    """As in `seqpar_deploy.machine`, which cannot be imported before its own dependencies are installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def join(kept: Path, *, some: bool = False) -> list[Path]:
    """The wheels, joined from their parts in a folder; with `some`, those that have all of their parts.

    Raises WheelError if parts are missing or changed.
    """
    try:
        described = json.loads((kept / MANIFEST).read_text())["wheels"]
    except OSError as error:
        raise WheelError(f"{kept / MANIFEST} cannot be read: {error.strerror}; carry a group and keep it") from None
    lacking = {
        wheel["file"]: {part["group"] for part in wheel["parts"] if not (kept / part["file"]).is_file()}
        for wheel in described
    }
    groups = sorted(set().union(*lacking.values()))
    if groups and not some:
        raise WheelError(f"{kept} must contain all parts, got none of {', '.join(groups)}; copy them, or pass --some")
    joined = []
    for wheel in described:
        if lacking[wheel["file"]]:
            continue
        pieces = [_checked(kept / part["file"], part["sha256"], part["group"]) for part in wheel["parts"]]
        content = b"".join(pieces)
        if sha256(content) != wheel["sha256"]:
            raise WheelError(
                f"SHA-256 of {wheel['file']} must be that of the wheel before the split, got another; run plan again"
            )
        (kept / wheel["file"]).write_bytes(content)
        joined.append(kept / wheel["file"])
    if not joined:
        raise WheelError(f"{kept} must contain a complete wheel, got none; copy {groups[0]}")
    return joined


def _checked(file: Path, expected: str, group: str) -> bytes:
    content = file.read_bytes()
    if (got := sha256(content)) != expected:
        raise WheelError(f"SHA-256 of {file} must be {expected[:12]}.., got {got[:12]}..; copy {group} again")
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
