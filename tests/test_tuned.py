"""The choice beside a bundle: used where it was made, and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seqpar_deploy import Bundle, Greedy, Recognizer, Speculative
from seqpar_deploy.bundle import TUNED
from seqpar_deploy.cli.main import app
from seqpar_deploy.errors import BackendError, StrategyError
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.tuned import Tuned, load_tuned, save_tuned

pytestmark = pytest.mark.slow

CHOICE = Tuned(
    backend="onnxruntime", compute_precision="int8", fallback_margin=0.25, speculative=True, threads=1, batch_size=4
)


@pytest.fixture
def bundle(int8_bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle.open(shutil.copytree(int8_bundle_dir, tmp_path / "bundle"))


def rewrite(bundle: Bundle, /, **changes: Any) -> None:
    values = json.loads((bundle.path / TUNED).read_text())
    (bundle.path / TUNED).write_text(json.dumps(values | changes))


def test_a_recognizer_that_is_told_nothing_uses_it(bundle: Bundle) -> None:
    save_tuned(bundle, CHOICE)
    assert load_tuned(bundle) == CHOICE
    with Recognizer.from_bundle(bundle.path) as recognizer:
        assert recognizer.backend.name == "onnxruntime"
        assert isinstance(recognizer.strategy, Speculative)
        assert recognizer.strategy.largest_batch is not None  # large batches are decoded greedily
    with Recognizer.from_bundle(bundle.path, compute_precision="native") as recognizer:
        assert (recognizer.backend.name, recognizer.strategy) == ("openvino", Greedy())
    with Recognizer.from_bundle(bundle.path, backend="openvino") as recognizer:
        assert recognizer.backend.name == "openvino"


@pytest.mark.parametrize("key", ["bundle", "processor", "cores", "backends", "runtimes", "format"])
def test_it_holds_for_one_bundle_machine_and_runtime(
    bundle: Bundle, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_tuned(bundle, CHOICE)
    rewrite(bundle, **{key: "another"})
    assert load_tuned(bundle) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("ignoring tuned.json: ")
    assert key in line
    assert "\n" not in line


def test_the_cache_is_used_where_the_folder_cannot_be_written(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    (bundle.path / TUNED).mkdir()
    kept = save_tuned(bundle, CHOICE)
    assert kept.parent.name == bundle.digest
    assert load_tuned(bundle) == CHOICE
    (bundle.path / TUNED).rmdir()
    (bundle.path / TUNED).write_text("{}")  # another machine's hides none in the cache
    assert load_tuned(bundle) == CHOICE
    assert caplog.records == []


@pytest.mark.parametrize(
    "choice",
    [
        {"backend": "tpu"},
        {"compute_precision": "int4"},
        {"fallback_margin": None},
        {"fallback_margin": -1.0},
        {"fallback_margin": "0"},
        {"threads": 0},
        {"threads": 2**40},
        {"batch_size": 10**9},
        {"speculative": "no"},
        {"batch_size": 1.5},
        {"password": 1},
    ],
    ids=str,
)
def test_what_it_cannot_mean_is_passed_over(bundle: Bundle, choice: dict[str, Any]) -> None:
    save_tuned(bundle, CHOICE)
    values = json.loads((bundle.path / TUNED).read_text())
    rewrite(bundle, choice=values["choice"] | choice)
    assert load_tuned(bundle) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 100_000])
def test_a_damaged_file_is_passed_over(bundle: Bundle, text: str) -> None:
    (bundle.path / TUNED).write_text(text)
    assert load_tuned(bundle) is None


def test_predict_uses_it_too(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    save_tuned(bundle, CHOICE)
    crop = str(sample_crops()[0])
    app(["predict", crop, "--bundle", str(bundle.path)], standalone_mode=False)
    assert "on onnxruntime (cpu)" in capsys.readouterr().err
    app(["predict", crop, "--bundle", str(bundle.path), "--compute-precision", "native"], standalone_mode=False)
    assert "on openvino (cpu)" in capsys.readouterr().err
    with pytest.raises(StrategyError, match="fallback_margin"):
        app(["predict", crop, "--bundle", str(bundle.path), "--compute-precision", "int8"], standalone_mode=False)


def test_a_choice_that_does_not_open_is_passed_over_with_a_warning(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    save_tuned(bundle, Tuned(backend="tensorrt"))
    with Recognizer.from_bundle(bundle.path) as recognizer:
        assert (recognizer.backend.name, recognizer.strategy) == ("openvino", Greedy())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("ignoring tuned.json")


@pytest.mark.parametrize("threads", [0, -1, 4_000_000_000])
def test_threads_are_a_number_of_threads(bundle: Bundle, cpu_backend: str, threads: int) -> None:
    with pytest.raises(BackendError, match=f"1 to 1024, got {threads}"):
        Recognizer.from_bundle(bundle.path, backend=cpu_backend, threads=threads)  # type: ignore[arg-type]
