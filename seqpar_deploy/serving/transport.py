"""What HTTP and gRPC have in common: one request to a model, and the reasons why it fails."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from seqpar_deploy.errors import ServerError, ServerUnavailableError
from seqpar_deploy.redaction import redacted
from seqpar_deploy.serving.protocol import REFUSAL, Tensor

MOST_ANSWER = 16 << 20  # bytes; the answer for one crop has a few hundred
CONNECT_WITHIN = 5.0  # seconds
_NOT_READY = re.compile(
    r"unknown model|not ready|not at ready|not found|no available versions|unavailable|is not healthy", re.IGNORECASE
)  # texts of a server that starts, or changes its model
_LONGEST_REASON = 300  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Hold the outputs of one request by name, and the version of the model that computed them."""

    outputs: Mapping[str, Tensor]
    model_version: str


class Transport(Protocol):
    """Send requests to one model of a server. Threads may share one.

    `ServerUnavailableError` means that the request may be sent again, another `ServerError` that it may not. Messages
    are clauses that call the server `it`.
    """

    @property
    def lost(self) -> int:
        """Number of connections that ended so far. After each, the server may be another one."""
        ...

    def parameters(self, within: float) -> Mapping[str, str]:
        """Return the parameters of the model's configuration. `within` is in seconds."""
        ...

    def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str], within: float) -> Answer:
        """Return the outputs of one request. `within` is in seconds."""
        ...

    def close(self) -> None:
        """Close all connections. Requests in flight fail. Safe to call twice, and from any thread."""
        ...


def refusal(text: str, *, of_request: bool) -> ServerError:
    """Return the error for a text of the server. `of_request` is whether its status says that the request is wrong."""
    text = reason(text)
    if text.startswith(REFUSAL):
        return ServerError(f"it refuses the request: {text.removeprefix(REFUSAL)}")
    if of_request and not _NOT_READY.search(text):
        return ServerError(f"it refuses the request: {text}")
    return ServerUnavailableError(f"it fails: {text}")


def reason(text: str) -> str:
    """Return another program's text in one short line, without credentials."""
    line = " ".join(redacted(text).split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def no_answer(within: float) -> ServerUnavailableError:
    return ServerUnavailableError(f"it gives no answer within {within:.3g} s; check the network, and the server's load")
