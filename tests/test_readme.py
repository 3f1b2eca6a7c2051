"""Every figure the README quotes is one that a script in benchmarks/ wrote."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


COMPARISON = {variant["description"]: variant for variant in result("comparison-x86_64-cpu.json")["variants"]}


def rows() -> list[tuple[str, str, str]]:
    """(rung, milliseconds, times faster) of the table under "How fast"."""
    section = README.split("## Is it right, and how fast")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\w.*?) \| (\d+) \| ([\d.]+) \|", section, re.MULTILINE)
    assert len(found) >= 5
    return found


@pytest.mark.parametrize(("name", "milliseconds", "faster"), rows())
def test_the_table_is_the_ladders(name: str, milliseconds: str, faster: str) -> None:
    variant, first = COMPARISON[name], next(iter(COMPARISON.values()))
    assert first["name"] == "published"
    assert milliseconds == f"{1e3 * variant['p50']:.0f}"
    assert faster == f"{first['p50'] / variant['p50']:.1f}"


def test_every_result_that_is_named_exists() -> None:
    named = re.findall(r"benchmarks/results/[\w.-]+", README)
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_videos_sentences_are_the_results() -> None:
    street, streams = result("street.json"), result("streams.json")
    tracks, live = street["tracks"], street["live"].values()
    unseen = tracks["held_out"]
    people = sum(tracks[split]["people found"] for split in ("held_out", "train"))
    assert people == sum(tracks[split]["people"] for split in ("held_out", "train"))
    rates = {name: each["frames_per_second"] for name, each in street["file"].items()}
    labelled = max(each["seconds_from_first_label_to_first_attributes"]["max"] for each in live)
    soonest = math.ceil(100 * max(each["seconds_to_first_attributes"]["max"] for each in live)) / 100
    back = math.ceil(10 * max(streams[kind]["worst_in_metrics"] for kind in ("http", "rtsp_gstreamer"))) / 10
    soak = result("soak.json")
    assert all(soak[what]["first"] == soak[what]["last"] for what in ("threads", "files"))
    assert 59 < soak["minutes"] < 61
    said = " ".join(README.split())
    for sentence in (
        f"An hour of four looped streams, as fast as they are taken ({soak['frames']:,} frames), grows memory by "
        f"{soak['resident_mb_per_10000_frames']:.2f} MB per 10,000 frames, and neither threads nor open files",
        f"On the {street['frames']} frames of OpenCV's street video (768 x 576, "
        f"{street['people_per_frame']['labelled_mean']:.0f} people in a frame)",
        f"finds all {people} labelled tracks and {100 * unseen['recall']:.0f} % of the boxes of those that it was not "
        "trained on",
        f"with {unseen['identity switches']} changes of number; F1 of a followed person is {unseen['f1_fused']:.2f} "
        f"where the same crops alone have {unseen['f1_its_crops']:.2f}",
        f"It takes {rates['events and report']:.0f} frames a second ({rates['annotated video too']:.0f} with annotated",
        f"first attributes come within {soonest:.2f} s of the first tracked frame, {labelled:.2f} s of the first",
        f"Killed {streams['http']['kills']} times, a stream is back in the metrics within {back:.1f} s of its server",
    ):
        assert sentence in said


def test_the_sentences_are_the_results() -> None:
    exact, quick = COMPARISON["bundle fp32, openvino, speculative"], COMPARISON["bundle int8, openvino, speculative"]
    shares = {(share["variant"], share["graph"]): share for share in result("comparison-x86_64-cpu.json")["shares"]}
    of_demo = result("exactness-x86_64-cpu.json")
    found = next(
        entry for entry in of_demo["results"] if (entry["backend"], entry["compute_precision"]) == ("openvino", "int8")
    )
    expected = quick["p50"] + found["fallback_share"] * exact["p50"]
    left = found["different_after_fallback"] or "no"
    said = " ".join(README.split())
    for sentence in (
        f"On {of_demo['tested_on']:,} crops of the demo model that leaves {left} sequence",
        f"where {found['different']} would be; {100 * found['fallback_share']:.0f} % of the crops need it",
        f"{1e3 * expected:.0f} ms on average, {COMPARISON['PyTorch, as published']['p50'] / expected:.1f} times faster",
        f"reaches {100 * shares['openvino', 'encoder']['share_of_gemm']:.0f} % of the machine's FP32",
        f"{100 * shares['openvino-int8', 'encoder']['share_of_gemm']:.0f} % of its int8 rate in int8",
        f"step takes {1 / shares['openvino', 'decoder_step']['share_of_bandwidth']:.1f} times as long",
    ):
        assert sentence in said
