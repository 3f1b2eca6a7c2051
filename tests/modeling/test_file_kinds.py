"""What is no checkpoint is named for what it is, in our words, and nothing of it runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.modeling.checkpoint import load_checkpoint


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("run/best.pth", b"x")
    elif kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as made:
            made.addfile(tarfile.TarInfo("best.pth"))
    else:
        np.savez(file, weights=np.zeros(2))
    return file.getvalue()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


CASES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s9--00.pth\n", "git annex get"),
    "dvc": (b"outs:\n- md5: 00\n  path: x\n", "dvc pull"),
    "drive": (b"<!DOCTYPE html><html><head><title>Google Drive - Warning</title>", "web page.*Google Drive - Warning"),
    "login": (b"\n  <html lang=zh>\n<body>", "web page.*download"),
    "bucket": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML.*AccessDenied"),
    "github": (b'{"message": "Not Found", "status": "404"}', "JSON.*Not Found"),
    "plain": (b"404: Not Found", "404: Not Found"),
    "empty": (b"", "0 bytes"),
    "zeros": (bytes(9000), "zeros"),
    "gzip": (gzip.compress(b"x"), "gzip.*unpack"),
    "tar": (archive("tar"), "tar archive.*unpack"),
    "zip": (archive("zip"), r"zip.*run/best\.pth.*unpack"),
    "numpy": (archive("npz"), "NumPy"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x052.0", "ONNX"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
    "graph": (b"\x08\x01\x12\x80\x01\x0a\x30" + bytes(9), "TensorFlow"),
    "paper": (b"%PDF-1.5", "PDF"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(9), "PNG"),
    "noise": (bytes(range(128, 256)) * 9, "damaged"),
    "cut": (saved({"a": torch.zeros(999)})[:-90], "ends too early"),
    "list": (pickle.dumps([1, 2]), "pickle of a list"),
    "array": (pickle.dumps(np.zeros(3)), "pickle of a NumPy array"),
    "tuple": (pickle.dumps((1, {}), 2), "pickle of a tuple"),
    "class": (pickle.dumps(io.BytesIO()), r"_io\.BytesIO"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str, ending: str) -> None:
    content, named = CASES[name]
    path = tmp_path / f"f1_best.{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(path)
    message = str(refused.value)
    assert re.search(rf"f1_best\.{ending} .*{named}", message)
    assert "\n" not in message
    for theirs in ("weights_only", "safe_globals", "trust", "Unpickl"):
        assert theirs not in message


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_model_is_named_by_its_class(tmp_path: Path, protocol: int) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"whole model.*torch\.nn\.modules\.container\.Sequential.*state_dict"):
        load_checkpoint(tmp_path / "model.pth")


class Hostile:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._file}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_runs_whichever_way_it_was_pickled(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "was-here"
    path.write_bytes(pickle.dumps({"state_dict": Hostile(trace)}, protocol))
    with pytest.raises(CheckpointError, match=r"hostile\.pth"):
        load_checkpoint(path)
    torch.save({"model_ema": Hostile(trace)}, path, pickle_protocol=max(2, protocol))
    with pytest.raises(CheckpointError, match=r"system, which could run code"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        ("zero_to_fp32.py", r"DeepSpeed.*zero_to_fp32\.py"),
        (".metadata", "dcp_to_torch"),
        ("manifest.json", "bundle"),
        ("best.pth", r"best\.pth"),
        ("saved_model.pb", "TensorFlow"),
        ("notes", "check the path"),
    ],
)
def test_folders_are_named(tmp_path: Path, inside: str, named: str) -> None:
    (tmp_path / inside).write_text("x")
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(tmp_path)


def test_links_to_nowhere_and_devices(tmp_path: Path) -> None:
    (tmp_path / "blob.pth").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="link to nowhere"):
        load_checkpoint(tmp_path / "blob.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="pipe"):
        load_checkpoint(tmp_path / "pipe.pth")
