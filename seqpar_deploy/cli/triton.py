"""`seqpar export triton`: bundle -> version of a model in a Triton repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.files import check_writable
from seqpar_deploy.serving.triton.config import ModelOptions
from seqpar_deploy.serving.triton.repository import write_version


def triton(
    bundle: options.BundleArgument,
    repository: Annotated[
        Path, typer.Argument(help="Model repository of Triton. It is made if it is missing.", metavar="REPOSITORY")
    ],
    name: Annotated[str, typer.Option(help="Name of the model.", metavar="NAME")] = "seqpar",
    instances: Annotated[
        int,
        typer.Option(help="Processes that run the model, per GPU with --gpu. On a CPU they share the cores.", min=1),
    ] = 1,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Run on the GPUs of the server.", show_default="on its CPU")
    ] = False,
    queue_delay: Annotated[
        float,
        typer.Option(help="Milliseconds that a request may wait for others to share its batch.", min=0, max=10_000),
    ] = 2.0,
    without: options.Without = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Write a bundle as a model of Triton Inference Server.

    If the repository has the model already, the bundle becomes its next version. A server that polls the repository
    swaps to it without losing a request. The earlier versions stay there to roll back to.

    Triton runs the model in a Python with seqpar-deploy and NumPy below 2, see docs/how-to/serve-with-triton.md.

    Examples:
      seqpar export triton bundles/peta models
      seqpar export triton bundles/peta-fp16 models --gpu --instances 2
    """
    names = options.names_of(without)
    how = ModelOptions(instances=instances, gpu=gpu, queue_delay_ms=queue_delay)
    check_writable(repository, folder=True)
    check_writable(output)
    with stage("writing the model"):
        opened = Bundle.open(bundle)
        written = write_version(opened, repository, name=name, options=how, without=names)
    values = {
        "model": str(written.model),
        "version": written.version,
        "replaced": written.replaced,
        "bundle": str(opened.path),
        "digest": opened.digest,
    }
    swapped = f", in place of version {written.replaced}" if written.replaced else ""
    emit_result(values, f"{written.model}: version {written.version}{swapped}", as_json=as_json, output=output)
