"""`seqpar`: the umbrella command."""

from __future__ import annotations

from seqpar_deploy.cli import predict
from seqpar_deploy.cli.console import new_app, run_app

app = new_app("Pedestrian attributes with SequencePAR: run a bundle on pictures of people.")
app.command("predict")(predict.predict)


@app.callback()
def _subcommands() -> None:
    """Keeps `predict` a subcommand while it is the only one."""


def run() -> None:
    """Entry point of `seqpar`."""
    run_app(app)


if __name__ == "__main__":
    run()
