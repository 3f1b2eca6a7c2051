"""Batches of several widths one after the other, on stand-ins that run the real graphs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.device import BATCHES, Device
from fakes.drafts import Drafted, draw_draft
from fakes.pictures import prepared, resized

from seqpar_deploy import Recognizer
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.gpu import graph_runner
from seqpar_deploy.backends.gpu.decode import padded_tokens
from seqpar_deploy.backends.gpu.profiles import graph_profiles
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.decoding import Beam, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError, EngineError
from seqpar_deploy.preprocess import Crop

pytestmark = pytest.mark.slow

SHAPES = ((120, 40), (120, 60), (120, 120), (60, 120))  # heights and widths: 4, 6 and 8 columns, and 8 again
COLUMNS = (4, 6, 8, 8)


def mixed(crops: list[Crop]) -> list[Crop]:
    """Crops of all widths, in turns."""
    return [resized(crop, SHAPES[place % len(SHAPES)]) for place, crop in enumerate(crops)]


def of_columns(made: Device, crops: list[Crop], columns: int, number: int) -> Any:
    """Prepared crops of one width."""
    return prepared(made.bundle, [resized(crop, SHAPES[COLUMNS.index(columns)]) for crop in crops[:number]])


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=3), Speculative()], ids=lambda s: type(s).__name__)
def test_mixed_widths_say_what_onnx_runtime_says(
    trimmed_device: Callable[..., Device], crops: list[Crop], strategy: Strategy, rtx: bool
) -> None:
    made, pictures = trimmed_device(rtx=rtx), mixed(crops[:12])
    with Recognizer(made.bundle, open_backend(made.bundle, "onnxruntime"), strategy=strategy) as recognizer:
        expected = recognizer.predict(pictures)
    with Recognizer(made.bundle, made.open(), strategy=strategy) as recognizer:
        for size in (12, 4, 4, 4, 1):  # so often that graphs are captured and replayed
            for start in range(0, 12, size):
                said = recognizer.predict(pictures[start : start + size])
                for got, wanted in zip(said, expected[start : start + size], strict=True):
                    assert got.tokens == wanted.tokens
                    assert got.scores == pytest.approx(wanted.scores, rel=2e-3)
        assert rtx or made.cuda.launches > 0
    widths = {shape[2] // made.bundle.dimensions.patch_size for name, shape in made.trt.executions if name == "encoder"}
    assert widths == set(COLUMNS)
    assert made.trt.recaptures == 0
    assert not made.cuda.buffers  # all freed


def test_the_encoder_has_a_profile_per_width_and_a_step_covers_all(trimmed_device: Callable[..., Device]) -> None:
    made = trimmed_device()
    profiles, d = graph_profiles(made.bundle, BATCHES), made.bundle.dimensions
    crops = [shapes["crops"] for shapes in profiles["encoder"]]
    widths = [[shape[2] for shape in shapes] for shapes in crops]
    assert widths == [[d.patch_size * columns] * 3 for columns in (4, 6, 8)] * 2
    assert [[shape[0] for shape in shapes] for shapes in crops] == [[1, 1, 2]] * 3 + [[1, 4, 12]] * 3
    image_tokens = [[shape[3] for shape in shapes["cross_kv"]] for shapes in profiles["decoder_step"]]
    assert image_tokens == [[1 + 8 * 4, 1 + 8 * 4, 1 + 8 * 8]] * 4  # a person of 1:2.5 has 4 columns
    assert [shapes["tokens"][2] for shapes in profiles["decoder_step"]] == [
        (2, 1),
        (2, d.capacity),
        (12, 1),
        (12, d.capacity),
    ]
    backend = made.open()
    chosen: list[int] = []
    run = backend._encoder.run
    backend._encoder.run = lambda turn, profile, *rest: (chosen.append(profile), run(turn, profile, *rest))  # type: ignore
    for rows, columns in ((1, 4), (2, 8), (3, 6), (12, 8), (1, 6)):
        backend.encode(np.zeros((rows, d.image_size, columns * d.patch_size, 3), np.uint8))
    assert chosen == [0, 2, 4, 5, 1]
    backend.close()


def test_batches_of_all_widths_use_the_same_memory(trimmed_device: Callable[..., Device], crops: list[Crop]) -> None:
    made = trimmed_device()
    backend = made.open()
    backend.greedy(backend.encode(of_columns(made, crops, 8, 2)), stop=1, max_steps=4)
    held = len(made.cuda.buffers)
    expected = {}
    for columns in (4, 6, 8, 6, 4):
        output = backend.greedy(backend.encode(of_columns(made, crops, columns, 2)), stop=1, max_steps=4)
        assert np.array_equal(output.log_probs, expected.setdefault(columns, output.log_probs))
    sizes = [block.size for block in made.cuda.buffers.values()]
    assert len([size for size in sizes if size > 10_000]) <= held
    assert backend.pool.free_idle() == 1
    backend.close()


@pytest.mark.parametrize("columns", [3, 5, 7.5, 9])
def test_widths_that_the_bundle_has_not_are_refused(trimmed_device: Callable[..., Device], columns: float) -> None:
    made = trimmed_device()
    backend, d = made.open(), made.bundle.dimensions
    width = int(columns * d.patch_size)
    allowed = ", ".join(str(d.patch_size * of) for of in (4, 6, 8))
    with pytest.raises(BackendError, match=rf"W of {allowed}, got \(1, {d.image_size}, {width}, 3\);"):
        backend.encode(np.zeros((1, d.image_size, width, 3), np.uint8))
    backend.close()


def test_squares_alone_where_nothing_is_trimmed(device: Callable[..., Device]) -> None:
    made = device()
    profiles = graph_profiles(made.bundle, BATCHES)
    assert [shapes["crops"][1] for shapes in profiles["encoder"]] == [(1, 32, 32, 3), (4, 32, 32, 3)]
    assert {shape[3] for shapes in profiles["decoder_step"] for shape in shapes["cross_kv"]} == {17}
    backend = made.open()
    with pytest.raises(BackendError, match=r"W of 32, got \(1, 32, 16, 3\);"):
        backend.encode(np.zeros((1, 32, 16, 3), np.uint8))
    backend.close()


def test_engines_of_other_widths_are_refused(trimmed_device: Callable[..., Device]) -> None:
    made = trimmed_device()
    file = made.folder / "engine.json"
    for columns in ("[6, 8]", "[]"):
        text = file.read_text()
        head, _, tail = text.partition('"columns": [')
        file.write_text(f'{head}"columns": {columns}{tail[tail.index("]") + 1 :]}')
        with pytest.raises(EngineError, match=r"built for columns \[4, 6, 8\], got .*build them here"):
            made.open()
        file.write_text(text)


def test_contexts_have_room_for_every_width(
    trimmed_device: Callable[..., Device], crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each width has contexts of its own, so that those of the others are not thrown out."""
    monkeypatch.setattr(graph_runner, "MOST_CONTEXTS", 1)
    made = trimmed_device()
    backend = made.open()
    for _ in range(3):
        for columns in (4, 6, 8):
            backend.greedy(backend.encode(of_columns(made, crops, columns, 2)), stop=1, max_steps=4)
    assert made.trt.contexts == 6  # one per width and engine, the spare ones included
    backend.close()


