"""`${NAME}` in addresses is filled from a file or the environment, so that `ps` shows no password."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cli.run import run

from seqpar_deploy import redaction
from seqpar_deploy.cli.credentials import filled, read_secrets
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.video.sinks.mqtt_broker import read_broker

HARD = "p/a#s?s@w:o%41 r[d]&=ü\\'\""


def test_a_value_may_have_any_characters() -> None:
    place = filled("rtsp://${U}:${P}@10.0.0.5:554/live/1", {"U": "me@home", "P": HARD})
    parts = urlsplit(place)
    assert (parts.hostname, parts.port, parts.path) == ("10.0.0.5", 554, "/live/1")
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("me@home", HARD)
    assert redaction.shown(place) == "rtsp://10.0.0.5:554/live/1"
    broker = read_broker(filled("mqtt://${U}:${P}@broker/x", {"U": "me@home", "P": HARD}))
    assert (broker.user, broker.password, broker.host) == ("me@home", HARD, "broker")


@pytest.mark.parametrize(
    ("text", "values", "place"),
    [
        ("rtsp://${B}@camera/1", {"B": "me:p@ss:x"}, "rtsp://me:p%40ss%3Ax@camera/1"),
        ("rtsp://me:${P}@${H}/1", {"P": "a/b", "H": "10.0.0.5:554"}, "rtsp://me:a%2Fb@10.0.0.5:554/1"),
        ("http://${H}/x?password=${P}&a=1", {"P": "a&b #c", "H": "cam"}, "http://cam/x?password=a%26b%20%23c&a=1"),
        (
            "rtsp://cam/user=${U}&password=${P}&channel=1",
            {"U": "a", "P": "b#?%"},
            "rtsp://cam/user=a&password=b%23%3F%25&channel=1",
        ),
        ("${CAMERA}", {"CAMERA": "rtsp://me:p%40ss@camera/1"}, "rtsp://me:p%40ss@camera/1"),
        ("${CAMERA}", {"CAMERA": "rtsp://${U}:${P}@camera/1", "U": "me", "P": "p@ss"}, "rtsp://me:p%40ss@camera/1"),
        ("rtsp://me:$${P}@camera/1", {}, "rtsp://me:${P}@camera/1"),
        ("clip.mp4", {}, "clip.mp4"),
        ("rtsp://me:$P@camera", {}, "rtsp://me:$P@camera"),
    ],
)
def test_where_values_land(text: str, values: dict[str, str], place: str) -> None:
    assert filled(text, values) == place


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("rtsp://${NONE}@camera", {}, r"\$\{NONE\} .*none"),
        ("rtsp://${EMPTY}@camera", {"EMPTY": ""}, r"\$\{EMPTY\} .*empty"),
        ("rtsp://${A:-b}@camera", {}, r"\$\{NAME\}"),
        ("rtsp://${A@camera", {}, r"\$\{NAME\}"),
        ("${LOOP}", {"LOOP": "rtsp://${LOOP}@x"}, "LOOP"),
    ],
)
def test_a_reference_without_a_value(text: str, values: dict[str, str], says: str) -> None:
    with pytest.raises(SeqparError, match=says):
        filled(text, values)


def test_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SEQPAR_TEST_A", "from the environment")
    monkeypatch.setenv("SEQPAR_TEST_B", "from the environment")
    path = tmp_path / "secrets.env"
    lines = ("\ufeff# cameras", "", "SEQPAR_TEST_A = a b#c ", "export Q='x \"y' # yard", '  D="x\\"y\\\\"', "E==a=", "")
    path.write_bytes("\r\n".join(lines).encode())
    path.chmod(0o600)
    values = read_secrets(path)
    assert [values[name] for name in ("SEQPAR_TEST_A", "Q", "D", "E")] == ["a b#c", 'x "y', 'x"y\\', "=a="]
    assert values["SEQPAR_TEST_B"] == read_secrets(None)["SEQPAR_TEST_A"] == "from the environment"
    assert caplog.messages == []
    path.chmod(0o644)
    read_secrets(path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"chmod 600 {path}" in record.getMessage()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"A=1\nhunter2\n", "line 2 .*NAME=VALUE"),
        (b"1A=hunter2\n", "line 1 .*NAME=VALUE"),
        (b"A='hunter2\n", "line 1 .*quote"),
        (b"A='hunter2' hunter2\n", "line 1 .*quote"),
        (b"A=hunter2\nA=hunter2\n", "A again in line 2"),
        (b"A=\xff\n", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "s.env"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(SeqparError, match=says) as refused:
        read_secrets(path)
    assert "s.env" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_command_fills_sources_and_the_broker(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    secrets = tmp_path / "s.env"
    secrets.write_text("PASSWORD=hunter/2x\n")
    secrets.chmod(0o600)
    monkeypatch.setenv("CAMERA", "127.0.0.1:1")
    place = "http://me:${PASSWORD}@${CAMERA}/clip.mp4"
    words = ("video", place, "-b", bundle_dir, "--events", tmp_path / "e.jsonl")
    done = run("seqpar", *words, "-v", "--secrets", secrets, code=2)
    assert "http://127.0.0.1:1/clip.mp4" in done.stderr
    assert "hunter" not in done.stderr
    assert "${PASSWORD}" in run("seqpar", *words, code=2).error
    assert "--mqtt-ca" in run("seqpar", *words, "--mqtt-ca", "x", code=2).error
    wrong = run("seqpar", *words, "--secrets", secrets, "--mqtt", "mqtt://a:${PASSWORD}@b:x", code=2).error
    assert "MQTT address" in wrong
    assert "hunter" not in wrong
