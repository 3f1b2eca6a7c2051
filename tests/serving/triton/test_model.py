"""The model that Triton loads, with a stand-in for Triton."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.triton import Request, Sdk, TritonModelException, files
from PIL import Image

from seqpar_deploy import Recognizer, TritonError, WithoutAttributes
from seqpar_deploy.bundle import GOLDEN, MANIFEST, Bundle, file_entries
from seqpar_deploy.errors import BackendError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.triton.environment import check_environment
from seqpar_deploy.serving.triton.golden import golden_difference
from seqpar_deploy.serving.triton.model import TritonPythonModel, answer
from seqpar_deploy.serving.triton.tensors import OUTPUTS, Inputs
from seqpar_deploy.vocab import LabelSet


@pytest.fixture(scope="module", autouse=True)
def sdk() -> Iterator[Sdk]:
    with pytest.MonkeyPatch.context() as patch:
        fake = Sdk()
        patch.setitem(sys.modules, "triton_python_backend_utils", fake)
        patch.setattr("seqpar_deploy.serving.triton.model.check_environment", lambda: None)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # restored afterwards
        yield fake


def arguments(bundle: Path, folder: Path, count: int = 1) -> dict[str, str]:
    (folder / "1").mkdir()
    (folder / "1" / "bundle").symlink_to(bundle)
    config = {"instance_group": [{"count": count}]}
    return {
        "model_repository": str(folder),
        "model_version": "1",
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


@pytest.fixture(scope="module")
def model(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonPythonModel]:
    made = TritonPythonModel()
    made.initialize(arguments(bundle_dir, tmp_path_factory.mktemp("model")))
    yield made
    made.finalize()


@pytest.fixture(scope="module")
def recognizer(bundle_dir: Path) -> Iterator[Recognizer]:
    with Recognizer.from_bundle(bundle_dir) as opened:
        yield opened


def png(crop: Crop) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    return buffer.getvalue()


def test_both_inputs_give_what_predict_gives(
    model: TritonPythonModel, recognizer: Recognizer, crops: list[Crop]
) -> None:
    wanted = recognizer.predict(crops[:3])
    requests = [Request({"image": files(*map(png, crops[:3]))})] + [Request({"crop": crop[None]}) for crop in crops[:3]]
    together, *single = [response.arrays for response in model.execute(requests)]
    for row, prediction in enumerate(wanted):
        for got in ({name: array[row] for name, array in together.items()}, {n: a[0] for n, a in single[row].items()}):
            assert got["tokens"].tolist()[: len(prediction.tokens) + 1] == [*prediction.tokens, -1]
            assert np.flatnonzero(~np.isnan(got["scores"])).size == len(prediction.attributes)
            assert [("no", "yes", "unknown")[code] for code in got["states"]] == list(prediction.states)
            np.testing.assert_allclose(got["probabilities"], prediction.probabilities, atol=1e-4)
            values = json.loads(got["json"][0])
            assert [one["name"] for one in values["attributes"]] == list(prediction.attributes)
            assert values["tokens"] == list(prediction.tokens)


def test_the_configuration_decides_which_attributes_are_served(
    bundle_dir: Path, recognizer: Recognizer, crops: list[Crop], tmp_path: Path
) -> None:
    served = recognizer.label_set.without(["Female"])
    given = arguments(bundle_dir, tmp_path)
    config = json.loads(given["model_config"])
    config["parameters"] = {"label_set": {"string_value": json.dumps(served.to_dict())}}
    model = TritonPythonModel()
    model.initialize({**given, "model_config": json.dumps(config)})
    try:
        (response,) = model.execute([Request({"crop": crops[0][None]})])
    finally:
        model.finalize()
    (prediction,) = WithoutAttributes(recognizer, ["Female"]).predict(crops[:1])
    assert response.arrays["states"].shape == (1, len(served))
    assert response.arrays["tokens"][0].tolist()[: len(prediction.tokens)] == list(prediction.tokens)
    assert b"Female" not in response.arrays["json"][0, 0]


def test_shapes_and_types(model: TritonPythonModel, crops: list[Crop], label_set: LabelSet) -> None:
    n = len(label_set)
    crop = crops[0]
    (got,) = (one.arrays for one in model.execute([Request({"crop": np.stack([crop, crop])})]))
    assert {name: (array.shape, array.dtype.name) for name, array in got.items()} == {
        "tokens": ((2, n + 1), "int32"),
        "scores": ((2, n), "float32"),
        "probabilities": ((2, n), "float32"),
        "states": ((2, n), "uint8"),
        "steps": ((2, 1), "int32"),
        "json": ((2, 1), "object"),
    }


def test_only_requested_outputs_are_made(model: TritonPythonModel, crops: list[Crop]) -> None:
    (response,) = model.execute([Request({"crop": crops[0][None]}, outputs=["states", "tokens"])])
    assert set(response.arrays) == {"states", "tokens"}


def test_a_draft_changes_no_token(model: TritonPythonModel, recognizer: Recognizer, crops: list[Crop]) -> None:
    tokens = recognizer.predict(crops[:1])[0].tokens
    for draft in ([*tokens[:5], -1, -1], [5, 1], [-1], []):
        request = Request({"crop": crops[0][None], "draft": np.array([draft], dtype=np.int32)}, outputs=["tokens"])
        (response,) = model.execute([request])
        assert response.arrays["tokens"][0].tolist()[: len(tokens)] == list(tokens)


CROP = np.zeros((1, 9, 4, 3), np.uint8)
PICTURE = png(np.full((60, 30, 3), 90, np.uint8))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"image": files(b"hello")}, "image"),
    "empty": ({"image": files(b"")}, "empty"),
    "truncated": ({"image": files(PICTURE[:60])}, "damaged"),
    "too many bytes": ({"image": files(bytes(33 << 20))}, "32 MiB"),
    "second of two": ({"image": files(PICTURE, b"x")}, "image[1]"),
    "no bytes": ({"image": np.array([["text"]], dtype=np.object_)}, "BYTES"),
    "unreadable": ({"image": ValueError("length\nof 9")}, "length of 9"),
    "no pixels": ({"crop": np.zeros((1, 0, 4, 3), np.uint8)}, "pixels"),
    "four channels": ({"crop": np.zeros((1, 9, 4, 4), np.uint8)}, "(h, w, 3)"),
    "floats": ({"crop": np.zeros((1, 9, 4, 3), np.float32)}, "uint8"),
    "both": ({"image": files(PICTURE), "crop": CROP}, "both"),
    "none": ({"draft": np.zeros((1, 2), np.int32)}, "none"),
    "token too large": ({"crop": CROP, "draft": np.array([[99]], np.int32)}, "99"),
    "token below -1": ({"crop": CROP, "draft": np.array([[-2]], np.int32)}, "-2"),
    "token after -1": ({"crop": CROP, "draft": np.array([[-1, 4]], np.int32)}, "4"),
    "long draft": ({"crop": CROP, "draft": np.full((1, 300), -1, np.int32)}, "draft"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_costs_itself_alone(
    kind: str, model: TritonPythonModel, recognizer: Recognizer, crops: list[Crop]
) -> None:
    tensors, named = BAD[kind]
    good = [Request({"crop": crop[None]}, outputs=["tokens"]) for crop in crops[:2]]
    first, bad, second = model.execute([good[0], Request(tensors), good[1]])
    assert bad.error.code == "invalid argument"
    assert bad.error.message.startswith("seqpar: ")
    assert named in bad.error.message
    assert "\n" not in bad.error.message
    for response, prediction in zip((first, second), recognizer.predict(crops[:2]), strict=True):
        assert response.arrays["tokens"][0].tolist()[: len(prediction.tokens)] == list(prediction.tokens)


def test_a_failing_backend_is_not_the_requests_fault(
    model: TritonPythonModel, crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("out of memory")

    monkeypatch.setattr(model._recognizer, "predict", fail)
    requests = [Request({"crop": crops[0][None]}), Request({}), Request({"crop": crops[1][None]})]
    errors = [response.error for response in model.execute(requests)]
    assert [error.code for error in errors] == ["internal", "invalid argument", "internal"]
    assert [error.message.startswith("seqpar: ") for error in errors] == [False, True, False]
    assert "out of memory" in errors[0].message


def test_large_pictures_are_not_all_held_at_once(
    recognizer: Recognizer, crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqpar_deploy.serving.triton.model._MOST_PENDING", 3 * crops[0].nbytes)
    sizes: list[int] = []
    predict = recognizer.predict

    def counted(some: list[Crop], **options: Any) -> Any:
        sizes.append(len(some))
        return predict(some, **options)

    monkeypatch.setattr(recognizer, "predict", counted)
    (got,) = answer(recognizer, [Inputs(crop=np.stack([crops[0]] * 10))])
    assert isinstance(got, list)
    assert len(got) == sum(sizes) == 10
    assert max(sizes) == 4


def test_instances_share_the_cores(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    from_bundle = Recognizer.from_bundle

    def recorded(path: Path, **options: Any) -> Recognizer:
        opened.append(options["threads"])
        return from_bundle(path, **options)

    monkeypatch.setattr("seqpar_deploy.serving.triton.model.usable_cores", lambda: 8)
    monkeypatch.setattr("seqpar_deploy.serving.triton.model.Recognizer.from_bundle", recorded)
    for place, count in enumerate((1, 2, 16)):
        folder = tmp_path / str(place)
        folder.mkdir()
        model = TritonPythonModel()
        model.initialize(arguments(bundle_dir, folder, count))
        model.finalize()
    assert opened == [None, 4, 1]


@pytest.fixture
def wrong_golden(bundle_dir: Path, tmp_path: Path) -> Path:
    """A bundle whose golden sequences belong to other crops."""
    folder = tmp_path / "wrong"
    folder.mkdir()
    for file in bundle_dir.iterdir():
        if file.name not in (GOLDEN, MANIFEST):
            (folder / file.name).write_bytes(file.read_bytes())
    golden = Bundle.open(bundle_dir).golden()
    golden |= {name: np.roll(golden[name], 1, axis=0) for name in ("tokens", "log_probs")}
    np.savez(folder / GOLDEN, **golden)  # type: ignore[arg-type]
    manifest = json.loads((bundle_dir / MANIFEST).read_text())
    manifest["files"] |= file_entries(folder, [GOLDEN])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_a_model_with_other_sequences_is_not_ready(wrong_golden: Path, tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match=r"seqpar: .*golden.*token must be") as failure:
        TritonPythonModel().initialize(arguments(wrong_golden, tmp_path))
    assert "\n" not in str(failure.value)


def test_a_model_without_its_bundle_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match=r"seqpar: .*does not exist"):
        TritonPythonModel().initialize(arguments(tmp_path / "missing", tmp_path))


def test_the_golden_check_passes_on_every_cpu_backend(bundle_dir: Path, cpu_backend: Any) -> None:
    with Recognizer.from_bundle(bundle_dir, backend=cpu_backend) as recognizer:
        assert golden_difference(recognizer) is None


def test_the_log_reaches_the_log_of_triton(bundle_dir: Path, tmp_path: Path, sdk: Sdk) -> None:
    model = TritonPythonModel()
    model.initialize(arguments(bundle_dir, tmp_path))
    model.finalize()
    logging.getLogger("seqpar_deploy.images").warning("two\nlines")
    assert ("warn", "seqpar: two lines") in sdk.Logger.lines
    assert any(kind == "info" and "golden" in text for kind, text in sdk.Logger.lines)


def test_environments_that_cannot_run_it_are_refused() -> None:
    check_environment("1.26.4", (3, 12))
    with pytest.raises(TritonError, match=r"NumPy must be below 2.*got 2\.4\.6"):
        check_environment("2.4.6", (3, 12))
    with pytest.raises(TritonError, match=r"Python must be 3\.12.*got 3\.13"):
        check_environment("1.26.4", (3, 13))


def test_outside_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", None)
    with pytest.raises(TritonError, match="seqpar serve"):
        TritonPythonModel().initialize({})


def test_outputs_are_those_of_the_contract() -> None:
    assert set(OUTPUTS) == {"tokens", "scores", "probabilities", "states", "steps", "json"}
