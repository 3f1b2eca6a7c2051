"""Outputs of the pipeline: one module per sink, and `Sinks`, which calls several sinks and survives their errors.

`jsonl`, `mqtt`, `webhook`, `redis_stream` and the HTML `report` receive events. `annotated` writes videos, and
`saved_crops` the best picture of each person. `retention` deletes by age. A `WebServer` serves `preview` and `metrics`
over HTTP while the pipeline runs. The names in `__all__` are public.
"""

from __future__ import annotations

from seqpar_deploy.video.sinks.annotated import AnnotatedSink
from seqpar_deploy.video.sinks.answers import Answer
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.fan_out import Sinks
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.redis_stream import RedisSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.retention import Retention
from seqpar_deploy.video.sinks.saved_crops import SavedCropsSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes
from seqpar_deploy.video.sinks.webhook import WebhookSink

__all__ = [
    "AnnotatedSink",
    "Answer",
    "BaseSink",
    "Health",
    "JsonlSink",
    "Metrics",
    "MqttSink",
    "PreviewSink",
    "RedisSink",
    "ReportSink",
    "Retention",
    "SavedCropsSink",
    "Sinks",
    "WebServer",
    "WebhookSink",
    "metrics_routes",
]
