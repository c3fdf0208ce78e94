"""Decode the images of requests: bytes → checked pixels with their digest."""

import asyncio
import base64
import binascii
import hashlib
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from PIL import Image

from pixellm.imaging.images import load_image
from pixellm.serve.errors import ApiError

# Formats that browsers display; each further decoder would be one more attack surface.
FORMATS = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")
DATA_URI = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE
)
DECODERS = 2  # images decoded at once


@dataclass(frozen=True)
class DecodedImage:
    """RGB pixels (H, W, 3), row-major, `size` (W, H), and the digest of both."""

    size: tuple[int, int]
    pixels: bytes = field(repr=False)
    digest: str

    def to_pil(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.pixels)


def decode_data_uri(uri: str) -> bytes:
    """Return the bytes of a `data:image/…;base64,…` URI; ApiError 400 for any other."""
    prefix = DATA_URI.match(uri[:200])
    if prefix is None:
        raise ApiError(400, "expected an image as data:image/…;base64,…, got another data URI.", "invalid_image")
    try:
        return base64.b64decode(uri[prefix.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "expected valid base64 in the data URI.", "invalid_image") from None


class ImageDecoder:
    """Decode images within a memory budget.

    Args:
        max_pixels: size of one image, checked before it is decoded.
        max_decoded_bytes: memory of all decoded images in use.
    """

    def __init__(self, max_pixels: int, max_decoded_bytes: int) -> None:
        self.max_pixels = max_pixels
        self._free_bytes = max(max_decoded_bytes, 3 * max_pixels)  # always enough for one image
        self._changed = asyncio.Condition()
        self._threads = asyncio.Semaphore(DECODERS)

    @asynccontextmanager
    async def decode(self, data: bytes) -> AsyncIterator[DecodedImage]:
        """Yield the decoded image and free its memory afterwards; ApiError 400 or 413 for a bad or too large file."""
        width, height = await asyncio.to_thread(self._read_size, data)
        needed = 3 * width * height
        async with self._changed:
            await self._changed.wait_for(lambda: self._free_bytes >= needed)
            self._free_bytes -= needed
        try:
            async with self._threads:
                image = await asyncio.to_thread(_decode, data)
            yield image
        finally:
            self._free_bytes += needed
            await asyncio.shield(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _read_size(self, data: bytes) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                width, height = image.size
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._too_large("far more") from None
        except Exception:  # Pillow's decoders raise any exception
            raise ApiError(
                400, f"expected an image ({', '.join(FORMATS)}), got something else.", "invalid_image"
            ) from None
        if width * height > self.max_pixels:
            raise self._too_large(f"{width}×{height}")
        return width, height

    def _too_large(self, got: str) -> ApiError:
        return ApiError(
            413,
            f"expected an image of at most {self.max_pixels:,} pixels, got {got}. Scale it down.",
            "image_too_large",
        )


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _decode(data: bytes) -> DecodedImage:
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            rgb = load_image(image)
    except Exception:
        raise ApiError(400, "expected a complete image, got a damaged file. Send it again.", "invalid_image") from None
    pixels = rgb.tobytes()
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + pixels)
    return DecodedImage(rgb.size, pixels, digest.hexdigest())
