"""Boundary IoU of two masks: the IoU of their bands along the contour (Cheng et al., arXiv 2103.16562).

A mask's band are its pixels at most d from a pixel outside of it, or from outside of the image, in the chessboard
metric; d is 2 % of the image's diagonal, rounded, at least 1. That is the released code's erosion, d times by a 3×3
square, of the mask with a rim of zeros (github.com/bowenc0221/boundary-iou-api).

Shapes:  H, W image height and width
"""

import math

import numpy as np

from pixellm.eval.overlap import Overlap, overlap
from pixellm.imaging import masks

DILATION = 0.02  # share of the image's diagonal: the released code's default


def band_width(hw: tuple[int, int]) -> int:
    """Return d in pixels for an image of (height, width)."""
    return max(1, round(DILATION * math.hypot(*hw)))


def boundary_overlap(predicted: masks.Rle, target: masks.Rle, ignored: masks.Rle | None = None) -> Overlap:
    """Count the common pixels of two masks' bands.

    Args:
        predicted: a mask.
        target: another one, of the same size.
        ignored: pixels that are left out of both bands; the bands themselves are those of the whole masks.
    """
    hw = (target["size"][0], target["size"][1])
    width = band_width(hw)
    if _is_all_band(predicted, width) and _is_all_band(target, width):
        return overlap(predicted, target, ignored)
    one, other = (band(masks.decode(rle, *hw), width) for rle in (predicted, target))
    if ignored is not None:
        kept = ~masks.decode(ignored, *hw)
        one, other = one & kept, other & kept
    return Overlap(int(np.count_nonzero(one & other)), int(np.count_nonzero(one | other)))


def _is_all_band(rle: masks.Rle, width: int) -> bool:
    return min(masks.box(rle)[2:]) <= 2 * width


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the band of a bool (H, W) mask: its pixels at most `width` from outside."""
    box = masks.bounding_box(mask)
    if box is None:
        return mask
    x, y, columns, rows = box
    part = (slice(y, y + rows), slice(x, x + columns))
    inside = _eroded(_eroded(mask[part].T, width).T, width)
    result = mask.copy(order="K")
    result[part] &= ~inside
    return result


def _eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """Keep the pixels of a bool (H, W) mask with `width` neighbours above and below; outside is empty.

    The AND of windows of 1, 2, 4 … rows, whose last two together are as long as wanted.
    """
    window = np.pad(mask, ((width, width), (0, 0)))
    length, wanted = 1, 2 * width + 1
    while length < wanted:
        step = min(length, wanted - length)
        window, length = window[step:] & window[:-step], length + step
    return window
