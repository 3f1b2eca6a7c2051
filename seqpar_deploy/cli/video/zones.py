"""`seqpar zones`: draw zones, lines and masks on a frame of a camera."""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.cli.console import INTERRUPTED, print_line
from seqpar_deploy.cli.video.config import DEFAULT, parse_config, read_config
from seqpar_deploy.cli.video.zone_picture import picture_of
from seqpar_deploy.errors import VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.images import read_image
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.video.sinks.server import WebServer
from seqpar_deploy.video.zone_page.page import ZonePage
from seqpar_deploy.video.zones.settings import SceneSettings

_LOOK_EVERY = 0.2  # seconds between two looks for a signal

_log = logging.getLogger(__name__)


def zones(
    camera: Annotated[str, typer.Argument(help="Name of a camera in the config file.", metavar="CAMERA")],
    config: Annotated[
        Path, typer.Option(help="Config file of seqpar video, which is changed when you save.", metavar="FILE")
    ] = DEFAULT,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw on this picture, of the size of the camera's frames.",
            metavar="FILE",
            show_default="the first frame of the camera",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page. 0 takes a free one.", min=0, max=65535)] = 0,
) -> None:
    """Draw zones, lines and masks on a frame of a camera.

    The command takes one frame, serves a page on this machine, and prints its link. The page saves into the config
    file, whose comments and order stay. A running seqpar video adopts it. Ctrl-C ends the command.

    With blur in the config file, people in the frame are blurred, and the whole frame if the detector is not ready
    within 10 s. A --picture is shown as it is.

    The link has a token, without which nothing is saved. From another machine, forward the port, for example with
    ssh -L 8090:127.0.0.1:8090 HOST.

    Examples:
      seqpar zones gate
      seqpar zones gate --config cameras.toml --port 8090
      seqpar zones gate --picture gate.jpg
    """
    found = read_config(config)
    if camera not in found.cameras:
        known = ", ".join(found.cameras) or "none"
        raise VideoError(f"CAMERA must be in {config}, got {camera}; its cameras are {known}")
    check_writable(config.resolve())
    image = read_image(picture) if picture is not None else picture_of(camera, found)

    def read(content: bytes) -> SceneSettings:
        cameras = parse_config(content, config).cameras
        if camera not in cameras:
            raise VideoError(f"{config} must have the camera {camera}, got none of that name; add it again")
        return cameras[camera].scene

    page = ZonePage(config, camera, read, image, on_saved=lambda: _log.info("saved %s", config))
    token = secrets.token_urlsafe(24)
    with stop_on_signal() as received:
        web = WebServer(page.routes(), posts=page.posts(), token=token, port=port)
        try:
            print_line(f"Draw at {web.url}?token={token}")
            while not received:
                time.sleep(_LOOK_EVERY)
        finally:
            web.close()
    raise typer.Exit(INTERRUPTED)
