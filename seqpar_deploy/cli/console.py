"""Parts shared by the commands: one-line errors, clean interruption, progress, and results on standard output."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer

from seqpar_deploy.cli import logs
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import finite, write_whole
from seqpar_deploy.interruption import handle_stop
from seqpar_deploy.redaction import redacted, remember

_log = logging.getLogger(__name__)

USAGE_ERROR = 2
INTERRUPTED = 130

_RECORD_EVERY = 60.0  # seconds between progress records if standard error is not a terminal
_REDRAW_EVERY = 0.1

_interruptions: list[int] = []  # signals received while `run_app` runs


def run_app(app: typer.Typer) -> None:
    """Run an application and exit.

    A SeqparError becomes one line and exit code 2. Ctrl-C, SIGTERM and SIGHUP clean up and become exit code 130.
    """
    _interruptions.clear()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        _interruptions.append(number)
        raise KeyboardInterrupt

    _prepare_streams()
    handle_stop(interrupt)
    for argument in sys.argv:
        remember(argument)
    logs.configure(log_json="--log-json" in sys.argv)  # before options are parsed, so that their errors are JSON too
    try:
        code = app(standalone_mode=False)
    except BaseException as error:
        # typer turns an interruption into an exit, and libraries turn it into errors of their own.
        if not _interruptions or getattr(error, "code", None) == 0:
            sys.exit(_exit_code(error))
        code = INTERRUPTED
    if _interruptions:  # also one that native code swallowed
        _log.warning("interrupted; no incomplete file is left behind")
        code = INTERRUPTED
    sys.exit(code)


def _prepare_streams() -> None:
    """Make standard streams take any text, and closed ones harmless.

    A file that is opened while a standard stream is closed (`>&-`) takes its number, and would get the text that native
    code prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:  # otherwise `print` would take standard output in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit_code(error: BaseException) -> int:
    """Report an error that the user can fix and return its exit code. Raise others again, with their traceback."""
    if isinstance(error, SeqparError):
        print_error(error)
        return USAGE_ERROR
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # typer exits so
        error = error.__context__
    if isinstance(error, BrokenPipeError):  # the reader of our output is gone, as after `| head`
        with contextlib.suppress(OSError):  # standard error may be the same pipe
            sys.stderr.close()
        return 0
    if hasattr(error, "format_message") and hasattr(error, "show"):  # click's UsageError, or typer's copy of it
        if logs.writes_json():
            _log.error("%s", error.format_message())
        else:
            if hasattr(error, "message"):  # it quotes arguments
                error.message = redacted(error.message)
            with contextlib.suppress(OSError):  # standard error is full
                error.show()
        return int(getattr(error, "exit_code", USAGE_ERROR))
    if logs.writes_json() and isinstance(error, Exception):
        _log.critical("%s", error, exc_info=error)
        return 1
    sys.excepthook = logs.print_uncaught
    raise error


def print_error(error: object) -> None:
    """Log `error: ...` in one line, with --verbose the traceback too."""
    _log.error("%s", printable(str(error)), exc_info=error if isinstance(error, BaseException) else None)


def emit_result(values: Any, text: str, *, as_json: bool, output: Path | None = None) -> None:
    """Print a result, as JSON or as text, and write it as JSON to `output`. Raises SeqparError."""
    if output:
        file_text = json.dumps(finite(values), indent=2, ensure_ascii=False) + "\n"
        write_whole(output, file_text.encode("utf-8", "backslashreplace"))  # names that are not UTF-8
    print_line(json_text(finite(values), indent=2) if as_json else text)


def json_text(values: Any, indent: int | None = None) -> str:
    """Return values as JSON for standard output. A name that is not UTF-8 has escapes that `os.fsencode` turns back."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(values, indent=indent, ensure_ascii=encoding not in ("utf-8", "utf8"))


def print_line(text: str) -> bool:
    """Print to standard output. Returns False if its reader is gone, as after `| head`.

    Raises SeqparError if standard output is full or closed. Commands write their files first and print last, so that a
    reader that is gone costs no result. Characters that would drive the terminal are escaped.
    """
    raise_interruption()
    if sys.stdout is None:
        raise SeqparError("standard output must be open to print the result, got a closed one; redirect it to a file")
    try:
        print(printable(text, keep="\n"), flush=True)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # otherwise Python tries again, and fails, at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return False
        raise SeqparError(f"standard output cannot be written: {error.strerror}") from None
    return True


def print_and_exit(text: str) -> NoReturn:
    """Print help or version and exit, with code 2 and one line of error if standard output is full or closed."""
    try:
        print_line(text)
    except SeqparError as error:
        print_error(error)
        raise typer.Exit(USAGE_ERROR) from None
    raise typer.Exit


def raise_interruption() -> None:
    """Raise KeyboardInterrupt if a signal was received. Native code may have swallowed the first one."""
    if _interruptions:
        raise KeyboardInterrupt


@contextlib.contextmanager
def stage(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a stage of work and the seconds it took. Yields a function that takes (done, total).

    On a terminal this is a progress bar. Elsewhere and with --log-json it is log records. --quiet shows nothing.
    """
    shown = _log.isEnabledFor(logging.INFO)
    live = shown and sys.stderr.isatty() and not logs.writes_json()
    start = time.perf_counter()
    raise_interruption()
    if not live:
        _log.info("%s ...", title)
    try:
        with _bar(title) if live else _records(title) as update:
            yield update
    except BaseException:
        _log.info("%s ... stopped after %.1f s", title, time.perf_counter() - start)
        raise
    _log.info("%s ... done in %.1f s", title, time.perf_counter() - start)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description} ...", markup=False)
    # No redrawing thread: it would disturb the measurements of bench and tune.
    with Progress(
        text,
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise rich sends results to standard error
    ) as progress:
        task = progress.add_task(title, total=None)
        progress.refresh()
        drawn, speed = 0.0, TextColumn("{task.fields[per_second]:.1f} per second")
        start = time.monotonic()
        first: int | None = None  # above 0 in a resumed run

        def update(done: int, total: int) -> None:
            nonlocal drawn, first
            first = done - 1 if first is None else first
            per_second = (done - first) / max(1e-3, time.monotonic() - start)
            progress.update(task, completed=done, total=total, per_second=per_second)
            progress.columns = (text, BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
            if time.monotonic() - drawn > _REDRAW_EVERY:
                drawn = time.monotonic()
                progress.refresh()

        yield update


@contextlib.contextmanager
def _records(title: str) -> Iterator[Callable[[int, int], None]]:
    last = start = time.monotonic()
    first: int | None = None  # above 0 in a resumed run

    def update(done: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = done - 1 if first is None else first
        if now - last >= _RECORD_EVERY:
            last = now
            per_second = max(1, done - first) / max(1e-6, now - start)
            left = (total - done) / per_second
            _log.info("%s ... %d/%d, %.0f s left, %.1f per second", title, done, total, left, per_second)

    yield update
