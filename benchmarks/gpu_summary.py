"""The summary of gpu_check.py: at most ten lines on the state of each backend, and the targets for an H100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_stages import BATCH, EAGER

MOST_LINES = 10
MOST_WORDS = 110  # characters of a runtime's own words
POOLED_ERROR = 0.02  # relative, of pooled features in FP16: as the recipe's median of log-probabilities
ENDINGS = ("unavailable", "failed", "crashed", "stopped")
LEAKS = {"device_mb": 8.0, "resident_mb": 64.0, "threads": 0.5, "files": 0.5}  # growth above these is one


def summary(values: Mapping[str, Any], backends: Sequence[str]) -> list[str]:
    """Return a line for the card, one per model and backend, and one for stages that did not run."""
    models = [name for name in ("full", "demo") if name in values]
    lines = [_card(values, models)]
    for model in models:
        lines += [f"{model} {name}: {_backend(values[model], name)}" for name in backends if name in values[model]]
    if unfinished := _unfinished(values):
        (first, why), others = unfinished[0], [name for name, _ in unfinished[1:]]
        more = ["and"] * bool(others) + [", ".join(others[:5])] + [f"and {len(others) - 5} more"] * (len(others) > 5)
        lines.append(" ".join([f"not finished: {first} ({_short(why)})", *more]).strip())
    return lines[:MOST_LINES]


def _card(values: Mapping[str, Any], models: Sequence[str]) -> str:
    machine = values.get("machine", {})
    name = machine.get("gpu", {}).get("name") or machine.get("processor", "unknown machine")
    eager = [
        f"{model} {values[model][EAGER]['latency_ms']['p50']:.2f} ms"
        for model in models
        if "latency_ms" in values[model].get(EAGER, {})
    ]
    minutes = f"{values.get('minutes', 0):.1f} minutes"
    return f"{name}, {values.get('crops')} crops, {minutes}; {EAGER} p50: {', '.join(eager) or 'not measured'}"


def _backend(model: Mapping[str, Any], name: str) -> str:
    found = model[name]
    if "not_installed" in found:
        return f"not installed: {_short(found['not_installed'])}"
    if "unavailable" in found:
        return f"not supported: {_short(found['unavailable'])}"
    build, parity = found.get("build", {}), found.get("parity", {})
    if "engines" not in build and _ending(build):
        return _without_answers("build", build)
    if "identical" not in parity:
        return _without_answers("parity", parity)
    wrong = _wrong(found)
    endings = [f"{stage} {words}" for stage, result in found.items() if (words := _ending(result))]
    verdict = f"wrong tokens: {'; '.join(wrong)}" if wrong else "works in part" if endings else "works"
    return "; ".join([verdict, *endings, *_figures(model, found)])


def _without_answers(stage: str, result: Mapping[str, Any]) -> str:
    """Return the reason for missing results: unavailable, killed, crashed or out of time."""
    verdict = "not supported" if {"failed", "unavailable"} & result.keys() else "not known"
    return f"{verdict}: {stage} {_ending(result) or 'did not run'}"


def _figures(model: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return speed, replays, nodes on the CPU and leaks, if measured."""
    parts = []
    speed, replays, soak = (found.get(stage, {}) for stage in ("speed", "replays", "soak"))
    if "latency_ms" in speed:
        p50 = speed["latency_ms"]["p50"]
        eager = model.get(EAGER, {}).get("latency_ms")
        faster = f" ({eager['p50'] / p50:.1f}x {EAGER})" if eager else ""
        crops = f", {speed['crops_per_second']:.0f} crops/s" if "crops_per_second" in speed else ""
        parts.append(f"p50 {p50:.2f} ms{faster}{crops}")
    if replays.get("cuda_graphs") and "unavailable" in replays.get("graphs", {}):
        parts.append(f"no CUDA graphs: {_short(replays['graphs']['unavailable'])}")
    elif replays.get("cuda_graphs") and "one_crop_ms" in replays.get("graphs", {}):
        parts.append(_replays(replays))
    if "mixed" in found.get("widths", {}):
        parts.append(_widths(found["widths"]))
    if "decoder_step" in found.get("placement", {}):
        parts.append(_placement(found["placement"]))
    if "growth" in soak:
        leaks = [f"{key} +{soak['growth'][key]:g}" for key, most in LEAKS.items() if soak["growth"].get(key, 0) > most]
        parts.append(f"leaks in {soak['rounds']} rounds: {', '.join(leaks)}" if leaks else "no leaks")
    return parts


def _replays(replays: Mapping[str, Any]) -> str:
    plain, graphs = replays["no graphs"], replays["graphs"]
    difference = graphs["largest_difference"]
    if difference > plain["largest_difference"]:
        return f"replays differ by {difference:.2g}, runs by {plain['largest_difference']:.2g}"
    return f"replays equal, {plain['one_crop_ms']:.2f} -> {graphs['one_crop_ms']:.2f} ms"


