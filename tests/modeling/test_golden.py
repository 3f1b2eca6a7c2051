"""The eager network equals the published code, within the bounds of tests/data/golden/README.md."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import GOLDEN_NAMES, Golden

from seqpar_deploy.decoding import Beam, Greedy
from seqpar_deploy.modeling.eager import CachedEagerBackend, EagerBackend
from seqpar_deploy.modeling.published import PublishedBackend
from seqpar_deploy.preprocess import Preprocessing

pytestmark = pytest.mark.parametrize("name", GOLDEN_NAMES)
GetGolden = Callable[[str], Golden]


@torch.inference_mode()
def test_image_tokens_and_text_features(name: str, golden: GetGolden) -> None:
    g = golden(name)
    torch.testing.assert_close(
        g.model.encode_image(g.expected["images"]), g.expected["visual_tokens"], atol=1e-4, rtol=0
    )
    features = g.model.encode_phrases(g.label_set.phrases)
    torch.testing.assert_close(features, g.expected["text_features"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_teacher_forced_log_probs(name: str, golden: GetGolden) -> None:
    g = golden(name)
    log_probs = g.model(g.expected["images"], g.expected["teacher_tokens"], g.token_table)
    difference = (log_probs.double() - g.expected["teacher_log_probs_f64"]).abs()
    assert difference.median() <= 1e-4
    assert difference.max() <= 5e-2


def test_generated_sequences(name: str, golden: GetGolden) -> None:
    g = golden(name)
    backend = EagerBackend(g.model, g.token_table, Preprocessing())
    for width in g.beam_widths:
        state = backend.encode_images(g.expected["images"])
        generations = Beam(width=width).generate(backend, state, max_steps=len(g.label_set))
        assert [generation.tokens for generation in generations] == g.sequences(width), f"beam width {width}"


def test_every_eager_procedure_says_the_same(name: str, golden: GetGolden, rng: np.random.Generator) -> None:
    g = golden(name)
    crops = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    reference, cached = (kind(g.model, g.token_table, Preprocessing()) for kind in (EagerBackend, CachedEagerBackend))
    published = PublishedBackend(g.model, g.label_set.phrases, Preprocessing())
    tokens = [
        [x.tokens for x in Greedy().generate(backend, backend.encode(crops), max_steps=len(g.label_set))]
        for backend in (reference, cached, published)
    ]
    assert tokens[0] == tokens[1] == tokens[2]
