"""What the commands share: one-line errors, progress on standard error, clean interruption."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import typer

from seqpar_deploy.errors import SeqparError

USAGE_ERROR = 2
INTERRUPTED = 130


def new_app(help_text: str) -> typer.Typer:
    """A typer application in the package's style."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run_app(app: typer.Typer) -> None:
    """Run an application: a SeqparError becomes one line and exit code 2, Ctrl-C and SIGTERM clean up and leave."""
    interruptions: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        interruptions.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except BaseException as error:
        # typer turns an interruption into an exit of its own, and libraries into errors of theirs.
        if interruptions and getattr(error, "code", None) != 0:
            print("interrupted; nothing was left half-written", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if isinstance(error, SeqparError):
            print_error(error)
            sys.exit(USAGE_ERROR)
        if isinstance(error, BrokenPipeError):  # the reader of our output went away, as `| head` does
            with contextlib.suppress(OSError):  # which may go down the same pipe
                sys.stderr.close()
            sys.exit(0)
        raise


def print_error(error: object) -> None:
    """`error: ...` in one line on standard error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


@contextlib.contextmanager
def stage(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a stage of work on standard error with the seconds it took; the value takes (done, in all) meanwhile."""
    start = time.perf_counter()
    live = sys.stderr.isatty()

    def show(text: str, *, end: str) -> None:
        seconds = time.perf_counter() - start
        lead = "\r\033[K" if live else ""
        print(f"{lead}{title} ... {text} {seconds:6.1f} s", end=end, file=sys.stderr, flush=True)

    def update(done: int, total: int) -> None:
        if live:
            left = (time.perf_counter() - start) * (total - done) / max(1, done)
            show(f"{done}/{total}, {left:.0f} s left,", end="")

    if live:
        show("", end="")
    else:
        print(f"{title} ...", file=sys.stderr, flush=True)
    try:
        yield update
    except BaseException:
        show("stopped", end="\n")
        raise
    show("done", end="\n")


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
