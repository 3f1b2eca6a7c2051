"""The sound files that fuzzing begins with: small ones of every kind and format, made in seconds."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LABEL_SET = "pa100k"
SIDE = 96  # pixels of videos, as of the detectors in tests/
FRAMES = 10
_PEOPLE = 3
_PICTURES: dict[str, tuple[str, dict[str, Any]]] = {  # file: mode and options of Pillow
    "rgb.png": ("RGB", {}),
    "rgba.png": ("RGBA", {}),
    "palette.png": ("P", {"transparency": 0}),
    "deep.png": ("I;16", {}),
    "one.png": ("1", {}),
    "base.jpg": ("RGB", {"exif": True}),
    "progressive.jpg": ("RGB", {"progressive": True}),
    "cmyk.jpg": ("CMYK", {}),
    "raw.tif": ("RGB", {"exif": True}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "deflate.tif": ("L", {"compression": "tiff_deflate"}),
    "jpeg.tif": ("RGB", {"compression": "jpeg"}),
    "float.tif": ("F", {}),
    "fax.tif": ("1", {"compression": "group4"}),
    "lossy.webp": ("RGB", {"exif": True}),
    "lossless.webp": ("RGBA", {"lossless": True}),
    "photo.avif": ("RGB", {}),
    "rgb.bmp": ("RGB", {}),
    "palette.bmp": ("P", {}),
    "moving.gif": ("P", {"append": True}),
    "rgb.ppm": ("RGB", {}),
    "grey.pgm": ("L", {}),
    "photo.jp2": ("RGB", {}),
    "rgb.tga": ("RGB", {}),
    "page.eps": ("RGB", {}),
    "icon.ico": ("RGBA", {}),
    "icons.icns": ("RGBA", {}),
    "rgb.pcx": ("RGB", {}),
    "rgb.sgi": ("RGB", {}),
    "rgb.qoi": ("RGB", {}),
    "texture.dds": ("RGBA", {}),
    "old.im": ("RGB", {}),
    "bits.xbm": ("1", {}),
}
_VIDEOS = {  # file: codec, pixel format, and options
    "h264.mp4": ("libx264", "yuv420p", {}),
    "h264.mov": ("libx264", "yuv444p", {}),
    "fragments.mp4": ("libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": ("libx264", "yuv420p", {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "h264.flv": ("libx264", "yuv420p", {}),
    "plain.h264": ("libx264", "yuv420p", {}),
    "plain.mjpeg": ("mjpeg", "yuvj420p", {}),
    "moving.gif": ("gif", "rgb8", {}),
    "ffv1.mkv": ("ffv1", "yuv420p", {}),
}
# FFmpeg's text formats name other files and addresses.
_PLAYLISTS = {
    "list.ffconcat": "ffconcat version 1.0\nfile h264.mp4\nfile ../../../../../../etc/passwd\n"
    "file 'http://127.0.0.1:9/a'\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nmpeg2.ts\n#EXTINF:1.0,\nfile:///etc/passwd\n"
    "#EXT-X-ENDLIST\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><BaseURL>'
    "file:///etc/passwd</BaseURL></AdaptationSet></Period></MPD>\n",
}


def make_seeds(folder: Path) -> None:
    """Write all seeds into `folder`, which becomes complete at once."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for make in (_checkpoints, _bundle, _pictures, _videos, _detectors, _tables, _logs, _settings):
        (partial / make.__name__.strip("_")).mkdir()
        make(partial / make.__name__.strip("_"))
    partial.rename(folder)


