"""Logging of the commands: one handler, on standard error, as text or as JSON lines."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

from seqpar_deploy.cli.layout import printable
from seqpar_deploy.redaction import redacted

_PACKAGE = logging.getLogger("seqpar_deploy")
_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}


class _StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, which progress bars and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # the terminal or the reader of the pipe is gone, but the work continues
            pass
        except Exception:
            self.handleError(record)


class _Text(logging.Formatter):
    """Info as it is, warnings and errors in one line with their level, tracebacks only with --verbose. No secrets."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            message = " ".join(message.split())
        if record.levelno < logging.INFO or (self._verbose and not record.name.startswith(_PACKAGE.name)):
            message = f"{record.name}: {message}"
        message = _PREFIXES.get(record.levelno, "") + printable(message, keep="\n")
        if self._verbose and record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        return redacted(message)


class _Json(logging.Formatter):
    """One object per line: time (ISO 8601, UTC), level, logger, message. Faults and --verbose add the exception."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        values = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info and (self._verbose or record.levelno >= logging.CRITICAL):
            values["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(values, ensure_ascii=False)


_handler = _StandardError()


def configure(*, verbose: bool = False, quiet: bool = False, log_json: bool = False) -> None:
    """Send the log and Python's warnings to standard error. A second call changes the options.

    Args:
        verbose: Also log debug messages, tracebacks, and the messages of other libraries.
        quiet: Log only warnings and errors.
        log_json: Write one JSON object per line.
    """
    _handler.setFormatter(_Json(verbose=verbose) if log_json else _Text(verbose=verbose))
    _PACKAGE.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    root = logging.getLogger()  # warnings of other libraries get the same format
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    if _handler not in root.handlers:
        root.addHandler(_handler)
    # logging.captureWarnings would log several lines per warning, with a file name and a line of source.
    warnings.showwarning = _log_warning  # type: ignore[assignment]
    threading.excepthook = _print_uncaught_of_thread


def writes_json() -> bool:
    """Return whether standard error may hold nothing but JSON."""
    return isinstance(_handler.formatter, _Json)


def print_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nothing caught, as Python does, but without secrets."""
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_uncaught_of_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_type is not SystemExit:
        print_uncaught(given.exc_type, given.exc_value, given.exc_traceback)


def _log_warning(message: Warning | str, *_: Any) -> None:
    logging.getLogger("py.warnings").warning("%s", message)
