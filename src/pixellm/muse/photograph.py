"""A photograph as part of a chat message."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from pixellm.imaging.images import load_image
from pixellm.muse.records import MuseImage

MAX_SIDE = 768  # pixels: enough to see what is named, and cheap
READ_BY_ALL = ("JPEG", "PNG", "WEBP")  # formats that servers take
ORIENTATION = 0x0112  # EXIF: how the camera was held; 1 is upright
SAME_SHAPE = 0.02  # relative difference of the aspect ratios, from rounding when photographs were made smaller


def image_part(image: MuseImage, folder: Path) -> tuple[dict[str, Any], float]:
    """The message's part, and its scale: sent pixels to one pixel of the source's annotations.

    The file is sent as it is, unless it is larger than need be or lies on its side.

    Raises:
        ValueError: it can't be read, or has another shape than the source says.
    """
    path = folder / image.file_name
    kind, data, (width, height) = _as_it_is(path) or _smaller(path)
    if abs(width * image.height / (height * image.width) - 1) > SAME_SHAPE:
        raise ValueError(
            f"{path}: expected {image.width} x {image.height} pixels, or that shape, as the annotations say, got "
            f"{width} x {height}. They are of another file."
        )
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}, width / image.width


def _as_it_is(path: Path) -> tuple[str, bytes, tuple[int, int]] | None:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=READ_BY_ALL) as found:
            upright = found.getexif().get(ORIENTATION, 1) == 1
            if upright and found.mode in ("RGB", "L") and max(found.size) <= MAX_SIDE:
                return str(found.format), data, found.size
    except (OSError, SyntaxError, ValueError):
        pass  # `load_image` says what is wrong with it
    return None


def _smaller(path: Path) -> tuple[str, bytes, tuple[int, int]]:
    image = load_image(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "JPEG", buffer.getvalue(), image.size
