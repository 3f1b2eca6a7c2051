"""Figures in the README and in the page on speed are those that scripts in benchmarks/ wrote."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEED = (ROOT / "docs" / "explanation" / "speed.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


COMPARISON = {variant["description"]: variant for variant in result("comparison-x86_64-cpu.json")["variants"]}


def rows() -> list[tuple[str, str, str]]:
    """(variant, milliseconds, speed-up) of the table in the README."""
    found = re.findall(r"^\| (\w.*?) \| (\d+) \| ([\d.]+) \|", README, re.MULTILINE)
    assert len(found) >= 5
    return found


@pytest.mark.parametrize(("name", "milliseconds", "faster"), rows())
def test_the_table_is_the_result(name: str, milliseconds: str, faster: str) -> None:
    variant, first = COMPARISON[name], next(iter(COMPARISON.values()))
    assert first["name"] == "published"
    assert milliseconds == f"{1e3 * variant['p50']:.0f}"
    assert faster == f"{first['p50'] / variant['p50']:.1f}"


def test_every_result_that_is_named_exists() -> None:
    named = re.findall(r"benchmarks/results/[\w.-]+", README + SPEED)
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_versions_beside_the_table_are_the_results() -> None:
    packages = result("comparison-x86_64-cpu.json")["machine"]["packages"]
    for name, package in (("PyTorch", "torch"), ("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
        assert near(packages[package], name, 20)


def test_the_time_of_the_demo_is_the_result() -> None:
    found = result("first-minutes.json")
    assert found["within_limit"]
    assert near(f"{found['demo']['limit_seconds']:.0f} s", "seqpar demo")
    assert near(f"{found['people_printed']} sample people", "seqpar-demo", 200)


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "images" / "street.png").stat().st_size <= 300_000


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def near(fact: str, word: str, distance: int = 120, page: str = README) -> bool:
    """Whether the page has this figure within so many characters of this word."""
    text = " ".join(page.split())
    places = [
        [found.start() for found in re.finditer(pattern, text)] for pattern in (rf"(?<![\d.,]){re.escape(fact)}", word)
    ]
    return any(abs(one - other) <= distance for one in places[0] for other in places[1])


def test_near_can_fail() -> None:
    assert near("ViT-L/14", "PETA")
    assert not near("ViT-L/15", "PETA")
    assert not near("ViT-L/14", "Prometheus")


def test_the_figures_of_video_are_the_results() -> None:
    street, streams, soak = result("street.json"), result("streams.json"), result("soak.json")
    carried = {rate: each["streams"] for rate, each in result("streams_per_core.json")["rates"].items()}
    tracks, live = street["tracks"], street["live"].values()
    unseen = tracks["held_out"]
    people = sum(tracks[split]["people found"] for split in ("held_out", "train"))
    assert people == sum(tracks[split]["people"] for split in ("held_out", "train"))
    rates = {name: each["frames_per_second"] for name, each in street["file"].items()}
    labelled = max(each["seconds_from_first_label_to_first_attributes"]["max"] for each in live)
    soonest = math.ceil(100 * max(each["seconds_to_first_attributes"]["max"] for each in live)) / 100
    back = math.ceil(10 * max(streams[kind]["worst_in_metrics"] for kind in ("http", "rtsp_gstreamer"))) / 10
    video, element = (soak["processes"][name] for name in ("video", "element"))
    assert all(
        each[count]["first"] == each[count]["last"] for each in (video, element) for count in ("threads", "files")
    )
    assert 119 < soak["minutes"] < 121
    for fact, word in (
        (f"{video['frames']:,} frames", "streams"),
        (f"{soak['changes']} changes", "cameras"),
        (f"{video['resident_mb_per_10000_frames']:.2f} MB per 10,000 frames", "memory"),
        (f"{element['resident_mb_per_10000_frames']:.2f} MB", "element"),
        (f"{street['frames']} frames", "street video"),
        (f"{street['people_per_frame']['labelled_mean']:.0f} people", "street video"),
        (f"{people} labelled tracks", "all"),
        (f"{100 * unseen['recall']:.0f} %", "boxes"),
        (f"{unseen['identity switches']} ", "changes of number|identity switches"),
        (f"{unseen['f1_fused']:.2f}", "F1"),
        (f"{unseen['f1_its_crops']:.2f}", "crops"),
        (f"{rates['events and report']:.0f} frames", "second"),
        (f"{rates['annotated video too']:.0f} ", "annotated"),
        (f"{soonest:.2f} s", "tracked frame"),
        (f"{labelled:.2f} s", "labelled"),
        (f"carries {carried['5']} streams", "core"),
        (f"or {carried['10']} with 10", "core"),
        (f"{streams['http']['kills']} times", "[Kk]illed"),
        (f"{back:.1f} s", "metrics"),
    ):
        assert near(fact, word), (fact, word)


def test_the_figures_of_speed_are_the_results() -> None:
    native, reduced = COMPARISON["bundle fp32, openvino, speculative"], COMPARISON["bundle int8, openvino, speculative"]
    shares = {(share["variant"], share["graph"]): share for share in result("comparison-x86_64-cpu.json")["shares"]}
    of_demo = result("exactness-x86_64-cpu.json")
    found = next(
        entry for entry in of_demo["results"] if (entry["backend"], entry["compute_precision"]) == ("openvino", "int8")
    )
    expected = reduced["p50"] + found["fallback_share"] * native["p50"]
    assert found["different_after_fallback"] == 0
    for fact, word in (
        (f"{of_demo['tested_on']:,} crops", "demo model"),
        (f"{found['different']} ", "no sequence|no crop"),
        (f"{100 * found['fallback_share']:.0f} %", "crops"),
        (f"{1e3 * expected:.0f} ms", "average"),
        (f"{COMPARISON['PyTorch, as published']['p50'] / expected:.1f} times", "average"),
    ):
        assert near(fact, word), (fact, word)
        assert near(fact, word, page=SPEED), (fact, word)
    for fact, word in (
        (f"{100 * shares['openvino', 'encoder']['share_of_gemm']:.0f} %", "FP32"),
        (f"{100 * shares['openvino-int8', 'encoder']['share_of_gemm']:.0f} %", "int8"),
        (f"{1 / shares['openvino', 'decoder_step']['share_of_bandwidth']:.1f} times", "reading|bandwidth"),
    ):
        assert near(fact, word, page=SPEED), (fact, word)
