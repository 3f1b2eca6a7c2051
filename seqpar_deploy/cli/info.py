"""`seqpar info`: contents of a bundle, its origin and checks, and the parts of it that fit this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from seqpar_deploy.bundle import CALIBRATION, ENGINES, MANIFEST, TUNED, VERIFIED, Bundle
from seqpar_deploy.calibration.sidecar import calibration_from
from seqpar_deploy.calibration.thresholds import Limits
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result
from seqpar_deploy.cli.layout import format_sections, printable, size
from seqpar_deploy.cli.probes import Isolated, guarded
from seqpar_deploy.config import parse_json
from seqpar_deploy.errors import BundleFormatError, SeqparError
from seqpar_deploy.files import check_writable
from seqpar_deploy.sidecars import sidecars

_PARITY = ("passed", "backend", "crops", "identical", "ties", "log_prob_median", "log_prob_max")
Lines = Iterator[tuple[str, str]]


def info(
    bundle: options.BundleArgument,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the SHA-256 of every file, about 1 s per GB.", show_default="check sizes only"
        ),
    ] = False,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Show the contents of a bundle, and the parts that fit this machine.

    Print its label set, dimensions, precision, parity result, calibration, engines, tuning and files. The exit code is
    2 if the bundle cannot be opened.

    Examples:
      seqpar info bundles/peta
      seqpar info bundles/peta --verify --json
    """
    check_writable(output)
    opened = Bundle.open(bundle, verify=verify)
    try:
        facts = {**_facts(opened), "hashes_checked": verify}
        text = format_sections(_sections(facts))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise BundleFormatError(f"{opened.path / MANIFEST} is malformed: {fault}; export the bundle again") from None
    emit_result(facts, text, as_json=as_json, output=output)


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest, label_set = bundle.manifest, bundle.label_set
    has_engines = (bundle.path / ENGINES).is_dir()
    tuning = _read_json(bundle, TUNED, _is_sound_tuning)
    fit: Any = {"engines": {}, "tuned": None}
    if has_engines or tuning is not None:
        fit = guarded(lambda: Isolated("fit", str(bundle.path.resolve())).result())
    if tuning is not None and "error" not in fit:  # the one that fits may be a second file, in the user's cache folder
        tuning = tuning | {"fits": False} if fit["tuned"] is None else {"fits": True, "choice": fit["tuned"]}
    groups: dict[str, list[str]] = {name: [] for name in label_set.groups}
    for attribute in label_set.attributes:
        groups[attribute.group].append(attribute.name)
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "format": manifest["format"],
        "producer": _table(manifest, "producer"),
        "checkpoint": _table(manifest, "checkpoint"),
        "recipe": _table(manifest, "recipe").get("name"),
        "precision": bundle.precision,
        "padding": bundle.padding,
        "columns": list(bundle.columns) if bundle.columns else None,
        "int8": _table(manifest, "int8") if bundle.has_int8 else None,
        "label_set": {
            "name": label_set.name,
            "title": label_set.title,
            "attributes": len(label_set),
            "names": [attribute.name for attribute in label_set.attributes],
            "groups": groups,
            "withheld": list(bundle.withheld),
        },
        "dimensions": dict(manifest["dimensions"]),
        "batches": list(manifest["batches"]),
        "parity": {name: manifest["parity"][name] for name in _PARITY} if manifest.get("parity") else None,
        "engines": {"error": fit["error"]} if "error" in fit else fit["engines"],
        "tuning": tuning,
        "verified": _read_json(bundle, VERIFIED, _is_sound_check),
        "calibration": _calibration(bundle),
        "files": {name: entry["bytes"] for name, entry in manifest["files"].items()},
        "total_bytes": sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file()),
    }


def _read_json(bundle: Bundle, name: str, is_sound: Callable[[Any], bool] = lambda _: True) -> Any:
    """Return the values of the first sound sidecar, None if there is none, `{"error": "why"}` if none is sound."""
    problem: dict[str, str] | None = None
    for path, content in sidecars(bundle, name):
        try:
            values = parse_json(content, source=str(path), error=SeqparError)
        except SeqparError as error:
            problem = problem or {"error": str(error)}
            continue
        if is_sound(values):
            return values
        problem = problem or {"error": f"{path} has unexpected content; delete it"}
    return problem


