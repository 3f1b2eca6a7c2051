"""Facts about the machine, and what a process asks of its C library."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

POOLS = """
import ctypes, threading
from seqpar_deploy.machine import limit_malloc_arenas
limit_malloc_arenas()
libc = ctypes.CDLL(None)
ready = threading.Barrier(13)
def work():
    kept = [ctypes.create_string_buffer(1000) for _ in range(100)]
    ready.wait(60)
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
ready.wait(60)
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc only")
@pytest.mark.parametrize(("environment", "few"), [({}, True), ({"MALLOC_ARENA_MAX": "6"}, False)])
def test_threads_share_pools_of_memory(environment: dict[str, str], few: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", POOLS], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    assert (done.stdout.count("<heap nr=") <= 2) is few