# Reordering


@pytest.mark.parametrize("columns", [4, 6, 8])
@pytest.mark.parametrize("rows", [[1, 0], [1], [1, 1, 0, 1, 0]], ids=["turned", "dropped", "moved"])
def test_rows_are_reordered_by_their_own_strides(
    trimmed_device: Callable[..., Device], crops: list[Crop], columns: int, rows: list[int]
) -> None:
    """Also into a larger batch, which held wider crops before."""
    made = trimmed_device()
    backend, host = made.open(), open_backend(made.bundle, "onnxruntime")
    backend.greedy(backend.encode(of_columns(made, crops[5:], 8, 5)), stop=1, max_steps=4)
    batch = of_columns(made, crops, columns, 2)
    states = [backend.encode(batch), host.encode(batch)]
    for tokens in (np.zeros((2, 1), np.int64), None, None):
        if tokens is None:
            for state in states:
                state.reorder(np.array(rows, dtype=np.int64))
            tokens = np.arange(3, 3 + 2 * len(rows)).reshape(-1, 2)
            rows = list(range(len(rows)))[::-1]
        got, wanted = backend.step(states[0], tokens), host.step(states[1], tokens)
        np.testing.assert_allclose(got.log_probs, wanted.log_probs, atol=2e-2)
        np.testing.assert_allclose(states[0].pooled, states[1].pooled, atol=2e-2)
    backend.close()


# Pooled features


def test_pooled_is_read_by_those_alone_who_want_it(trimmed_device: Callable[..., Device], crops: list[Crop]) -> None:
    """The host waits for the encoder's run of this batch, and not for that of the next."""
    made = trimmed_device()
    backend, host = made.open(), open_backend(made.bundle, "onnxruntime")
    batch, after = of_columns(made, crops, 4, 2), of_columns(made, crops[2:], 6, 2)
    state, ahead = backend.encode(batch), backend.encode(after)
    assert [name for name, _ in made.trt.executions] == []
    np.testing.assert_allclose(state.pooled, host.encode(batch).pooled, atol=2e-2)
    assert [shape[2] for name, shape in made.trt.executions] == [batch.shape[2]]
    waits = made.cuda.calls["cudaEventSynchronize"]
    assert state.pooled is not None
    assert made.cuda.calls["cudaEventSynchronize"] == waits  # kept on the host
    np.testing.assert_allclose(ahead.pooled, host.encode(after).pooled, atol=2e-2)
    backend.greedy(state, stop=1, max_steps=4)
    assert state.pooled.shape[0] == 2  # read before its batch went back
    unread = backend.encode(batch)
    backend.greedy(unread, stop=1, max_steps=4)
    with pytest.raises(BackendError, match="encode the crops again"):
        unread.pooled  # noqa: B018
    backend.close()


