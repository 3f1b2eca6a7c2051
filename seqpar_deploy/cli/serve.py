"""`seqpar serve`: a bundle or a model repository on a Triton server that is installed here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.bundle import MANIFEST, Bundle
from seqpar_deploy.cli.console import INTERRUPTED, stage
from seqpar_deploy.cli.options import Without, names_of
from seqpar_deploy.errors import TritonError
from seqpar_deploy.files import temporary_folder
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.serving.triton.environment import check_environment
from seqpar_deploy.serving.triton.repository import models, write_version
from seqpar_deploy.serving.triton.server import Addresses, check_address, find_server, running_server

_log = logging.getLogger(__name__)


def serve(
    model: Annotated[
        Path,
        typer.Argument(
            help="Bundle folder, or a model repository as written by seqpar export triton.",
            metavar="MODEL",
        ),
    ],
    http_port: Annotated[int, typer.Option(help="Port for HTTP.", min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port for gRPC.", min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port for Prometheus metrics.", min=1, max=65535)] = 8002,
    address: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Addresses that other machines reach need Triton 25.07 or newer.",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
    without: Without = None,
) -> None:
    """Serve a bundle with Triton Inference Server.

    The command runs until a signal. The server is the tritonserver on PATH, or that of the wheel nvidia-pytriton. It
    runs the model in this Python, which needs NumPy below 2, see docs/how-to/serve-with-triton.md. The protocol is
    KServe V2.

    At the first signal, requests in flight are answered and the server ends.

    Examples:
      seqpar serve bundles/peta
      seqpar serve models --http-port 9000
    """
    names = names_of(without)
    addresses = Addresses(address=address, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
    check_environment()
    program = find_server()
    with stop_on_signal() as received, temporary_folder() as folder:
        check_address(program, addresses, folder=folder)
        repository = _repository(model, folder, names)
        served = models(repository)
        with running_server(program, repository, addresses, folder=folder) as server:
            with stage(f"starting {program.name}"):
                ready = server.wait_until_ready(served, stopped=lambda: bool(received))
            if ready:
                shown = f"[{address}]" if ":" in address else address
                _log.info(
                    "serving %s at http://%s:%d and grpc://%s:%d, metrics at http://%s:%d/metrics",
                    ", ".join(served), shown, http_port, shown, grpc_port, shown, metrics_port,
                )  # fmt: skip
            server.wait(stopped=lambda: bool(received))
    raise typer.Exit(INTERRUPTED)


def _repository(model: Path, folder: Path, without: Sequence[str]) -> Path:
    """Return the repository, which for a bundle is a temporary one. Raises TritonError."""
    if (model / MANIFEST).is_file():
        with stage("opening the bundle"):
            write_version(Bundle.open(model), folder / "models", without=without, link=True)
        return folder / "models"
    if not models(model):
        raise TritonError(
            f"{model} must be a bundle or a model repository, got neither; write one with seqpar export triton"
        )
    if without:
        raise TritonError(
            f"--without must be given with a bundle, got the repository {model}; pass it to seqpar export triton"
        )
    return model
