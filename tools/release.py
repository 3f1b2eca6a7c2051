"""Build and check a release: `make release`. Nothing is uploaded.

    .venv/bin/python tools/release.py [--out dist] [--tag] [--rehearse]

Takes version and notes from the top section of CHANGELOG.md. Builds the wheel and the source archive twice, in two
clean clones of the current commit, and compares the bytes. Checks the metadata (twine) and the contents, and lists the
licences of the packages that each extra installs. docs/release.md has the steps of a release.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from archive_checks import archive_problems
from build_wheel import ROOT, build, check_bundle_in, export_demo_bundle, run
from licences import licences_page

_HEADING = re.compile(r"^## +\[?v?([^\]\s]+)\]?.*$", re.MULTILINE)
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


class ReleaseError(Exception):
    """The release cannot be made; the message is one line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="output folder; default: dist")
    parser.add_argument("--tag", action="store_true", help="tag the commit at the end, in this checkout only")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="build and check the commit although CHANGELOG.md names no version yet, or files are uncommitted",
    )
    options = parser.parse_args()
    try:
        if options.tag and options.rehearse:
            raise ReleaseError("--tag and --rehearse exclude each other; leave out one of them")
        release(options.out.resolve(), tag=options.tag, rehearse=options.rehearse)
    except ReleaseError as error:
        sys.exit(f"error: {error}")


def release(out: Path, *, tag: bool, rehearse: bool) -> None:
    """Build a release into a folder. Raises ReleaseError."""
    commit, version = git("rev-parse", "HEAD"), version_of(committed("seqpar_deploy/__init__.py"))
    notes = release_notes(committed("CHANGELOG.md"), version, rehearse=rehearse)
    if not rehearse and git("status", "--porcelain"):
        raise ReleaseError("all changes must be committed, got uncommitted files; see git status")
    if tag and git("tag", "--list", f"v{version}"):
        raise ReleaseError(f"tag v{version} exists already; set a new version")
    with tempfile.TemporaryDirectory(prefix="seqpar-release-") as folder:
        archives = build_twice(Path(folder), commit)
        check(archives, version, Path(folder))
        out.mkdir(parents=True, exist_ok=True)
        kept = [Path(shutil.copy2(archive, out)) for archive in archives]
    wheel = next(path for path in kept if path.suffix == ".whl")
    (out / "licences.md").write_text(licences_page(wheel), encoding="utf-8")
    (out / "release-notes.md").write_text(f"{notes}\n", encoding="utf-8")
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in kept)
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    for path in (*kept, *(out / name for name in ("licences.md", "release-notes.md", "SHA256SUMS"))):
        print(f"{path}: {path.stat().st_size:,} bytes")
    if tag:
        git("tag", "--annotate", f"v{version}", "--file", str(out / "release-notes.md"), "--cleanup=verbatim", commit)
        print(f"tagged {commit[:10]} as v{version}, in this checkout only")
    elif rehearse:
        print("this was a rehearsal: do not publish these files")


def build_twice(folder: Path, commit: str) -> list[Path]:
    """Build the archives of a commit in two clean clones. Raises ReleaseError if their bytes differ.

    A clone holds committed files only, and two of them have different paths, which therefore cannot be in the archives.
    """
    # Zip files know no time before 1980.
    epoch = {"SOURCE_DATE_EPOCH": str(max(int(git("show", "--no-patch", "--format=%ct", commit)), 315532800))}
    made: list[list[Path]] = []
    bundle: Path | None = None
    for name in ("first", "second"):
        clone = folder / name / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", "--detach", commit], check=True)
        if bundle is None:
            bundle = export_demo_bundle(clone)
        else:  # one export: its bytes may depend on the machine's libraries, and the manifest names their versions
            shutil.copytree(bundle, clone / "build" / "demo-bundle")
        made.append(build(clone, folder / name / "dist", "--wheel", "--sdist", environment=epoch))
    first, second = made
    for one, other in zip(first, second, strict=True):
        if one.name != other.name or one.read_bytes() != other.read_bytes():
            raise ReleaseError(f"two builds must give the same bytes, got two different files {one.name}")
    return first


def check(archives: list[Path], version: str, folder: Path) -> None:
    """Check metadata and contents. Raises ReleaseError."""
    stem = f"seqpar_deploy-{version}"
    expected, names = [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"], [path.name for path in archives]
    if names != expected:
        raise ReleaseError(f"archives must be {' and '.join(expected)}, got {', '.join(names)}")
    run(["-m", "twine", "check", "--strict", *archives], folder)
    problems = [f"{path.name}: {problem}" for path in archives for problem in archive_problems(path, [folder, ROOT])]
    problems += [f"{archives[0].name}: {problem}" for problem in check_bundle_in(archives[0])]
    if problems:
        raise ReleaseError(f"{len(problems)} problems in the archives: {'; '.join(problems[:5])}")


def release_notes(changelog: str, version: str, *, rehearse: bool = False) -> str:
    """Return the top section of a changelog. Raises ReleaseError unless it is of this version and has text."""
    headings = list(_HEADING.finditer(changelog))
    if not headings:
        raise ReleaseError("CHANGELOG.md must have a section, got none; add ## and the version")
    name = headings[0].group(1)
    if not _VERSION.fullmatch(name) and not rehearse:
        raise ReleaseError(f"the top section of CHANGELOG.md must be a version, got {name!r}; rename it to {version}")
    if name != version and not rehearse:
        raise ReleaseError(f"CHANGELOG.md and __version__ must agree, got {name} and {version}; change one of them")
    end = headings[1].start() if len(headings) > 1 else len(changelog)
    notes = changelog[headings[0].end() : end].strip()
    if not notes:
        raise ReleaseError(f"section {name} of CHANGELOG.md must have text, got none; describe the changes")
    return notes


def version_of(source: str) -> str:
    """Return `__version__` of a module's source. Raises ReleaseError."""
    if found := re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE):
        return found.group(1)
    raise ReleaseError("seqpar_deploy/__init__.py must set __version__, got none")


def committed(path: str) -> str:
    """Return a file of the current commit."""
    return git("show", f"HEAD:{path}")


def git(*words: str) -> str:
    """Return the output of a git command in this checkout. Raises ReleaseError."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
