"""Validation: greedy generation on a data set, with the published metrics."""

from __future__ import annotations

import torch

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.modeling.eager import CachedEagerBackend
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import LabelSet

_BATCH = 64


def validate(
    model: SequencePAR, label_set: LabelSet, dataset: Dataset, *, progress: OnProgress | None = None
) -> Metrics:
    """Score greedy generation on a data set. `progress` is called with people done and people in total."""
    with torch.inference_mode():
        token_table = model.token_table(label_set.phrases)
    scored = Model(
        name="training",
        kind="checkpoint",
        precision="fp32",
        sha256="",
        label_set=label_set,
        image_size=model.architecture.image_size,
        max_rows=_BATCH,
        backend=CachedEagerBackend(model, token_table, label_set.preprocessing),
        trimming=model.architecture.trimming,
    )
    generations = generate(scored, dataset, Greedy(), progress=progress)
    return compute_metrics(attributes_of(generations, len(label_set)), dataset.labels)
