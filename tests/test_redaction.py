"""Addresses are shown as far as they hold no secret, and other text stays as it is."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest

from seqpar_deploy import redaction
from seqpar_deploy.video.sources.spec import expand_sources


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://camera", "rtsp://camera"),
        ("rtsp://camera:554/Streaming/Channels/101", "rtsp://camera:554/Streaming/Channels/101"),
        ("rtsp://camera/h264Preview_01_main", "rtsp://camera/h264Preview_01_main"),
        ("http://nas/My%20Videos/clip%20(1).mp4", "http://nas/My%20Videos/clip%20(1).mp4"),
        ("http://user:pw@nas:80/a.mp4?t=1#x", "http://nas:80/a.mp4"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
        ("rtsp://u:p@[fe80::1%25eth0]:554/s", "rtsp://[fe80::1%25eth0]:554/s"),
        ("rtsp://admin:pa/ss@word#1@10.0.0.5:554/x", "rtsp://10.0.0.5:554/x"),
        ("rtsp://admin:pa/ss@cam.example.com/x", "rtsp://cam.example.com/x"),
        ("rtsp://admin:pa/ss@camera/x", "rtsp://camera/x"),
        ("rtsp://10.0.0.5/live@home/1", "rtsp://10.0.0.5/***"),
        ("https://cams.example.com/@live/1?mail=a@b.cc", "https://cams.example.com/***"),
        ("rtsp://camera/x?password=p@ssw0rd", "rtsp://***"),  # camera or ssw0rd: who knows
        ("rtsp://camera/live/user=a&password=b/1", "rtsp://camera/live/***"),
        ("rtsp://camera/admin/secret", "rtsp://camera/admin/***"),
        ("rtmp://host/app/key", "rtmp://host/app/***"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_what_is_shown(address: str, shown: str) -> None:
    assert redaction.shown(address) == shown
    assert redaction.shown(shown) == redaction.redacted(shown) == shown  # twice changes nothing


@pytest.mark.parametrize(
    "text",
    [
        "preview, /metrics and /healthz at http://127.0.0.1:8080/",
        "the MQTT address must be mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX] or mqtts://, got another form",
        "a rtsp:// source must be rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH, got an invalid URL",
        "a http:// source must be http://HOST[:PORT]/PATH, got no host",
        "camera-1 (rtsp://camera/1): connection lost: no answer for 4 s; retrying",
        "wrote out/a:b.mp4, 12:30 h, 3 of 4 at 50 %; mail me@example.com",
        "skipping backend a, trying b: file:/x=y is gone",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redaction.redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 111] Connection refused: 'rtsp://u7:hunter2@camera/1'",
        "[Errno 111] Connection refused: 'rtsp://u7:hun hunter2@camera/1'",
        "rtsp:/u7:hunter2@camera/1 does not exist",
        "u7:hunter2@camera/1 does not exist",
        "GET rtsp%3A%2F%2Fu7%3Ahunter2%40camera%2F1",
        '{"url":"rtsp://camera/1?password=hunter2"}',
        "http://a/1,http://u7:hunter2@camera/1",
    ],
)
def test_unknown_addresses_in_text_lose_their_secrets(text: str) -> None:
    assert "hunter2" not in redaction.redacted(text)


def test_names_differ_and_do_not_depend_on_the_order() -> None:
    recorder = "rtsp://u:p@10.0.0.5:554/cam/realmonitor?channel={}&subtype=0"
    xmeye = "rtsp://10.0.0.6/user=admin&password={}&channel=1&stream=0.sdp?"
    places = [
        recorder.format(1),
        recorder.format(2),
        xmeye.format("a"),
        xmeye.format("b"),
        "rtsp://a:b@cam",
        "rtsp://c@cam",
    ]
    names = {spec.place: spec.name for spec in expand_sources(places)}
    assert len(set(names.values())) == len(places)
    assert names[places[1]].endswith("channel-2-subtype-0")
    assert {spec.place: spec.name for spec in expand_sources(places[1::-1])} == {
        place: names[place] for place in places[:2]
    }
    assert not any("admin" in name or "password" in name for name in names.values())


def test_a_remembered_value_is_shown_in_no_path_and_no_text() -> None:
    redaction.remember_value("lobbykey")
    redaction.remember_value("k7")
    assert redaction.shown("rtsp://camera/lobbykey/1") == redaction.shown("rtsp://camera/k7/1") == "rtsp://camera/***"
    assert redaction.redacted("the key lobbykey is wrong") == "the key *** is wrong"
    assert redaction.redacted("k7 is too short to be looked for") == "k7 is too short to be looked for"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_MOST", 20)
    for number in range(50):
        redaction.remember(f"rtsp://user{number}:hunter {number}x@camera/1")
    assert redaction.redacted("rtsp://user49:hunter 49x@camera/1") == "rtsp://camera/1"


def test_random_passwords_are_shown_nowhere() -> None:
    rng = random.Random(0)
    hosts = ("10.0.0.5:554", "camera", "cam.example.com:8554", "[fe80::1]:554", "localhost", "nvr_2")
    forms = (
        "rtsp://admin:{0}@{1}/live/1",
        "rtsp://{0}@{1}/1",
        "http://{1}/live?user=u&password={0}",
        "rtsp://{1}/user=admin&password={0}&channel=1",
        "rtsp://{1}/live;password={0}/1",
        "RTSP://admin:{2}@{1}",
    )
    for _ in range(600):
        pieces = [f"piece{rng.randrange(1000, 10000)}" for _ in range(rng.randint(1, 4))]
        marks = [rng.choice("/#?@:%;&=+ ,.!$()[]{}|\\~\"'<>-_") * rng.randint(1, 2) for _ in pieces]
        password = "".join(mark + piece for mark, piece in zip(["", *marks], pieces, strict=False))
        address = rng.choice(forms).format(password, rng.choice(hosts), quote(password, safe=""))
        shown = [redaction.shown(address), redaction.redacted(f"[Errno 5] failed: '{address}'; retrying")]
        shown.append(redaction.redacted(f"GET {quote(address, safe='')} HTTP/1.1"))
        assert not [piece for piece in pieces if piece in "".join(shown)], (address, shown)


@pytest.mark.parametrize(
    "form", ["https://HOST[:PORT][/PATH]", "redis://HOST[:PORT][/DB[/STREAM]]", "mqtt://HOST[/PREFIX]"]
)
def test_the_form_of_an_address_in_an_error_stays_readable(form: str) -> None:
    assert redaction.redacted(f"the address must be {form} or so, got another form") == (
        f"the address must be {form} or so, got another form"
    )


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("hookTok3n/abc", "http://127.0.0.1:8080/in/hookTok3n/abc"),
        ("lobby/sekret", "rtsp://camera/lobby/sekret/1"),
        ("/lobby/se kret/", "rtsp://camera//lobby/se%20kret//1"),
        ("pa%41word", "rtsp://camera/pa%2541word/1"),
    ],
)
def test_a_value_of_several_parts_of_a_path_is_not_shown(value: str, address: str) -> None:
    redaction.remember_value(value)
    found = redaction.shown(address)
    assert found.endswith("/***")
    assert not any(word in found for word in ("Tok3n", "lobby", "kret", "pa%", "word"))
    assert redaction.shown("rtsp://other/live/1") == "rtsp://other/live/1"


def test_many_addresses_leave_values_hidden() -> None:
    redaction.remember_value("theServeToken123")
    for number in range(500):
        redaction.remember(f"rtsp://admin:commonPassw0rd@camera-{number}/live")
    found = redaction.redacted("theServeToken123 and commonPassw0rd")
    assert found == "*** and ***"


def test_the_name_of_a_secret_that_is_not_filled_in_is_shown() -> None:
    redaction.remember("rtsp://admin:${CAMERA_PASSWORD}@10.0.0.5/live")
    assert redaction.redacted("${CAMERA_PASSWORD} must have a value") == "${CAMERA_PASSWORD} must have a value"


def test_advice_on_how_to_write_an_address_is_not_masked() -> None:
    text = "it answered 401: write http://USER:PASSWORD@HOST/PATH"
    assert redaction.redacted(text) == text
