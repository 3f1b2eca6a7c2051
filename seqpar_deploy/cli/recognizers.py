"""Open the recognizer of a command: a bundle, a server, or a server with a bundle that answers while it is away."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpar_deploy.cli.options import check_needed, names_of
from seqpar_deploy.errors import SeqparError, ServerUnavailableError
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer, StandbyRecognizer
from seqpar_deploy.serving.address import check_token, read_token
from seqpar_deploy.without import WithoutAttributes

if TYPE_CHECKING:
    from seqpar_deploy.video.sinks import Health, Metrics

TOKEN = "SEQPAR_SERVER_TOKEN"
_BEFORE_STANDBY = 1.0  # seconds of retries before the bundle answers

Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        "-b",
        help="Bundle folder, as written by seqpar export. Required without --server. With it, the bundle answers while "
        "the server is away.",
        metavar="FOLDER",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Recognise on this server of seqpar serve or Triton: http://HOST:8000 or grpc://HOST:8001, or with https "
        "or grpcs.",
        metavar="URL",
    ),
]
ServerModel = Annotated[
    str | None, typer.Option(help="Name of the model on the server.", metavar="NAME", show_default="seqpar")
]
ServerToken = Annotated[
    Path | None,
    typer.Option(
        help="File of a bearer token to send to the server, for example for a proxy.",
        metavar="FILE",
        show_default=f"the environment variable {TOKEN}, else none",
    ),
]
ServerCa = Annotated[
    Path | None,
    typer.Option(
        help="CA certificates (PEM) that the server's certificate is checked against.",
        metavar="FILE",
        show_default="the system's",
    ),
]
ServerTimeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds to wait for the answer to one request.", metavar="SECONDS", show_default="30", min=0.1, max=3600
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerRequest:
    """The options of a server, as the parameters of a command (`cli.parameters.takes`)."""

    server: Server = dataclasses.field(default=None, repr=False)
    server_model: ServerModel = None
    server_token: ServerToken = None
    server_ca: ServerCa = None
    server_timeout: ServerTimeout = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ, repr=False)

    def check(
        self, bundle: Path | None, *, of_bundle: Mapping[str, object], not_with_server: Mapping[str, object]
    ) -> None:
        """Raise SeqparError for options that have no effect, or that would make answers differ.

        Args:
            bundle: The value of --bundle.
            of_bundle: Value by name of the options that need a bundle. None and False are options not given.
            not_with_server: The same for options that a server's answers do not follow.
        """
        if self.server is None:
            if bundle is None:
                raise SeqparError("--bundle or --server must be given, got none; add --bundle with a bundle's folder")
            check_needed(
                "--server",
                {
                    "--server-model": self.server_model,
                    "--server-token": self.server_token,
                    "--server-ca": self.server_ca,
                    "--server-timeout": self.server_timeout,
                },
            )
            return
        for option, value in not_with_server.items():
            if value is not None and value is not False:
                raise SeqparError(f"{option} must not be given with --server, which does not follow it; omit {option}")
        if bundle is None:
            check_needed("--bundle", of_bundle)

    def open(
        self,
        open_local: Callable[[], Recognizer] | None,
        *,
        without: str | None = None,
        live: bool = False,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> AnyRecognizer:
        """Open the server, and the bundle that stands by. A server without a bundle must answer now.

        Args:
            open_local: Opens the bundle, or None without one.
            without: The value of --without. Default: no attribute is kept out.
            live: Whether to retry without limit, for streams that never end. Default: False.
            metrics: As of `RemoteRecognizer`.
            health: As of `RemoteRecognizer`.
        """
        names = names_of(without)
        recognizer = self._open(open_local, live=live, metrics=metrics, health=health)
        if not names:
            return recognizer
        try:
            return WithoutAttributes(recognizer, names)
        except BaseException:
            recognizer.close()
            raise

    def _open(
        self,
        open_local: Callable[[], Recognizer] | None,
        *,
        live: bool,
        metrics: Metrics | None,
        health: Health | None,
    ) -> AnyRecognizer:
        if self.server is None:
            assert open_local is not None  # see `check`
            return open_local()
        options = RemoteOptions(
            timeout=self.server_timeout or RemoteOptions.timeout,
            give_up_after=_BEFORE_STANDBY if open_local else math.inf if live else RemoteOptions.give_up_after,
            token=self._token(),
            ca=self.server_ca,
        )
        remote = RemoteRecognizer(
            self.server, self.server_model or "seqpar", options=options, metrics=metrics, health=health
        )
        try:
            if open_local is None:
                remote.check()
                return remote
            local = open_local()
            try:
                return StandbyRecognizer(remote, local, metrics=metrics)
            except BaseException:
                local.close()
                raise
        except BaseException:
            remote.close()
            raise

    def _token(self) -> str | None:
        if self.server_token is not None:
            return read_token(self.server_token)
        token = self.environment.get(TOKEN)
        return check_token(token, f"the token in {TOKEN}") if token else None


def unlimited(recognizer: AnyRecognizer) -> AnyRecognizer:
    """Return the recognizer behind --without. Its predictions must go nowhere."""
    return recognizer.recognizer if isinstance(recognizer, WithoutAttributes) else recognizer


def local_recognizer(recognizer: AnyRecognizer) -> Recognizer | None:
    """Return the recognizer that has a bundle on this machine, or None."""
    recognizer = unlimited(recognizer)
    if isinstance(recognizer, StandbyRecognizer):
        return recognizer.local
    return recognizer if isinstance(recognizer, Recognizer) else None


def where(recognizer: AnyRecognizer) -> str:
    """Return where crops were recognised, for the log."""
    recognizer = unlimited(recognizer)
    if isinstance(recognizer, StandbyRecognizer):
        standby = recognizer.standby_crops
        here = f", {standby} of them on {where(recognizer.local)}" if standby else ""
        return f"{where(recognizer.remote)}{here}"
    if isinstance(recognizer, RemoteRecognizer):
        return recognizer.name
    return f"{recognizer.backend.name} ({recognizer.backend.device})" if isinstance(recognizer, Recognizer) else ""


def check_server(recognizer: AnyRecognizer) -> str | None:
    """Return a line on the server of a recognizer that answers, or None without a server. Raises ServerError."""
    recognizer = unlimited(recognizer)
    remote = recognizer.remote if isinstance(recognizer, StandbyRecognizer) else recognizer
    if not isinstance(remote, RemoteRecognizer):
        return None
    if isinstance(recognizer, StandbyRecognizer) and recognizer.away:
        remote.check()
        raise ServerUnavailableError(f"{remote.name} did not answer at first, but does now; check its load")
    return f"{remote.name}: ready, bundle {remote.digest[:12]}, label set {remote.label_set.name}"
