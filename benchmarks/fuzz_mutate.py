"""Mutations of files: of their bytes, and of the structure of each format, with checksums that fit again."""

from __future__ import annotations

import io
import json
import random
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
)
_DEEP = 3000  # levels of nesting: beyond the recursion limit of Python and of msgspec


def mutate_bytes(rng: random.Random, data: bytes, *, within: int | None = None) -> bytes:
    """Change 1 to 4 places, in the first `within` bytes. Default: anywhere."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        content = _change_bytes(rng, content, min(within or len(content), len(content)))
    return bytes(content)


def _change_bytes(rng: random.Random, content: bytearray, end: int) -> bytearray:
    if not end:
        return bytearray(rng.randbytes(8))
    at = rng.randrange(end)
    size = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(content) - at)
    kind = rng.choice(("flip", "byte", "integer", "integer", "cut", "delete", "double", "insert", "zero", "move"))
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[at] = rng.randrange(256)
    elif kind == "integer":
        width = rng.choice((1, 2, 4, 8))
        value = (rng.choice(INTEGERS) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
        content[at : at + width] = value
    elif kind == "cut":
        del content[at:]
    elif kind == "delete":
        del content[at : at + size]
    elif kind == "double":
        content[at:at] = content[at : at + size]
    elif kind == "insert":
        content[at:at] = rng.randbytes(size)
    elif kind == "zero":
        content[at : at + size] = bytes(size)
    else:
        other = rng.randrange(len(content))
        content[at : at + size] = content[other : other + size]
    return content


# Texts: JSON, JSON Lines, TOML, CSV


def nasty_json(rng: random.Random) -> str:
    """Return a JSON text that readers of numbers, lists and names may not expect."""
    return rng.choice(
        (
            *("null", "true", "-1", "0", "1.5", "NaN", "Infinity", "-Infinity", "1e999", "-0.0", "1e-320"),
            *("2147483648", "9223372036854775808", "9" * 400, "9" * 5000, "[]", "{}", "[null]", '[[1, 2], "a"]'),
            *(
                '""',
                '" "',
                '"../../../etc/passwd"',
                '"/etc/passwd"',
                r'"\ud800"',
                r'"\u0000"',
                r'"\u001b[31m"',
                r'"a\nb"',
            ),
            *(f'"{"x" * 100_000}"', "[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP, '{"a": 1, "a": 2}'),
        )
    )


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Replace, remove, rename or repeat 1 to 3 values or keys of a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # a line that was changed before
        return mutate_bytes(rng, data)
    marks: dict[str, str] = {}
    for number in range(rng.choice((1, 1, 1, 2, 3))):
        mark = f"@{number}@"
        marks[json.dumps(mark)] = nasty_json(rng)
        value = _change_value(rng, value, mark)
    text = json.dumps(value, indent=rng.choice((None, 2)))
    for mark, nasty in marks.items():
        text = text.replace(mark, nasty)
    return text.encode("utf-8", "surrogatepass")


def _change_value(rng: random.Random, value: Any, mark: str) -> Any:
    """Walk down at random, and change what is there. `mark` stands for a text that is not valid JSON."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        changed = value.copy()
        kind = rng.choices(("inside", "remove", "rename", "repeat", "swap"), (14, 2, 1, 1, 1))[0]
        if kind == "remove":
            del changed[key]
        elif kind == "rename" and isinstance(value, dict):
            changed[rng.choice((f"{key}2", "", str(key).upper(), "__class__"))] = changed.pop(key)
        elif kind == "repeat" and isinstance(value, list):
            changed.insert(key, value[key])
        elif kind == "swap":
            other = rng.choice(keys)
            changed[key], changed[other] = value[other], value[key]
        else:
            changed[key] = _change_value(rng, value[key], mark)
        return changed
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((*INTEGERS, value + 1, value - 1, -value, float(value), str(value)))
    return mark


def mutate_lines(rng: random.Random, data: bytes, change: Mutation = mutate_bytes) -> bytes:
    """Remove, repeat or move lines of a text, or change one."""
    lines = data.splitlines(keepends=True) or [b""]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        kind = rng.choice(("change", "change", "change", "remove", "repeat", "move", "join"))
        if kind == "change":
            lines[at] = change(rng, lines[at].rstrip(b"\r\n")) + b"\n"
        elif kind == "remove" and len(lines) > 1:
            del lines[at]
        elif kind == "repeat":
            lines[at:at] = [lines[at]] * rng.choice((1, 2, 200))
        elif kind == "move":
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        else:
            lines[at] = lines[at].rstrip(b"\n")
    return _change_text(rng, b"".join(lines)) if rng.random() < 0.1 else b"".join(lines)


def _change_text(rng: random.Random, data: bytes) -> bytes:
    """Save a text as other programs do: another encoding, a byte-order mark, other ends of lines, NUL."""
    text = data.decode("utf-8", "replace")
    encoded = (text.encode("utf-16"), text.encode("utf-8-sig"), text.replace("\n", "\r").encode(), b"\xff" + data)
    return rng.choice((*encoded, data + b"\0", data.replace(b",", b";"), data.replace(b"\n", b"\r\n"), b""))


def mutate_cells(rng: random.Random, data: bytes) -> bytes:
    """Change cells, the header or the quotes of a CSV."""
    lines = [line.split(b",") for line in data.splitlines()] or [[b""]]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice((lines[0], rng.choice(lines)))
        at = rng.randrange(len(row)) if row else 0
        nasty = rng.choice((b"", b" ", b'"', b'""', b"'", b"1.0", b"nan", b"-1", b"1e400", b"../../../etc/passwd"))
        cell = rng.choice((nasty, nasty, nasty_json(rng).encode(), b'"a\nb"', b"\0", b"\xff\xfe", b"=1+1"))
        kind = rng.choice(("cell", "cell", "cell", "add", "remove", "repeat"))
        if kind == "cell" and row:
            row[at] = cell
        elif kind == "add":
            row.insert(at, cell)
        elif kind == "remove" and row:
            del row[at]
        else:
            lines.insert(rng.randrange(len(lines) + 1), list(row))
    text = b"\n".join(b",".join(row) for row in lines) + b"\n"
    return _change_text(rng, text) if rng.random() < 0.15 else text


