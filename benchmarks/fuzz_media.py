"""Mutations of pictures and videos, with checksums and lengths that fit again."""

from __future__ import annotations

import random
import re
import struct
import zlib

from fuzz_mutate import mutate_bytes


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Change chunks of a PNG, with checksums that fit."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    place = rng.randrange(len(chunks))
    name, content = chunks[place]
    kind = rng.choice(("content", "content", "size", "drop", "repeat", "name", "text", "pixels"))
    if kind == "content":
        chunks[place] = (name, mutate_bytes(rng, content))
    elif kind == "size":  # the header comes first
        sides = struct.pack(">II", *(rng.choice((0, 1, 64, 9000, 65535, 2**31 - 1, 2**32 - 1)) for _ in range(2)))
        chunks[0] = (b"IHDR", sides + chunks[0][1][8:])
    elif kind == "drop":
        del chunks[place]
    elif kind == "repeat":
        chunks.insert(place, chunks[place])
    elif kind == "name":
        chunks[place] = (rng.choice((b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"acTL", b"fdAT", b"zTXt", b"IDAT")), content)
    elif kind == "text":
        chunks.insert(1, (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26), 9)))  # 64 MB of text
    else:
        chunks[-2:-1] = [(b"IDAT", zlib.compress(rng.randbytes(rng.choice((0, 10, 10_000)))))]
    out = [data[:8]]
    for name, content in chunks:
        out += [struct.pack(">I", len(content)), name, content, struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(out)


def mutate_boxes(rng: random.Random, data: bytes) -> bytes:
    """Change a box of an MP4 or MOV: its content, name, size or place."""
    starts = [found.start() - 4 for found in re.finditer(rb"ftyp|moov|mvhd|trak|tkhd|mdhd|hdlr|stsd|avc1|st[tscz][scz]|"
                                                        rb"stco|stss|mdat|elst|avcC|pasp|colr", data)]  # fmt: skip
    at = rng.choice([start for start in starts if start >= 0] or [0])
    size = max(8, int.from_bytes(data[at : at + 4], "big"))
    box = data[at : at + size]
    kind = rng.choice(("content", "content", "content", "size", "name", "drop", "double", "matrix"))
    if kind == "content":
        box = box[:8] + mutate_bytes(rng, box[8:], within=64)
    elif kind == "size":
        box = (rng.choice((0, 1, 7, 8, size + 1, size - 1, 2**31, 2**32 - 1))).to_bytes(4, "big") + box[4:]
    elif kind == "name":
        box = box[:4] + rng.choice((b"moov", b"trak", b"stbl", b"free", b"dref", b"avc1", b"hvc1", b"mp4a")) + box[8:]
    elif kind == "drop":
        box = b""
    elif kind == "double":
        box = box + box
    else:  # the matrix of the first track, which turns and mirrors the picture
        at = data.find(b"tkhd")
        numbers = [rng.choice((0, 1 << 16, -(1 << 16), 1, 2**31 - 1, -(2**31))) for _ in range(9)]
        return data[: at + 44] + struct.pack(">9i", *numbers) + data[at + 80 :] if at >= 0 else mutate_bytes(rng, data)
    return data[:at] + box + data[at + size :]
