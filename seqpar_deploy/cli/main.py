"""`seqpar`: the umbrella command."""

from __future__ import annotations

from seqpar_deploy.cli import doctor, info, parity, predict, synth, train, tune, video
from seqpar_deploy.cli import eval as evaluation
from seqpar_deploy.cli.console import new_app, run_app

app = new_app("Pedestrian attributes with SequencePAR: from data to a bundle that runs on pictures of people.")
app.command("predict")(predict.predict)
app.command("video")(video.video)
app.command("eval")(evaluation.evaluate)
app.command("parity")(parity.parity)
app.command("tune")(tune.tune)
app.command("train")(train.train)
app.command("synth")(synth.synth)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)


def run() -> None:
    """Entry point of `seqpar`."""
    run_app(app)


if __name__ == "__main__":
    run()
