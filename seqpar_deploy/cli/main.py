"""`seqpar`, `seqpar-export` and `seqpar-bench`: one tree of commands."""

from __future__ import annotations

from seqpar_deploy.cli.console import run_app
from seqpar_deploy.cli.tree import Command, new_app

export_app = new_app(
    """Export a checkpoint to a bundle, or a bundle to TensorRT engines or a model of Triton.

    Examples:
      seqpar export checkpoint f1_best.pth --label-set peta --out bundles/peta
      seqpar export engine bundles/peta-fp16
    """,
    {
        "checkpoint": Command("export:checkpoint", "Export a checkpoint to a bundle and verify it."),
        "engine": Command("export:engine", "Build TensorRT engines from a bundle, on the target machine."),
        "triton": Command("triton:triton", "Write a bundle as a model of Triton Inference Server."),
    },
)

bench_app = new_app(
    """Measure a bundle against its alternatives, or compare two results.

    seqpar bench BUNDLE is short for seqpar bench run BUNDLE.

    Examples:
      seqpar bench bundles/peta --output today.json
      seqpar bench compare yesterday.json today.json --fail-above 1.1
    """,
    {
        "run": Command("bench:run", "Measure a bundle against its alternatives on this machine."),
        "compare": Command("bench:compare", "Compare two results of seqpar bench run."),
    },
    default="run",
)

archive_app = new_app(
    """Recognise archives of pictures and videos, and write Parquet files.

    seqpar archive INPUTS is short for seqpar archive run INPUTS.

    Examples:
      seqpar archive crops/ --bundle bundles/peta --out jobs/june
      seqpar archive status jobs/june
    """,
    {
        "run": Command("archive:run", "Recognise the people of an archive, and write Parquet files."),
        "status": Command("archive:status", "Show the state of a job."),
    },
    default="run",
)

app = new_app(
    """Predict pedestrian attributes with SequencePAR, from checkpoint to edge.

    Run seqpar COMMAND --help for the options of a command.

    Examples:
      seqpar export checkpoint f1_best.pth --label-set peta --out bundles/peta
      seqpar predict photos/ --bundle bundles/peta
      seqpar video street.mp4 --bundle bundles/peta --report people.html
    """,
    {
        "demo": Command("demo:demo", "Try the demo model on the sample people and a street clip."),
        "predict": Command("predict:predict", "Predict the attributes of people in image files."),
        "video": Command("video.command:video", "Track people in videos and streams, and emit their attributes."),
        "zones": Command("video.zones:zones", "Draw zones, lines and masks on a frame of a camera."),
        "gst": Command("gst:gst", "Show if GStreamer finds the element, and print the variables to set."),
        "archive": archive_app,
        "search": Command("search:search_results", "Search the results of archive jobs for people."),
        "export": export_app,
        "serve": Command("serve:serve", "Serve a bundle with Triton Inference Server."),
        "parity": Command("parity:parity", "Check that a bundle reproduces its checkpoint on this machine."),
        "compare": Command("compare:compare_bundles", "Compare the predictions of two bundles."),
        "tune": Command("tune:tune", "Find the fastest way to run a bundle on this machine."),
        "bench": bench_app,
        "eval": Command("eval:evaluate", "Evaluate a checkpoint or a bundle on a labelled dataset."),
        "calibrate": Command("calibrate:calibrate", "Calibrate the probabilities of a bundle on labelled people."),
        "train": Command("train:train", "Train SequencePAR on labelled images."),
        "synth": Command("synth:synth", "Render a synthetic dataset in PA-100K's format."),
        "info": Command("info:info", "Show the contents of a bundle, and the parts that fit this machine."),
        "doctor": Command("doctor:doctor", "Show the backends this machine can run, and packages to install."),
    },
)


def run() -> None:
    """Entry point of `seqpar`."""
    run_app(app)


def run_export() -> None:
    """Entry point of `seqpar-export`, which is `seqpar export`."""
    run_app(export_app)


def run_bench() -> None:
    """Entry point of `seqpar-bench`, which is `seqpar bench`."""
    run_app(bench_app)