_TOML_VALUE = re.compile(rb"=\s*([^\n]*)")


def mutate_toml(rng: random.Random, data: bytes) -> bytes:
    """Replace values of a TOML text, or change its lines."""
    if rng.random() < 0.3:
        return mutate_lines(rng, data)
    for _ in range(rng.choice((1, 1, 2))):
        found = rng.choice(list(_TOML_VALUE.finditer(data)) or [None])
        if found is None:
            return mutate_bytes(rng, data)
        nasty = rng.choice(
            ("nan", "inf", "2026-01-01", "1e999", "{a = 1}", "0x7fffffffffffffff", "''", nasty_json(rng))
        )
        data = data[: found.start(1)] + nasty.encode() + data[found.end(1) :]
    return data


# Binary formats


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """Change, drop, rename, repeat or inflate members of a ZIP (checkpoints, NumPy archives), or its own bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError):
        return mutate_bytes(rng, data)
    kind = rng.choice(("content", "content", "content", "drop", "rename", "repeat", "inflate", "deflate", "raw"))
    at = rng.randrange(len(members))
    name, content = members[at]
    if kind == "raw":
        return mutate_bytes(rng, data)
    if kind == "content":
        members[at] = (name, mutate_bytes(rng, content, within=rng.choice((None, 128))))
    elif kind == "drop":
        del members[at]
    elif kind == "rename":
        members[at] = (rng.choice(("../../x", "/tmp/x", name.upper(), "", name + "\0", "a" * 5000)), content)
    elif kind == "repeat":
        members.insert(at, (name, mutate_bytes(rng, content)))
    elif kind == "inflate":
        members[at] = (name, content + bytes(rng.choice((1, 2**16, 2**26))))
    method = zipfile.ZIP_DEFLATED if kind in ("deflate", "inflate") else zipfile.ZIP_STORED
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that repeat
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return written.getvalue()


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header, the metadata that is JSON within JSON, or the bytes of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    kind = rng.choice(("header", "header", "metadata", "metadata", "metadata", "length", "tensors", "raw"))
    if kind == "raw":
        return mutate_bytes(rng, data, within=rng.choice((None, length)))
    if kind == "length":
        return (rng.choice((*INTEGERS, length - 1, length + 1)) % 2**64).to_bytes(8, "little") + data[8:]
    if kind == "tensors":
        return data[: 8 + length] + mutate_bytes(rng, tensors)
    if kind == "header":
        header = mutate_json(rng, header)
    else:
        values = json.loads(header)
        stored = values.get("__metadata__") or {"seqpar": "{}"}
        key = rng.choice(list(stored))
        stored[key] = mutate_json(rng, stored[key].encode()).decode("utf-8", "replace")
        header = json.dumps({**values, "__metadata__": stored}).encode()
    return len(header).to_bytes(8, "little") + header + tensors


Field = tuple[int, int, Any]  # number, wire type, and an int, bytes, or a list of fields


def _varint(value: int) -> bytes:
    out = bytearray()
    value %= 1 << 64
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError


def _parse_message(data: bytes) -> list[Field] | None:
    """Return the fields of a protobuf message, None if the bytes are not one."""
    fields: list[Field] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _read_varint(data, at)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 64 or wire not in (0, 1, 2, 5):
                return None
            if wire == 0:
                value, at = _read_varint(data, at)
                fields.append((number, wire, value))
                continue
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, at = _read_varint(data, at)
            if at + size > len(data):
                return None
            fields.append((number, wire, data[at : at + size]))
            at += size
    except (IndexError, ValueError):
        return None
    return fields


def _write_message(fields: list[Field]) -> bytes:
    out = []
    for number, wire, value in fields:
        out.append(_varint(number << 3 | wire))
        out.append(_varint(value) if wire == 0 else _varint(len(value)) + value if wire == 2 else value)
    return b"".join(out)


def mutate_protobuf(rng: random.Random, data: bytes) -> bytes:
    """Change 1 or 2 fields of a protobuf file, for example ONNX, at any depth. The lengths around them fit again."""
    for _ in range(rng.choice((1, 1, 2))):
        data = _change_message(rng, data)
    return data


def _change_message(rng: random.Random, data: bytes) -> bytes:
    fields = _parse_message(data)
    if not fields:
        nasty = (b"", b"../../../etc/passwd", b"/etc/passwd", b"\xff\xfe", b"x" * 100_000, b"a\nb", b"Loop", b"If")
        return rng.choice((*nasty, nasty_json(rng).encode(), mutate_bytes(rng, data), mutate_bytes(rng, data)))
    at = rng.randrange(len(fields))
    number, wire, value = fields[at]
    kind = rng.choices(("inside", "remove", "repeat", "number", "swap"), (16, 2, 1, 1, 1))[0]
    if kind == "remove":
        del fields[at]
    elif kind == "repeat":
        fields.insert(at, fields[at])
    elif kind == "number":
        fields[at] = (rng.randint(1, 30), wire, value)
    elif kind == "swap":
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif wire == 0:
        fields[at] = (number, wire, rng.choice((*INTEGERS, value + 1, value ^ 1, 10**9)))
    else:
        changed = _change_message(rng, value) if wire == 2 else rng.randbytes(len(value))
        fields[at] = (number, wire, changed)
    return _write_message(fields)
