"""The bundle and the machine of a measurement, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqpar_deploy.reports.markup import tag
from seqpar_deploy.reports.numbers import known


def bundle_facts(bundle: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The keys that identify a bundle, as far as they are known, in words."""
    found: list[tuple[str, object]] = []
    for key, value in bundle.items():
        if key == "machine" or value is None:
            continue
        words = value
        if isinstance(value, Mapping):
            words = ", ".join(f"{part} {what}" for part, what in value.items() if what is not None)
        found.append((key.replace("_", " "), tag("code", words) if key == "digest" else words))
    return found


def machine_facts(machine: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """The output of `describe_machine`, in words."""
    machine = machine or {}
    memory, packages = machine.get("memory_gb"), machine.get("packages") or {}
    gpu = machine.get("gpu")
    versions = {"Python": machine.get("python"), **packages}
    return [
        ("processor", machine.get("processor")),
        ("GPU", ", ".join(map(str, gpu.values())) if isinstance(gpu, Mapping) else gpu),
        ("cores", machine.get("cores")),
        ("memory", f"{memory:g} GB" if known(memory) else None),
        ("system", machine.get("system")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or None),
    ]
