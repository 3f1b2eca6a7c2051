"""tools/: what a release refuses, and what the checks of its archives find."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from seqpar_deploy import __version__
from seqpar_deploy.files import sha256_of

ROOT = Path(__file__).parents[2]
TOOLS = ("build_wheel", "archive_checks", "licences", "release")


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield {name: importlib.import_module(name) for name in TOOLS}
    finally:
        sys.path.remove(str(ROOT / "tools"))
        for name in TOOLS:
            sys.modules.pop(name, None)


def wheel_of(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "seqpar_deploy-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_notes_are_the_top_section(tools: dict[str, ModuleType]) -> None:
    changelog = "# Changelog\n\n## 1.2.3\nText.\n\n### Added\n- This.\n\n## 1.2.2\n- That.\n"
    notes = tools["release"].release_notes(changelog, "1.2.3")
    assert notes.startswith("Text.")
    assert notes.endswith("- This.")


@pytest.mark.parametrize(
    ("changelog", "facts"),
    [
        ("# Changelog\n\n## Unreleased\n- This.\n\n## 1.2.3\n- That.\n", ("Unreleased", "1.2.3")),
        ("# Changelog\n\n## 1.3.0\n- This.\n", ("1.3.0", "1.2.3")),
        ("# Changelog\n\n## 1.2.3\n\n## 1.2.2\n- That.\n", ("1.2.3", "text")),
        ("# Changelog\n", ("section",)),
    ],
)
def test_a_changelog_without_the_version_is_refused(
    tools: dict[str, ModuleType], changelog: str, facts: tuple[str, ...]
) -> None:
    with pytest.raises(tools["release"].ReleaseError) as error:
        tools["release"].release_notes(changelog, "1.2.3")
    assert "\n" not in str(error.value)
    for fact in facts:
        assert fact in str(error.value)


def test_a_rehearsal_takes_an_unreleased_section(tools: dict[str, ModuleType]) -> None:
    assert tools["release"].release_notes("## Unreleased\n- This.\n", "1.2.3", rehearse=True) == "- This."


def test_the_version_is_the_packages(tools: dict[str, ModuleType]) -> None:
    source = (ROOT / "seqpar_deploy" / "__init__.py").read_text(encoding="utf-8")
    assert tools["release"].version_of(source) == __version__


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("seqpar_deploy/a.py", b"x = '/home/somebody/code/seqpar'", "/home/somebody/code"),
        ("seqpar_deploy/a.onnx", b"\0/opt/python3/lib/site-packages/torch/nn.py\0", "site-packages"),
        ("seqpar_deploy/__pycache__/a.pyc", b"", "__pycache__"),
        ("seqpar_deploy/_data/server.key", b"", "server.key"),
        ("tests/a.py", b"", "outside the package"),
        ("seqpar_deploy/../../a.py", b"", "outside"),
    ],
)
def test_a_wheel_with_something_of_the_machine_is_found(
    tools: dict[str, ModuleType], tmp_path: Path, name: str, content: bytes, fact: str
) -> None:
    problems = tools["archive_checks"].archive_problems
    sound = {"seqpar_deploy/__init__.py": b"", "seqpar_deploy-1.2.3.dist-info/METADATA": b""}
    assert problems(wheel_of(tmp_path, sound), [Path("/home/somebody/code")]) == []
    found = problems(wheel_of(tmp_path, {**sound, name: content}), [Path("/home/somebody/code")])
    assert any(fact in problem for problem in found)


def test_a_source_archive_that_names_its_owner_is_found(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    path = tmp_path / "seqpar_deploy-1.2.3.tar.gz"
    for owner in ("", "somebody"):
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("seqpar_deploy-1.2.3/README.md")
            member.uname = owner
            archive.addfile(member, io.BytesIO())
        assert [owner in problem for problem in tools["archive_checks"].archive_problems(path)] == [True] * bool(owner)


def test_a_wheel_without_the_demo_bundle_is_found(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    check = tools["build_wheel"].check_bundle_in
    assert "bundle" in check(wheel_of(tmp_path, {}))[0]
    assert check(wheel_of(tmp_path, {"seqpar_deploy/_data/bundles/demo/manifest.json": b"{}"})) == []


def test_licences_name_the_extras(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    core = (
        b"Metadata-Version: 2.4\nName: seqpar-deploy\nVersion: 1.2.3\nLicense-Expression: Apache-2.0\n"
        b"Requires-Dist: numpy\nProvides-Extra: cpu\nRequires-Dist: onnxruntime; extra == 'cpu'\n"
        b"Requires-Dist: not-a-package-of-anyone; extra == 'cpu'\nProvides-Extra: all\n"
        b"Requires-Dist: seqpar-deploy[cpu]; extra == 'all'\n"
    )
    page = tools["licences"].licences_page(wheel_of(tmp_path, {"seqpar_deploy-1.2.3.dist-info/METADATA": core}))
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    rows = {name: rest for name, *rest in table}
    assert "BSD" in rows["numpy"][1]
    assert rows["numpy"][2] == "(base)"
    assert "MIT" in rows["onnxruntime"][1]
    assert rows["onnxruntime"][2] == "cpu, all"
    assert "not installed" in rows["not-a-package-of-anyone"][1]


def test_the_bundle_is_exported_again_only_if_its_inputs_changed(
    tools: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def run(words: list[str | Path], root: Path) -> None:
        bundle = root / "build" / "demo-bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "manifest.json").touch()
        made.append(bundle)

    monkeypatch.setattr(tools["build_wheel"], "run", run)
    for folder in ("seqpar_deploy", "export", "models/demo", "samples"):
        (tmp_path / folder).mkdir(parents=True)
    checkpoint = tmp_path / "models" / "demo" / "demo.safetensors"
    for content, exports in ((b"1", 1), (b"1", 1), (b"2", 2)):
        checkpoint.write_bytes(content)
        tools["build_wheel"].export_demo_bundle(tmp_path)
        assert len(made) == exports


@pytest.mark.parametrize("stale", [None, "checkpoint", "version", "editable"])
def test_the_build_takes_a_bundle_of_this_checkpoint_and_version(tmp_path: Path, stale: str | None) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bundle, checkpoint = tmp_path / "build" / "demo-bundle", tmp_path / "models" / "demo" / "demo.safetensors"
    for path in (bundle, checkpoint.parent):
        path.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    manifest = {
        "checkpoint": {"sha256": "0" * 64 if stale == "checkpoint" else sha256_of(checkpoint)},
        "producer": {"seqpar_deploy": "1.2.2" if stale == "version" else "1.2.3"},
        "files": {"encoder.onnx": {}},
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    warnings: list[str] = []
    hook = object.__new__(module.DemoBundleHook)
    hook.__dict__.update(
        {
            "_BuildHookInterface__root": str(tmp_path),
            "_BuildHookInterface__metadata": type("Metadata", (), {"version": "1.2.3"})(),
            "_BuildHookInterface__app": type("App", (), {"display_warning": staticmethod(warnings.append)})(),
        }
    )
    data: dict[str, dict[str, str]] = {"force_include": {}}
    hook.initialize("editable" if stale == "editable" else "standard", data)
    names = {name.rpartition("/")[2] for name in data["force_include"].values()}
    assert names == (set() if stale else {"manifest.json", "encoder.onnx"})
    assert len(warnings) == (stale in ("checkpoint", "version"))


def test_a_release_of_this_checkout_needs_a_version_in_the_changelog() -> None:
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert top is not None
    if top.group(1) != "Unreleased":
        pytest.skip("this commit is a release")
    words = [sys.executable, str(ROOT / "tools" / "release.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Unreleased" in done.stderr
    assert done.stderr.count("\n") == 1