def _widths(widths: Mapping[str, Any]) -> str:
    """Return the latency of a crop of 1:2.5, whole, trimmed, and with right drafts."""
    whole, trimmed = (widths.get(f"1:2.5 {name}", {}) for name in ("whole", "trimmed"))
    if not whole or not trimmed:
        return "1:2.5 not trimmed"
    steps = [whole["greedy"], trimmed["greedy"], trimmed["right drafts"]]
    times = " -> ".join(f"{step['one_crop_ms']:.2f}" for step in steps)
    return f"1:2.5 whole, trimmed, drafted {times} ms"


def _placement(placement: Mapping[str, Any]) -> str:
    words = []
    for graph in ("encoder", "decoder_step"):
        on_cpu = placement[graph]["on_cpu"]
        kinds = f" ({', '.join(list(on_cpu)[:3])})" if on_cpu else ""
        words.append(f"{graph} {sum(on_cpu.values())}{kinds}, Memcpy {placement[graph]['memcpy']}")
    return f"nodes on CPU: {'; '.join(words)}"


def _wrong(found: Mapping[str, Any]) -> list[str]:
    """Return the checks with tokens that differ from the reference, except ties."""
    parity, mixed, replays = (found.get(stage, {}) for stage in ("parity", "mixed", "replays"))
    wrong = [_short(breach) for breach in parity.get("breaches", [])[:1]]
    if parity.get("slots_that_differ"):
        wrong.append(f"{parity['slots_that_differ']} slots differ")
    wrong += [
        f"{name} {tally['wrong']} of {tally['rows']} rows"
        for name, tally in mixed.items()
        if isinstance(tally, Mapping) and tally.get("wrong")
    ]
    wrong += _wrong_widths(found.get("widths", {}))
    wrong += [
        f"{name} {replays[name]['tokens_that_differ']} of {replays[name]['rows']} rows in replays"
        for name in ("no graphs", "graphs")
        if replays.get(name, {}).get("tokens_that_differ")
    ]
    return wrong


def _wrong_widths(widths: Mapping[str, Any]) -> list[str]:
    """Return the variants with wrong tokens or pooled features."""
    wrong = [f"mixed widths {widths['mixed']['wrong']} rows"] if widths.get("mixed", {}).get("wrong") else []
    for name, figures in widths.items():
        if isinstance(figures, Mapping) and "columns" in figures:
            rows = sum(one["wrong"] for one in figures.values() if isinstance(one, Mapping))
            wrong += [f"{name} {rows} rows"] * bool(rows)
            error = figures.get("pooled_error")
            if error is not None and not error <= POOLED_ERROR:
                wrong.append(f"{name} pooled off by {error:.2g}")
    return wrong


def _ending(result: Any) -> str:
    """Return the reason if a stage failed."""
    if not isinstance(result, Mapping):
        return ""
    return "; ".join(f"{ending} {_short(result[ending])}" for ending in ENDINGS if ending in result)


def _unfinished(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the stages that were skipped or failed, with reasons."""
    for ending in ("skipped", "failed", "crashed", "stopped"):
        if ending in values:
            return [(" ".join(path), f"{ending} {values[ending]}" if ending != "skipped" else values[ending])]
    nested = ((name, value) for name, value in values.items() if isinstance(value, Mapping) and len(path) < 3)
    return [found for name, value in nested for found in _unfinished(value, (*path, name))]


def _short(words: str) -> str:
    return words if len(words) <= MOST_WORDS else f"{words[: MOST_WORDS - 3]}..."


def targets(full: Mapping[str, Any]) -> dict[str, Any]:
    """Return the targets for an H100, per backend of the full-size model, and whether each is reached."""
    eager = full.get(EAGER, {}).get("latency_ms")
    found: dict[str, Any] = {}
    for name, stages in full.items():
        speed, parity = stages.get("speed", {}), stages.get("parity", {})
        if eager and "crops_per_second" in speed and "identical_share" in parity:
            latency = speed["latency_ms"]["p50"]
            share = speed.get(f"batch_{BATCH}", {}).get("encoder_share_of_gemm", 0.0)
            found[name] = {
                "latency_ms_p50": {"got": latency, "at_most": 3.0, "reached": latency <= 3.0},
                "crops_per_second": _at_least(speed["crops_per_second"], 2000.0),
                "encoder_share_of_gemm": _at_least(share, 0.5),
                "times_faster_than_eager_cached": _at_least(eager["p50"] / latency, 5.0),
                "identical_share": _at_least(parity["identical_share"], 0.999),
            }
    return found


def _at_least(got: float, target: float) -> dict[str, Any]:
    return {"got": got, "at_least": target, "reached": got >= target}
