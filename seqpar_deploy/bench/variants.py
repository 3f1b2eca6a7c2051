"""The benchmark variants. Each has a small function that makes it.

To add one, write a function from `BenchContext` to `Variant`, and add it to `known_variants`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from seqpar_deploy.backends import Backend, ComputePrecision, open_backend
from seqpar_deploy.backends.registry import SPECS
from seqpar_deploy.bench import torch_variants
from seqpar_deploy.bench.baselines import ConcatOnnxBackend, PlainOnnxBackend, Run, open_graph
from seqpar_deploy.bench.comparison import Variant
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Greedy, Speculative, Strategy
from seqpar_deploy.decoding.choice import with_head
from seqpar_deploy.decoding.drafts import load_head
from seqpar_deploy.errors import BackendError, BackendUnavailableError, ExportError, SeqparError


class BenchContext:
    """Hold the shared parts of variants. Each part is made at its first use.

    Args:
        bundle: The opened bundle to measure.
        checkpoint: The bundle's checkpoint. Default: none, variants in PyTorch and other exports are skipped.
        encoder: The `encoder` of the export. Default: derived from the weights.
        decoder_heads: The `decoder_heads` of the export. Default: derived from the weights.
        device: Device of PyTorch, `cpu` or `cuda`. Default: `cpu`.
        threads: CPU threads. Default: each runtime's own choice.
        batch: Crops per run. Default: 1.
        folder: Folder for the baselines' graphs.

    Raises:
        BackendUnavailableError: A checkpoint was given, but torch is not installed.
        CheckpointError: The checkpoint cannot be read, or the bundle was exported from another.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        checkpoint: Path | None = None,
        encoder: str | None = None,
        decoder_heads: int | None = None,
        device: str = "cpu",
        threads: int | None = None,
        batch: int = 1,
        folder: Path,
    ) -> None:
        self.bundle, self.threads, self.batch, self.folder = bundle, threads, batch, folder
        self.checkpoint_arguments = _arguments(
            checkpoint=checkpoint, encoder=encoder, decoder_heads=decoder_heads, device=device
        )
        self._backends: dict[tuple[str, ComputePrecision], Backend[Any]] = {}
        self._eager = None
        if checkpoint:
            self._eager = torch_variants.load_model(
                bundle, checkpoint, encoder=encoder, decoder_heads=decoder_heads, device=device, threads=threads
            )

    @property
    def eager(self) -> torch_variants.EagerModel:
        if self._eager is None:
            raise BackendUnavailableError("this variant needs the checkpoint; pass --checkpoint")
        return self._eager

    @property
    def cold_start(self) -> tuple[str, ...]:
        return (str(self.bundle.path), *_arguments(threads=self.threads))

    def backend(self, name: str, compute_precision: ComputePrecision) -> Backend[Any]:
        """Return the bundle on a backend, which is opened once."""
        key = name, compute_precision
        if key not in self._backends:
            options: Any = {"threads": self.threads, "compute_precision": compute_precision}
            self._backends[key] = open_backend(self.bundle, name, **options)  # type: ignore[arg-type]
        return self._backends[key]

    def exported(self, name: str, export: Callable[[Path], None]) -> Run:
        """Export a baseline's graph and open it."""
        path = self.folder / f"{name}.onnx"
        export(path)
        return open_graph(path, threads=self.threads)

    @functools.cached_property
    def plain_encoder(self) -> Run:
        from seqpar_deploy.exporting.baseline_graphs import export_plain_encoder

        model = self.eager.model
        return self.exported("encoder", lambda path: export_plain_encoder(model, self.bundle.preprocessing, path))

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()


def known_variants() -> dict[str, Callable[[BenchContext], Variant]]:
    """Return the functions of all variants by name, from the published procedure to this package's backends."""
    known: dict[str, Callable[[BenchContext], Variant]] = {
        "published": _published,
        "eager": _eager,
        "eager-cached": _eager_cached,
        "eager-reduced": _eager_reduced,
        "eager-compiled": _eager_compiled,
        "onnx-plain": _onnx_plain,
        "onnx-concat": _onnx_concat,
    }
    ways = [(spec.name, precision) for spec in SPECS for precision in spec.compute_precisions]
    for name, precision in sorted(ways, key=lambda way: way[1] != "native"):
        make = functools.partial(_bundle, backend=name, compute_precision=precision)
        variant = name if precision == "native" else f"{name}-{precision}"
        known[variant] = make
        known[f"{variant}-speculative"] = functools.partial(make, strategy=Speculative())
        known[f"{variant}-full"] = functools.partial(make, full=True)
        known[f"{variant}-speculative-full"] = functools.partial(make, strategy=Speculative(), full=True)
    return known


