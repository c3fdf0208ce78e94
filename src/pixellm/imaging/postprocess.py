"""Mask logits of the square → masks at image size as COCO RLE, one at a time, without full-size logits or torch.

    (S, S) → some columns of (h, w) → of (h, W) → of (H, W) → threshold → edges of runs

Pixels are exactly those of `geometry.restore` on a CPU: bilinear interpolation is linear along the width, then along
the height, with the same roundings. COCO counts runs down the columns, so those of a mask are known column after
column.

Shapes:  T masks · H, W original size · h, w resized size · C columns of a chunk
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pixellm.imaging import masks
from pixellm.imaging.interpolation import SMALL, Taps, interpolate, resize

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 17  # pixels interpolated at a time: 0.5 MB of fp32, which stays in a core's cache
# Relative: an interpolated logit may leave the range of its neighbours by roundings of fp32, three of 6e-8 each.
SLACK = 1e-6
MIN_PEAK = 1e-3  # a mask that is nowhere as probable is empty, whatever `peak_share` says


class Binary(NamedTuple):
    """A mask as COCO RLE, and the mean probability of its pixels, 0..1 (0 for an empty mask)."""

    rle: masks.Rle
    score: float


def binarize(
    logits: "Tensor | np.ndarray | Sequence[np.ndarray]",
    resized: tuple[int, int],
    original: tuple[int, int],
    peak_share: float | None = None,
) -> Iterator[Binary]:
    """Yield masks at image size, each when it is requested.

    A pixel is inside if its logit is > 0. With `peak_share`, also if its probability is above that share of the mask's
    highest, so that a faint target gets its likeliest pixels, and a low score.

    Args:
        logits: (T, S, S) at any resolution of the padded square.
        resized: (h, w) of the image inside the square; max(h, w) is the side of the square.
        original: (H, W) of the image.
        peak_share: 0..1; None: the threshold is 0.
    """
    return (_binarize(_array(mask), resized, original, peak_share) for mask in logits)


def _array(logits: "Tensor | np.ndarray") -> np.ndarray:
    """Return logits of any precision, on any device, as fp32."""
    return np.asarray(logits, np.float32) if isinstance(logits, np.ndarray) else logits.detach().float().cpu().numpy()


def _binarize(
    logits: np.ndarray, resized: tuple[int, int], original: tuple[int, int], peak_share: float | None
) -> Binary:
    height, width = original
    restored = _Restored(logits, resized, original)
    threshold = np.float32(0 if peak_share is None else _threshold(restored, peak_share))
    edges, total = [np.zeros(0, dtype=np.int64)], 0.0
    # Columns whose logits are all outside, as most are, have no pixel inside after interpolation.
    for numbers in restored.chunks(restored.highest > threshold - SLACK * abs(threshold)):
        columns = restored.columns(numbers, threshold)
        inside = columns > threshold
        edges.append(_edges(inside, numbers))
        total += float(_sigmoid(columns[inside]).sum())
    rle = masks.from_edges(np.concatenate(edges), height, width)
    return Binary(rle, total / max(1, masks.area(rle)))


class _Restored:
    """Logits (H, W) of one mask, made some columns at a time from (S, S); arguments as in `binarize`.

    `highest` (W,) bounds the logits of each column.
    """

    def __init__(self, logits: np.ndarray, resized: tuple[int, int], original: tuple[int, int]) -> None:
        (height, width), size = original, max(resized)
        self._step = max(1, CHUNK // height)
        self._small = None
        if height + width <= SMALL:
            self._small = resize(resize(logits, size, size)[: resized[0], : resized[1]], height, width)
            self.highest = self._small.max(axis=0)
            return
        square = resize(logits, size, size) if 2 * size <= SMALL else logits
        self._transposed = np.ascontiguousarray(square.T)
        self._to_resized = [
            Taps.of(side, size).at(slice(length)) for side, length in zip(square.shape, resized, strict=True)
        ]
        self._to_original = [Taps.of(*lengths) for lengths in zip(resized, original, strict=True)]
        self.highest = self._to_original[1].highest(self._to_resized[1].highest(square.max(axis=0)))

    def chunks(self, selected: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the numbers (C,) of `selected` (W,) columns."""
        numbers = np.flatnonzero(selected)
        return (numbers[start : start + self._step] for start in range(0, len(numbers), self._step))

    def columns(self, numbers: np.ndarray, threshold: np.float32 | None = None) -> np.ndarray:
        """Return the logits (H, C) of columns.

        With a `threshold`, those of rows that are nowhere near it may be rounded otherwise, which is quicker.
        """
        if self._small is not None:
            return self._small[:, numbers]
        across, down = self._to_original[1].at(numbers), self._to_original[0]
        first, end = across.lower.min(), across.upper.max() + 1
        wide = interpolate(self._transposed, self._to_resized[1].at(slice(first, end)))
        square = interpolate(np.ascontiguousarray(wide.T), self._to_resized[0])  # (h, w) from `first` to `end`
        rows = np.ascontiguousarray(interpolate(np.ascontiguousarray(square.T), across.within(first)).T)  # (h, C)
        if threshold is None:
            return interpolate(rows, down)
        columns = np.take(rows, down.lower, axis=0)
        columns *= down.lower_weight[:, None]
        rest = np.take(rows, down.upper, axis=0)
        rest *= down.upper_weight[:, None]
        columns += rest
        distance = np.abs(np.subtract(columns, threshold, out=rest), out=rest).min(axis=1)
        near = np.flatnonzero(~(distance > SLACK * np.abs(rows).max()))  # those of NaN, too
        columns[near] = interpolate(rows, down.at(near))
        return columns


def _threshold(restored: _Restored, peak_share: float) -> float:
    """Return the logit of `peak_share` of the highest probability, at most 0.

    Only the columns that can have the highest logit are searched.
    """
    highest = restored.highest
    peak = restored.columns(highest.argmax()[None]).max()
    for numbers in restored.chunks(highest + SLACK * np.abs(highest) > peak):
        peak = np.maximum(peak, restored.columns(numbers).max())
    probability = _sigmoid(peak[None])[0]
    if probability < MIN_PEAK:
        return 0.0
    share = probability * np.float32(peak_share)
    with np.errstate(divide="ignore"):
        return min(0.0, float(np.log(share / (np.float32(1) - share))))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # of what is far below 0; its probability is 0
        powers = np.exp(-values)
    powers += 1
    return np.reciprocal(powers, out=powers)


def _edges(inside: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return begin and end of each run in bool (H, C), in turn, as positions in the mask; `numbers` (C,) of columns."""
    height, count = inside.shape
    closed = np.zeros((height + 2, count), dtype=bool)
    closed[1:-1] = inside
    changed = closed[1:] != closed[:-1]
    column, row = np.divmod(np.flatnonzero(changed.T), height + 1)
    return numbers[column] * height + row