def _checkpoints(folder: Path) -> None:
    """One in our form, and the published form as torch saves it: as a ZIP, and as the older plain pickle."""
    import safetensors.torch
    import torch

    from seqpar_deploy.modeling.architecture import Architecture
    from seqpar_deploy.modeling.checkpoint import save_checkpoint
    from seqpar_deploy.modeling.random_weights import random_model
    from seqpar_deploy.resources import load_label_set

    labels = load_label_set(LABEL_SET)
    architecture = Architecture(
        attributes=len(labels),
        embed_dim=48,
        vision={"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
        text={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        layers=1,
        heads=3,
        head_size=24,
        ffn=80,
    )
    save_checkpoint(folder / "own.safetensors", random_model(architecture, seed=3), labels, dtype=torch.float32)
    state = safetensors.torch.load_file(ROOT / "tests" / "data" / "golden" / f"{LABEL_SET}-a.checkpoint.safetensors")
    published = {"model_state_dict": state, "epoch": 7, "f1": np.float64(0.8), "ma": np.float32(0.8)}
    torch.save(published, folder / "published.pth")
    torch.save(published, folder / "older.pth", _use_new_zipfile_serialization=False)
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "prefixed.pth")


def _bundle(folder: Path) -> None:
    from seqpar_deploy.bundle import Bundle
    from seqpar_deploy.exporting.export import export_bundle
    from seqpar_deploy.exporting.recipe import load_recipe
    from seqpar_deploy.tuned import Tuned, save_tuned

    export_bundle(folder.parent / "checkpoints" / "own.safetensors", load_recipe("fp32"), folder / "whole")
    save_tuned(Bundle.open(folder / "whole"), Tuned(backend="onnxruntime", batch_size=4, threads=1))
    (folder / "whole" / "calibration.json").write_text('{"format": 1, "temperature": [1.0, 1.1]}')
    subject = {"backend": "tensorrt", "version": "10", "gpu": "x", "driver": "1"}
    verified = {"format": 1, "results": [{"subject": subject, "failure": None}]}
    (folder / "whole" / "verified.json").write_text(json.dumps(verified))


def _pictures(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 40, dtype=np.uint8)[:, None, None] + rng.integers(0, 50, (40, 24, 3), dtype=np.uint8)
    picture = Image.fromarray(ramp)
    for name, (mode, options) in _PICTURES.items():
        options = dict(options)
        if options.pop("exif", False):
            exif = Image.Exif()
            exif[0x0112], exif[0x010E] = 6, "a description"
            options["exif"] = exif
        if options.pop("append", False):
            options |= {"save_all": True, "append_images": [picture.rotate(90).convert(mode)]}
        changed = picture.convert("L").convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
        if name.endswith((".ico", ".icns")):
            changed = changed.resize((32, 32))
        changed.save(folder / name, **options)


def _videos(folder: Path) -> None:
    import av

    for name, (codec, pixels, options) in _VIDEOS.items():
        rate = 25 if codec == "mpeg2video" else 10
        with av.open(str(folder / name), "w", options=options) as clip:
            stream = clip.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixels
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = Fraction(1, rate)
            for number in range(FRAMES):
                image = np.full((SIDE, SIDE, 3), 40, np.uint8)
                image[20:80, 10 + 4 * number : 30 + 4 * number] = 255  # a person that walks
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, stream.codec_context.time_base
                clip.mux(stream.encode(frame.reformat(format=pixels)))
            clip.mux(stream.encode())
    for name, text in _PLAYLISTS.items():
        (folder / name).write_text(text)


def _detectors(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from video.detect.onnx_detectors import LAYOUTS, make
    finally:
        sys.path.pop(0)
    for name, (layout, kind) in LAYOUTS.items():
        make(folder / f"{name}.onnx", layout, kind)
    layout, kind = LAYOUTS["yolov8"]
    metadata = {"names": "{0: 'person', 1: 'bicycle', 2: 'car'}", "imgsz": "[96, 96]", "task": "detect", "stride": "32"}
    make(folder / "named.onnx", layout, kind, **metadata)


def _tables(folder: Path) -> None:
    """Labels of the same people as CSV, as JSON Lines, and as a published data set."""
    from PIL import Image
    from scipy.io import savemat

    from seqpar_deploy.resources import load_label_set

    names = [attribute.name for attribute in load_label_set(LABEL_SET).attributes]
    labels = np.random.default_rng(1).integers(0, 2, (_PEOPLE, len(names)))
    pictures = [f"{number}.png" for number in range(_PEOPLE)]
    published = folder / "published"
    (published / "data").mkdir(parents=True)
    for name in pictures:
        Image.new("RGB", (24, 40), (90, 40, 160)).save(folder / name)
        shutil.copy(folder / name, published / "data")
    with (folder / "people.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "group", "split", "left", "top", "right", "bottom", *names])
        for name, row in zip(pictures, labels.tolist(), strict=True):
            rows.writerow([name, "7", "test", 0, 0, 20, 40, *row])
    with (folder / "people.jsonl").open("w") as lines:
        for name, row in zip(pictures, labels.tolist(), strict=True):
            chosen = [attribute for attribute, label in zip(names, row, strict=True) if label]
            person = {"image": name, "attributes": chosen, "box": [0, 0, 20, 40], "group": "7", "split": "test"}
            lines.write(json.dumps(person) + "\n")

    def cells(values: list[str]) -> Any:
        column = np.empty((len(values), 1), object)
        column[:, 0] = values
        return column

    parts = {f"{part}_images_name": cells(pictures) for part in ("train", "val", "test")}
    parts |= {f"{part}_label": labels for part in ("train", "val", "test")}
    savemat(published / "annotation.mat", {"attributes": cells(names), **parts})


def _logs(folder: Path) -> None:
    """Files that other runs wrote: boxes, sequences and measurements."""
    boxes = [
        {"frame": number, "boxes": [[10 + 4 * number, 20, 30 + 4 * number, 80, 0.9], [60, 10, 90, 90]]}
        for number in range(FRAMES)
    ]
    stamped = [{"timestamp": line["frame"] / 10, "stream": "h264", "boxes": line["boxes"]} for line in boxes]
    people = [{"image": f"tables/{n}.png", "attributes": ["Female"], "tokens": [3, 7, 1]} for n in range(_PEOPLE)]
    for name, rows in {"boxes.jsonl": boxes, "stamped.jsonl": stamped, "sequences.jsonl": people}.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    variants = [{"name": name, "seconds": [1.0, 1.1, 1.2], "identical": True} for name in ("published", "openvino")]
    machine = {"processor": "x", "cores": 2, "memory_gb": 4.0, "packages": {"numpy": "2"}}
    result = {"variants": variants, "machine": machine, "bundle": {"digest": "0"}, "settings": {"crops": 4}}
    (folder / "measured.json").write_text(json.dumps(result, indent=2))


def _settings(folder: Path) -> None:
    shutil.copy(ROOT / "models" / f"{LABEL_SET}.toml", folder / "labels.toml")
    shutil.copy(ROOT / "export" / "fp32.toml", folder / "export.toml")
    shutil.copy(ROOT / "export" / "int8.toml", folder / "export8.toml")
    shutil.copy(ROOT / "train" / "demo.toml", folder / "train.toml")
    shutil.copy(ROOT / "train" / "published.toml", folder / "train2.toml")
