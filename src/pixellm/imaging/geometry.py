"""Letterbox: an image of any size ↔ the square that the vision encoder reads.

The longest side is resized to `size`, the rest of the square (right, bottom) is padding; masks are mapped back
(`docs/parity.md#letterbox`).

Shapes:  T masks · H, W original size · h, w resized size
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def resized_hw(height: int, width: int, size: int) -> tuple[int, int]:
    """Size (h, w) in pixels of a height × width image whose longest side becomes `size`; at least 1 each."""
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest_side(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the longest side is `size` pixels (bilinear with antialiasing)."""
    height, width = resized_hw(image.height, image.width, size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def restore(logits: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Map mask logits from the square back to the image.

    Args:
        logits: (T, S, S) at any resolution of the padded square.
        resized: (h, w) of the image inside the square; max(h, w) is the side of the square.
        original: (H, W) of the image.

    Returns:
        (T, H, W) fp32 logits; a pixel belongs to the mask where they are > 0.
    """
    if not len(logits):
        return logits.new_zeros((0, *original), dtype=torch.float32)
    return F.interpolate(unpad(logits, resized)[None], original, mode="bilinear", align_corners=False)[0]


def unpad(logits: Tensor, resized: tuple[int, int]) -> Tensor:
    """Crop mask logits (T, S, S), T ≥ 1, to the image, without padding: fp32 (T, h, w) at the encoder's resolution.

    Arguments as in `restore`.
    """
    size = max(resized)
    square = F.interpolate(logits[None].float(), (size, size), mode="bilinear", align_corners=False)
    return square[0, :, : resized[0], : resized[1]]
