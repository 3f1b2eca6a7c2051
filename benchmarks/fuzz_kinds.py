"""The kinds of input, the share of each, and the command that reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import fuzz_mutate as mutate
from fuzz_media import mutate_boxes, mutate_png
from fuzz_runner import Case, new_case
from fuzz_seeds import LABEL_SET

_GRAPHS = ("encoder.onnx", "decoder_step.onnx")
_FITTING = 0.9  # share of changed bundles whose manifest has the new hashes: with others, the hash ends the test
_EXPORT = 6.0  # times the limit: an export takes 9 s on an idle processor, anything else less than 1 s
_EVENTS = "events.jsonl"
_KEPT = frozenset({_EVENTS, "people.html", "drawn.mp4"})  # a run that fails keeps the people seen before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """The command that reads an input, with paths from CASE/a/b, and the outputs that it may leave."""

    arguments: list[str]
    about: str
    kept: frozenset[str] = frozenset()
    patience: float = 1.0
    target: Callable[[], object] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Folders that a kind reads and writes when it makes an input."""

    seeds: Path
    inputs: Path

    def copy(self, *names: str) -> Path:
        """Copy seeds into the input's folder and return the last."""
        for name in names:
            source, copy = self.seeds / name, self.inputs / Path(name).name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        return copy


def make_case(kind: str, index: int, *, seed: int, seeds: Path, folder: Path) -> Case:
    """Make the input number `index` of a kind. The same numbers make the same input."""
    rng = random.Random(f"{seed}/{kind}/{index}")
    made = KINDS[kind].make(rng, Place(seeds=seeds, inputs=new_case(folder)))
    return Case(
        folder=folder,
        arguments=[*made.arguments, "--quiet"],
        about=made.about,
        kept=made.kept,
        patience=made.patience,
        target=made.target,
    )


def _pick(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))


def _predict(rng: random.Random, picture: str, bundle: str) -> list[str]:
    backend = rng.choice(("onnxruntime", "onnxruntime", "openvino", "auto"))
    return ["predict", picture, "--bundle", bundle, "--backend", backend]


# Checkpoints


def _checkpoint(rng: random.Random, place: Place) -> Made:
    seed = _pick(rng, place.seeds / "checkpoints")
    data, about = seed.read_bytes(), seed.name
    canary = place.inputs.parents[2] / "canary"
    kind = rng.choice(("format", "format", "format", "bytes", "pickle", "other"))
    if kind == "pickle":
        about, data = _hostile(rng, str(canary), seed.read_bytes() if seed.suffix == ".pth" else None)
    elif kind == "other":
        about, data = _no_checkpoint(rng)
    elif kind == "bytes" or seed.name == "older.pth":
        data = mutate.mutate_bytes(rng, data, within=rng.choice((None, 200, 20_000)))
    elif seed.suffix == ".safetensors":
        data = mutate.mutate_safetensors(rng, data)
    else:
        data = mutate.mutate_zip(rng, data)
    suffix = seed.suffix if kind in ("format", "bytes") else rng.choice((".pth", ".pt", ".safetensors", ".ckpt"))
    (place.inputs / f"model{suffix}").write_bytes(data)
    place.copy("tables/people.csv", *(f"tables/{number}.png" for number in range(3)))
    file = f"in/model{suffix}"
    known = [] if seed.suffix == ".safetensors" else ["--label-set", LABEL_SET, "--decoder-heads", "4"]
    if rng.random() < 0.04:  # 9 s if it succeeds
        arguments = ["export", "checkpoint", file, "--out", "out/bundle", *known]
        return Made(arguments=arguments, about=f"{about} {kind}", patience=_EXPORT)
    return Made(arguments=["eval", file, "--data", "in/people.csv", *known], about=f"{about} {kind}")


class _Call:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._made = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._made


