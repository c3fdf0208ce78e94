"""Decoder process: uploaded images → pixels, within little memory, and silently.

Imports only what decoding needs: a process that was killed is replaced while a client waits.
"""

import io
import json
import os
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from pixellm.imaging.images import count_scans, load_image, pixel_digest

# Formats that browsers display; each further decoder would be one more attack surface.
FORMATS = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")
Fields = list[Any]


@dataclass(frozen=True)
class DecodedImage:
    """RGB pixels (H, W, 3), row-major, `size` (W, H), and the digest of both."""

    size: tuple[int, int]
    pixels: bytes = field(repr=False)
    digest: str

    def to_pil(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.pixels)


def read_header(data: bytes) -> tuple[Fields, bytes]:
    """Return width, height and number of scans without decoding the image, and no bytes."""
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        return [*image.size, count_scans(image)], b""


def decode(data: bytes) -> tuple[Fields, bytes]:
    """Return width, height and digest of the decoded image, and its pixels."""
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        rgb = load_image(image)
    pixels = rgb.tobytes()
    return [*rgb.size, pixel_digest(rgb.size, pixels)], pixels


FUNCTIONS: dict[str, Callable[[bytes], tuple[Fields, bytes]]] = {"read_header": read_header, "decode": decode}


def _formats() -> list[str]:
    return [name for name in FORMATS if name in Image.OPEN]


def confine(memory: int) -> None:
    """Limit what this process may take to `memory` bytes more than it has."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # the server checks the size
    if avif := sys.modules.get("PIL.AvifImagePlugin"):  # depends on how Pillow was built
        avif.DEFAULT_MAX_THREADS = 1
    if sys.platform == "linux":  # macOS ignores the limit
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer_requests(requests: BinaryIO, answers: BinaryIO, file: int) -> None:
    """Answer requests: lines of JSON, with images and pixels in `file`.

    A request has `function` and number of `bytes`; an answer `fields`, null if the function fails, `bytes` and
    number of `warnings`.
    """
    count = 0

    def count_warning(*_: object, **__: object) -> None:
        nonlocal count
        count += 1

    warnings.simplefilter("always")
    warnings.showwarning = count_warning
    while line := requests.readline():
        count, request = 0, json.loads(line)
        data = os.pread(file, request["bytes"], 0)
        try:
            fields, content = FUNCTIONS[request["function"]](data)
        except Exception:  # Pillow's decoders raise any exception
            fields, content = None, b""
        answer = {"fields": fields, "bytes": len(content), "warnings": count}
        os.pwrite(file, content, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    confine(int(sys.argv[2]))
    answer_requests(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))
