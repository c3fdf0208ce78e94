"""Mask logits of the square → masks at image size as COCO RLE, one at a time, without full-size logits.

    (S, S) → (h, w) → (h, W) → some columns of (H, W) at a time → threshold → edges of runs

Pixels are exactly those of `geometry.restore`: bilinear interpolation is linear along the width, then along the height,
with the same roundings. COCO counts runs down the columns, so those of a mask are known column after column.

Shapes:  T masks · H, W original size · h, w resized size
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.imaging import geometry, masks

CHUNK = 1 << 18  # pixels interpolated at a time: 1 MB of fp32, which stays in a core's cache
# Relative: an interpolated logit may leave the range of its neighbours by roundings of fp32, three of 6e-8 each.
SLACK = 1e-6


class Binary(NamedTuple):
    """A mask as COCO RLE, and the mean probability of its pixels, 0..1 (0 for an empty mask)."""

    rle: masks.Rle
    score: float


def binarize(
    logits: Tensor, resized: tuple[int, int], original: tuple[int, int], peak_share: float | None = None
) -> Iterator[Binary]:
    """Yield masks at image size, each when it is requested.

    A pixel is inside if its logit is > 0. With `peak_share`, also if its probability is above that share of the mask's
    highest, so that every target gets its likeliest pixels, however faint, and a low score.

    Args:
        logits: (T, S, S) at any resolution of the padded square.
        resized: (h, w) of the image inside the square; max(h, w) is the side of the square.
        original: (H, W) of the image.
        peak_share: 0..1; None: the threshold is 0.
    """
    return (_binarize(mask, resized, original, peak_share) for mask in logits)


@torch.inference_mode()
def _binarize(logits: Tensor, resized: tuple[int, int], original: tuple[int, int], peak_share: float | None) -> Binary:
    height, width = original
    rows = _at_width(logits[None], resized, original)
    highest = rows.amax(dim=0)
    threshold = 0.0 if peak_share is None else _threshold(rows, highest, height, peak_share)
    edges, total = [np.zeros(0, dtype=np.int64)], 0.0
    # Columns whose logits are all outside, as most are, have no pixel inside after interpolation.
    for numbers, columns in _columns(rows, highest > threshold - SLACK * abs(threshold), height):
        inside = columns > threshold
        edges.append(_edges(inside, numbers))
        total += float(torch.where(inside, columns.sigmoid_(), 0).sum())
    rle = masks.from_edges(np.concatenate(edges), height, width)
    return Binary(rle, total / max(1, masks.area(rle)))


def _at_width(logits: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Interpolate (1, S, S) to (h, W), or a small mask to (H, W)."""
    height, width = original
    # For the smallest outputs, torch interpolates both ways at once, and rounds differently.
    if height * width <= CHUNK:
        return geometry.restore(logits, resized, original)[0]
    return F.interpolate(geometry.unpad(logits, resized), width, mode="linear", align_corners=False)[0]


def _threshold(rows: Tensor, highest: Tensor, height: int, peak_share: float) -> float:
    """Return the logit of `peak_share` of the highest probability, at most 0.

    Only the columns that can have the highest logit are searched: at full height none exceeds `highest` (W,).
    """
    peak = _at_height(rows, highest.argmax()[None], height).max()
    for _, columns in _columns(rows, highest + SLACK * highest.abs() > peak, height):
        peak = torch.maximum(peak, columns.max())
    return min(0.0, float((peak.sigmoid() * peak_share).logit()))


def _columns(rows: Tensor, selected: Tensor, height: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the `selected` (W,) columns of (h, W) in chunks: their numbers (C,), and their logits (C, H)."""
    (numbers,) = selected.nonzero(as_tuple=True)
    for chunk in numbers.split(max(1, CHUNK // height)) if len(numbers) else ():
        yield chunk, _at_height(rows, chunk, height)


def _at_height(rows: Tensor, numbers: Tensor, height: int) -> Tensor:
    """Interpolate the columns `numbers` (C,) of (h, W) to full height: (C, H)."""
    return F.interpolate(rows.T[numbers][None], height, mode="linear", align_corners=False)[0]


def _edges(inside: Tensor, numbers: Tensor) -> np.ndarray:
    """Return begin and end of each run in bool (C, H), in turn, as positions in the mask; `numbers` (C,) of columns."""
    closed = F.pad(inside, (1, 1))
    changed = (closed[:, 1:] != closed[:, :-1]).cpu().numpy()
    column, row = np.divmod(np.flatnonzero(changed), inside.shape[1] + 1)
    return numbers.cpu().numpy()[column] * inside.shape[1] + row
