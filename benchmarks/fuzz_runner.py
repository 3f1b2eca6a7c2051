"""Run one fuzzed input in a forked child, under limits, and judge how it ended.

Starting an interpreter with PyTorch takes seconds, so the parent imports the libraries once and each input gets a fork
of it (0.1 to 0.3 s). The parent never runs a model: libraries start their threads in the children.

A child works in CASE/a/b, so that a path with `../` ends in CASE, where it is found:

    CASE/a/b/in    the input            CASE/a/b/out   the only folder that a command may write to
    CASE/a/b/home  home and cache       CASE/a/b/tmp   temporary files; empty at the end
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

GIB = 1 << 30
# Starting a program, or looking a class up for a pickle, is running code of the input: no command that is fuzzed does.
_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "socket.connect")
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.chmod": 1, "os.truncate": 1, "os.link": 2}
_SESSION = ".ses"  # a library's own mark, which any process that imports ONNX Runtime leaves in the temporary folder
_LIBRARIES = (
    *("torch", "torchvision", "open_clip", "safetensors.torch", "scipy.io", "onnx", "onnxruntime", "openvino", "av"),
    *("cv2", "trackers", "PIL.Image", "seqpar_deploy.exporting.export", "seqpar_deploy.video.run"),
    *(
        f"seqpar_deploy.cli.{name}"
        for name in ("bench", "eval", "export", "info", "main", "parity", "predict", "video")
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one input: seconds of wall time, bytes of memory beyond the parent's, bytes of any file it writes."""

    seconds: float = 30.0
    memory: int = 2 * GIB
    file: int = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One input: the folder that holds it, the arguments of `seqpar`, and the outputs it may leave.

    Attributes:
        folder: CASE. Its input lies in `CASE/a/b/in`.
        arguments: The command line after `seqpar`.
        about: The seed file and the mutations, in a few words.
        kept: Outputs that a refusal may leave, because they hold what came before it. Default: none.
        patience: Factor of the limit of time, for a command that takes long. Default: 1.
        target: Runs in place of `seqpar`, for tests of this harness. Default: None.
    """

    folder: Path
    arguments: Sequence[str]
    about: str
    kept: frozenset[str] = frozenset()
    patience: float = 1.0
    target: Callable[[], object] | None = None

    @property
    def work(self) -> Path:
        return self.folder / "a" / "b"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an input ended: `result`, `refused`, or a fault with its evidence."""

    outcome: str
    evidence: str
    seconds: float
    megabytes: int  # resident memory beyond the parent's, at the peak

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("result", "refused")


