"""Images of any kind → 8-bit RGB, upright; or a ValueError that says what is wrong with the file.

path | PIL image | NumPy array | example:NAME  →  checks of size and scans → full decode → EXIF orientation → RGB
"""

import hashlib
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixellm.utils.limits import MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_SCANS

# Named, because Pillow's full list runs other programs (EPS → Ghostscript) and holds rarely tested decoders.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
URL = re.compile(r"([a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
EXAMPLE = "example:"
ARRAYS = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool or float in 0..1"
# Not stuffing (FF 00), fill bytes (FF FF), TEM (FF 01) or restarts (FF D0 … D7), which stand alone in a scan.
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")

# One file's metadata can cause 65,535 different warnings, two lines each.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

ImageSource = str | Path | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image that can't be used; the message says which, and why."""


def check_pixels(height: int, width: int) -> None:
    """Raise a ValueError unless a height and a width are whole numbers, and those of an image or mask within limits."""
    whole = all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in (height, width))
    if not whole or min(height, width) < 1:
        raise ImageError(f"expected a height and a width of at least one pixel, got {height!r:.40} and {width!r:.40}")
    if int(height) * int(width) > MAX_PIXELS:
        raise ImageError(f"expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {height}×{width}")


def count_scans(image: Image.Image) -> int:
    """Return the number of scans of a JPEG that has not been decoded yet, or an upper bound within the limits; else 0.

    Each scan passes over all pixels, however few bytes it has. The first frame of several counts alone.
    """
    if image.format not in ("JPEG", "MPO") or image.fp is None or image.fp.closed:
        return 0
    at = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(at)
    bound = data.count(b"\xff\xda")  # metadata and further frames included
    if bound <= max_scans(*image.size):
        return bound
    scans, position = 0, 2  # scans begin with FF DA, the image ends with FF D9
    while (marker := JPEG_MARKER.search(data, position)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans


def max_scans(width: int, height: int) -> int:
    """Return the largest number of scans of a JPEG of this size."""
    return min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, width * height))


def pixel_digest(size: tuple[int, int], pixels: bytes) -> str:
    """Return the SHA-256 of an RGB image's size (W, H) and pixels (H, W, 3), in hex: the same for every encoding."""
    return hashlib.sha256(f"{size[0]}x{size[1]} ".encode() + pixels).hexdigest()


def load_image(source: ImageSource) -> Image.Image:
    """Return a new 8-bit RGB image, upright, with transparency on white; or raise a ValueError.

    `source` is a file (of several frames, the first), `example:NAME` (`pixellm.imaging.examples`), a PIL image, or an
    array (H, W[, 1|3|4]) of uint8, uint16, bool, or float in 0..1. Values of 16 bits are scaled by 1/257,
    or kept if none is above 255.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str) and source.startswith(EXAMPLE):
        from pixellm.imaging.examples import load_example

        return load_example(source.removeprefix(EXAMPLE))
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source)
    raise ImageError(
        f"expected an image file, a PIL image or a NumPy array, got {type(source).__name__}. "
        "Give a path, or convert it (a torch tensor: tensor.permute(1, 2, 0).numpy())."
    )


def _from_file(source: str | os.PathLike) -> Image.Image:
    if isinstance(source, str) and URL.match(source):
        raise ImageError(f"expected an image file, got the URL {source[:80]}. Download it first, then give the file.")
    with _opened(source) as image:
        return _decode(image, os.fsdecode(source))


def read_size(file: str | os.PathLike) -> tuple[int, int]:
    """Return height and width of an image file, from its header; or raise an ImageError."""
    with _opened(file) as image:
        return image.height, image.width


def read_values(file: str | os.PathLike) -> np.ndarray:
    """Return the stored values of an image file, palettes and orientation not applied; or raise an ImageError."""
    with _opened(file) as image:
        _load(image, os.fsdecode(file))
        return np.asarray(image)


def _opened(source: str | os.PathLike) -> Image.Image:
    name = os.fsdecode(source)
    _check_file(name)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # AVIF and HEIF depend on how Pillow was built
    try:
        return Image.open(name, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"expected an image, got {name}, which is not one, or of an unknown kind. Convert it to PNG or JPEG."
        ) from error
    except PermissionError as error:
        raise _not_permitted(name) from error
    except Exception as error:  # as in `_load`
        raise _broken(name, error) from error


def _check_file(name: str) -> None:
    """Raise a ValueError if `name` is not a file, or an empty one."""
    try:
        size = os.stat(name).st_size
    except PermissionError as error:
        raise _not_permitted(name) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        known = f"; examples that need no file: {EXAMPLE}cat, {EXAMPLE}coffee …" if "." not in name else ""
        raise ImageError(
            f"expected an image file, got {name!r}, which does not exist. Check the path{known}."
        ) from error
    if os.path.isdir(name):
        raise ImageError(f"expected an image file, got the directory {name}. Give one file in it.")
    if not os.path.isfile(name):
        raise ImageError(f"expected an image file, got {name}, which is a device or a pipe. Save it to a file first.")
    if size == 0:
        raise ImageError(f"expected an image, got {name} with zero bytes. Copy or download it again.")


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Decode the whole image, turn it upright and convert it to RGB."""
    _load(image, name)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise _broken(name, error) from error
    return _to_rgb(upright, name)


