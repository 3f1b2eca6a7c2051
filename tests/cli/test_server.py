"""`predict` and `video` with a server: the answers of the bundle, and one line for each problem."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("av")
from cli.run import run
from serving import faults
from serving.kserve import FakeServer
from video.clips import make_clip

from seqpar_deploy import Recognizer
from seqpar_deploy.cli import recognizers
from seqpar_deploy.resources import sample_crops

CROPS = sample_crops()[:4]


@pytest.fixture(scope="module")
def local(bundle_dir: Path) -> Iterator[Recognizer]:
    with Recognizer.from_bundle(bundle_dir, backend="onnxruntime", verify=False) as recognizer:
        yield recognizer


@pytest.fixture
def served(local: Recognizer) -> Iterator[FakeServer]:
    """A server that answers as the bundle does."""
    faults.RELEASE.clear()
    with FakeServer() as server:
        server.model.answer = lambda crop, draft: local.predict([crop])[0]
        server.model.digest = local.bundle.digest
        yield server
        faults.RELEASE.set()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, and beside them, as `walk.jsonl`, somebody who crosses the first thirty."""
    folder = tmp_path_factory.mktemp("clip")
    lines = ({"frame": at, "boxes": [[10 + at, 10, 40 + at, 90]] if at < 30 else []} for at in range(40))
    (folder / "walk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_clip(folder / "walk.mp4", frames=40)


def rows(text: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in text.splitlines()]
    for row in found:  # FP32 on the wire
        row["probabilities"] = {name: round(value, 5) for name, value in row["probabilities"].items()}
        row["attributes"] = [(one["name"], round(one["score"], 5)) for one in row["attributes"]]
    return found


def test_predict_gives_the_answers_of_the_bundle(served: FakeServer, bundle_dir: Path) -> None:
    here = run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--backend", "onnxruntime", "--json")
    there = run("seqpar", "predict", *CROPS, "--server", served.url, "--json")
    assert rows(there.stdout) == rows(here.stdout)
    assert served.inferences == len(CROPS)
    assert f"4 images on server {served.url}" in there.stderr


def test_predict_with_a_bundle_that_stands_by(
    served: FakeServer, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognizers, "_BEFORE_STANDBY", 0.1)
    served.always = faults.status(503)
    done = run("seqpar", "predict", *CROPS, "--server", served.url, "-b", bundle_dir, "--json", "--fast-jpeg")
    assert len(done.stdout.splitlines()) == len(CROPS)
    (summary,) = (line for line in done.stderr.splitlines() if "4 images" in line)
    assert served.url in summary
    assert "4 of them" in summary
    served.down()
    again = run("seqpar", "predict", *CROPS, "--server", served.url, "-b", bundle_dir, "--json")
    assert len(again.stdout.splitlines()) == len(CROPS)
    assert "connection refused" in again.stderr


@pytest.mark.parametrize("command", ["predict", "video"])
def test_a_server_that_is_gone_is_one_line(
    command: str, served: FakeServer, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    served.down()
    what = CROPS[0] if command == "predict" else clip
    error = run("seqpar", command, what, "--server", served.url.replace("//", "//bob:hunter2abc@"), code=2).error
    assert "connection refused" in error
    assert served.url in error
    assert "hunter2abc" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], ("--bundle", "--server")),
        (["-b", "B", "--server-model", "m"], ("--server-model", "--server")),
        (["-b", "B", "--server-timeout", 3], ("--server-timeout", "--server")),
        (["--server", "http://h", "--backend", "openvino"], ("--backend", "--bundle")),
        (["--server", "http://h", "--threads", 2], ("--threads", "--bundle")),
        (["--server", "http://h", "--compute-precision", "native"], ("--compute-precision", "--bundle")),
        (["--server", "http://h", "--batch-size", 2], ("--batch-size", "--bundle")),
        (["--server", "http://h", "--speculative"], ("--speculative", "--bundle")),
        (["--server", "http://h", "--fast-jpeg"], ("--fast-jpeg", "--bundle")),
        (["--server", "http://h", "--no-verify"], ("--no-verify", "--bundle")),
        (["--server", "http://h", "--beam", 3, "-b", "B"], ("--beam", "--server")),
        (["--server", "http://h", "--thresholds", "t.toml"], ("--thresholds", "--server")),
        (["--server", "tcp://h"], ("scheme tcp", "http://")),
        (["--server", "http://h", "--server-token", "none.txt"], ("none.txt",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_of_predict_that_do_not_fit(words: list[object], facts: tuple[str, ...]) -> None:
    error = run("seqpar", "predict", CROPS[0], *words, code=2).error
    assert [fact for fact in facts if fact not in error] == []


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], ("--bundle", "--server")),
        (["-b", "B", "--server-ca", "f.pem"], ("--server-ca", "--server")),
        (["--server", "http://h", "--monitor"], ("--monitor", "--bundle")),
        (["--server", "http://h", "-b", "B", "--thresholds", "t.toml"], ("--thresholds", "--server")),
        (["--server", "http://${NO_SUCH_VALUE}"], ("NO_SUCH_VALUE",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_of_video_that_do_not_fit(words: list[object], facts: tuple[str, ...], clip: Path) -> None:
    error = run("seqpar", "video", clip, *words, code=2).error
    assert [fact for fact in facts if fact not in error] == []


def test_video_on_a_server(
    served: FakeServer, clip: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(clip.parent)
    served.authorization = "Bearer s3cr3t-t0ken"
    (tmp_path / "secrets").write_text(f"{recognizers.TOKEN}=s3cr3t-t0ken\nSERVER={served.url}\n")
    (tmp_path / "secrets").chmod(0o600)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    words = ["video", clip.name, "--detector", "walk.jsonl", "--events"]
    run("seqpar", *words, here, "-b", bundle_dir, "--backend", "onnxruntime")
    done = run("seqpar", *words, there, "--server", "${SERVER}", "--secrets", tmp_path / "secrets")
    events = [[json.loads(line) for line in path.read_text().splitlines()] for path in (here, there)]
    assert len(events[0]) >= 2
    for one, other in zip(*events, strict=True):
        assert {**one, "at": ""} == {**other, "at": ""}
    assert served.inferences > 0
    assert "s3cr3t" not in done.stderr


@pytest.mark.parametrize("words", [[], ["--bundle"]], ids=["server", "standby"])
def test_a_dry_run_checks_the_server(
    served: FakeServer, clip: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["video", clip, "--server", served.url, "--dry-run", *([*words, bundle_dir] if words else [])]
    done = run("seqpar", *given)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("server http"))
    assert served.url in line
    assert served.model.digest[:12] in line
    assert ("bundle " in done.stdout.replace(line, "")) == bool(words)
    assert served.inferences == 1
    served.down()
    failed = run("seqpar", *given, code=2)
    assert served.url in failed.error
    assert ("all hashes fit" in failed.stdout) == bool(words)
    assert list(tmp_path.iterdir()) == []
