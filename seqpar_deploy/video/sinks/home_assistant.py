"""Discovery messages of Home Assistant: one device per stream (Home Assistant 2024.11 or newer)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import seqpar_deploy

PREFIX = "homeassistant"  # Home Assistant's default prefix of discovery topics
ONLINE = b"online"  # its birth message, in PREFIX/status


def birth_topic(discovery_prefix: str) -> str:
    """Return the topic in which Home Assistant says that it has started."""
    return f"{discovery_prefix}/status"


def discovery(
    stream: str,
    state: Mapping[str, Any],
    *,
    discovery_prefix: str,
    prefix: str,
    state_topic: str,
    status_topic: str,
    published: Mapping[str, bytes] | None = None,
) -> tuple[str, str]:
    """Return topic and payload of the discovery message of a stream.

    The device has the sensors "People" and "People seen", the binary sensor "Connection", per zone the people in it,
    and per line the crossings in each direction.

    Args:
        stream: Name of the stream.
        state: Its state, see `StreamStates`. The names of its zones and lines are used.
        discovery_prefix: Home Assistant's prefix.
        prefix: Prefix of our topics. Devices of different prefixes differ.
        state_topic: Topic of the state.
        status_topic: Topic of the last will.
        published: Earlier messages by topic. Home Assistant is told to remove what the earlier one of this topic has
            and this one has not. Default: none.
    """
    device = f"seqpar_{_slug(stream)}_{_hash(prefix, stream)}"
    topic = f"{discovery_prefix}/device/{device}/config"
    components: dict[str, dict[str, Any]] = {}

    def add(key: str, name: str, platform: str, template: str, **more: Any) -> None:
        components[key] = {
            "platform": platform,
            "name": name,
            "unique_id": f"{device}_{key}",
            "value_template": "{{ " + template + " }}",
            **more,
        }

    add(
        *("connection", "Connection", "binary_sensor", "'ON' if value_json.connected else 'OFF'"),
        device_class="connectivity",
        entity_category="diagnostic",
    )
    add("people", "People", "sensor", "value_json.people", state_class="measurement", icon="mdi:account-group")
    add("seen", "People seen", "sensor", "value_json.seen", state_class="total_increasing", icon="mdi:counter")
    for zone in state["zones"]:
        place = f"value_json.zones[{_literal(zone)}]"
        key = f"zone_{_hash(zone)}"
        add(key, f"{zone} people", "sensor", f"{place}.people", state_class="measurement", icon="mdi:account-group")
        for what in ("entered", "left"):
            add(f"{key}_{what}", f"{zone} {what}", "sensor", f"{place}.{what}", state_class="total_increasing")
    for line in state["lines"]:
        for direction in ("in", "out"):
            template = f"value_json.lines[{_literal(line)}][{_literal(direction)}]"
            key = f"line_{_hash(line)}_{direction}"
            add(key, f"{line} {direction}", "sensor", template, state_class="total_increasing", icon="mdi:walk")
    earlier = json.loads((published or {}).get(topic) or "{}").get("components", {})
    for key in earlier.keys() - components.keys():
        components[key] = {"platform": earlier[key]["platform"]}  # alone, it removes the component
    payload = {
        "device": {"identifiers": [device], "name": stream, "manufacturer": "seqpar-deploy", "model": "Person stream"},
        "origin": {"name": "seqpar-deploy", "sw_version": seqpar_deploy.__version__},
        "components": components,
        "state_topic": state_topic,
        "availability": [{"topic": status_topic}],  # payloads online and offline are Home Assistant's defaults
        "qos": 1,
    }
    return topic, json.dumps(payload, ensure_ascii=False)


def _literal(text: str) -> str:
    """Return a text as a literal of a template. Jinja reads the escapes of JSON, but for pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:40]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:8]
