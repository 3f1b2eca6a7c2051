from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import seqpar_deploy
from seqpar_deploy import errors

PUBLIC = (
    "seqpar_deploy",
    "seqpar_deploy.video",
    "seqpar_deploy.video.sinks",
    "seqpar_deploy.video.gstreamer",
    "seqpar_deploy.serving",
)
PINNED = Path(__file__).with_name("public_api.txt")


def public_api() -> Iterator[str]:
    """Every public name with its parameters (= where they may be left out), and what each class has."""
    for module in PUBLIC:
        yield module
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            yield f"  {name}{_parameters(thing)}"
            for member in sorted(vars(thing)) if inspect.isclass(thing) else ():
                if not member.startswith("_"):
                    yield f"    {member}{_parameters(getattr(thing, member))}"


def _parameters(thing: object) -> str:
    if getattr(thing, "_is_protocol", False) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return ""  # nobody makes one
    try:
        parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a field or a property
        return ""
    return f"({', '.join(each.name + '=' * (each.default is not each.empty) for each in parameters)})"


def test_the_public_surface_is_pinned() -> None:
    """Where it is meant to change: `python tests/test_public_api.py`, a line in CHANGELOG.md, and a new version."""
    assert list(public_api()) == PINNED.read_text().splitlines()


def test_every_kind_of_error_is_public() -> None:
    tree = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)]
    assert len(tree) > 15
    assert {error.__name__ for error in tree} <= set(seqpar_deploy.__all__)


def test_types_ship() -> None:
    assert (files("seqpar_deploy") / "py.typed").is_file()


def test_the_runtime_imports_nothing_heavy() -> None:
    code = (
        "import sys, seqpar_deploy, seqpar_deploy.cli.main, seqpar_deploy.cli.export, seqpar_deploy.cli.bench\n"
        "heavy = {'torch', 'onnx', 'open_clip', 'onnxruntime', 'openvino', 'polygraphy', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_that_configures_no_logging_sees_nothing() -> None:
    code = "import logging, seqpar_deploy; logging.getLogger('seqpar_deploy.tuned').warning('x')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_predicting_loads_no_torch(bundle_dir, crops) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'open_clip', 'safetensors'): sys.modules[name] = None\n"
        "from seqpar_deploy import Recognizer, read_image\n"
        "from seqpar_deploy.resources import sample_crops\n"
        f"with Recognizer.from_bundle({str(bundle_dir)!r}, backend='onnxruntime') as recognizer:\n"
        "    assert len(recognizer.predict([read_image(p) for p in sample_crops()])) == 20\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    PINNED.write_text("\n".join(public_api()) + "\n")