def _hostile(rng: random.Random, canary: str, archive: bytes | None) -> tuple[str, bytes]:
    """Return a pickle that writes the canary, or exhausts its reader, alone or in a checkpoint's ZIP."""
    import os

    write = f"open({canary!r}, 'w')"
    deep = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    laughs = b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(30)) + b"."
    named = (
        *("posix system", "os popen", "builtins exec", "builtins eval", "sys exit", "torch.hub load", "torch.jit load"),
        *("torch.storage _load_from_bytes", "torch._utils _rebuild_tensor_v2", "torch.serialization load"),
        *("numpy.core.multiarray _reconstruct", "collections OrderedDict", "torch FloatStorage", "no.such thing"),
    )
    name = rng.choice(named).replace(" ", "\n").encode()
    text = write.encode()
    pickles: dict[str, bytes] = {
        "call": pickle.dumps({"model_state_dict": _Call(exec, write)}, protocol=rng.choice((0, 2, 4))),
        "system": pickle.dumps([_Call(os.system, f"touch {canary}")], protocol=2),
        "named": b"\x80\x02c" + name + b"\nX" + struct.pack("<I", len(text)) + text + b"\x85R.",
        "deep": deep,
        "laughs": laughs,
        "long": b"\x80\x04\x8d" + struct.pack("<Q", rng.choice((2**31, 2**62))) + b"abc.",
        "memory": b"\x80\x04" + b"\x96" + struct.pack("<Q", rng.choice((2**33, 2**62))) + b".",
        "memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "plain": pickle.dumps({"model_state_dict": {"a": 1}, "b": [None, ()]}, protocol=2),
    }
    about = rng.choice(list(pickles))
    data = pickles[about]
    if archive is not None and rng.random() < 0.5:
        import io
        import zipfile

        out = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
                for info in old.infolist():
                    new.writestr(info, data if info.filename.endswith("data.pkl") else old.read(info))
        except zipfile.BadZipFile:
            return about, data
        return f"{about} in a ZIP", out.getvalue()
    return about, data


def _no_checkpoint(rng: random.Random) -> tuple[str, bytes]:
    others = {
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "web page": b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>\n",
        "JSON": b'{"error": "not found"}',
        "empty": b"",
        "zeros": bytes(rng.choice((1, 1000, 1_000_000))),
        "gzip": b"\x1f\x8b\x08\x00" + rng.randbytes(100),
        "tar": b"model.bin".ljust(257, b"\0") + b"ustar\0" + bytes(249),
        "HDF5": b"\x89HDF\r\n\x1a\n" + rng.randbytes(100),
        "random": rng.randbytes(1000),
    }
    about = rng.choice(list(others))
    return about, others[about]


# Bundles


def _bundle(rng: random.Random, place: Place) -> Made:
    bundle = place.copy("pictures/rgb.png", "bundle/whole")
    parts: dict[str, mutate.Mutation] = {
        "manifest.json": mutate.mutate_json,
        "encoder.onnx": mutate.mutate_protobuf,
        "decoder_step.onnx": mutate.mutate_protobuf,
        "encoder.onnx.data": mutate.mutate_bytes,
        "golden.npz": mutate.mutate_zip,
        "tuned.json": mutate.mutate_json,
        "verified.json": mutate.mutate_json,
        "calibration.json": mutate.mutate_json,
    }
    part = rng.choices(list(parts), (6, 4, 4, 1, 3, 3, 1, 1))[0]
    how = parts[part] if rng.random() < 0.85 else rng.choice((mutate.mutate_bytes, mutate.mutate_lines))
    file = bundle / part
    file.write_bytes(how(rng, file.read_bytes()))
    fits = part in (*_GRAPHS, "encoder.onnx.data", "golden.npz") and rng.random() < _FITTING
    if fits:
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        content = file.read_bytes()
        manifest["files"][part] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
    about = f"{part} {how.__name__}{' with its hash' if fits else ''}"
    if part == "golden.npz":
        return Made(arguments=["parity", "in/whole", "--backend", "onnxruntime"], about=about)
    if part.endswith(".json") and part != "tuned.json" and rng.random() < 0.5:
        return Made(arguments=["info", "in/whole"], about=about)
    arguments = _predict(rng, "in/rgb.png", "in/whole")
    return Made(arguments=arguments[:-2] if part == "tuned.json" else arguments, about=about)


