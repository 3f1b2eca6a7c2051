"""Ray: a local one that lives as long as the job, or a cluster that runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive.places import reason
from seqpar_deploy.serving.archive.sdk import import_ray

_PREFIX = "seqpar-ray-"
_LONGEST = 40  # characters of the folder for temporary files: a socket's path in it has at most 107
_STORE = 100 * 1024 * 1024  # bytes of the object store. A call and its result take some 100 kB
_STARTS = 3  # Ray gives a start 30 s, which a busy machine may exceed
_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise it warns of a later version
}
_LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its switch for systems without clusters: servers bind to 127.0.0.1
    "RAY_worker_niceness": "0",  # otherwise 15: workers would wait for every other process of the machine
}

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def local_ray(cpus: int) -> Iterator[Any]:
    """Start a Ray on this machine, and end it after the block. Yields the module `ray`.

    It listens on the loopback interface only, has no dashboard, sends no usage statistics and leaves no files.

    Args:
        cpus: Number of CPUs that it schedules.

    Raises:
        ArchiveError: It does not start.
        BackendUnavailableError: Ray is not installed.
    """
    os.environ.update(_ALWAYS | _LOCAL)
    # A token of its own, so that other users of this machine cannot connect. Ray would write one to the home folder.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray = import_ray()
    with _quiet(), _temporary_folder() as folder:
        for number in range(_STARTS):
            try:
                with _own_handlers():
                    ray.init(
                        address="local",  # whatever RAY_ADDRESS is
                        num_cpus=cpus,
                        include_dashboard=False,
                        log_to_driver=False,
                        configure_logging=False,
                        object_store_memory=_STORE,
                        _temp_dir=str(folder),
                    )
                break
            except Exception as error:  # of many kinds
                ray.shutdown()
                _log.debug("Ray did not start", exc_info=error)
                if number + 1 == _STARTS:
                    raise ArchiveError(
                        f"Ray must start on this machine, got {_STARTS} failures: {reason(error)}"
                    ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def remote_ray(address: str) -> Iterator[Any]:
    """Connect to a cluster that runs, and disconnect after the block. Yields the module `ray`.

    Args:
        address: `auto` for the cluster that this machine is a node of, or HOST:PORT of its head.

    Raises:
        ArchiveError: There is no such cluster.
        BackendUnavailableError: Ray is not installed.
    """
    if "://" in address:
        raise ArchiveError(
            f"--address must be auto or HOST:PORT, got {address}; run the command on a node of the cluster"
        )
    os.environ.update(_ALWAYS)
    ray = import_ray()
    with _quiet():
        try:
            with _own_handlers():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of many kinds
            _log.debug("no cluster at %s", address, exc_info=error)
            raise ArchiveError(
                f"--address must be a Ray cluster that runs, got none at {address}; start one with ray start --head"
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's lines out of our output. Importing Ray resets its log, so it is imported before."""
    ray_log = logging.getLogger("ray")
    level = ray_log.level
    if not _log.isEnabledFor(logging.DEBUG):
        ray_log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(_Logged()):  # it prints there that a worker died, whatever log_to_driver is
            yield
    finally:
        ray_log.setLevel(level)


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Restore the handler of SIGTERM after the block. `ray.init` sets one of its own."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if in_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


class _Logged(io.TextIOBase):
    """Takes text, and logs it for --verbose."""

    def write(self, text: str) -> int:
        if line := " ".join(text.split()):
            _log.debug("ray: %s", line)
        return len(text)

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder that is removed after the block. Those of killed runs are removed first."""
    import fcntl  # missing on Windows

    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST:
        base = Path("/tmp")
    for leftover in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(handle)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
        handle = os.open(made, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder = made.rename(base / made.name[1:])  # only once locked: other runs remove unlocked ones
    except OSError as error:
        raise ArchiveError(f"folder {base} cannot be written: {error.strerror}; set TMPDIR to another folder") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
