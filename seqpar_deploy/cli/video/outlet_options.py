"""The options of `seqpar video` for outputs over the network, and for what is kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.video.sinks import redis_stream, saved_crops

SECRET = "SEQPAR_WEBHOOK_SECRET"

MqttRetain = Annotated[
    bool,
    typer.Option(
        "--mqtt-retain",
        help="Also publish the state of each stream, retained, to PREFIX/STREAM/state: connected, people, zones.",
    ),
]
HomeAssistant = Annotated[
    bool,
    typer.Option("--home-assistant", help="Describe each stream to Home Assistant over --mqtt. Implies --mqtt-retain."),
]
MqttForget = Annotated[
    bool,
    typer.Option(
        "--mqtt-forget",
        help="At the end, remove the retained states and the devices of Home Assistant from the broker.",
    ),
]
Webhook = Annotated[
    str | None,
    typer.Option(
        help="Post each event as JSON to this address, again until it is taken, for example "
        "https://example.com/people.",
        metavar="URL",
    ),
]
WebhookSecret = Annotated[
    Path | None,
    typer.Option(
        help="File of the secret that signs the requests of --webhook, 16 characters or more.",
        metavar="FILE",
        show_default=f"the environment variable {SECRET}, else none: no signature",
    ),
]
WebhookCa = Annotated[
    Path | None,
    typer.Option(
        help="CA certificates (PEM) that the certificate of --webhook is checked against.",
        metavar="FILE",
        show_default="the system's",
    ),
]
Redis = Annotated[
    str | None,
    typer.Option(
        help="Add each event to this Redis stream: redis://:password@host:6379/DB/STREAM, or rediss:// for TLS.",
        metavar="URL",
    ),
]
RedisMost = Annotated[
    int | None,
    typer.Option(
        help="Entries to keep in the stream of --redis. Redis may keep a few more.",
        metavar="N",
        show_default=f"{redis_stream.MOST}",
        min=1,
    ),
]
RedisCa = Annotated[
    Path | None,
    typer.Option(
        help="CA certificates (PEM) that the certificate of --redis is checked against.",
        metavar="FILE",
        show_default="the system's",
    ),
]
SaveCrops = Annotated[
    Path | None,
    typer.Option(
        help="Save the best crop of each person in this folder when the person leaves. It holds pictures of people.",
        metavar="FOLDER",
    ),
]
SaveCropsMost = Annotated[
    int | None,
    typer.Option(
        help="Crops to keep in the folder of --save-crops. The oldest are removed.",
        metavar="N",
        show_default=f"{saved_crops.MOST}",
        min=1,
    ),
]
KeepPeople = Annotated[
    Path | None,
    typer.Option(
        help="Keep a row per person in Parquet files in this folder, for seqpar search. A file is written every 5 "
        "minutes.",
        metavar="FOLDER",
    ),
]
Retain = Annotated[
    str | None,
    typer.Option(
        help="Delete what is older than this from --save-crops, --keep-people, --keep-uncertain and --redis, while the "
        "run goes on: 30m, 12h, 7d or 2w.",
        metavar="TIME",
        show_default="nothing is deleted for its age",
    ),
]
