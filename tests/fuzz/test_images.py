"""Image files from outside: pixels, or the documented error, in bounded time and memory."""

import asyncio
import functools
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pixellm.imaging import images
from pixellm.serve.errors import ApiError
from pixellm.serve.image_decoder import ImageDecoder
from pixellm.serve.metrics import Metrics
from pixellm.utils import limits
from tests.support import hostile, tiny
from tests.support.hostile import encoded

PIXELS = 1_000_000
SECONDS = 20  # for one image, on a busy machine


@functools.cache
def seeds() -> list[bytes]:
    """Real images of every format that this Pillow writes, in several flavours."""
    rgb = tiny.picture(48, 32)
    palette, exif = rgb.quantize(16), Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "x" * 40
    Image.init()
    files = [encoded(rgb, kind) for kind in images.FORMATS if kind in Image.SAVE]
    files += [encoded(rgb, kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")]
    files += [encoded(rgb, kind, save_all=True, append_images=[rgb.rotate(90)] * 2) for kind in ANIMATED]
    files += [encoded(rgb, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
    files += [encoded(rgb, "JPEG", progressive=True), encoded(rgb.convert("CMYK"), "JPEG")]
    files += [encoded(palette, "PNG", transparency=3), encoded(palette, "GIF", interlace=1), encoded(palette, "BMP")]
    files += [encoded(rgb.convert(mode), "PNG") for mode in ("1", "L", "LA", "RGBA", "I;16")]
    files += [encoded(rgb, "WEBP", lossless=True), encoded(rgb.convert("F"), "TIFF"), hostile.noisy(50)]
    return [*files, hostile.scans(48, 32, 50), hostile.bomb(5000, 5000), hostile.bomb(2**31 - 1, 2**31 - 1)]


ANIMATED = ("GIF", "WEBP", "AVIF", "PNG", "TIFF", "MPO")
EXTREMES = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\xff\xda", b"\xff\xd9")
BYTES = st.binary(max_size=8) | st.sampled_from(EXTREMES)


@st.composite
def files(draw) -> bytes:
    """A real image with some places overwritten, cut out, repeated or exchanged for those of another."""
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(0, 6))):
        # Most of what a parser decides on stands at the beginning.
        at = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        size = draw(st.integers(0, 12) | st.integers(0, len(data)))
        match draw(st.sampled_from(("overwrite", "insert", "delete", "repeat", "splice", "cut"))):
            case "overwrite":
                new = draw(BYTES)
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(BYTES)
            case "delete":
                del data[at : at + size]
            case "repeat":
                data[at:at] = bytes(data[at : at + size][:2000]) * draw(st.integers(1, 50))
            case "splice":
                data[at:] = draw(st.sampled_from(seeds()))[at:]
            case "cut":
                del data[at:]
    return bytes(data)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("images") / "a"


@pytest.mark.filterwarnings("ignore")
@given(data=files())
@example(data=b"")
def test_load_image(path, data):
    path.write_bytes(data)
    start = time.monotonic()
    with suppress(images.ImageError):
        image = images.load_image(path)
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= limits.MAX_PIXELS
    with suppress(images.ImageError):
        assert images.read_values(path).size
    with suppress(images.ImageError):
        images.read_size(path)
    assert time.monotonic() - start < SECONDS


@pytest.fixture(scope="module")
def decode():
    """The server's decoder in a loop of its own."""
    decoder = ImageDecoder(PIXELS, 3 * PIXELS, Metrics())

    async def decode(data):
        async with decoder.decode(data, "a") as image:
            return image

    with asyncio.Runner() as runner:
        yield lambda data: runner.run(decode(data))
        runner.run(decoder.processes.close())
        lost = [sample.value for sample in decoder.metrics.decoders_lost.collect()[0].samples]
        assert not any(lost), "an image killed its process, or took too long"


@pytest.mark.filterwarnings("ignore")
@given(data=files())
@example(data=hostile.noisy(200))
def test_the_servers_decoder(decode, data):
    with suppress(ApiError):
        image = decode(data)
        assert len(image.pixels) == 3 * image.size[0] * image.size[1] <= 3 * PIXELS
