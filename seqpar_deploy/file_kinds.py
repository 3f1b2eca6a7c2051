"""Say in a few words which kind of file this is, if it is not the kind that a command expects.

Downloads go wrong in few ways: a Git LFS pointer, a login page, an error page, an archive that was not unpacked, a
file that was cut short. Each has its own fix. Only the first and last bytes and the names in an archive are read.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path

_HEAD = 4096  # bytes; a page's title stands in the first few hundred
_AGAIN = "download it again"
_CONVERT = "pass the PyTorch checkpoint that it was made from"

# Offset, bytes, kind, fix.
_SIGNATURES = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"GGUF", "a GGUF file", _CONVERT),
    (4, b"TFL3", "a TensorFlow Lite graph", _CONVERT),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"%PDF", "a PDF document", "check the path"),
    (0, b"\x89PNG", "a PNG picture", "check the path"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "check the path"),
    (0, b"GIF8", "a GIF picture", "check the path"),
    (8, b"WEBP", "a WebP picture", "check the path"),
    (4, b"ftyp", "a video or an AVIF picture", "check the path"),
    (0, b"\x7fELF", "a program or library", "check the path"),
    (0, b"MZ", "a Windows program or library", "check the path"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document", "check the path"),
    (0, b"SQLite format 3\x00", "an SQLite database", "check the path"),
)  # fmt: skip


def kind_of_file(path: Path) -> tuple[str, str] | None:
    """Return the kind of a file and the fix, for example ("a Git LFS pointer", "run git lfs pull").

    Args:
        path: An existing file or folder.

    Returns:
        Kind and fix. None if the file is of no kind that this function knows.

    Raises:
        OSError: The file cannot be read.
    """
    if path.is_dir():
        return "a folder", "pass the file in it"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not size:
        return "a damaged file of 0 bytes", _AGAIN
    if path.suffix.lower() in (".part", ".crdownload", ".partial", ".aria2", ".download", ".incomplete"):
        return "an unfinished download", _AGAIN
    if not any(head):
        return "a file of zeros, which was never filled", _AGAIN
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    for offset, signature, kind, fix in _SIGNATURES:
        if head[offset:].startswith(signature):
            return kind, fix
    return _kind_of_graph(path, head) or _kind_of_text(head, size)


def _kind_of_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        return "a damaged file, which ends too early", _AGAIN
    endings = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in endings:
        return "a TorchScript program", "pass the state dict that it was made from"
    if "data.pkl" in endings:
        return None  # PyTorch's own format
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays", _CONVERT
    if "[Content_Types].xml" in names:
        return "an Office document", "check the path"
    inside = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt"))]
    if inside:
        return f"a zip archive with {inside[0]!r} in it", "unpack it first"
    first = f" with {names[0]!r} in it" if names else ", and an empty one"
    return f"a zip archive{first}", "check the path"


def _kind_of_graph(path: Path, head: bytes) -> tuple[str, str] | None:
    """Recognise protocol buffers, which have no signature, by their first fields."""
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a", b"\x42") and 3 <= head[1] <= 30:
        return "an ONNX graph", _CONVERT
    if path.suffix == ".onnx":
        return "an ONNX graph", _CONVERT
    if path.suffix == ".pb" or (head[:3] == b"\x08\x01\x12" and b"\x0a" in head[3:16]):
        return "a TensorFlow graph", _CONVERT
    return None


def _kind_of_text(head: bytes, size: int) -> tuple[str, str] | None:
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if re.match(r"version https://(git-lfs|hawser)\.github\.com/spec/", text):
        return "a Git LFS pointer", "run git lfs pull"
    if re.match(r"(\.\./)*\.git/annex/objects/|/annex/objects/", text):
        return "a git-annex pointer", "run git annex get"
    if re.match(r"outs:\s*\n-\s+(md5|etag|hash|size|path):", text):
        return "a DVC pointer", "run dvc pull"
    lowered = text.lower()
    if lowered.startswith("<?xml") and "<html" not in lowered:
        code = re.search(r"<(?:Code|Message)>([^<]{1,80})<", text)
        return f"an XML page{f' ({code[1].strip()})' if code else ''}", f"{_AGAIN} from the page's own link"
    if lowered.startswith(("<!doctype html", "<html", "<head", "<body", "<script")) or "<html" in lowered[:1024]:
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({' '.join(title[1].split())!r})" if title else ""
        return f"a web page{named}", f"{_AGAIN} in a browser, or with the site's own tool"
    if text.startswith(("{", "[")) and _is_text(head):
        return f"a JSON text{_json_message(text, size)}", _AGAIN
    if _is_text(head):
        return f"a text file ({' '.join(text.split())[:40]!r})", "check the path"
    return None


def _json_message(text: str, size: int) -> str:
    try:
        values = json.loads(text) if size <= _HEAD else None
    except (ValueError, RecursionError):
        return ""
    message = values.get("message", values.get("error")) if isinstance(values, dict) else None
    return f" ({message[:80]!r})" if isinstance(message, str) else ""


def _is_text(head: bytes) -> bool:
    """Return whether the bytes are printable text: UTF-8, perhaps cut inside the last letter."""
    try:
        text = head[: len(head) - 3 if len(head) == _HEAD else None].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(letter.isprintable() or letter in "\t\r\n\f\x1b" for letter in text)


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive, also one from before 1988, without a signature."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, ValueError):
        return False