def _load(image: Image.Image, name: str) -> None:
    """Check size and scans, then decode the whole image."""
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError(f"expected at least one pixel, got {name} of {width}×{height}. Check how it was made.")
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}×{height} = {width * height / 1e6:.0f} million pixels")
    if count_scans(image) > max_scans(width, height):
        raise ImageError(
            f"expected a JPEG of at most {max_scans(width, height)} scans, got {name} of more. Save it again, as PNG."
        )
    try:
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    # Pillow's decoders raise many kinds of errors at a damaged file: OSError, SyntaxError, struct.error, KeyError …
    except Exception as error:
        raise _broken(name, error) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image), name)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        # Two ranges are in use for float images; the largest value tells which.
        return Image.fromarray(_float_to_8_bit(values, 255 if values.max() > 1 else 1, name)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:  # LAB, for one
        raise ImageError(
            f"expected an image that converts to RGB, got {name} of mode {image.mode}. Convert it."
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        first = array.ndim == 3 and shape[0] in (1, 3, 4)
        advice = "The channels go last: array.transpose(1, 2, 0)." if first else "Give one image, channels last."
        raise ImageError(f"expected an array {ARRAYS}, got shape {shape}. {advice}")
    if array.size == 0:
        raise ImageError(f"expected an array with at least one pixel, got shape {shape}. Check how it was cut.")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise _too_large("the array", f"{shape[1]}×{shape[0]} pixels")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _to_8_bit(array, "the array")
    elif np.issubdtype(array.dtype, np.floating):
        array = _float_to_8_bit(array, 1, "the array")
    elif array.dtype != np.uint8:
        raise ImageError(
            f"expected an array {ARRAYS}, got {array.dtype}. If its values are 0..255: array.astype(numpy.uint8)."
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if shape[2:] == (1,) else array)), "the array")


def _to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Convert values of up to 16 bits to uint8. 257 = 65535 / 255, so that white stays white."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"expected values in 0..65535, got {low}..{high} in {name}. Scale them to 0..65535 or 0..255.")
    return np.rint(values / 257).astype(np.uint8) if high > 255 else values.astype(np.uint8)


def _float_to_8_bit(values: np.ndarray, top: int, name: str) -> np.ndarray:
    """Convert values in 0..top to uint8."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= top):  # written so that NaN fails too
        raise ImageError(f"expected floats in 0..{top}, got {low:g}..{high:g} in {name}. Scale them, and remove NaN.")
    return np.rint(values.astype(np.float32) * (255 / top)).astype(np.uint8)


def _too_large(name: str, got: str) -> ImageError:
    return ImageError(
        f"expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {name}: {got}. "
        "Scale it down, or cut out what matters."
    )


def _not_permitted(name: str) -> ImageError:
    return ImageError(f"expected an image file that may be read, got {name}: permission denied. Check its permissions.")


def _broken(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"expected a complete image, got {name}, which is truncated or damaged ({error}). Copy or download it again."
    )
