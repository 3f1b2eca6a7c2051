"""The options of `seqpar video`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.video.detect.picture import Scaling
from seqpar_deploy.video.sources.hardware import Hwaccel as HwaccelName

Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads per inference, and of OpenCV.",
        show_default="the tuned number, else the usable cores",
        min=1,
        max=1024,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        help="Serve a live preview, Prometheus /metrics and /healthz on this port. 0 takes a free one.",
        metavar="PORT",
        min=0,
        max=65535,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address that --serve listens on. 0.0.0.0 accepts other machines, which need the token of --serve-token.",
        metavar="ADDRESS",
        show_default="127.0.0.1",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        show_default=False,
        help="Video files, folders, quoted globs, or sequences of pictures such as frames/%06d.png. Or live sources: "
        "a camera such as 0 or /dev/video0, an rtsp:// or http:// URL. One run takes files or live sources, not both.",
        metavar="SOURCES",
    ),
]
Backend = Annotated[
    BackendName,
    typer.Option(
        help="Backend that runs the bundle and an ONNX detector. auto takes the one that seqpar tune chose on "
        "this machine, else the first that can open the bundle."
    ),
]
Detector = Annotated[
    str,
    typer.Option(
        help="Person detector: motion (built in, for fixed cameras), an .onnx file, or a .jsonl file of boxes.",
        metavar="NAME",
    ),
]
Events = Annotated[
    str | None,
    typer.Option(
        help="Write events as JSON Lines to this file. - is standard output.",
        metavar="FILE",
        show_default="-, if no other output is given",
    ),
]
Annotate = Annotated[
    Path | None,
    typer.Option(
        help="Write the video with boxes and attributes drawn: .mp4, or .mkv for runs of several days. Several "
        "sources are written to NAME-SOURCE.mp4 each.",
        metavar="FILE",
    ),
]
Mqtt = Annotated[
    str | None,
    typer.Option(
        help="Publish events to this MQTT broker, for example mqtts://user:password@host:8883/prefix.",
        metavar="URL",
    ),
]
MaxCropsPerSecond = Annotated[
    float,
    typer.Option(
        help="Crops to classify per second on average, over all sources. First results of new people may exceed it.",
        metavar="N",
        min=0.1,
    ),
]
MaxLatency = Annotated[
    float,
    typer.Option(
        help="Seconds to wait for a good crop of a new person. The best crop so far is classified then.",
        metavar="SECONDS",
        min=0,
    ),
]
Report = Annotated[Path | None, typer.Option(help="Write an HTML page of all people.", metavar="FILE")]
Profile = Annotated[bool, typer.Option("--profile", help="Log the time per stage at the end.")]
RtspTransport = Literal["auto", "tcp", "udp"]
Live = Annotated[
    bool | None,
    typer.Option(
        "--live/--recorded",
        help="Treat the sources as live streams, which are reconnected, or as recordings, which end.",
        show_default="by the address",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames per second of a sequence of pictures, or requests per second of a snapshot URL.",
        metavar="N",
        show_default="25, and 5 of a snapshot URL",
        min=0.01,
        max=1000,
    ),
]
Transport = Annotated[
    RtspTransport,
    typer.Option("--rtsp-transport", help="Transport of RTSP. auto tries TCP first, then UDP if TCP is refused."),
]
Hwaccel = Annotated[
    HwaccelName,
    typer.Option(
        help="Device that decodes video. auto takes the first that works. What a device cannot decode, the CPU decodes."
    ),
]
MaxFps = Annotated[
    float | None,
    typer.Option(
        help="Frames to analyse per second and source, evenly chosen. The others are decoded only.",
        metavar="N",
        show_default="all",
        min=0.1,
        max=1000,
    ),
]
AdaptiveFps = Annotated[
    bool,
    typer.Option(
        "--adaptive-fps",
        help="While the machine is too slow for all frames of live sources, choose evenly which to analyse, in place "
        "of dropping frames at random.",
    ),
]
DetectorLayout = Annotated[
    str | None,
    typer.Option(
        help="Layout of an ONNX detector's outputs, for a file whose layout is ambiguous.",
        metavar="NAME",
        show_default="read from the file",
    ),
]
PersonClass = Annotated[
    str | None,
    typer.Option(
        help="Class of people of an ONNX detector: its name or its index, or several with commas.",
        metavar="CLASS",
        show_default="read from the file",
    ),
]
DetectorThreshold = Annotated[
    float | None,
    typer.Option(
        help="Minimum score of a box of an ONNX detector, 0 to 1.", metavar="SCORE", show_default="0.25", min=0, max=1
    ),
]
DetectorScaling = Annotated[
    Scaling | None,
    typer.Option(
        help="Scaling of the pixels for an ONNX detector: 0 to 1 (unit), ImageNet's mean and standard deviation, or 0 "
        "to 255, red or blue first.",
        show_default="from the layout",
    ),
]
MqttCa = Annotated[
    Path | None,
    typer.Option(
        help="CA certificates (PEM) that the MQTT broker's certificate is checked against.",
        metavar="FILE",
        show_default="the system's",
    ),
]
MqttCert = Annotated[
    Path | None, typer.Option(help="Client certificate (PEM) to present to the MQTT broker.", metavar="FILE")
]
MqttKey = Annotated[
    Path | None,
    typer.Option(help="Private key (PEM) of --mqtt-cert.", metavar="FILE", show_default="in the file of --mqtt-cert"),
]
MqttInsecure = Annotated[
    bool, typer.Option("--mqtt-insecure", help="Do not check the MQTT broker's certificate. For tests only.")
]
Secrets = Annotated[
    Path | None,
    typer.Option(
        help="File of NAME=VALUE lines. ${NAME} in a source or in the address of an output is replaced by the value.",
        metavar="FILE",
        show_default="the environment",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Public address of --serve behind a proxy, for example https://example.com/cameras/.", metavar="URL"
    ),
]
ServeToken = Annotated[
    Path | None,
    typer.Option(
        help="File of a token. Pages of --serve need it from other machines, and every change needs it. /metrics and "
        "/healthz do not.",
        metavar="FILE",
        show_default="the environment variable SEQPAR_VIDEO_TOKEN, else none",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check sources, detector, outputs and bundle, then end without a run.")
]
Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="Thresholds file (TOML): the probabilities from which attributes are yes or no.",
        metavar="FILE",
        show_default="those of the bundle's calibration",
    ),
]
Monitor = Annotated[
    bool,
    typer.Option(
        "--monitor",
        help="Compare probabilities with those of the calibration set. An attribute that drifts is logged, in /metrics "
        "and in the report.",
    ),
]
KeepUncertain = Annotated[
    int | None,
    typer.Option(
        help="Write the N most uncertain crops, at most one per track, as a table to label. It holds pictures of "
        "people.",
        metavar="N",
        min=1,
        max=10_000,
    ),
]
UncertainCrops = Annotated[
    Path | None,
    typer.Option(
        help="New folder for --keep-uncertain.",
        metavar="FOLDER",
        show_default="uncertain-crops",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Config file (TOML) with options and cameras, in place of SOURCES. Cameras follow its changes.",
        metavar="FILE",
    ),
]
Init = Annotated[bool, typer.Option("--init", help="Write a commented config file to --config or cameras.toml.")]
