"""Opens and checks the network outputs of `seqpar video`, and what it keeps on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.cli.recognizers import local_recognizer
from seqpar_deploy.cli.video.outlet_options import SECRET
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.errors import VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.sinks import home_assistant
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.mqtt_broker import read_broker
from seqpar_deploy.video.sinks.redis_stream import MOST as MOST_ENTRIES
from seqpar_deploy.video.sinks.redis_stream import RedisServer, RedisSink
from seqpar_deploy.video.sinks.retention import Keeps, Retention, parse_age
from seqpar_deploy.video.sinks.saved_crops import MOST as MOST_CROPS
from seqpar_deploy.video.sinks.saved_crops import SavedCropsSink
from seqpar_deploy.video.sinks.wall_clock import WallClock
from seqpar_deploy.video.sinks.webhook import Receiver, WebhookSink, check_secret, read_secret
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.types import Sink


def check_outlets(request: VideoRequest) -> None:
    """Raise VideoError for options that need another one, or exclude each other."""
    needs: list[tuple[str, object, dict[str, object]]] = [
        (
            *("--mqtt with a broker", request.mqtt),
            {
                "--mqtt-retain": request.mqtt_retain,
                "--home-assistant": request.home_assistant,
                "--mqtt-forget": request.mqtt_forget,
            },
        ),
        (
            *("--webhook with an address", request.webhook),
            {"--webhook-secret": request.webhook_secret, "--webhook-ca": request.webhook_ca},
        ),
        (
            *("--redis with an address", request.redis),
            {"--redis-most": request.redis_most, "--redis-ca": request.redis_ca},
        ),
        ("--save-crops with a folder", request.save_crops, {"--save-crops-most": request.save_crops_most}),
    ]
    for needed, value, options in needs:
        for option, given in options.items():
            if given and value is None:
                raise VideoError(f"{option} needs {needed}; add it, or omit {option}")
    for option, address in (("--webhook", request.webhook), ("--redis", request.redis)):
        if address == "":
            raise VideoError(f"{option} must have a value, got an empty one; add a value, or omit {option}")
    _check_retain(request)


def check_places(request: VideoRequest) -> None:
    """Read addresses, once they are filled in, and check folders. Nothing is connected or written. Raises SinkError."""
    _check_folders(request)
    if request.mqtt:
        read_broker(request.mqtt, **request.tls_files)
    if request.webhook:
        Receiver(request.webhook, ca=request.webhook_ca)
        _secret(request)
    if request.redis:
        RedisServer(request.redis, ca=request.redis_ca).close()


def open_network(request: VideoRequest, metrics: Metrics, health: Health) -> Iterator[Sink]:
    """Open the outputs over the network, one by one."""
    shared: dict[str, Any] = {"metrics": metrics, "health": health}
    if request.mqtt:
        yield MqttSink(
            request.mqtt,
            **request.tls_files,
            retain=request.mqtt_retain,
            home_assistant=home_assistant.PREFIX if request.home_assistant else None,
            forget=request.mqtt_forget,
            **shared,
        )
    if request.webhook:
        yield WebhookSink(request.webhook, secret=_secret(request), ca=request.webhook_ca, **shared)
    if request.redis:
        yield RedisSink(request.redis, most=request.redis_most or MOST_ENTRIES, ca=request.redis_ca, **shared)


def open_kept(
    request: VideoRequest,
    specs: Sequence[SourceSpec],
    recognizer: AnyRecognizer,
    others: Sequence[Sink],
    metrics: Metrics,
    health: Health,
) -> Iterator[Sink]:
    """Open what is kept on disk, one by one, and at last what deletes it, and what `others` keep, by age."""
    clock = WallClock(live=any(spec.live for spec in specs))
    keeping: list[Sink] = list(others)
    crops = None
    if request.save_crops:
        crops = SavedCropsSink(request.save_crops, most=request.save_crops_most or MOST_CROPS, clock=clock)
        keeping.append(crops)
        yield crops
    if request.keep_people:
        from seqpar_deploy.serving.archive.live_people import LivePeopleSink

        local = local_recognizer(recognizer)
        people = LivePeopleSink(
            request.keep_people,
            recognizer.label_set,
            bundle="" if local is None else local.bundle.digest,
            clock=clock,
            crops=crops,
            sources={spec.name: source_of_rows(spec) for spec in specs},
            metrics=metrics,
            health=health,
        )
        keeping.append(people)
        yield people
    if request.retain:
        outputs = [sink for sink in keeping if isinstance(sink, Keeps)]
        yield Retention(parse_age(request.retain), outputs, metrics=metrics, health=health)


def dry_checks(request: VideoRequest) -> list[Callable[[], str]]:
    """Return a check of each output but MQTT that returns what is ready. Each raises SeqparError."""
    checks: list[Callable[[], str]] = []
    if request.webhook:
        checks.append(functools.partial(_check_webhook, request, request.webhook))
    if request.redis:
        checks.append(functools.partial(_check_redis, request, request.redis))
    if request.save_crops or request.keep_people:
        checks.append(functools.partial(_check_folders, request))
    return checks


def _check_webhook(request: VideoRequest, address: str) -> str:
    secret = _secret(request)
    receiver = Receiver(address, ca=request.webhook_ca)
    receiver.check()
    return f"webhook {receiver.shown}: accepts connections; nothing was posted, requests are " + (
        "not signed" if secret is None else "signed"
    )


def _check_redis(request: VideoRequest, address: str) -> str:
    server = RedisServer(address, ca=request.redis_ca)
    server.check()
    return f"redis {server.shown}: accepts the connection"


def _check_folders(request: VideoRequest) -> str:
    if request.save_crops:
        check_writable(request.save_crops, folder=True)
    if request.keep_people:
        from seqpar_deploy.serving.archive.live_people import check_live_people

        check_live_people(request.keep_people)
    folders = " and ".join(str(folder) for folder in (request.save_crops, request.keep_people) if folder)
    return f"output {folders}: can be written"


def _check_retain(request: VideoRequest) -> None:
    if request.retain is None:
        return
    parse_age(request.retain)
    if not (request.save_crops or request.keep_people or request.keep_uncertain or request.redis):
        raise VideoError(
            f"--retain {request.retain} needs something to delete; add --save-crops, --keep-people, --keep-uncertain "
            "or --redis, or omit --retain"
        )
    events = request.events if request.events and _is_kept(Path(request.events)) else None
    for option, file in (("--events", events), ("--annotate", request.annotate), ("--report", request.report)):
        if file is not None:
            raise VideoError(
                f"--retain must be without {option} {file}, got both: nothing is deleted from that file; use "
                "--keep-people and --save-crops in its place, or omit --retain"
            )


def _is_kept(path: Path) -> bool:
    """Return whether events in a file stay there: not on standard output, in a pipe or a device."""
    return str(path) != "-" and (path.is_file() or not path.exists())


def _secret(request: VideoRequest) -> str | None:
    if request.webhook_secret is not None:
        return read_secret(request.webhook_secret)
    found = request.environment.get(SECRET)
    return check_secret(found, f"the environment variable {SECRET}") if found else None


def source_of_rows(spec: SourceSpec) -> str:
    """Return the source of rows: a file that pictures can be loaded from, or an address without credentials."""
    return spec.shown if spec.is_url or spec.live or spec.pictures else str(Path(spec.place).absolute())
