"""Mask formats: polygons and RLE of COCO ↔ bool arrays.

Shapes:  M masks · H, W image height and width
"""

import reprlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pixellm.imaging.images import check_pixels
from pixellm.utils import limits

# 5-bit groups of a run in COCO's text form: 30 bits hold more than MAX_PIXELS; in the 7th, pycocotools' int overflows.
MAX_GROUPS = 6

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
    if isinstance(segmentation, dict):
        return [_checked(segmentation, height, width)]
    check_pixels(height, width)
    polygons = _check_polygons(segmentation)
    return [_Checked(rle) for rle in coco_mask.frPyObjects(polygons, height, width)]


def read_rle(segmentation: Any, height: int | None = None, width: int | None = None) -> Rle:
    """Return one RLE, compressed or not, as a compressed one with text counts; a ValueError if it is malformed.

    `height` and `width` are the image's, in pixels, where it is known.
    """
    if not isinstance(segmentation, dict):
        raise ValueError(f"expected an RLE with size and counts, got {reprlib.repr(segmentation)}")
    return as_text(_checked(segmentation, height, width))  # ASCII: no more memory than bytes, and ready for JSON


def union(groups: Iterable[Sequence[Rle]], height: int, width: int) -> Rle:
    """Return the union of RLEs of one size without decoding them; an empty mask if there are none."""
    rles = [_checked(rle, height, width) for group in groups for rle in group]
    while len(rles) > 1:  # in groups: each merge walks along all runs so far
        rles = [_Checked(coco_mask.merge(rles[start : start + 32])) for start in range(0, len(rles), 32)]
    return rles[0] if rles else empty(height, width)


def empty(height: int, width: int) -> Rle:
    """Return a mask without a pixel."""
    return _compress([height * width], height, width)


def area(rle: Rle) -> int:
    """Return the number of pixels of a mask."""
    return int(coco_mask.area(_checked(rle)))


def box(rle: Rle) -> tuple[int, int, int, int]:
    """Return the tight box (x, y, width, height) in pixels; all 0 if the mask is empty."""
    x, y, width, height = (int(side) for side in coco_mask.toBbox(_checked(rle)))
    return x, y, width, height


def intersection_area(first: Rle, second: Rle) -> int:
    """Return the number of pixels in both of two masks of one size."""
    pair = [_checked(first), _checked(second, *first["size"])]
    return int(coco_mask.area(coco_mask.merge(pair, intersect=True)))


class _Checked(dict):
    """An RLE from pycocotools, or one that `_checked` let pass: the only kind that pycocotools is given.

    It trusts sizes and runs and writes outside of its buffers where they don't fit.
    """


def _checked(rle: Rle, height: int | None = None, width: int | None = None) -> _Checked:
    """Return a compressed RLE that is safe to hand to pycocotools; a ValueError if it isn't one of the given size."""
    if missing := sorted({"size", "counts"} - rle.keys()):
        raise ValueError(f"expected an RLE with the fields size and counts, got none called {', '.join(missing)}")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"expected the size [height, width] of a mask in pixels, got {reprlib.repr(size)}")
    check_pixels(*size)
    if height is not None and tuple(size) != (height, width):
        raise ValueError(f"expected a mask of {height}×{width} pixels, got {size[0]}×{size[1]}")
    if isinstance(rle, _Checked):
        return rle
    pixels = int(size[0]) * int(size[1])
    runs = _read_runs(counts, pixels)
    _check_runs(runs, *size)
    if isinstance(counts, list):
        return _compress(counts, *size)
    plain = bytes(counts) if isinstance(counts, bytes) else str(counts)  # no subclasses, as NumPy's: it takes none
    return _Checked(size=[int(side) for side in size], counts=plain)


