"""Events as JSON Lines: the documented schema, whole lines, and what a full disk or a power cut leaves."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video.sinks.people import event, person

from seqpar_deploy.errors import ReaderGoneError, SinkError
from seqpar_deploy.video.sinks import jsonl
from seqpar_deploy.video.sinks.jsonl import JsonlSink

DOCS = Path(__file__).parents[3] / "docs" / "reference"
SCHEMA = json.loads((DOCS / "events.schema.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}


def kinds(schema: dict[str, Any]) -> list[str]:
    """The kinds of event that a part of the schema describes."""
    found: list[str] = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]["event"]["enum"]
    return found


def check(value: Any, schema: dict[str, Any]) -> None:
    """The part of JSON Schema that ours uses; keys it does not name are faults here."""
    if "oneOf" in schema:
        (schema,) = (one for one in schema["oneOf"] if value["event"] in kinds(one))
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    assert isinstance(value, TYPES[schema.get("type", "object")]) or "type" not in schema
    assert value == schema.get("const", value)
    assert value in schema.get("enum", [value])
    if isinstance(value, (int, float)):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value)
        for key, part in value.items():
            check(part, schema.get("properties", {}).get(key) or schema["additionalProperties"])
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        for part in value:
            check(part, schema["items"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_are_as_documented(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "new" / "events.jsonl")
    hostile = person(2, stream='a\n"b"\udcff')
    hostile = dataclasses.replace(hostile, last=dataclasses.replace(hostile.last, timestamp=np.float32(4.25)))
    for kind, who in (("appeared", person()), ("changed", hostile), ("ended", person())):
        sink.event(event(kind, who, ("hat",)))
    sink.close()
    sink.close()
    told = lines(tmp_path / "new" / "events.jsonl")
    for one in told:
        check(one, SCHEMA)
    assert [one["event"] for one in told] == ["appeared", "changed", "ended"]
    assert told[1]["stream"] == 'a\n"b"?'
    assert told[1]["last"]["timestamp"] == 4.25
    assert list(told[0]["attributes"]) == list(person().attributes)
    assert told[0]["attributes"]["hat"] == {"state": "unknown", "probability": 0.5}


def test_the_example_of_the_documentation_is_valid() -> None:
    text = (DOCS / "events.md").read_text(encoding="utf-8")
    examples = [block.split("```")[0] for block in text.split("```json")[1:]]
    for example in examples:
        check(json.loads(example), SCHEMA)
    assert len(examples) == 3


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from video.sinks.people import event; from seqpar_deploy.video.sinks.jsonl import JsonlSink\n"
        "sink = JsonlSink(sys.argv[1])\nfor _ in range(50): sink.event(event())\nos.kill(os.getpid(), 9)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[3])])
    path = tmp_path / "events.jsonl"
    ran = subprocess.run([sys.executable, "-c", program, str(path)], env=os.environ | {"PYTHONPATH": paths}, timeout=60)
    assert ran.returncode == -9
    assert len(lines(path)) == 50
    JsonlSink(path).close()
    assert len(lines(path)) == 50  # appended to


def test_a_torn_last_line_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema": 2, "ev')
    sink = JsonlSink(path)
    sink.event(event())
    sink.close()
    torn, whole = path.read_text().splitlines()
    assert torn == '{"schema": 2, "ev'
    check(json.loads(whole), SCHEMA)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonlSink(tmp_path / "events.jsonl")
    sink.event(event())
    real, room = os.write, [20]

    def write(descriptor: int, data: Any) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = real(descriptor, bytes(data)[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(jsonl.os, "write", write)
    with pytest.raises(OSError, match="No space"):
        sink.event(event())
    monkeypatch.undo()
    sink.event(event("ended"))
    sink.close()
    assert [one["event"] for one in lines(tmp_path / "events.jsonl")] == ["appeared", "ended"]


def test_a_full_device_and_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    full = JsonlSink("/dev/full")
    with pytest.raises(OSError, match="No space"):
        full.event(event())
    full.close()
    out = JsonlSink("-")
    out.event(event())
    out.close()
    check(json.loads(capfd.readouterr().out), SCHEMA)
    print("standard output is still open")


def test_what_a_disk_says_only_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        def fsync(_descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fails(errno.EDQUOT)
    sink = JsonlSink(tmp_path / "e.jsonl")
    with pytest.raises(OSError, match="quota"):
        sink.close()
    sink.close()
    fails(errno.EINVAL)
    JsonlSink(tmp_path / "e.jsonl").close()


def test_a_pipe_that_nobody_reads_is_no_passing_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlSink(tmp_path / "pipe")
    sink.event(event())
    os.close(reader)
    with pytest.raises(ReaderGoneError, match="reader"):
        sink.event(event())
    sink.close()


def test_a_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"Is a directory; name another file"):
        JsonlSink(tmp_path)
