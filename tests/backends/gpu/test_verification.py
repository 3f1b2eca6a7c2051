"""`auto` takes a backend on an NVIDIA GPU once it has reproduced the bundle's golden sequences there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes.device import BATCHES, Device, put_in_registry

from seqpar_deploy import Bundle, Recognizer, build_engines
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.base import StepOutput
from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.registry import find_spec, verify_backend
from seqpar_deploy.backends.verification import VERIFIED, difference_from_golden, known_result, subject_of
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import BackendError, EngineError
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.tuned import Tuned, save_tuned
from seqpar_deploy.vocab import BOS, PAD

pytestmark = pytest.mark.slow


@pytest.fixture
def made(
    device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Device:
    """Engines that `auto` finds and can open; `caplog` starts at INFO."""
    made = device(eager=True)
    put_in_registry(monkeypatch, "tensorrt", made.cuda, made.trt, lambda _: made.open())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level("INFO", logger="seqpar_deploy")
    return made


def name_of_auto(bundle: Bundle) -> str:
    with Recognizer.from_bundle(bundle.path) as recognizer:
        return recognizer.backend.name


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def change_golden(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, margin: float) -> None:
    """The checkpoint's third token of crop 1 becomes another, which it preferred by `margin`."""
    golden = bundle.golden()
    said = int(golden["tokens"][1, 3])
    other = 3 if said != 3 else 4
    golden["tokens"][1, 3] = other
    golden["log_probs"][1, 2, other] = golden["log_probs"][1, 2, said] + margin
    monkeypatch.setattr(Bundle, "golden", lambda _: golden)


def test_what_passes_is_taken_and_the_result_is_kept(made: Device, caplog: pytest.LogCaptureFixture) -> None:
    assert name_of_auto(made.bundle) == "tensorrt"
    (result,) = json.loads((made.bundle.path / VERIFIED).read_text())["results"]
    assert result["failure"] is None
    assert (result["subject"]["gpu"], result["subject"]["driver"]) == ("NVIDIA Fake", 13010)
    assert made.cuda.launches > 0  # replayed graphs were checked as well
    made.trt.executions.clear()
    assert name_of_auto(made.bundle) == "tensorrt"
    assert made.trt.executions == []  # not checked again
    assert warnings_in(caplog) == []
    assert not made.cuda.buffers