def _calibration(bundle: Bundle) -> dict[str, Any] | None:
    """Return the calibration that fits, None if there is none, `{"fits": False, "reason": "why"}` if none fits."""
    reasons = []
    for path, content in sidecars(bundle, CALIBRATION):
        try:
            found = dataclasses.asdict(calibration_from(content, bundle, source=str(path)))
        except SeqparError as error:
            reasons.append(str(error))
            continue
        for attribute in found["attributes"].values():
            del attribute["distribution"]
        return {"fits": True, "file": str(path), **found}
    return {"fits": False, "reason": reasons[0]} if reasons else None


def _is_sound_tuning(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("choice"), dict)


def _is_sound_check(values: Mapping[str, Any]) -> bool:
    results = values.get("results")
    return isinstance(results, list) and all(
        isinstance(result, dict)
        and "failure" in result
        and isinstance(result.get("subject"), dict)
        and {"backend", "version", "gpu", "driver"} <= result["subject"].keys()
        for result in results
    )


def _table(manifest: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = manifest.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object, got {type(value).__name__}")
    return dict(value)


def _sections(facts: Mapping[str, Any]) -> dict[str, Lines]:
    label_set = facts["label_set"]
    return {
        f"Bundle {printable(facts['path'])}": _bundle(facts),
        f"Label set {label_set['name']}, {label_set['attributes']} attributes": _labels(label_set),
        "Model": _model(facts),
        **({"Calibration": _calibrated(facts)} if facts["calibration"] else {}),
        "On this machine": _machine(facts),
        f"Files, {size(facts['total_bytes'])} in all": ((size(count), name) for name, count in facts["files"].items()),
    }


def _labels(label_set: Mapping[str, Any]) -> Lines:
    for group, names in label_set["groups"].items():
        yield group, ", ".join(names)
    if label_set["withheld"]:
        yield "withheld", f"{', '.join(label_set['withheld'])}: no prediction has them"


def _bundle(facts: Mapping[str, Any]) -> Lines:
    producer, checkpoint = facts["producer"], facts["checkpoint"]
    yield "digest", facts["digest"]
    yield "format", str(facts["format"])
    commit = f" ({producer['commit']})" if producer.get("commit") else ""
    tools = ", ".join(f"{name} {producer[name]}" for name in ("torch", "onnx", "opset") if producer.get(name))
    yield "producer", f"seqpar-deploy {producer.get('seqpar_deploy', 'unknown')}{commit}, {tools}"
    yield "checkpoint", f"{checkpoint.get('file', 'unknown')}, sha256 {str(checkpoint.get('sha256'))[:12]}.."
    yield "recipe", f"{facts['recipe']}"
    yield "hashes", "match" if facts["hashes_checked"] else "not checked; pass --verify to check them"


def _model(facts: Mapping[str, Any]) -> Lines:
    yield "precision", facts["precision"]
    yield "padding", facts["padding"]
    if columns := facts["columns"]:
        redefined = "; redefined by --trim, not as in training" if facts["checkpoint"].get("redefined") else ""
        widths = ", ".join(map(str, columns))
        yield "widths", f"{widths} of {columns[-1]} patch columns, by the shape of a crop{redefined}"
    yield "dimensions", ", ".join(f"{name} {value}" for name, value in facts["dimensions"].items())
    yield (
        "batches",
        "; ".join(f"{batch['min']} to {batch['max']} crops, tuned for {batch['opt']}" for batch in facts["batches"]),
    )
    parity = facts["parity"]
    yield (
        "parity",
        "no result in the manifest" if parity is None else _agreement(parity, f", {parity['ties']} at a tie"),
    )
    int8 = facts["int8"]
    yield "int8", "no 8-bit graphs" if int8 is None else _agreement(int8, " before the fallback")


def _agreement(found: Mapping[str, Any], more: str) -> str:
    passed = {True: "passed, ", False: "FAILED, "}.get(found.get("passed"), "")  # type: ignore[arg-type]
    return (
        f"{passed}{found['identical']} of {found['crops']} sequences identical on {found['backend']}{more}; "
        f"log-probabilities differ by {found['log_prob_median']:.1e} (median), {found['log_prob_max']:.1e} (max)"
    )


def _machine(facts: Mapping[str, Any]) -> Lines:
    engines = facts["engines"]
    if "error" in engines:
        yield "engines", f"cannot be checked: {engines['error']}"
    elif not engines:
        yield "engines", "none; run seqpar export engine on the target GPU to build them"
    else:
        for folder, engine in engines.items():
            yield "engines", f"{folder}: {'fits' if engine['fits'] else engine['reason']}"
    yield "tuning", _tuning(facts["tuning"], facts["path"])
    yield from _verified(facts["verified"])
    if facts["calibration"] is None:
        yield "calibration", f"none; run seqpar calibrate {facts['path']} --data DATA"


def _calibrated(facts: Mapping[str, Any]) -> Lines:
    found = facts["calibration"]
    if not found["fits"]:
        yield "fits", f"no: {found['reason']}; run seqpar calibrate"
        return
    yield "fits", "yes"
    data, attributes = found["data"], found["attributes"]
    people = f"{data['people']} people in {data['groups']} groups, sha256 {data['sha256'][:12]}.."
    yield "data", f"{printable(data['name'])}, {printable(data['split'])}: {people}"
    if held_out := _held_out(found["report"]):
        yield "held out", held_out
    shared = [name for name, one in attributes.items() if one["map"] == "shared"]
    yield "maps", f"{len(attributes) - len(shared)} of their own; shared by {', '.join(shared) or 'none'}"
    chosen = {name: value for name, value in found["rule"].items() if isinstance(value, (str, int, float))}
    yield "rule", ", ".join(f"{name} {value}" for name, value in chosen.items())
    limits = {name: _threshold(Limits(yes=one["yes"], no=one["no"])) for name, one in attributes.items()}
    if len(set(limits.values())) == 1:
        yield "thresholds", f"{next(iter(limits.values()))} for every attribute"
        return
    for group, names in facts["label_set"]["groups"].items():
        yield f"  {group}", ", ".join(f"{name} {limits[name]}" for name in names)


def _threshold(limits: Limits) -> str:
    """Return thresholds in short: one number if every state is decided, else `no/yes`."""
    yes, no = ("never" if value is None else f"{value:.3g}" for value in (limits.yes, limits.no))
    return yes if limits.yes is not None and limits.yes == limits.no else f"no<{no} yes>={yes}"


def _held_out(report: Any) -> str | None:
    """Return the scores of a report, or None if it has none: people may edit the file."""
    try:
        before, after = report["uncalibrated"], report["calibrated"]
        return ", ".join(
            f"{title} {after[name]['value']:.3f} ({before[name]['value']:.3f} without)"
            for name, title in (("ece", "ECE"), ("nll", "negative log-likelihood"))
        )
    except (KeyError, TypeError, ValueError):
        return None


def _verified(verified: Mapping[str, Any] | None) -> Lines:
    """Lines of the checks of NVIDIA backends against the golden sequences."""
    if verified is None:
        yield "verified", "no NVIDIA backend checked yet"
    elif "error" in verified:
        yield "verified", verified["error"]
    else:
        for result in verified["results"]:
            subject, failure = result["subject"], result["failure"]
            place = f"{subject['backend']} {subject['version']}, {subject['gpu']}, driver {subject['driver']}"
            yield "verified", f"{place}: {failure or 'reproduces the golden sequences'}"


def _tuning(tuning: Mapping[str, Any] | None, path: str) -> str:
    if tuning is None:
        return f"none; run seqpar tune {path} to find the fastest way to run it here"
    if "error" in tuning:
        return str(tuning["error"])
    choice = ", ".join(f"{name} {value}" for name, value in tuning.get("choice", {}).items() if value is not None)
    if tuning.get("fits"):
        return f"fits: {choice}"
    made_for = f"{tuning.get('processor', 'unknown')}, {tuning.get('cores', 'unknown')} cores"
    return f"{'does not fit' if 'fits' in tuning else 'cannot be checked'}; made for {made_for}: {choice}"