def _compress(runs: list[int], height: int, width: int) -> _Checked:
    """Return the compressed RLE of runs that are known to fill the mask."""
    check_pixels(height, width)
    return _Checked(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _read_runs(counts: Any, pixels: int) -> np.ndarray:
    """Return the run lengths of an RLE of either form; a ValueError if they are no whole numbers, or too many."""
    runs = None
    if isinstance(counts, list):
        kinds = set(map(type, counts)) - {int}
        if 0 < len(counts) <= pixels + 1 and all(issubclass(kind, np.integer) for kind in kinds):  # bool is none
            with suppress(OverflowError):
                runs = np.array(counts, dtype=np.int64)
    elif isinstance(counts, bytes) or (isinstance(counts, str) and counts.isascii()):
        text = counts if isinstance(counts, bytes) else counts.encode("ascii")
        if len(text) <= (pixels + 1) * MAX_GROUPS:
            runs = _decompress(text, pixels)
    if runs is None:
        raise ValueError(
            f"expected counts of 1 to {pixels + 1} whole numbers, or in COCO's text form, got {reprlib.repr(counts)}. "
            "Encode the mask with pycocotools.mask.encode."
        )
    return runs


def _check_runs(runs: np.ndarray, height: int, width: int) -> None:
    """Raise a ValueError if the runs don't fill the mask exactly: pycocotools would write outside of it."""
    pixels = int(height) * int(width)
    if runs.min() < 0 or runs.max() > pixels:
        fault = f"got one of {runs.min() if runs.min() < 0 else runs.max()}"
    elif runs.sum() != pixels:  # exact: at most pixels + 1 runs of at most `pixels` are far below 2^63
        fault = f"got {runs.sum()}"
    elif not runs[1:].all():
        fault = "got a run of 0 after the first"
    else:
        return
    raise ValueError(
        f"expected an RLE whose runs add up to {height}×{width} pixels, {fault}. "
        "Check its size and counts, or encode the mask again with pycocotools.mask.encode."
    )


def _check_polygons(segmentation: Any) -> list[np.ndarray]:
    """Return the polygons of at least three points; a ValueError if pycocotools could not draw them in bounded memory.

    It walks along every edge in steps of 1/5 pixel, and crashes on coordinates that are no numbers or far outside.
    """
    lists = (list, tuple, np.ndarray)
    if not isinstance(segmentation, lists) or not all(isinstance(polygon, lists) for polygon in segmentation):
        got = reprlib.repr(segmentation)
        raise ValueError(f"expected COCO polygons or an RLE dict with 'size' and 'counts', got {got}")
    polygons = [p for p in segmentation if len(p) >= 6]
    if not polygons:
        raise ValueError("expected polygons of at least three points, got none. Leave empty objects out.")
    if sum(map(len, polygons)) > 2 * limits.MAX_POLYGON_POINTS:
        raise ValueError(
            f"expected at most {limits.MAX_POLYGON_POINTS} points in the polygons of a mask, got "
            f"{sum(map(len, polygons)) // 2}. Simplify them, or write the mask as an RLE."
        )
    arrays = [_points(polygon) for polygon in polygons]
    outline = sum(float(np.abs(points[2:] - points[:-2]).sum()) for points in arrays)
    if outline > limits.MAX_OUTLINE:
        raise ValueError(
            f"expected at most {limits.MAX_OUTLINE} pixels along the polygons of a mask, got {outline:.0f}. "
            "Simplify them, or write the mask as an RLE."
        )
    return arrays


def _points(polygon: Any) -> np.ndarray:
    """Return a polygon as floats (2N,); a ValueError if they are no finite numbers, or far outside."""
    with suppress(ValueError, TypeError, OverflowError):
        points = np.asarray(polygon)
        numbers = points.dtype.kind in "iuf" and points.ndim == 1 and len(points) % 2 == 0
        if numbers and (np.abs(points) <= limits.MAX_COORDINATE).all():  # NaN fails, too
            return points.astype(np.float64, copy=False)
    raise ValueError(
        f"expected polygons [x0, y0, x1, y1, …] in pixels, got {reprlib.repr(polygon)}. Check how it was made."
    )


def _decompress(text: bytes, pixels: int) -> np.ndarray | None:
    """Decode the run lengths of COCO's text form: groups of 5 bits, low first, 32 = more follow, 16 = sign.

    From the fourth run on each is the difference to the last but one (pycocotools, maskApi.c, rleFrString). Return None
    for any other text.
    """
    groups = np.frombuffer(text, dtype=np.uint8) - np.uint8(48)  # what is below wraps to above 63
    ends = np.flatnonzero(groups < 32)
    if not 0 < len(ends) <= pixels + 1 or ends[-1] != len(groups) - 1 or groups.max() > 63:
        return None
    start = np.r_[0, ends[:-1] + 1]
    length = ends - start + 1
    if length.max() > MAX_GROUPS:
        return None
    shift = 5 * (np.arange(len(groups)) - np.repeat(start, length))
    runs = np.add.reduceat((groups & 31).astype(np.int64) << shift, start) - ((groups[ends] & 16) >> 4 << 5 * length)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def encode(mask: np.ndarray) -> Rle:
    """Compress a bool (H, W) mask to a COCO RLE whose counts are text, ready for JSON."""
    check_pixels(*mask.shape)
    return as_text(_Checked(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))))


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
    return as_text(_compress(counts.tolist(), height, width))


def as_text(rle: Rle) -> Rle:
    """Return a compressed RLE with its counts as text, ready for JSON."""
    rle = _checked(rle)
    counts = rle["counts"]
    return _Checked(size=list(rle["size"]), counts=counts.decode("ascii") if isinstance(counts, bytes) else counts)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the tight box (x, y, width, height) in pixels of a bool (H, W) mask; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
