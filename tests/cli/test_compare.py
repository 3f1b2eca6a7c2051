"""`seqpar compare`: two bundles on the same pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.run import run

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.slow

CROPS = sample_crops()[:3]


@pytest.fixture
def changed(bundle_dir: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """Returns a copy of the bundle with another manifest."""

    def make(change: Callable[[Any], None]) -> Path:
        shutil.copytree(bundle_dir, tmp_path / "new")
        manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
        change(manifest)
        (tmp_path / "new" / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / "new"

    return make


def test_a_bundle_agrees_with_itself(bundle_dir: Path) -> None:
    done = run("seqpar", "compare", bundle_dir, bundle_dir, *CROPS, "--json", "--fail-below", 1)
    values = json.loads(done.stdout)
    assert (values["crops"], values["agreement"], values["sequences_differ"]) == (3, 1, 0)
    assert values["changed"] == []
    names = [attribute.name for attribute in Bundle.open(bundle_dir).label_set.attributes]
    assert [attribute["name"] for attribute in values["attributes"]] == names
    assert min(values["old_rate"], values["new_rate"]) > 0


def test_what_changed_is_on_the_page(
    bundle_dir: Path, changed: Callable[[Callable[[Any], None]], Path], tmp_path: Path
) -> None:
    """Another colour around the crops is another input."""

    def fill(manifest: Any) -> None:
        manifest["label_set"]["preprocessing"]["fill"] = [255, 0, 255]

    new = changed(fill)
    page = tmp_path / "page.html"
    arguments = ("compare", bundle_dir, new, *CROPS, "--runs", 1, "--page", page, "--output", tmp_path / "out.json")
    done = run("seqpar", *arguments)
    values = json.loads((tmp_path / "out.json").read_text())
    lowest = min(attribute["agreement"] for attribute in values["attributes"])
    assert lowest < 1
    run("seqpar", *arguments, "--fail-below", lowest)
    run("seqpar", *arguments, "--fail-below", lowest + 0.01, code=1)
    assert max(attribute["mean_change"] for attribute in values["attributes"]) > 0
    assert len(values["changed"]) == len(CROPS)
    text = page.read_text()
    assert text.count("data:image/jpeg") == len(CROPS)
    for fact in (CROPS[0].name, values["attributes"][0]["name"]):
        assert fact in text
    assert "3 crops" in done.stdout
    first = done.stdout.splitlines()[6].split()[0]
    assert first == min(values["attributes"], key=lambda one: (one["agreement"], -one["mean_change"]))["name"]


def test_pictures_that_cannot_be_read_are_left_out(bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = run("seqpar", "compare", bundle_dir, bundle_dir, CROPS[0], tmp_path / "bad.png", "--json", code=2)
    assert "bad.png" in done.error
    assert json.loads(done.stdout)["crops"] == 1
    done = run("seqpar", "compare", bundle_dir, bundle_dir, tmp_path / "bad.png", code=2)
    assert done.stdout == ""


@pytest.mark.parametrize("how", ["renamed", "swapped"])
def test_bundles_of_other_attributes_are_refused(
    bundle_dir: Path, changed: Callable[[Callable[[Any], None]], Path], how: str
) -> None:
    def change(manifest: Any) -> None:
        attributes = manifest["label_set"]["attributes"]
        if how == "renamed":
            attributes[1]["name"] = "Umbrella"
        else:
            attributes[2], attributes[1] = attributes[1], attributes[2]

    done = run("seqpar", "compare", bundle_dir, changed(change), *CROPS, code=2)
    assert ("Umbrella" if how == "renamed" else "attribute 2") in done.error


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_mistakes_are_one_line(bundle_dir: Path, share: float) -> None:
    assert str(share) in run("seqpar", "compare", bundle_dir, bundle_dir, *CROPS, "--fail-below", share, code=2).error
    assert "nothing" in run("seqpar", "compare", bundle_dir, "nothing", *CROPS, code=2).error
