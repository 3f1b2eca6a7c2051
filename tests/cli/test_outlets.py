"""`seqpar video` with outputs over the network and on disk: opened, checked, wrong options, and found again."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("pyarrow")
pytest.importorskip("redis")
from cli.run import run
from video.clips import make_clip
from video.sinks.real_servers import free_port, redis_server
from video.sinks.receiver import Receiver

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, and beside them, as `walk.jsonl`, somebody who crosses the first thirty."""
    folder = tmp_path_factory.mktemp("clip")
    lines = ({"frame": at, "boxes": [[10 + at, 10, 40 + at, 90]] if at < 30 else []} for at in range(40))
    (folder / "walk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_clip(folder / "walk.mp4", frames=40)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_people_are_kept_and_found_with_their_picture(clip: Path, bundle_dir: Path, place: Path) -> None:
    words = ["--detector", clip.with_suffix(".jsonl"), "--keep-people", "people", "--save-crops", "crops"]
    done = run("seqpar", "video", clip, "-b", bundle_dir, *words, "--retain", "7d")
    assert done.stdout == ""  # no events on standard output beside another output
    (crop,) = (place / "crops").iterdir()
    assert re.fullmatch(r"walk-1-\d{8}T\d{9}Z\.jpg", crop.name)
    found = run("seqpar", "search", "people", "", "--json", "--page", "found.html")
    (row,) = (json.loads(line) for line in found.stdout.splitlines())
    assert row["source"] == str(crop)
    assert row["id"] == crop.stem
    assert (row["camera"], row["track_id"], row["captured_at"]) == ("walk", 1, None)
    assert "data:image" in (place / "found.html").read_text()
    run("seqpar", "video", clip, "-b", bundle_dir, *words)  # appended to
    assert len(run("seqpar", "search", "people", "", "--json").stdout.splitlines()) == 2
    crop.unlink()
    run("seqpar", "search", "people", "", "--page", "found.html")  # a picture that is gone is no fault


def test_a_webhook_is_signed_with_the_secret_of_the_environment(
    clip: Path, bundle_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQPAR_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK", "token-0123456789abcdef")
    with Receiver() as receiver:
        words = ["--detector", clip.with_suffix(".jsonl"), "--webhook", f"{receiver.url}/${{HOOK}}"]
        done = run("seqpar", "video", clip, "-b", bundle_dir, *words)
    assert [json.loads(body)["event"] for _, _, body in receiver.requests][-1] == "ended"
    assert all(path == "/token-0123456789abcdef" for path, _, _ in receiver.requests)
    assert all("X-Seqpar-Signature" in headers for _, headers, _ in receiver.requests)
    assert "token-0123456789abcdef" not in done.stdout + done.stderr


def test_a_dead_webhook_fails_the_run_and_no_other_output(
    clip: Path, bundle_dir: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--detector", clip.with_suffix(".jsonl"), "--webhook", f"http://127.0.0.1:{free_port()}"]
    done = run("seqpar", "video", clip, "-b", bundle_dir, *words, "--events", "events.jsonl", code=2)
    assert "1 of 2 outputs" in done.error
    assert "connection refused" in done.stderr
    assert len((place / "events.jsonl").read_text().splitlines()) >= 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--mqtt-retain"], ["--mqtt-retain", "--mqtt"]),
        (["--home-assistant"], ["--home-assistant", "--mqtt"]),
        (["--webhook-ca", "ca.pem"], ["--webhook-ca", "--webhook"]),
        (["--redis-most", "10"], ["--redis-most", "--redis"]),
        (["--save-crops-most", "10"], ["--save-crops-most", "--save-crops"]),
        (["--webhook", ""], ["--webhook"]),
        (["--webhook", "example.com"], ["https://"]),
        (["--redis", "http://host"], ["redis://"]),
        (["--retain", "7d"], ["--retain", "--save-crops"]),
        (["--retain", "soon", "--save-crops", "crops"], ["--retain", "7d"]),
        (["--retain", "7d", "--save-crops", "crops", "--events", "e.jsonl"], ["--retain", "--events"]),
        (["--retain", "7d", "--save-crops", "crops", "--report", "r.html"], ["--retain", "--report"]),
        (["--save-crops", "file"], ["file"]),
        (["--webhook", "https://h/", "--webhook-secret", "file"], ["16"]),
    ],
)
def test_wrong_options(clip: Path, bundle_dir: Path, place: Path, words: list[str], parts: list[str]) -> None:
    (place / "file").write_text("short")
    for dry in ([], ["--dry-run"]):
        done = run("seqpar", "video", clip, "-b", bundle_dir, *words, *dry, code=2)
        for part in parts:
            assert part in done.error
    assert [path.name for path in place.iterdir()] == ["file"]  # nothing was opened


def test_a_dry_run_checks_them_and_writes_nothing(clip: Path, bundle_dir: Path, place: Path) -> None:
    with Receiver() as receiver:
        words = ["--webhook", receiver.url, "--save-crops", "crops", "--keep-people", "people"]
        done = run("seqpar", "video", clip, "-b", bundle_dir, "--dry-run", *words)
    assert receiver.requests == []
    for part in (f"webhook {receiver.url}", "not signed", "crops and people"):
        assert part in done.stdout
    assert list(place.iterdir()) == []
    ports = free_port(), free_port()
    words = [
        "--webhook",
        f"http://me:hunter2-2@127.0.0.1:{ports[0]}",
        "--redis",
        f"redis://:hunter2-2@127.0.0.1:{ports[1]}",
    ]
    done = run("seqpar", "video", clip, "-b", bundle_dir, "--dry-run", *words, code=2)
    for port in ports:
        assert any(str(port) in line and "refused" in line for line in done.stderr.splitlines())
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.heavy
def test_redis(clip: Path, bundle_dir: Path, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import redis

    caplog.set_level(logging.INFO)
    with redis_server(tmp_path, password="right-right") as port:
        address = f"redis://:right-right@127.0.0.1:{port}/0/people"
        words = ["--detector", clip.with_suffix(".jsonl"), "--redis", address, "--redis-most", "1000", "--retain", "1h"]
        assert (
            f"redis 127.0.0.1:{port}/0/people"
            in run("seqpar", "video", clip, "-b", bundle_dir, *words, "--dry-run").stdout
        )
        run("seqpar", "video", clip, "-b", bundle_dir, *words)
        with redis.Redis(port=port, password="right-right", decode_responses=True) as client:
            kinds = [fields["kind"] for _, fields in client.xrange("people")]
        assert kinds[0] == "appeared"
        assert kinds[-1] == "ended"
        wrong = ["--redis", f"redis://:wrong-wrong@127.0.0.1:{port}", "--dry-run"]
        done = run("seqpar", "video", clip, "-b", bundle_dir, *wrong, code=2)
        assert "password" in done.error