# Pictures, videos and detectors


def _picture(rng: random.Random, place: Place) -> Made:
    seed = _pick(rng, place.seeds / "pictures")
    data = seed.read_bytes()
    if seed.suffix == ".png" and rng.random() < 0.7:
        data, how = mutate_png(rng, data), "chunks"
    else:
        within = rng.choice((32, 128, 512, None))
        data, how = mutate.mutate_bytes(rng, data, within=within), f"bytes up to {within}"
    suffix = seed.suffix if rng.random() < 0.8 else rng.choice((".jpg", ".png", ".tif"))
    (place.inputs / f"person{suffix}").write_bytes(data)
    bundle = str(place.seeds / "bundle" / "whole")
    return Made(arguments=_predict(rng, f"in/person{suffix}", bundle), about=f"{seed.name} {how}")


def _watch(rng: random.Random, place: Place, source: str, *more: str) -> list[str]:
    backend = rng.choice(("onnxruntime", "onnxruntime", "onnxruntime", "openvino"))
    arguments = ["video", source, "--bundle", str(place.seeds / "bundle" / "whole"), "--backend", backend]
    return [*arguments, "--events", f"out/{_EVENTS}", *more]


def _video(rng: random.Random, place: Place) -> Made:
    seed = _pick(rng, place.seeds / "videos")
    data = seed.read_bytes()
    if seed.suffix in (".mp4", ".mov") and rng.random() < 0.6:
        data, how = mutate_boxes(rng, data), "boxes"
    elif seed.name.startswith("list"):
        data, how = mutate.mutate_lines(rng, data), "lines"
    else:
        within = rng.choice((64, 512, 4096, None))
        data, how = mutate.mutate_bytes(rng, data, within=within), f"bytes up to {within}"
    suffix = seed.suffix if rng.random() < 0.85 else rng.choice((".mp4", ".avi", ".mkv"))
    (place.inputs / f"clip{suffix}").write_bytes(data)
    more = rng.choices(([], ["--report", "out/people.html"], ["--annotate", "out/drawn.mp4"]), (8, 1, 1))[0]
    # A playlist without an end is a live stream, which is awaited for ever.
    arguments = _watch(rng, place, f"in/clip{suffix}", "--recorded", *more)
    return Made(arguments=arguments, about=f"{seed.name} {how}", kept=_KEPT)


def _detector(rng: random.Random, place: Place) -> Made:
    seed = _pick(rng, place.seeds / "detectors")
    how = mutate.mutate_bytes if rng.random() < 0.15 else mutate.mutate_protobuf
    (place.inputs / "detector.onnx").write_bytes(how(rng, seed.read_bytes()))
    place.copy("videos/h264.mp4")
    arguments = _watch(rng, place, "in/h264.mp4", "--detector", "in/detector.onnx")
    return Made(arguments=arguments, about=f"{seed.name} {how.__name__}", kept=_KEPT)


# Tables, logs and settings


def _table(rng: random.Random, place: Place) -> Made:
    shutil.copytree(place.seeds / "tables", place.inputs / "tables")
    changes: dict[str, mutate.Mutation] = {
        "people.csv": mutate.mutate_cells,
        "people.jsonl": lambda rng, data: mutate.mutate_lines(rng, data, mutate.mutate_json),
        "published/annotation.mat": mutate.mutate_bytes,
    }
    name = rng.choices(list(changes), (4, 4, 2))[0]
    how = mutate.mutate_bytes if rng.random() < 0.15 else changes[name]
    file = place.inputs / "tables" / name
    file.write_bytes(how(rng, file.read_bytes()))
    data = "in/tables/published" if name.endswith(".mat") else f"in/tables/{name}"
    bundle = str(place.seeds / "bundle" / "whole")
    return Made(arguments=["eval", bundle, "--data", data, "--backend", "onnxruntime"], about=name)


