"""Damage inside containers with valid lengths and checksums, so that later code is reached too."""

import io
import json
import random
import struct
import zipfile
import zlib

from frozenseg.devtools.fuzz.mutations import mutated

PNG = b"\x89PNG\r\n\x1a\n"


def in_archive(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """Damage one entry of a zip archive, such as `torch.save` and `np.savez` write."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in entries if name.endswith(".pkl")]
    name = numbers.choice(pickles if pickles and numbers.random() < 0.7 else [*entries])
    entries[name] = mutated(entries[name], other, numbers)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return stream.getvalue()


def in_header(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """Damage the JSON header of a safetensors file; its stated length stays correct."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if numbers.random() < 0.5:
        entries = json.loads(header)
        entry = entries[numbers.choice([name for name in entries if name != "__metadata__"])]
        if numbers.random() < 0.5:
            entry["dtype"] = numbers.choice(
                ("F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "C64")
            )
        else:
            numbers.shuffle(entry["shape"])
            entry["shape"] = [*entry["shape"], *numbers.choice(([], [1], [0], [2**40]))]
        header = json.dumps(entries).encode()
    else:
        header = mutated(header, other, numbers)
    return struct.pack("<Q", len(header)) + header + body


def in_chunk(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """Damage one chunk of a PNG, or its pixels before compression; the checksums stay correct."""
    if not data.startswith(PNG):
        return mutated(data, other, numbers)
    chunks, place = [], len(PNG)
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    chosen = numbers.randrange(len(chunks))
    kind, content = chunks[chosen]
    if kind == b"IDAT" and numbers.random() < 0.5:
        content = zlib.compress(mutated(zlib.decompress(content), other, numbers))
    else:
        content = mutated(content, other, numbers)
    chunks[chosen] = kind, content
    return PNG + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
