"""`seqpar gst`: what the GStreamer element needs, and the variables that make GStreamer find it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import typer

from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, print_line
from seqpar_deploy.cli.layout import format_sections
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import check_writable
from seqpar_deploy.video.gstreamer.installation import ELEMENT, Installation, examine, shell_lines


def gst(
    plugin_path: Annotated[
        bool,
        typer.Option("--plugin-path", help="Print the lines for the shell that make GStreamer find the element."),
    ] = False,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Show if GStreamer finds the element, and print the variables to set.

    Without --plugin-path, look for GStreamer, its plugin loader for Python and the element seqparattributes. If a part
    is missing, the last line says what to do, and the exit code is 2.

    Examples:
      seqpar gst
      seqpar gst --plugin-path
    """
    if plugin_path:
        print_line("\n".join(shell_lines()))
        return
    check_writable(output)
    found = examine()
    values = dataclasses.asdict(found)
    emit_result(values, format_sections({"GStreamer": _lines(found)}), as_json=as_json, output=output)
    if found.problem is not None:
        raise SeqparError(found.problem)


def _lines(found: Installation) -> Iterator[tuple[str, str]]:
    yield "version", found.version or "not found"
    runs = f", runs Python {found.loader_python}" if found.loader_python else ""
    yield "plugin loader", f"{found.loader}{runs}" if found.loader else "not found"
    yield "this environment", f"Python {found.python}"
    yield ELEMENT, "found with the lines of --plugin-path" if found.element else "not found"
    if found.registry:
        yield "registry", f"{found.registry}; remove it if gst-launch-1.0 still has no such element"
