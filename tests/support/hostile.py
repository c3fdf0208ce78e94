"""Images that mean no good: few bytes, and much work, memory or noise."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is large, and would be."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def scans(width: int, height: int, number: int) -> bytes:
    """A gray progressive JPEG with `number` more scans that change nothing, at 40 ms for each of 25 megapixels."""
    data = encoded(Image.new("L", (width, height), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xc4")  # the Huffman table of the last scan
    assert last > data.rindex(b"\xff\xda", 0, last)
    return data[:-2] + data[last:-2] * number + data[-2:]


def noisy(tags: int = 65535) -> bytes:
    """A PNG with a warning for each EXIF tag."""
    entries = b"".join(struct.pack("<HHII", tag, 2, 0x7FFFFFFF, 8) for tag in range(tags))
    exif = b"II*\x00" + struct.pack("<IH", 8, tags) + entries + bytes(4)
    data = encoded(Image.new("RGB", (60, 40), "red"))
    return data[:33] + chunk(b"eXIf", exif) + data[33:]


def slow() -> bytes:
    """A PNG within all limits that takes seconds to open: 1.3 million empty chunks."""
    data = encoded(Image.new("RGB", (60, 40), "red"))
    return data[:33] + chunk(b"prVt", b"") * 1_300_000 + data[33:]
