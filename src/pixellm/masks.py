"""Mask formats: polygons and RLE of COCO ↔ bool arrays.

Shapes:  M masks · H, W image height and width
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Segmentation = list[list[float]] | dict[str, Any]


def decode(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Read one COCO segmentation.

    Args:
        segmentation: polygons `[[x0, y0, x1, y1, …], …]` in pixels, or an RLE dict (compressed or not).
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        bool (H, W): the union of all parts (never their sum: overlapping parts stay 1).

    Raises:
        ValueError: a malformed segmentation, or an RLE whose size is not the image's.
    """
    try:
        if isinstance(segmentation, dict):
            size = [int(v) for v in segmentation["size"]]
            counts = segmentation["counts"]
            rle = (
                coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
                if isinstance(counts, list)
                else {"size": size, "counts": counts}
            )
        else:
            polygons = [p for p in segmentation if len(p) >= 6]
            if not polygons:
                raise ValueError("no polygon has three points")
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        decoded = coco_mask.decode(rle)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"expected COCO polygons or an RLE dict with 'size' and 'counts', got {error!r}") from error
    if decoded.shape != (height, width):
        raise ValueError(f"expected a mask of {height}×{width} pixels, got {decoded.shape[0]}×{decoded.shape[1]}")
    return decoded.astype(bool)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Compress a bool (H, W) mask to a COCO RLE whose counts are text, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Tight box (x, y, width, height) in pixels of a bool (H, W) mask; None where the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def union(masks: Sequence[np.ndarray] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Union of M bool masks: bool (H, W); all False for M = 0."""
    return np.any(np.asarray(masks), axis=0) if len(masks) else np.zeros((height, width), dtype=bool)
