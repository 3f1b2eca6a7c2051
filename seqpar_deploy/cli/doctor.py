"""`seqpar doctor`: the hardware of this machine, the backends that run on it, and packages to install."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqpar_deploy.backends.gpu.engine_files import RUNTIMES
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result
from seqpar_deploy.cli.layout import format_sections, size
from seqpar_deploy.cli.probes import examine
from seqpar_deploy.files import check_writable

_CPU_INSTALL = "pip install 'seqpar-deploy[openvino]'"
Lines = Iterator[tuple[str, str]]


def doctor(
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Show the backends this machine can run, and packages to install.

    Print processor, container limits and GPU, the backends that run here, the reason that others do not, and the
    installed packages. A check that fails is reported as a line. The exit code is always 0.

    Examples:
      seqpar doctor
      seqpar doctor --json
    """
    check_writable(output)
    report = examine()
    report["verdict"] = verdict(report)
    sections = {
        "Software": _software(report),
        "Machine": _machine(report),
        "GPU": _gpu(report),
        "Backends, in the order that auto tries them": _backends(report),
        "Packages": _packages(report),
    }
    text = f"{format_sections(sections)}\n\nVerdict: {report['verdict']['text']}"
    emit_result(report, text, as_json=as_json, output=output)


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backend that `auto` would take for a bundle without engines, and the way to a faster one."""
    if "error" in report["backends"]:
        return {"backend": None, "text": f"the backends could not be checked: {report['backends']['error']}"}
    backends = {status["name"]: status for status in report["backends"]}
    usable = [name for name, status in backends.items() if status["available"]]
    taken = next((name for name in usable if name not in RUNTIMES), None)
    engines = next((name for name in usable if name in RUNTIMES), None)
    faster = _faster(taken, engines, backends, report)
    if taken is not None:
        return {"backend": taken, "text": f"auto takes {taken} here; {faster}"}
    lacking = "no backend runs here without engines" if engines else "no backend runs here"
    return {"backend": None, "text": f"{lacking}; {faster}"}


def _faster(
    taken: str | None, engines: str | None, backends: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any]
) -> str:
    """Return the next step to a faster backend.

    Args:
        taken: The first usable backend that needs no engines.
        engines: The first usable backend that needs engines.
        backends: All backends by name.
        report: The whole report.
    """
    if engines is not None:
        return f"run seqpar export engine BUNDLE to build engines for {engines}, which auto then takes"
    gpu_backends = (*RUNTIMES, "onnxruntime-cuda")
    if _has_gpu(report) and taken not in gpu_backends:
        offers = {status["install"]: None for name, status in backends.items() if name in gpu_backends}
        return f"for the GPU: {' or '.join(filter(None, offers)) or 'fix the faults of the backends above'}"
    if taken is None:
        return _CPU_INSTALL
    if taken == "onnxruntime" and not backends["openvino"]["available"]:
        return f"openvino may be faster: {backends['openvino']['install'] or _CPU_INSTALL}"
    reduced = [name for name in backends[taken]["compute_precisions"] if name != "native"]
    if reduced:
        return f"run seqpar tune BUNDLE to measure whether {' or '.join(reduced)} is faster"
    return "run seqpar tune BUNDLE to find the fastest settings"


def _has_gpu(report: Mapping[str, Any]) -> bool:
    return bool(report["gpu"].get("devices") or report["gpu"].get("jetson") or "name" in report["cuda"])


def _software(report: Mapping[str, Any]) -> Lines:
    package = report["package"]
    if "error" in package:
        yield "package", _unknown(package)
        return
    yield "seqpar-deploy", f"{package['version']} in {package['path']}"
    yield "Python", package["python"]
    yield "system", package["system"]


def _machine(report: Mapping[str, Any]) -> Lines:
    processor, cores, memory = (report[name] for name in ("processor", "cores", "memory"))
    if "error" in processor:
        yield "processor", _unknown(processor)
    else:
        yield "processor", f"{processor['name']}, {processor['architecture']}"
        features = processor["features"]
        has, lacks = ([name for name, value in features.items() if value is present] for present in (True, False))
        text = f"{', '.join(has)} (no {', '.join(lacks)})" if lacks else ", ".join(has)
        yield "features", text if features else "not listed by the system"
    if "error" in cores:
        yield "cores", _unknown(cores)
    else:
        quota = cores["cpu_quota"]
        limited = "no CPU quota" if quota is None else f"CPU quota of {quota:g}"
        yield "cores", f"{cores['usable']} usable: {cores['affinity']} of {cores['online']} by affinity, {limited}"
    if "error" in memory:
        yield "memory", _unknown(memory)
    else:
        limit = memory["limit_bytes"]
        limited = "no container limit" if limit is None else f"container limit (memory.max) {size(limit)}"
        yield "memory", f"{size(memory['total_bytes']) if memory['total_bytes'] else 'unknown'}, {limited}"


def _gpu(report: Mapping[str, Any]) -> Lines:
    gpu, cuda = report["gpu"], report["cuda"]
    if "error" in gpu:
        yield "NVIDIA", _unknown(gpu)
    else:
        for device in gpu["devices"]:
            memory = f", {device['memory_mib']} MiB" if device["memory_mib"] else ""
            capability = f", compute capability {device['compute_capability']}" if device["compute_capability"] else ""
            yield "NVIDIA", f"{device['name']}{memory}{capability}"
        if gpu["devices"]:
            yield "driver", f"{gpu['driver']}, CUDA up to {gpu['cuda'] or 'unknown'}"
        else:
            yield "NVIDIA", f"none found: {gpu['reason']}"
        if gpu["jetson"]:
            yield "Jetson", f"Linux for Tegra {gpu['jetson']}"
    if "error" in cuda:
        yield "CUDA", cuda["error"].removeprefix("BackendUnavailableError: ")
    else:
        version = f"{cuda['driver'] // 1000}.{cuda['driver'] % 1000 // 10}"
        yield "CUDA", f"usable: {cuda['name']}, compute capability {cuda['compute_capability']}, driver for {version}"


def _backends(report: Mapping[str, Any]) -> Lines:
    if "error" in report["backends"]:
        yield "backends", _unknown(report["backends"])
        return
    for status in report["backends"]:
        if status["available"]:
            devices, precisions = ", ".join(status["devices"]), ", ".join(status["compute_precisions"])
            needs = "; needs engines" if status["name"] in RUNTIMES else ""
            yield status["name"], f"yes: {status['version'].split('-')[0]} on {devices}; {precisions}{needs}"
        else:
            yield status["name"], f"no: {status['reason']}"
            if status["install"] and "pip install" not in status["reason"]:
                yield "", status["install"]


def _packages(report: Mapping[str, Any]) -> Lines:
    packages, ffmpeg, video = (report[name] for name in ("packages", "ffmpeg", "video"))
    if "error" in packages:
        yield "packages", _unknown(packages)
    else:
        for kind, versions in packages.items():
            yield kind, ", ".join(f"{name} {version}" for name, version in versions.items()) or "none"
        if {"onnxruntime", "onnxruntime-gpu"} <= packages["runtimes"].keys():
            yield "", "onnxruntime and onnxruntime-gpu exclude each other; run pip uninstall on one of them"
        if "torch" not in packages["workstation"]:
            yield "torch", "not installed; only export and train need it: pip install 'seqpar-deploy[export]'"
    if "error" in video:
        yield "PyAV, OpenCV", _unknown(video)
    else:
        for name, module in (("PyAV", "av"), ("OpenCV", "cv2")):
            if "error" in video[module]:
                why = video[module]["error"]
                lacking = "not installed" if why.startswith("ModuleNotFoundError") else why
                yield name, f"{lacking}; seqpar video needs it: pip install 'seqpar-deploy[video]'"
    yield "ffmpeg", _unknown(ffmpeg) if "error" in ffmpeg else ffmpeg["version"] or ffmpeg["reason"]


def _unknown(section: Mapping[str, str]) -> str:
    return f"unknown: {section['error']}"