def test_greedy_decoding_does_not_wait_for_pooled(
    trimmed_device: Callable[..., Device], crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trimmed_device()
    backend = made.open()
    state = backend.encode(of_columns(made, crops, 4, 2))
    monkeypatch.setattr(state.lease.batch.pooled, "read", lambda *_: pytest.fail("nobody needs it"))
    assert backend.greedy(state, stop=1, max_steps=4).next_token.shape[0] == 2
    backend.close()


def test_engines_without_pooled_still_open(
    trimmed_device: Callable[..., Device], device: Callable[..., Device], crops: list[Crop]
) -> None:
    """As they were built before: their engine.json says nothing of it."""
    for make in (trimmed_device, device):
        made = make(pooled=False)
        file = made.folder / "engine.json"
        lines = [line for line in file.read_text().splitlines() if '"pooled"' not in line]
        file.write_text("\n".join(lines))
        backend = made.open()
        state = backend.encode(prepared(made.bundle, [crops[0], crops[0]]))
        assert state.pooled is None
        state.reorder(np.array([1, 0, 1]))  # to a larger batch
        assert state.pooled is None
        backend.step(state, np.zeros((3, 1), np.int64))
        backend.close()


# Drafts


@pytest.mark.parametrize("strategy", [Drafted(), Speculative()], ids=lambda s: type(s).__name__)
def test_drafts_never_change_a_token(trimmed_device: Callable[..., Device], crops: list[Crop], strategy: Any) -> None:
    made, choose = trimmed_device(batches=(BatchProfile(min=1, opt=2, max=4),)), random.Random(7)
    backend, host = made.open(), open_backend(made.bundle, "onnxruntime")
    for round_ in range(9):
        batch = of_columns(made, crops[round_:], (4, 6, 8)[round_ % 3], 1 + round_ % 4)
        expected = [one.tokens for one in Greedy().generate(host, host.encode(batch), max_steps=12)]
        drafts = [draw_draft(tokens, choose) for tokens in expected]
        said = strategy.generate(backend, backend.encode(batch), max_steps=12, drafts=drafts)
        assert [one.tokens for one in said] == expected
    backend.close()


@pytest.mark.parametrize(
    ("tokens", "room", "padded"), [(1, 27, 1), (2, 27, 2), (3, 27, 4), (9, 27, 16), (17, 27, 17), (3, 3, 3), (5, 8, 8)]
)
def test_steps_have_few_lengths_within_the_cache(tokens: int, room: int, padded: int) -> None:
    assert padded_tokens(tokens, room) == padded


def test_steps_of_any_length_share_contexts(trimmed_device: Callable[..., Device], crops: list[Crop]) -> None:
    made = trimmed_device()
    backend, host = made.open(), open_backend(made.bundle, "onnxruntime")
    batch = of_columns(made, crops, 4, 2)
    states = [backend.encode(batch), host.encode(batch)]
    for count in (5, 6, 7, 8, 1):  # 27 in all, as many as the cache holds
        tokens = np.arange(3, 3 + 2 * count).reshape(2, count)
        got, wanted = backend.step(states[0], tokens), host.step(states[1], tokens)
        assert got.next_token.shape == (2, count)
        np.testing.assert_allclose(got.log_probs, wanted.log_probs, atol=2e-2)
    assert [shape for name, shape in made.trt.executions if name == "decoder_step"] == [(2, 8)] * 4 + [(2, 1)]
    backend.close()


def test_a_right_draft_takes_one_step_and_a_wrong_one_more(
    trimmed_device: Callable[..., Device], crops: list[Crop]
) -> None:
    made = trimmed_device()
    backend = made.open()
    batch = of_columns(made, crops, 6, 1)
    (plain,) = Drafted().generate(backend, backend.encode(batch), max_steps=8)
    assert plain.steps == len(plain.tokens) > 2
    other = 3 if plain.tokens[1] != 3 else 4
    for draft, steps in ((plain.tokens, 1), ((plain.tokens[0], other, *plain.tokens[2:]), 2), ((), plain.steps)):
        before = len(made.trt.executions)
        (found,) = Drafted().generate(backend, backend.encode(batch), max_steps=8, drafts=[draft])
        assert found.tokens == plain.tokens
        assert found.steps <= steps
        assert len(made.trt.executions) == before + 1 + found.steps
    backend.close()
