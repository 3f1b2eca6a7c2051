"""What of GStreamer is installed, and the variables that make its plugin loader find the element."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from seqpar_deploy.errors import SeqparError

ELEMENT, LOADER = "seqparattributes", "python"
PACKAGES = (
    "gstreamer1.0-tools gstreamer1.0-python3-plugin-loader gir1.2-gst-plugins-base-1.0 "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"  # qtdemux, h264parse, decoders
)
PLUGINS = Path(__file__).parent / "plugins"
DIST_PACKAGES = Path("/usr/lib/python3/dist-packages")  # Debian's bindings, beside the sites of its python3
_WITHIN = 60.0  # seconds for one program; the first scan of all plugins takes seconds
_SYSTEM = "/usr/bin"
# The loader takes the standard library of the first python3 on PATH, which may be of another release than the loader.
_OTHER_PYTHON = (
    f"{ELEMENT} is found only if the system's python3 is first on PATH, got another one; run deactivate, or "
    f"PATH={_SYSTEM}:$PATH gst-launch-1.0 ..."
)
_FOUND = "Factory Details"  # in what gst-inspect-1.0 prints
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Installation:
    """The parts that the element needs.

    Attributes:
        version: Version of GStreamer, or None without gst-inspect-1.0.
        loader: File of the plugin loader for Python, or None without it.
        loader_python: Python version of the loader, for example "3.11", or None if unknown.
        python: Python version of this environment.
        element: Whether GStreamer finds the element with `variables`.
        registry: File in which GStreamer remembers what it found, or None without GStreamer.
        problem: The first thing that is missing and its fix, in one line, or None.
    """

    version: str | None
    loader: str | None
    loader_python: str | None
    python: str
    element: bool
    registry: str | None
    problem: str | None


def variables() -> dict[str, str]:
    """Return the folders to add to each variable, joined by colons.

    PYTHONPATH has the folder of this package, since a path does not read .pth files as an environment does, its
    packages, and Debian's bindings: in an activated environment the loader runs with that environment's paths.
    """
    packages = [Path(__file__).parents[3], *(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))]
    if (DIST_PACKAGES / "gi").is_dir():
        packages.append(DIST_PACKAGES)
    return {"GST_PLUGIN_PATH": str(PLUGINS), "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys(packages)))}


def shell_lines() -> list[str]:
    """Return the lines for a POSIX shell. What is set already stays behind them."""
    return [
        f"export {name}={shlex.quote(value)}${{{name}:+:${name}}}"  # a value with a space is quoted
        for name, value in variables().items()
    ]


def examine() -> Installation:
    """Look for GStreamer, the plugin loader and the element. It starts programs and takes a second or more."""
    inspect = shutil.which("gst-inspect-1.0")
    if inspect is None:
        return _lacking(f"gst-inspect-1.0 must be installed, got none; apt-get install {PACKAGES}")
    version = _match(r"GStreamer ([\d.]+)", _run([inspect, "--version"]))
    with tempfile.TemporaryDirectory() as folder:
        here, system = _environments(Path(folder))
        loader = _match(r"Filename\s+(\S+)", _run([inspect, LOADER], system))
        if loader is None:
            problem = f"the plugin loader for Python must be installed, got none; apt-get install {PACKAGES}"
            return _lacking(problem, version=version)
        loader_python = _python_of(Path(loader))
        if loader_python not in (None, _VERSION):
            problem = (
                f"the plugin loader runs Python {loader_python}, and this environment is Python {_VERSION}, whose "
                f"packages it cannot load; make the environment with python{loader_python}"
            )
            return _lacking(problem, version=version, loader=loader, loader_python=loader_python)
        said = _run([inspect, ELEMENT], system)
        element = _FOUND in said
        element_here = element and _FOUND in _run([inspect, ELEMENT], here)
    return Installation(
        version=version,
        loader=loader,
        loader_python=loader_python,
        python=_VERSION,
        element=element,
        registry=_registry(),
        problem=None if element_here else _OTHER_PYTHON if element else _reason(said),
    )


def _environments(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of `variables` added to those of this process, with its PATH and with the system's first.

    Each has a registry of its own in the folder. The user's remembers if the element was not found, and would not look
    again.
    """
    here = {**os.environ, "GST_REGISTRY": str(folder / "here.bin")}
    for name, value in variables().items():
        here[name] = os.pathsep.join([value, *filter(None, [os.environ.get(name)])])
    path = os.pathsep.join([_SYSTEM, *filter(None, [os.environ.get("PATH")])])
    return here, here | {"PATH": path, "GST_REGISTRY": str(folder / "system.bin")}


def _reason(said: str) -> str:
    """Return the line of the plugin file that says why it does not load, or the way to find out."""
    line = next((line for line in said.splitlines() if line.startswith(ELEMENT)), None)
    return line or f"{ELEMENT} cannot be loaded; GST_DEBUG=pyplugin:5 gst-inspect-1.0 {ELEMENT} shows why"


def _registry() -> str:
    """Return where GStreamer keeps its registry, as it decides itself."""
    given = os.environ.get("GST_REGISTRY_1_0") or os.environ.get("GST_REGISTRY")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return given or str(cache / "gstreamer-1.0" / f"registry.{platform.machine()}.bin")


def _lacking(
    problem: str, *, version: str | None = None, loader: str | None = None, loader_python: str | None = None
) -> Installation:
    return Installation(
        version=version,
        loader=loader,
        loader_python=loader_python,
        python=_VERSION,
        element=False,
        registry=None,
        problem=problem,
    )


def _python_of(loader: Path) -> str | None:
    """Return the Python version that the loader is linked with: it names the library that it opens."""
    try:
        found = re.search(rb"libpython(3\.\d+)", loader.read_bytes())
    except OSError:
        return None
    return found.group(1).decode() if found else None


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Return what a program prints, on both streams, however it ends."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_WITHIN,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise SeqparError(f"{command[0]} must answer within {_WITHIN:g} s, got no answer; run it by hand") from None
    except OSError as error:
        raise SeqparError(f"{command[0]} cannot be started: {error.strerror}") from None
    return done.stdout + done.stderr


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
