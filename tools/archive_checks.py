"""Checks of the contents of wheels and source archives: nothing of the machine, nothing that does not belong there."""

from __future__ import annotations

import re
import socket
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

_UNWANTED = re.compile(r"(^|/)(__pycache__|\.git|\.venv|\.\w+_cache|runs|build|dist)(/|$)|\.(pyc|pyo|log)$")
_SECRETS = re.compile(r"(^|/)(\.env|\.netrc|\.pypirc|id_\w+|[^/]*\.(pem|key))$")
_INSTALLED = re.compile(rb"/[\w.+/-]+/site-packages/")


def archive_problems(archive: Path, folders: Iterable[Path] = ()) -> list[str]:
    """Return the problems of an archive: members that do not belong there, and paths of this machine.

    Args:
        archive: A wheel or a source archive (.tar.gz).
        folders: Paths that may occur nowhere, beside the home folder, the host's name and Python's own folder.
    """
    machine = {name.encode(): "this machine" for name in _names_of_this_machine(folders)}
    wheel = archive.suffix == ".whl"
    problems: list[str] = []
    for name, content, owner in (_wheel_members if wheel else _source_members)(archive):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name} lies outside the archive")
        if _UNWANTED.search(name) or _SECRETS.search(name):
            problems.append(f"{name} does not belong in an archive")
        if wheel and not re.match(r"(seqpar_deploy|seqpar_deploy-[^/]+\.dist-info)/", name):
            problems.append(f"{name} would be installed outside the package")
        if owner:
            problems.append(f"{name} names its owner, {owner}")
        found = next((text for text in machine if text in content), None)
        if match := _INSTALLED.search(content):
            found = found or match.group()
        if found is not None:
            problems.append(f"{name} contains a name of this machine, {found.decode(errors='replace')}")
    return problems


def _names_of_this_machine(folders: Iterable[Path]) -> Iterator[str]:
    """Names that tell a machine. Short ones are left out: they occur by chance, /root/ for example."""
    for path in (*folders, Path.home(), Path(sys.prefix), Path(sys.base_prefix)):
        if len(path.parts) > 2:
            yield str(path)
    if len(host := socket.gethostname()) >= 8 and host != "localhost":
        yield host


def _wheel_members(archive: Path) -> Iterator[tuple[str, bytes, str]]:
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            yield name, opened.read(name), ""


def _source_members(archive: Path) -> Iterator[tuple[str, bytes, str]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isfile() else None
            name = member.name.partition("/")[2] or member.name
            yield name, file.read() if file else b"", member.uname or ("" if member.uid == 0 else str(member.uid))