def _log(rng: random.Random, place: Place) -> Made:
    name = rng.choices(("boxes.jsonl", "stamped.jsonl", "sequences.jsonl", "measured.json"), (3, 2, 2, 2))[0]
    file = place.copy("videos/h264.mp4", f"logs/{name}")

    def how(rng: random.Random, data: bytes) -> bytes:
        return mutate.mutate_lines(rng, data, rng.choice((mutate.mutate_json, mutate.mutate_json, mutate.mutate_bytes)))

    change = mutate.mutate_json if name == "measured.json" and rng.random() < 0.8 else how
    file.write_bytes(change(rng, file.read_bytes()))
    if name == "measured.json":
        other = place.seeds / "logs" / name
        both = [f"in/{name}", str(other)] if rng.random() < 0.5 else [str(other), f"in/{name}"]
        return Made(arguments=["bench", "compare", *both], about=name)
    if name == "sequences.jsonl":
        shutil.copytree(place.seeds / "tables", place.inputs / "tables")
        bundle = str(place.seeds / "bundle" / "whole")
        data = ["--data", "in/tables/people.csv", "--backend", "onnxruntime"]
        return Made(arguments=["eval", bundle, *data, "--against", f"in/{name}"], about=name)
    arguments = _watch(rng, place, "in/h264.mp4", "--detector", f"in/{name}")
    return Made(arguments=arguments, about=name, kept=_KEPT)


def _setting(rng: random.Random, place: Place) -> Made:
    name = rng.choices(("labels.toml", "export.toml", "export8.toml", "train.toml", "train2.toml"), (5, 2, 1, 2, 2))[0]
    file = place.copy(f"settings/{name}")
    how = mutate.mutate_toml if rng.random() < 0.9 else mutate.mutate_bytes
    file.write_bytes(how(rng, file.read_bytes()))
    if name == "labels.toml":
        shutil.copytree(place.seeds / "tables", place.inputs / "tables")
        checkpoint = str(place.seeds / "checkpoints" / "published.pth")
        known = ["--label-set", f"in/{name}", "--decoder-heads", "4"]
        return Made(arguments=["eval", checkpoint, *known, "--data", "in/tables/people.csv"], about=name)
    if name.startswith("export"):
        checkpoint = str(place.seeds / "checkpoints" / "own.safetensors")
        arguments = ["export", "checkpoint", checkpoint, "--recipe", f"in/{name}", "--out", "out/bundle"]
        return Made(arguments=arguments, about=name, patience=_EXPORT)
    # A recipe of a million epochs is a sound one, so that it is read here, and not run.
    return Made(arguments=[], about=name, target=lambda: _read_training_recipe(f"in/{name}"))


def _read_training_recipe(path: str) -> None:
    import sys

    from seqpar_deploy.errors import SeqparError
    from seqpar_deploy.training.recipe import load_training_recipe

    try:
        load_training_recipe(path)
    except SeqparError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of input: its share of all, in parts of 2,000, and the function that makes one."""

    share: int
    make: Callable[[random.Random, Place], Made]


KINDS = {
    "checkpoints": Kind(share=350, make=_checkpoint),
    "bundles": Kind(share=350, make=_bundle),
    "pictures": Kind(share=350, make=_picture),
    "videos": Kind(share=300, make=_video),
    "detectors": Kind(share=250, make=_detector),
    "tables": Kind(share=150, make=_table),
    "logs": Kind(share=150, make=_log),
    "settings": Kind(share=100, make=_setting),
}
