"""Images of requests: bytes → checked, decoded pixels with their digest."""

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

# Those that browsers show: each further decoder is one more that strangers can feed.
FORMATS = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")
DATA_URI = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE
)
DECODERS = 2  # images that are decoded at once


@dataclass(frozen=True)
class Picture:
    """RGB pixels (H, W, 3) row by row, `size` W, H, and the digest of both."""

    size: tuple[int, int]
    pixels: bytes = field(repr=False)
    digest: str

    def image(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.pixels)


def from_data_uri(uri: str) -> bytes:
    """The bytes of a `data:image/…;base64,…`; ApiError 400 for others."""
    head = DATA_URI.match(uri[:200])
    if head is None:
        raise ApiError(400, "expected an image as data:image/…;base64,…, got another data URI.", "invalid_image")
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "expected base64 in the data URI, got something else.", "invalid_image") from None


class Decoder:
    """Decodes images, no more pixels at once than there is memory for.

    Args:
        max_pixels: of one image; it is looked at before anything is decoded.
        max_decoded_bytes: of all images that are held.
    """

    def __init__(self, max_pixels: int, max_decoded_bytes: int) -> None:
        self.max_pixels = max_pixels
        self._room = max(max_decoded_bytes, 3 * max_pixels)  # for one there always is
        self._changed = asyncio.Condition()
        self._threads = asyncio.Semaphore(DECODERS)

    @asynccontextmanager
    async def decoded(self, data: bytes) -> AsyncIterator[Picture]:
        """The picture, for as long as it is used; ApiError 400 or 413 for what is none, or too large."""
        width, height = await asyncio.to_thread(self._size, data)
        wanted = 3 * width * height
        async with self._changed:
            await self._changed.wait_for(lambda: self._room >= wanted)
            self._room -= wanted
        try:
            async with self._threads:
                picture = await asyncio.to_thread(_decode, data)
            yield picture
        finally:
            self._room += wanted
            await asyncio.shield(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _size(self, data: bytes) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                width, height = image.size
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._too_large("far more") from None
        except Exception:  # Pillow's decoders raise whatever they trip over
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


def _decode(data: bytes) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            photograph = load_image(image)
    except Exception:
        raise ApiError(400, "expected a complete image, got a damaged one. Send it again.", "invalid_image") from None
    pixels = photograph.tobytes()
    digest = hashlib.sha256(f"{photograph.width}x{photograph.height} ".encode() + pixels)
    return Picture(photograph.size, pixels, digest.hexdigest())