def test_what_leaves_the_golden_sequences_is_skipped_with_one_line(
    made: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change_golden(monkeypatch, made.bundle, margin=0.5)
    assert name_of_auto(made.bundle) == "openvino"
    (line,) = warnings_in(caplog)
    for part in ("tensorrt", "openvino", "golden crop 1", "step 2", "0.5"):
        assert part in line
    assert "\n" not in line
    assert not made.cuda.buffers  # it was closed
    made.trt.executions.clear()
    assert name_of_auto(made.bundle) == "openvino"
    assert made.trt.executions == []  # a known failure is not opened again
    assert len(warnings_in(caplog)) == 2


def test_a_tie_may_go_either_way(made: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    tie_margin = made.bundle.manifest["recipe"]["parity"]["tie_margin"]
    change_golden(monkeypatch, made.bundle, margin=0.9 * tie_margin)
    assert name_of_auto(made.bundle) == "tensorrt"
    (made.bundle.path / VERIFIED).unlink()
    change_golden(monkeypatch, made.bundle, margin=1.1 * tie_margin)
    assert name_of_auto(made.bundle) == "openvino"


def test_replayed_graphs_and_calls_of_many_tokens_are_checked(
    made: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(made.cuda, "cudaGraphLaunch", lambda *_: (0,))  # a graph that does nothing
    with pytest.raises(BackendError, match="golden crop"):
        verify_backend(made.bundle, "tensorrt")
    monkeypatch.undo()

    backend = made.open(cuda_graphs=False)
    step = backend.step

    def wrong(state: Any, tokens: Any) -> StepOutput:
        output = step(state, tokens)
        return StepOutput(output.log_probs, np.full_like(output.next_token, 7))

    backend.step = wrong  # type: ignore[method-assign]
    put_in_registry(monkeypatch, "tensorrt", made.cuda, made.trt, lambda _: backend)
    with pytest.raises(BackendError, match="many tokens"):
        verify_backend(made.bundle, "tensorrt")


def test_not_a_number_is_no_answer(made: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = made.open()
    greedy = backend.greedy

    def wrong(state: Any, **options: Any) -> StepOutput:
        output = greedy(state, **options)
        return StepOutput(np.full_like(output.log_probs, np.nan), output.next_token)

    backend.greedy = wrong  # type: ignore[method-assign]
    put_in_registry(monkeypatch, "tensorrt", made.cuda, made.trt, lambda _: backend)
    with pytest.raises(BackendError, match="finite"):
        verify_backend(made.bundle, "tensorrt")


def test_distributions_of_another_row_are_no_answer(made: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are right, the probabilities of attributes are not."""
    backend = made.open()
    greedy = backend.greedy

    def wrong(state: Any, **options: Any) -> StepOutput:
        output = greedy(state, **options)
        return StepOutput(np.roll(output.log_probs, 1, axis=0) - 1.0 * (output.log_probs > -2), output.next_token)

    backend.greedy = wrong  # type: ignore[method-assign]
    put_in_registry(monkeypatch, "tensorrt", made.cuda, made.trt, lambda _: backend)
    with pytest.raises(BackendError, match=r"golden crop \d+: probability of '\w+' must be 0\.\d+, got 0"):
        verify_backend(made.bundle, "tensorrt")


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "tensorrt_rtx"},
        {"version": "10.9.0"},
        {"precision": "fp32"},
        {"gpu": "NVIDIA Orin"},
        {"compute_capability": "8.7"},
        {"driver": 13020},
        {"engines": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_holds_for_one_subject(made: Device, change: dict[str, Any]) -> None:
    verify_backend(made.bundle, "tensorrt")
    subject = subject_of(made.bundle, find_spec("tensorrt"))
    assert known_result(made.bundle, subject) is not None
    assert known_result(made.bundle, msgspec.structs.replace(subject, **change)) is None


def test_a_result_holds_for_one_bundle_and_other_engines_are_others(made: Device) -> None:
    verify_backend(made.bundle, "tensorrt")
    subject = subject_of(made.bundle, find_spec("tensorrt"))
    engine_json = made.folder / "engine.json"
    values = json.loads(engine_json.read_text())
    engine_json.write_text(json.dumps(values | {"plans": {"encoder": "1" * 64, "decoder_step": "2" * 64}}))
    assert subject_of(made.bundle, find_spec("tensorrt")) != subject
    file = made.bundle.path / VERIFIED
    file.write_text(file.read_text().replace(made.bundle.digest, "0" * 64))
    assert known_result(made.bundle, subject) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "\xff", "[" * 100_000])
def test_a_damaged_file_is_ignored_and_replaced(made: Device, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (made.bundle.path / VERIFIED).write_text(text, encoding="latin-1")
    assert name_of_auto(made.bundle) == "tensorrt"
    assert all(VERIFIED in line for line in warnings_in(caplog))
    assert warnings_in(caplog)
    caplog.clear()
    assert name_of_auto(made.bundle) == "tensorrt"
    assert warnings_in(caplog) == []


def test_where_the_bundle_cannot_be_written_the_cache_is(made: Device, tmp_path: Path) -> None:
    (made.bundle.path / VERIFIED).mkdir()
    assert name_of_auto(made.bundle) == "tensorrt"
    assert len(list((tmp_path / "cache").rglob(VERIFIED))) == 1
    made.trt.executions.clear()
    assert name_of_auto(made.bundle) == "tensorrt"
    assert made.trt.executions == []


def test_a_backend_that_is_named_opens_with_a_warning_if_it_failed(
    made: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_backend(made.bundle, "tensorrt").close()
    assert not (made.bundle.path / VERIFIED).exists()  # not checked
    change_golden(monkeypatch, made.bundle, margin=0.5)
    with pytest.raises(BackendError, match="golden crop 1"):
        open_backend(made.bundle, "tensorrt", require_verified=True)
    assert warnings_in(caplog) == []
    open_backend(made.bundle, "tensorrt").close()
    (line,) = warnings_in(caplog)
    assert "golden crop 1" in line
    assert not made.cuda.buffers


def test_what_was_tuned_is_checked_too(
    made: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_tuned(made.bundle, Tuned(backend="tensorrt"))
    assert name_of_auto(made.bundle) == "tensorrt"
    assert (made.bundle.path / VERIFIED).exists()
    (made.bundle.path / VERIFIED).unlink()
    change_golden(monkeypatch, made.bundle, margin=0.5)
    assert name_of_auto(made.bundle) == "openvino"
    assert "tuned.json" in warnings_in(caplog)[0]


def test_building_engines_ends_with_the_check(made: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    class Build:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def plan_from_onnx(self, onnx: Path, *_: Any) -> bytes:
            return (made.folder / f"{onnx.stem}.plan").read_bytes()

    monkeypatch.setattr(build_engines, "_Build", Build)
    monkeypatch.setattr(build_engines, "import_runtime", lambda _: made.trt)
    monkeypatch.setattr(build_engines, "find_gpu", lambda: find_gpu(made.cuda))
    folder = build_engines.build_engines(made.bundle, runtime="tensorrt", batches=BATCHES)
    assert known_result(made.bundle, subject_of(made.bundle, find_spec("tensorrt"))) is not None
    change_golden(monkeypatch, made.bundle, margin=0.5)
    with pytest.raises(EngineError, match="golden crop 1") as caught:
        build_engines.build_engines(made.bundle, runtime="tensorrt", batches=BATCHES)
    assert str(folder) in str(caught.value)
    assert (folder / "engine.json").is_file()  # kept to be looked at, and known to be wrong
    result = known_result(made.bundle, subject_of(made.bundle, find_spec("tensorrt")))
    assert result is not None
    assert result.failure


def test_without_a_gpu_nothing_is_checked(made: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    made.cuda.devices = 0
    assert name_of_auto(made.bundle) == "openvino"
    assert not (made.bundle.path / VERIFIED).exists()


def golden_of(made: Device, crops: list[Crop], columns: list[int]) -> dict[str, Any]:
    """What the host backend says of crops that are trimmed to these widths."""
    bundle, steps = made.bundle, made.bundle.dimensions.capacity - 1
    assert bundle.trimming is not None
    squares = prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
    host = open_backend(bundle, "onnxruntime")
    tokens = np.full((len(crops), steps + 1), PAD, np.int64)
    tokens[:, 0] = BOS
    log_probs, pooled = [], []
    for row, width in enumerate(columns):
        batch = bundle.trimming.trim(squares[row : row + 1], width)
        (said,) = Greedy().generate(host, host.encode(batch), max_steps=steps)
        pooled.append(host.encode(batch).pooled[0])  # type: ignore[index]
        tokens[row, 1 : 1 + len(said.tokens)] = said.tokens
        log_probs.append(host.step(host.encode(batch), tokens[row : row + 1, :-1]).log_probs[0])
    golden = {"crops": squares, "tokens": tokens, "log_probs": np.stack(log_probs), "pooled": np.stack(pooled)}
    return golden | {"columns": np.array(columns), "widths": np.array(bundle.columns)}


def test_golden_crops_are_read_at_their_widths(
    trimmed_device: Callable[..., Device], crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trimmed_device(eager=True)
    golden = golden_of(made, crops[:6], [4, 8, 6, 4, 8, 6])
    monkeypatch.setattr(Bundle, "golden", lambda _: golden)
    backend = made.open()
    assert difference_from_golden(made.bundle, backend) is None
    for wrong in ([8] * 6, [6, 4, 8, 6, 4, 8]):
        changed = golden | {"columns": np.array(wrong)}
        monkeypatch.setattr(Bundle, "golden", lambda _, changed=changed: changed)
        assert "golden crop" in (difference_from_golden(made.bundle, backend) or "")
    for shift in (1, 2):  # the pooled features of a neighbour, which no token shows
        changed = golden | {"pooled": np.roll(golden["pooled"], shift, axis=0)}
        monkeypatch.setattr(Bundle, "golden", lambda _, changed=changed: changed)
        assert "pooled" in (difference_from_golden(made.bundle, backend) or "")
    backend.close()
