"""List the licences of the packages that each extra of a wheel installs, from the metadata of this environment.

    .venv/bin/python tools/licences.py dist/seqpar_deploy-*.whl

A package that is not installed here, for example TensorRT's, is listed without a licence.
"""

from __future__ import annotations

import argparse
import email.parser
import zipfile
from collections.abc import Iterable
from email.message import Message
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_NOT_INSTALLED = "not installed in this environment"
_LONGEST = 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the wheel")
    print(licences_page(parser.parse_args().wheel), end="")


def licences_page(wheel: Path) -> str:
    """Return a Markdown page: each package with version, licence and the extras that install it."""
    core = _core_metadata(wheel)
    requirements = core.get_all("Requires-Dist") or []
    extras = [extra for extra in core.get_all("Provides-Extra") or [] if extra != "dev"]
    base = closure(requirements, "")
    installed_by: dict[str, list[str]] = {name: ["(base)"] for name in base}
    for extra in extras:
        for name in closure(requirements, extra, own=core["Name"]) - base:
            installed_by.setdefault(name, []).append(extra)
    rows = [
        f"| {name} | {version} | {licence} | {', '.join(installed_by[name])} |"
        for name in sorted(installed_by)
        for version, licence in [licence_of(name)]
    ]
    title = f"# Licences of the packages that {core['Name']} {core['Version']} installs"
    note = (
        "By the metadata of the packages, in the versions of the environment that built the release. "
        f"{core['Name']} itself: {core['License-Expression']}."
    )
    return "\n".join([title, "", note, "", "| package | version | licence | extras |", "|---|---|---|---|", *rows, ""])


def closure(requirements: Iterable[str], extra: str, *, own: str = "") -> set[str]:
    """Return the canonical names of all packages that requirements install, directly or not.

    Args:
        requirements: As in `Requires-Dist`.
        extra: The extra asked for; empty for none.
        own: Name of the package itself, whose extras may name each other.
    """
    lines = [Requirement(line) for line in requirements]
    found: set[str] = set()
    extras_done: set[str] = set()
    waiting = [(lines, extra)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted, active = waiting.pop()
        for requirement in wanted:
            if requirement.marker and not requirement.marker.evaluate({"extra": active}):
                continue
            name = canonicalize_name(requirement.name)
            if name == canonicalize_name(own):
                new = requirement.extras - extras_done
                extras_done |= new
                waiting += [(lines, other) for other in new]
                continue
            found.add(name)
            for option in ("", *requirement.extras):
                if (name, option) not in seen:
                    seen.add((name, option))
                    waiting.append((_requirements_of(name), option))
    return found


def licence_of(name: str) -> tuple[str, str]:
    """Return version and licence of an installed package: its SPDX expression, else its classifiers, else its text."""
    try:
        core = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "", _NOT_INSTALLED
    # Message has `get`, which the protocol of Python 3.10 lacks.
    values = {key: core[key] for key in ("License-Expression", "License") if key in core}
    classifiers = [
        line.rpartition(" :: ")[2] for line in core.get_all("Classifier") or [] if line.startswith("License")
    ]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    text = (values.get("License") or "").strip().partition("\n")[0]
    licence = values.get("License-Expression") or ", ".join(classifiers) or text or "not stated, see its files"
    short = licence if len(licence) <= _LONGEST else licence[: _LONGEST - 1] + "…"
    return core["Version"], short.replace("|", "/")


def _requirements_of(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []


def _core_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.BytesParser().parsebytes(archive.read(name))


if __name__ == "__main__":
    main()
