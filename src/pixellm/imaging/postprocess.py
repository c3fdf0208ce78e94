"""Mask logits of the square → the photograph's masks as COCO RLE, one at a time, never a whole one restored.

    (S, S) → (h, w) → (h, W) → some columns of (H, W) at a time → above the threshold? → where runs begin and end

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

CHUNK = 1 << 18  # pixels that are restored at a time: 1 MB of fp32, which stays in a core's cache
# Of a logit: a value between two others may leave their range by roundings of fp32, three of 6e-8 each.
SLACK = 1e-6


class Binary(NamedTuple):
    """A mask as COCO RLE, and the mean probability of its pixels, 0..1 (0 for an empty mask)."""

    rle: masks.Rle
    score: float


def binarize(
    logits: Tensor, resized: tuple[int, int], original: tuple[int, int], peak_share: float | None = None
) -> Iterator[Binary]:
    """Masks at the photograph's size.

    A pixel is inside where its logit is > 0. With `peak_share`, also where its probability is above that share of the
    mask's highest: what the text says is there gets its likeliest pixels, however faint, and a low score.

    Args:
        logits: (T, S, S) at any resolution of the padded square.
        resized: (h, w) of the image inside the square; max(h, w) is the side of the square.
        original: (H, W) of the photograph.
        peak_share: 0..1; None: 0 alone is the threshold.

    Yields:
        Each mask when it is asked for. Meanwhile (h, W) logits are held, and some megabytes for the pixels.
    """
    return (_binarize(one, resized, original, peak_share) for one in logits)


@torch.inference_mode()
def _binarize(logits: Tensor, resized: tuple[int, int], original: tuple[int, int], peak_share: float | None) -> Binary:
    height, width = original
    rows = _at_width(logits[None], resized, original)
    highest = rows.amax(dim=0)
    threshold = 0.0 if peak_share is None else _threshold(rows, highest, height, peak_share)
    edges, total = [np.zeros(0, dtype=np.int64)], 0.0
    # Between logits that are all outside, as they are in most columns, interpolation finds none inside.
    for numbers, columns in _columns(rows, highest > threshold - SLACK * abs(threshold), height):
        inside = columns > threshold
        edges.append(_edges(inside, numbers))
        total += float(torch.where(inside, columns.sigmoid_(), 0).sum())
    rle = masks.from_edges(np.concatenate(edges), height, width)
    return Binary(rle, total / max(1, masks.area(rle)))


def _at_width(logits: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """(1, S, S) → (h, W), or where there are few pixels anyway, (H, W)."""
    height, width = original
    # For the smallest outputs, torch interpolates both ways at once, and rounds differently.
    if height * width <= CHUNK:
        return geometry.restore(logits, resized, original)[0]
    return F.interpolate(geometry.unpad(logits, resized), width, mode="linear", align_corners=False)[0]


def _threshold(rows: Tensor, highest: Tensor, height: int, peak_share: float) -> float:
    """The logit that is `peak_share` of the highest probability, at most 0.

    The highest logit is looked for in the columns that can have it: at full height none goes beyond `highest` (W,).
    """
    peak = _at_height(rows, highest.argmax()[None], height).max()
    for _, columns in _columns(rows, highest + SLACK * highest.abs() > peak, height):
        peak = torch.maximum(peak, columns.max())
    return min(0.0, float((peak.sigmoid() * peak_share).logit()))


def _columns(rows: Tensor, chosen: Tensor, height: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The `chosen` (W,) columns of (h, W), some at a time: their numbers (C,), and their logits (C, H)."""
    (numbers,) = chosen.nonzero(as_tuple=True)
    for chunk in numbers.split(max(1, CHUNK // height)) if len(numbers) else ():
        yield chunk, _at_height(rows, chunk, height)


def _at_height(rows: Tensor, numbers: Tensor, height: int) -> Tensor:
    """The columns of (h, W) with these numbers (C,), at full height: (C, H); where h is H, they stay as they are."""
    return F.interpolate(rows.T[numbers][None], height, mode="linear", align_corners=False)[0]


def _edges(inside: Tensor, numbers: Tensor) -> np.ndarray:
    """Where runs begin and end in bool (C, H), in turn, as positions in the mask; `numbers` (C,) of the columns."""
    closed = F.pad(inside, (1, 1))
    changed = (closed[:, 1:] != closed[:, :-1]).cpu().numpy()
    column, row = np.divmod(np.flatnonzero(changed), inside.shape[1] + 1)
    return numbers.cpu().numpy()[column] * inside.shape[1] + row
