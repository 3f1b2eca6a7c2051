"""The processes of `torchrun` agree on when to go on and when to stop. Every wait for the others has an end.

Before each step, and after each batch of a validation, all processes exchange one number. So a signal to one of them
stops all at the same step, and a long validation on the first one keeps the others waiting without a limit on its
length. The exchange has a process group of its own: the time-out of the group that exchanges gradients is for steps.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import re
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed

from seqpar_deploy.errors import TrainingError

_PATIENCE = 1800.0  # seconds between two exchanges: a step, a saved state, or a batch of the validation
_GRACE = 10.0  # seconds that the others have to answer once a signal has asked this process to stop


class Interrupted(Exception):
    """A signal ended a wait or a validation. The state is saved without it, and a resumed run does it again."""


class Stopped(Exception):
    """All processes have agreed to stop during the validation."""


class Vote(enum.IntEnum):
    """The exchanged number. The highest wins."""

    GO = 0
    DONE = 1  # the validation has ended
    STOP = 2


class Peers:
    """The other processes of a run. Without `torchrun` there are none, and every vote wins.

    Args:
        world: Number of processes.
        signalled: Returns whether a signal has asked this process to stop.
    """

    def __init__(self, world: int, signalled: Callable[[], bool]) -> None:
        self._signalled = signalled
        self._group: torch.distributed.ProcessGroup | None = None
        if world > 1:
            patience = datetime.timedelta(seconds=_PATIENCE)
            group = torch.distributed.new_group(backend="gloo", timeout=patience)
            self._group = group if isinstance(group, torch.distributed.ProcessGroup) else None

    def agree(self, vote: Vote) -> Vote:
        """Return the highest vote of all processes.

        Raises:
            TrainingError: A process has ended, or did not vote for 30 minutes.
            KeyboardInterrupt: After a signal, a process did not vote for 10 s.
        """
        if self._group is None:
            return vote
        number = torch.tensor([int(vote)])
        with lost_peers():
            work = torch.distributed.all_reduce(
                number, op=torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            if work is not None:
                self._wait(work)
        return Vote(int(number))

    def _wait(self, work: torch.distributed.Work) -> None:
        start, signalled, pause = time.monotonic(), None, 1e-4
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
            now = time.monotonic()
            if signalled is None and self._signalled():
                signalled = now
            if signalled is not None and now - signalled > _GRACE:
                raise KeyboardInterrupt
            if now - start > _PATIENCE:
                raise RuntimeError("gloo: no vote")
        work.wait()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Turn the errors of torch's communication into one line. Raises TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"gloo|nccl|connection|timed out|timeout|store", str(error), re.IGNORECASE):
            raise
        raise TrainingError(
            "all processes of the run must answer, got one that ended or hangs; its own message says why. The same "
            "command resumes the run"
        ) from error