def make_variants(
    context: BenchContext, *, only: Collection[str] = (), skip: Collection[str] = ()
) -> tuple[list[Variant], list[dict[str, str]]]:
    """Make the variants that this machine can run.

    Args:
        context: The shared parts.
        only: Names of the variants to make. Default: all.
        skip: Names of the variants to leave out. Default: none.

    Returns:
        The variants, and the skipped ones as `{"name", "why"}`.

    Raises:
        SeqparError: A name is unknown.
        BackendUnavailableError: No variant is left.
    """
    known = known_variants()
    if unknown := [name for name in (*only, *skip) if name not in known]:
        raise SeqparError(f"variant must be one of {', '.join(known)}, got {unknown[0]!r}; check the name")
    variants, skipped = [], []
    for name, make in known.items():
        if name not in skip and (not only or name in only):
            try:
                variants.append(make(context))
            except (BackendError, ExportError) as error:
                skipped.append({"name": name, "why": " ".join(str(error).split())})
    if not variants:
        why = "; ".join(f"{entry['name']}: {entry['why']}" for entry in skipped)
        raise BackendUnavailableError(f"nothing to measure: {why or 'every variant is skipped'}")
    return variants, skipped


def _published(context: BenchContext) -> Variant:
    backend = torch_variants.published(context.eager)
    return Variant(name="published", description="PyTorch, as published", backend=backend)


def _eager(context: BenchContext) -> Variant:
    backend = torch_variants.uncached_eager(context.eager)
    return Variant(
        name="eager", description="PyTorch, text tower folded", backend=backend, trimming=context.bundle.trimming
    )


def _eager_cached(context: BenchContext) -> Variant:
    return Variant(
        name="eager-cached",
        description="PyTorch, folded, cached",
        backend=torch_variants.cached_eager(context.eager),
        trimming=context.bundle.trimming,
        as_bundle=True,
        cold_start=(*context.cold_start, *context.checkpoint_arguments),
    )


def _eager_reduced(context: BenchContext) -> Variant:
    precision = torch_variants.reduced_precision(context.eager.device)
    return Variant(
        name="eager-reduced",
        description=f"PyTorch, folded, cached, {precision}",
        backend=torch_variants.reduced_eager(context.eager),
        trimming=context.bundle.trimming,
        precision=precision,
        reduced=True,
        as_bundle=True,
    )


def _eager_compiled(context: BenchContext) -> Variant:
    return Variant(
        name="eager-compiled",
        description="PyTorch, folded, cached, torch.compile",
        backend=torch_variants.compiled_eager(context.eager, context.bundle, rows=context.batch),
        as_bundle=True,
        one_batch=True,
    )


def _onnx_plain(context: BenchContext) -> Variant:
    eager = context.eager
    from seqpar_deploy.exporting.baseline_graphs import export_plain_decoder

    decoder = context.exported("decoder", lambda path: export_plain_decoder(eager.model, eager.token_table, path))
    return Variant(
        name="onnx-plain",
        description="plain ONNX export, no cache",
        backend=PlainOnnxBackend(context.plain_encoder, decoder),
    )


def _onnx_concat(context: BenchContext) -> Variant:
    eager = context.eager
    from seqpar_deploy.exporting.baseline_graphs import export_concat_step, export_cross_kv

    cross_kv = context.exported("cross_kv", lambda path: export_cross_kv(eager.model, path))
    step = context.exported("step", lambda path: export_concat_step(eager.model, eager.token_table, path))
    return Variant(
        name="onnx-concat",
        description="ONNX export, cache concatenated",
        backend=ConcatOnnxBackend(context.plain_encoder, cross_kv, step),
        as_bundle=True,
    )


def _bundle(
    context: BenchContext,
    *,
    backend: str,
    strategy: Strategy = Greedy(),
    compute_precision: ComputePrecision = "native",
    full: bool = False,
) -> Variant:
    """Make a variant of the bundle on a backend, with a strategy and a compute precision.

    `full`: read crops with all their padding although the bundle trims them, and without drafts, for comparison.
    """
    if full and context.bundle.trimming is None:
        raise BackendError("this variant needs a bundle that trims crops; export one with --trim")
    greedy = isinstance(strategy, Greedy)
    reduced = compute_precision != "native"
    precision = compute_precision if reduced else context.bundle.precision
    ways = [*([] if greedy else ["speculative"]), *(["full"] if full else [])]
    words = [f"bundle {precision}", backend, *(way.replace("full", "full padding") for way in ways)]
    return Variant(
        name="-".join([backend, *([compute_precision] if reduced else []), *ways]),
        description=", ".join(words),
        backend=context.backend(backend, compute_precision),
        strategy=strategy if full else with_head(strategy, load_head(context.bundle)),
        precision=precision,
        reduced=reduced,
        as_bundle=greedy,
        trimming=None if full else context.bundle.trimming,
        cold_start=(*context.cold_start, "--backend", backend) if not ways and not reduced else None,
    )


def _arguments(**values: object) -> tuple[str, ...]:
    """Return values as command-line options, without those that are None."""
    return tuple(
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    )
