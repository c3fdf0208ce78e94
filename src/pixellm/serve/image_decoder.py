"""Decode the images of requests: bytes → checked pixels with their digest, in processes that can be killed."""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pixellm.imaging.images import max_scans
from pixellm.serve.decoder_process import Decoded, DecoderProcesses
from pixellm.serve.decoding import FORMATS, DecodedImage
from pixellm.serve.errors import ApiError
from pixellm.serve.fair_share import FairShare
from pixellm.serve.metrics import Metrics
from pixellm.utils import limits

logger = logging.getLogger(__name__)
DATA_URI = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE
)


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
    """Decode images within budgets of memory and processes, of which one tenant gets at most half.

    A process whose image takes too long, or whose client has left, is killed.

    Args:
        max_pixels: size of one image, checked before it is decoded.
        max_decoded_bytes: memory of all decoded images in use.
        metrics: receives warnings and lost processes.
        seconds: time to decode an image.
    """

    def __init__(
        self, max_pixels: int, max_decoded_bytes: int, metrics: Metrics, seconds: float = limits.DECODE_SECONDS
    ) -> None:
        self.max_pixels, self.seconds, self.metrics = max_pixels, seconds, metrics
        largest = 3 * max_pixels  # always enough for one image
        total = max(max_decoded_bytes, largest)
        self.memory = FairShare(total, max(total // 2, largest))
        self.slots = FairShare(limits.MAX_DECODERS, limits.MAX_DECODERS // 2)
        self.processes = DecoderProcesses(limits.DECODER_BYTES + limits.DECODER_BYTES_PER_PIXEL * max_pixels)

    @asynccontextmanager
    async def decode(self, data: bytes, tenant: str) -> AsyncIterator[DecodedImage]:
        """Yield the decoded image and free its memory afterwards; ApiError 400 or 413 for a bad or too large file."""
        header = await self._call("read_header", data, tenant)
        if header.fields is None:
            raise _invalid(f"expected an image ({', '.join(FORMATS)}), got something else.")
        width, height, scans = header.fields
        self._check(width, height, scans)
        async with self.memory.hold(tenant, 3 * width * height):
            image = await self._call("decode", data, tenant)
            if image.fields is None:
                raise _invalid("expected a complete image, got a damaged file. Send it again.")
            width, height, digest = image.fields  # upright
            yield DecodedImage((width, height), image.content, digest)

    def _check(self, width: int, height: int, scans: int) -> None:
        if width * height > self.max_pixels:
            raise ApiError(
                413,
                f"expected an image of at most {self.max_pixels:,} pixels, got {width}×{height}. Scale it down.",
                "image_too_large",
            )
        if scans > max_scans(width, height):
            raise _invalid(f"expected a JPEG of at most {max_scans(width, height)} scans, got {scans}. Save it anew.")

    async def _call(self, function: str, data: bytes, tenant: str) -> Decoded:
        """Call a function of `decoding`; ApiError 400 if it takes too long."""
        lost = self.metrics.decoders_lost
        async with self.slots.hold(tenant):
            try:
                async with asyncio.timeout(self.seconds):
                    decoded = await self.processes.call(function, data)
            except TimeoutError:
                lost.labels("timeout").inc()
                raise _invalid(f"expected an image that is decoded within {self.seconds:g} s. Save it anew.") from None
            except asyncio.CancelledError:
                lost.labels("cancelled").inc()
                raise
            except ConnectionError:
                logger.error("a decoder process died of an image")
                lost.labels("crash").inc()
                return Decoded(None, b"", 0)
        self.metrics.image_warnings.inc(decoded.warnings)
        return decoded


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, "invalid_image")
