"""Where what the pipeline finds goes: one module a sink, and `Sinks`, which calls them all and outlives their faults.

`jsonl`, `mqtt` and the HTML `report` take events; `annotated` writes videos; `preview` and `metrics` are looked at over
HTTP while the pipeline runs.
"""

from __future__ import annotations

from seqpar_deploy.video.sinks.fan_out import Sinks

__all__ = ["Sinks"]
