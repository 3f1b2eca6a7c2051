"""Run commands in this process, with the output, errors and exit code of a process of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from unittest import mock

import pytest

from seqpar_deploy.cli import main
from seqpar_deploy.cli.console import run_app

_APPS = {"seqpar": main.app, "seqpar-export": main.export_app, "seqpar-bench": main.bench_app}


@dataclasses.dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that begins with `error: `."""
        (line,) = (line for line in self.stderr.splitlines() if line.startswith("error: "))
        assert "Traceback" not in self.stderr
        return line


def run(command: str, *arguments: object, code: int = 0) -> Done:
    """Run `seqpar`, `seqpar-export` or `seqpar-bench`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        unchanged_process(),
        mock.patch.object(sys, "argv", [command, *map(str, arguments)]),
        mock.patch.object(sys.modules["__main__"], "__package__", None),  # as of a script, for the name in "Usage:"
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        run_app(_APPS[command])
    assert (end.value.code or 0) == code, err.getvalue()
    return Done(out.getvalue(), err.getvalue())


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """Restore the state that commands change in a process: signal handlers, logging, the way warnings are shown."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    root, package = logging.getLogger(), logging.getLogger("seqpar_deploy")
    handlers, levels, show, hooks = (
        list(root.handlers),
        (root.level, package.level),
        warnings.showwarning,
        (sys.excepthook, threading.excepthook),
    )
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        package.setLevel(levels[1])
        warnings.showwarning = show
        sys.excepthook, threading.excepthook = hooks
