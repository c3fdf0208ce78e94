"""Mask formats: polygons and RLE of COCO ↔ bool arrays.

Shapes:  M masks · H, W image height and width
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pixellm.utils import limits

Rle = dict[str, Any]  # compressed: size [H, W] in pixels, counts as text or bytes
Segmentation = list[list[float]] | Rle


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
    return coco_mask.decode(union([to_rles(segmentation, height, width)], height, width)).view(bool)


def to_rles(segmentation: Segmentation, height: int, width: int) -> list[Rle]:
    """Return the polygons of one COCO segmentation as compressed RLEs, or its RLE, without decoding any.

    Arguments and errors as in `decode`.
    """
    try:
        if isinstance(segmentation, dict):
            size = [int(v) for v in segmentation["size"]]
            if size != [height, width]:  # before anything of that size is made
                raise ValueError(f"expected a mask of {height}×{width} pixels, got {'×'.join(map(str, size))}")
            _check_runs(segmentation["counts"], size)
            counts = segmentation["counts"]
            if isinstance(counts, list):
                return [coco_mask.frPyObjects({"size": size, "counts": counts}, *size)]
            return [{"size": size, "counts": counts}]
        polygons = [p for p in segmentation if len(p) >= 6]
        if not polygons:
            raise ValueError("expected polygons of at least three points, got none. Leave empty objects out.")
        _check_polygons(polygons)
        return coco_mask.frPyObjects(polygons, height, width)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"expected COCO polygons or an RLE dict with 'size' and 'counts', got {error!r}") from error


def read_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Return one RLE, compressed or not, as a compressed one with text counts; a ValueError if it is malformed."""
    if not isinstance(segmentation, dict):
        raise ValueError(f"expected an RLE with size and counts, got {str(segmentation)[:60]!r}")
    (rle,) = to_rles(segmentation, height, width)
    return as_text(rle)  # ASCII: it takes no more memory than bytes, and goes into JSON as it is


def union(groups: Iterable[Sequence[Rle]], height: int, width: int) -> Rle:
    """Return the union of RLEs of one size without decoding them; an empty mask if there are none."""
    rles = [rle for group in groups for rle in group]
    return dict(coco_mask.merge(rles)) if rles else empty(height, width)


def empty(height: int, width: int) -> Rle:
    """Return a mask without a pixel."""
    return coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)


def area(rle: Rle) -> int:
    """Return the number of pixels of a mask."""
    return int(coco_mask.area(rle))


def box(rle: Rle) -> tuple[int, int, int, int]:
    """Return the tight box (x, y, width, height) in pixels; all 0 if the mask is empty."""
    x, y, width, height = (int(side) for side in coco_mask.toBbox(rle))
    return x, y, width, height


def intersection_area(first: Rle, second: Rle) -> int:
    """Return the number of pixels in both of two masks of one size."""
    return int(coco_mask.area(coco_mask.merge([first, second], intersect=True)))


def _check_polygons(polygons: list[list[float]]) -> None:
    """Raise a ValueError for coordinates far outside: pycocotools walks along every edge, and crashes on them."""
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) % 2 or not (np.abs(points) <= limits.MAX_COORDINATE).all():  # NaN fails too
            raise ValueError(
                f"expected polygons [x0, y0, x1, y1, …] in pixels, got {str(polygon)[:80]}. Check how it was made."
            )


def _check_runs(counts: Any, size: list[int]) -> None:
    """Raise a ValueError if the runs don't fill the mask: pycocotools would leave the rest uninitialised."""
    if isinstance(counts, list):
        runs = np.asarray(counts, dtype=np.int64)
    else:
        runs = _decompress(counts if isinstance(counts, bytes) else counts.encode("ascii"))
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"expected an RLE whose runs add up to {size[0]}×{size[1]} pixels, got {runs.sum()}. "
            "Check its size and counts."
        )


def _decompress(counts: bytes) -> np.ndarray:
    """Decode the run lengths of COCO's text form: groups of 5 bits, low first, 32 = more follow, 16 = sign.

    From the fourth run on each is the difference to the last but one (pycocotools, maskApi.c, rleFrString).
    """
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    last = (groups & 32) == 0
    if not len(groups) or not last[-1] or (groups < 0).any() or (groups > 63).any():
        raise ValueError("expected the text form of COCO's RLE. Check its counts.")
    start = np.flatnonzero(np.r_[True, last[:-1]])
    length = np.diff(np.r_[start, len(groups)])
    shift = 5 * (np.arange(len(groups)) - np.repeat(start, length))
    runs = np.add.reduceat((groups & 31) << shift, start) - ((groups[last] & 16) >> 4 << 5 * length)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def encode(mask: np.ndarray) -> Rle:
    """Compress a bool (H, W) mask to a COCO RLE whose counts are text, ready for JSON."""
    return as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def from_edges(edges: np.ndarray, height: int, width: int) -> Rle:
    """Return the COCO RLE, with text counts, of a mask from the edges of its runs.

    Args:
        edges: ascending int (2R,): begin and end of each run of pixels, counted down the columns; a run may begin where
            the previous one ends.
        height: height of the mask in pixels.
        width: width of the mask in pixels.
    """
    touching = np.diff(edges) == 0
    apart = edges[~(np.r_[touching, False] | np.r_[False, touching])] if len(edges) else edges
    runs = np.diff(np.r_[0, apart, height * width])
    counts = runs if runs[-1] or len(runs) == 1 else runs[:-1]  # as pycocotools writes a mask that ends inside
    return as_text(coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width))


def as_text(rle: Rle) -> Rle:
    """Return a compressed RLE with its counts as text, ready for JSON."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the tight box (x, y, width, height) in pixels of a bool (H, W) mask; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
