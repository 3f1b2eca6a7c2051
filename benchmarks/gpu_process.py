"""Run one stage of gpu_check.py, and print each figure as a line of JSON as soon as it is available.

    python benchmarks/gpu_process.py gpu_stages:roofline '{"model": "demo", "device": "cpu", "work": "runs/gpu-check"}'

`run_stage` does this in a separate process, and kills it at a time limit. Figures until then are kept. A stage is a
function of a job and a `Report`. The job is the decoded JSON argument: an object of the class `Job` if the module has
one, else a dict.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from seqpar_deploy.errors import BackendUnavailableError, SeqparError

POLL = 0.2  # seconds between two looks at the limit and at signals
MOST_WORDS = 3000  # characters to keep of a process's stderr
ASKED_WHERE = signal.SIGUSR1  # a stage writes the stack of each of its threads
ORPHANED = 15  # seconds past its limit at which a stage ends by itself, should its parent have been killed


class Report:
    """Writes the figures of a stage as lines of JSON. Thread-safe."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    def __call__(self, **values: Any) -> None:
        """Write figures. A later value of the same name replaces the earlier one."""
        line = json.dumps(values).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Write the name of the current step, and its duration at the end. A stage that dies leaves the name."""
        self(at=name)
        start = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - start, 2)
        self(at=None, step_seconds=self._seconds)


def run_stage(
    stage: str,
    job: Mapping[str, Any],
    *,
    seconds: float,
    on_values: Callable[[dict[str, Any]], None] = lambda _values: None,
    stopping: Callable[[], object] = lambda: False,
) -> dict[str, Any]:
    """Run `module:function` for at most `seconds`, less if `stopping()` becomes true, and return its figures.

    `on_values` is called with all figures so far when there are new ones. If the stage did not succeed, the figures
    include the reason, `failed` or `unavailable` (with the exception), `crashed` or `stopped`, and `at`, the current
    step. `said` is the end of its stdout and stderr.
    """
    values: dict[str, Any] = {}
    start = time.monotonic()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as words:
        command = [sys.executable, __file__, stage, json.dumps(dict(job))]
        process = subprocess.Popen(
            [*command, "--fd", str(writing), "--seconds", str(seconds)],
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,  # a group to kill; and Ctrl-C is the parent's alone
        )
        os.close(writing)
        figures = _Figures(reading, values, on_values)
        try:
            why = _follow(process, figures, start + seconds, stopping)
        finally:
            values["seconds"] = round(time.monotonic() - start, 2)
            _kill(process, words)
            figures.drain()
            os.close(reading)
        ended = values.pop("ended", False)
        after = f"after {values['seconds']:.0f} s{figures.where(start + values['seconds'])}"
        if why is not None:
            values["stopped"] = f"{why}{after}"
        elif process.returncode < 0 or not ended:
            values["crashed"] = f"{_ending(process.returncode)} {after}"
        said = _end_of(words)
        if said and "unavailable" not in values:
            values["said"] = said
    return values


class _Figures:
    """The figures that are read from a pipe."""

    def __init__(self, pipe: int, values: dict[str, Any], on_values: Callable[[dict[str, Any]], None]) -> None:
        self.pipe = pipe
        self._values, self._on_values = values, on_values
        self._rest = b""
        self._since = time.monotonic()

    def read(self) -> bool:
        """Read the available data. Returns False at the end."""
        chunk = os.read(self.pipe, 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            new = json.loads(line)
            if "at" in new:
                self._since = time.monotonic()
                self._values.pop("at", None)
            self._values.update({key: value for key, value in new.items() if key != "at" or value is not None})
            self._on_values(self._values)
        return bool(chunk)

    def drain(self) -> None:
        """Read the rest of the pipe of a process that has ended."""
        os.set_blocking(self.pipe, False)
        with contextlib.suppress(BlockingIOError):
            while self.read():
                pass

    def where(self, ended: float) -> str:
        """Return the current step and its duration so far."""
        at = self._values.get("at")
        return f", {max(0.0, ended - self._since):.0f} s into: {at}" if at else ""


def _follow(
    process: subprocess.Popen[bytes], figures: _Figures, end: float, stopping: Callable[[], object]
) -> str | None:
    """Read figures until the process has ended. Returns None, or the reason to stop it."""
    is_open = True
    while True:
        if stopping():
            return "by a signal "
        left = end - time.monotonic()
        if left <= 0:
            return ""
        if is_open:
            ready, _, _ = select.select([figures.pipe], [], [], min(POLL, left))
            is_open = not ready or figures.read()
        else:  # libraries are being unloaded, which can hang as well
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(POLL, left))
                return None


def _kill(process: subprocess.Popen[bytes], words: Any) -> None:
    """End a process and its children. It writes the stacks of its threads first."""
    if process.poll() is not None:
        return
    size, end = os.fstat(words.fileno()).st_size, time.monotonic() + 10 * POLL
    process.send_signal(ASKED_WHERE)
    while os.fstat(words.fileno()).st_size == size and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(POLL)  # for the rest of its output
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _end_of(words: Any) -> list[str]:
    """Return the last lines of a file, without empty ones."""
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - MOST_WORDS))
    lines = words.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-40:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="MODULE:FUNCTION of the stage")
    parser.add_argument("job", help="the job, as a JSON object")
    parser.add_argument("--fd", type=int, default=1, help="file descriptor for the figures; default: 1, stdout")
    parser.add_argument("--seconds", type=float, default=600, help="time limit in seconds; default: 600")
    options = parser.parse_args()
    os.set_inheritable(options.fd, False)  # children do not inherit the pipe, so it ends with this process
    faulthandler.enable()
    faulthandler.register(ASKED_WHERE)
    signal.alarm(math.ceil(options.seconds) + ORPHANED)
    with os.fdopen(options.fd, "wb", closefd=False) as file:
        report = Report(file)
        try:
            name, _, function = options.stage.partition(":")
            module, job = importlib.import_module(name), json.loads(options.job)
            getattr(module, function)(module.Job(**job) if hasattr(module, "Job") else job, report)
        except BackendUnavailableError as error:
            report(unavailable=str(error))
        except SeqparError as error:
            report(failed=str(error))
        except Exception as error:  # a failure of one library is a result; the next library follows
            report(failed=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", said_where=_where(error))
        report(ended=True)


def _where(error: Exception) -> list[str]:
    """Return the innermost frames of an exception's traceback."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(f"{Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames[-6:]


if __name__ == "__main__":
    main()