def new_case(folder: Path) -> Path:
    """Make the folders of a case, and return the one that takes its input."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("in", "out", "home", "tmp"):
        (folder / "a" / "b" / name).mkdir(parents=True)
    return folder / "a" / "b" / "in"


def warm_up() -> None:
    """Import what the commands import, so that a fork has it. Nothing runs, so that no library starts its workers."""
    # Some libraries have a thread from their import on, of which Python 3.12 warns. Only the child's own are used.
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    for name in _LIBRARIES:
        importlib.import_module(name)
    import PIL.Image

    from seqpar_deploy.machine import describe_machine

    PIL.Image.init()
    describe_machine()  # Python starts `uname` for it once, which would look like a program that an input starts
    gc.freeze()  # a collection in a child would copy every page of the parent's objects


class Running:
    """A child that works on a case."""

    def __init__(self, case: Case, limits: Limits) -> None:
        self.case = case
        self.limits = dataclasses.replace(limits, seconds=limits.seconds * case.patience)
        self.before = _contents(case.work / "in")
        self.resident = _status("VmRSS")
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.child = os.fork()
        if self.child == 0:
            _run_child(case, self.limits)
        self.timed_out = False

    def poll(self) -> Outcome | None:
        """Return the outcome if the child has ended. Kill it beyond its limit."""
        if not self.timed_out and time.monotonic() - self.began > self.limits.seconds:
            self.timed_out = True
            self.kill()
        child, status, usage = os.wait4(self.child, os.WNOHANG)
        if child == 0:
            return None
        with contextlib.suppress(ProcessLookupError):  # what it started
            os.killpg(self.child, signal.SIGKILL)
        return self._judge(status, usage.ru_maxrss)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)

    def _judge(self, status: int, resident_kb: int) -> Outcome:
        megabytes = max(0, resident_kb * 1024 - self.resident) >> 20
        seconds = time.monotonic() - self.began
        code = os.waitstatus_to_exitcode(status)
        found = self._fault(code, megabytes << 20)
        outcome, evidence = found or ("refused" if code else "result", _error_line(self.case))
        return Outcome(outcome=outcome, evidence=evidence, seconds=seconds, megabytes=megabytes)

    def _fault(self, code: int, memory: int) -> tuple[str, str] | None:
        """Return the kind of fault and its evidence, the gravest first, or None."""
        errors, audit = (_text(self.case.work / name) for name in ("stderr", "audit"))
        if (self.case.folder / "canary").exists() or audit.startswith("code"):
            return "code run", audit.strip() or "the canary exists"
        if audit:
            return "outside", audit.strip()
        if self.timed_out or "\nTimeout (" in f"\n{errors}":  # of faulthandler
            return "hang", _last(errors)
        if code < 0:
            return "crash", f"signal {-code} {_last(errors)}"
        if "Traceback (most recent call last)" in errors:
            return "traceback", errors.strip().splitlines()[-1]
        if memory > self.limits.memory:
            return "memory", f"{memory >> 20} MB"
        if code not in (0, 2):
            return "exit code", f"{code} {_last(errors)}"
        lines = errors.splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        if len(said) != (1 if code else 0):
            return "error lines", f"exit code {code} with {len(said)} lines: {_last(errors)}"
        if stray := [line for line in lines if not line.startswith(("error: ", "warning: "))]:
            return "stray text", stray[0]
        return self._left(code)

    def _left(self, code: int) -> tuple[str, str] | None:
        """Return the fault of files that should not exist, or have changed."""
        work = self.case.work
        if _contents(work / "in") != self.before:
            return "outside", "the input has changed"
        known = {"in", "out", "home", "tmp", "stdout", "stderr", "audit"}
        folders = (self.case.folder, work.parent, work)
        strange = [path for folder in folders for path in folder.iterdir() if path.name not in known | {"a", "b"}]
        if strange:
            return "outside", str(strange[0].relative_to(self.case.folder))
        partial = [path.name for path in (work / "out").rglob("*") if path.name.startswith(".")]
        partial += [path.name for path in (work / "tmp").iterdir() if path.name != _SESSION]
        if code:
            partial += [path.name for path in (work / "out").iterdir() if path.name not in self.case.kept]
        if partial:
            return "leftovers", ", ".join(partial)
        for name in self.case.kept:
            if broken := _broken(work / "out" / name):
                return "half-written", f"{name}: {broken[:80]!r}"
        return None


def run_all(
    cases: Iterator[Case], *, workers: int, limits: Limits, stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Case, Outcome]]:
    """Run cases, `workers` at a time, and yield each with its outcome as it ends. Children never outlive the call."""
    running: list[Running] = []
    ended = False
    try:
        while running or not ended:
            while not ended and len(running) < workers:
                case = None if stopping() else next(cases, None)
                ended = case is None
                if case is not None:
                    running.append(Running(case, limits))
            for job in list(running):
                if (outcome := job.poll()) is not None:
                    running.remove(job)
                    yield job.case, outcome
            time.sleep(0.005)
    finally:
        for job in running:
            job.kill()
            os.waitpid(job.child, 0)


def _run_child(case: Case, limits: Limits) -> None:
    """Run the command as a process of its own would, and end. Never returns."""
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _redirect(case.work)
        os.chdir(case.work)
        caches = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        os.environ.update(dict.fromkeys(caches, str(case.work / "home" / "cache")))
        os.environ.update(HOME=str(case.work / "home"), TMPDIR=str(case.work / "tmp"))
        _limit(limits)
        _watch(case.folder)
        code = _exit_code(case)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # as the interpreter does at its end: one that never ends is a hang
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _exit_code(case: Case) -> int:
    import tempfile

    tempfile.tempdir = None
    try:
        if case.target is not None:
            case.target()
        else:
            from seqpar_deploy.cli import main

            sys.argv = ["seqpar", *case.arguments]
            main.run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _redirect(work: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", errors=errors, buffering=1, closefd=False)
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )


def _limit(limits: Limits) -> None:
    # Half as much again, so that memory that is counted, and not only reserved, reaches the limit first.
    room = _status("VmSize") + limits.memory + limits.memory // 2 + GIB
    seconds = int(4 * limits.seconds) + 1
    for kind, amount in (
        (resource.RLIMIT_AS, room),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))
    faulthandler.enable(file=2)
    faulthandler.dump_traceback_later(0.9 * limits.seconds, file=2)  # the evidence of a hang


def _watch(folder: Path) -> None:
    """Note programs that are started and files that are changed outside the case, at the moment of the attempt."""
    audit = os.open(folder / "a" / "b" / "audit", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    inside = (str(folder) + os.sep, "/dev/", "/proc/self/")

    def is_outside(path: object) -> bool:
        if isinstance(path, int):
            return False
        return not os.path.abspath(os.fsdecode(path)).startswith(inside)  # type: ignore[arg-type]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        kind = ""
        if event in _CODE and not _is_own(event, arguments):
            kind = "code"
        elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            writes = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            kind = "outside" if writes and is_outside(arguments[0]) else ""
        elif event in _CHANGES and any(map(is_outside, arguments[: _CHANGES[event]])):
            kind = "outside"
        if kind:
            os.write(audit, f"{kind} {event} {arguments!r}"[:400].encode("utf-8", "replace") + b"\n")

    sys.addaudithook(hook)


def _is_own(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether the package starts this program: git for the version, or a probe in a process apart."""
    if event != "subprocess.Popen":
        return False
    command = [str(argument) for argument in arguments[1]]
    return command[:2] == ["git", "-C"] or (command[0] == sys.executable and "probes.answer()" in command[2])


def _contents(folder: Path) -> dict[str, str]:
    """Hash of each file by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _broken(path: Path) -> str | None:
    """Return the first line that is not whole JSON, or the end of a page that is cut. None if the file is whole."""
    if path.suffix == ".html":
        text = _text(path)
        return text[-80:] if text and not text.rstrip().endswith("</html>") else None
    for line in _text(path).splitlines(keepends=True) if path.suffix == ".jsonl" else ():
        try:
            json.loads(line)
        except ValueError:
            return line
        if not line.endswith("\n"):
            return line
    return None


def _status(field: str) -> int:
    """Return a size of this process in bytes, as Linux counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _last(errors: str) -> str:
    lines = errors.strip().splitlines()
    files = [line.strip() for line in lines if line.strip().startswith("File ")][:3]
    return " < ".join(files) if files else (lines[-1][:300] if lines else "")


def _error_line(case: Case) -> str:
    lines = [line for line in _text(case.work / "stderr").splitlines() if line.startswith("error: ")]
    return lines[0] if lines else ""
