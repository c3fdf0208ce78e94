"""Letterbox: an image of any size ↔ the square that the vision encoder reads.

The longest side is resized to `size`, the rest of the square (right, bottom) is padding; masks are mapped back
(`docs/parity.md#letterbox`).

Shapes:  T masks · H, W original size · h, w resized size
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pixellm.utils.limits import MAX_IMAGE_SIDE

if TYPE_CHECKING:
    from torch import Tensor  # imported where it is used: images are read and drawn without it


@dataclass(frozen=True)
class Letterbox:
    """Longest side to `image_size`, normalised, padded right and bottom with 0.

    Args:
        image_size: side S of the square in pixels.
        image_mean, image_std: of RGB in 0..1.
    """

    image_size: int
    image_mean: Sequence[float]
    image_std: Sequence[float]

    @classmethod
    def of(cls, settings: Any) -> "Letterbox":
        """Take the `image_processor` of a processor_config.json; a ValueError if it is malformed."""
        found = settings if isinstance(settings, dict) else {}
        size, colours = found.get("image_size"), [found.get("image_mean"), found.get("image_std")]
        if type(size) is not int or not 1 <= size <= MAX_IMAGE_SIDE or not all(map(_is_colour, colours)):
            raise ValueError(
                f"expected an image_size of 1 to {MAX_IMAGE_SIDE} pixels, and three numbers as image_mean and "
                f"image_std, got {settings!r:.120}."
            )
        return cls(size, *map(tuple, colours))

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the square (3, S, S) fp32 of an RGB image, and the image's size (h, w) in it."""
        if image.mode != "RGB":
            raise ValueError(
                f"expected RGB images, got mode {image.mode}. Open them with pixellm.imaging.images.load_image."
            )
        resized = resize_longest_side(image, self.image_size)
        pixels = np.asarray(resized, dtype=np.float32) / 255
        pixels = (pixels - np.float32(self.image_mean)) / np.float32(self.image_std)
        square = np.zeros((3, self.image_size, self.image_size), dtype=np.float32)
        square[:, : resized.height, : resized.width] = pixels.transpose(2, 0, 1)
        return square, (resized.height, resized.width)


def _is_colour(values: Any) -> bool:
    kinds = (int, float)
    return isinstance(values, list | tuple) and len(values) == 3 and all(type(value) in kinds for value in values)


def resized_hw(height: int, width: int, size: int) -> tuple[int, int]:
    """Size (h, w) in pixels of a height × width image whose longest side becomes `size`; at least 1 each."""
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest_side(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the longest side is `size` pixels (bilinear with antialiasing)."""
    height, width = resized_hw(image.height, image.width, size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def restore(logits: "Tensor", resized: tuple[int, int], original: tuple[int, int]) -> "Tensor":
    """Map mask logits from the square back to the image.

    Args:
        logits: (T, S, S) at any resolution of the padded square.
        resized: (h, w) of the image inside the square; max(h, w) is the side of the square.
        original: (H, W) of the image.

    Returns:
        (T, H, W) fp32 logits; a pixel belongs to the mask where they are > 0.
    """
    import torch.nn.functional as F

    if not len(logits):
        return logits.float().new_zeros((0, *original))
    return F.interpolate(unpad(logits, resized)[None], original, mode="bilinear", align_corners=False)[0]


def unpad(logits: "Tensor", resized: tuple[int, int]) -> "Tensor":
    """Crop mask logits (T, S, S), T ≥ 1, to the image, without padding: fp32 (T, h, w) at the encoder's resolution.

    Arguments as in `restore`.
    """
    import torch.nn.functional as F

    size = max(resized)
    square = F.interpolate(logits[None].float(), (size, size), mode="bilinear", align_corners=False)
    return square[0, :, : resized[0], : resized[1]]
