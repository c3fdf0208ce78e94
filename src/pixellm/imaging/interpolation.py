"""Linear interpolation of maps with NumPy, bit by bit as `torch.nn.functional.interpolate` does on a CPU.

torch (`align_corners=False`, as built for AVX2) rounds a·wₐ + b·w_b once, after the product b·w_b. NumPy has no such
fused operation: float64 holds a·wₐ exactly.
"""

from typing import NamedTuple

import numpy as np

SMALL = 128  # height + width of outputs up to which torch interpolates both ways at once, and rounds differently
BLOCK = 1 << 14  # values interpolated at a time: 128 kB of float64, which stay in a core's cache


class Taps(NamedTuple):
    """Input positions (n,) below and above each output position, and their weights (n,) fp32."""

    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    upper_weight: np.ndarray

    @classmethod
    def of(cls, size: int, new_size: int) -> "Taps":
        """Return the taps that change a length of `size` to `new_size`."""
        scale = float(np.float32(size) / np.float32(new_size))
        centre = np.maximum((scale * (np.arange(new_size) + 0.5) - 0.5).astype(np.float32), 0)
        lower = np.minimum(centre.astype(np.intp), size - 1)
        weight = np.minimum(centre - lower.astype(np.float32), np.float32(1))
        return cls(lower, np.minimum(lower + 1, size - 1), np.float32(1) - weight, weight)

    def at(self, positions: np.ndarray | slice) -> "Taps":
        """Return the taps of some output positions."""
        return Taps(*(values[positions] for values in self))

    def within(self, first: int) -> "Taps":
        """Return the taps into an input that begins at position `first`."""
        return self._replace(lower=self.lower - first, upper=self.upper - first)

    def highest(self, highest: np.ndarray) -> np.ndarray:
        """Return a bound of what is interpolated from values that are bounded by `highest` (size,): (n,)."""
        return np.maximum(highest[self.lower], highest[self.upper])


def interpolate(values: np.ndarray, taps: Taps) -> np.ndarray:
    """Interpolate fp32 (size, K) along the first axis: (n, K)."""
    total = np.empty((len(taps.lower), values.shape[1]), np.float32)
    step = max(1, BLOCK // max(1, values.shape[1]))
    for start in range(0, len(total), step):
        block = slice(start, start + step)
        rest = values[taps.upper[block]]
        rest *= taps.upper_weight[block, None]
        total[block] = _fused(values[taps.lower[block]], taps.lower_weight[block, None], rest)
    return total


def interpolate_both(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate fp32 (h, w) to (height, width), which add up to at most `SMALL`."""
    rows, columns = Taps.of(values.shape[0], height), Taps.of(values.shape[1], width)
    corners = [
        (values[row][:, column], row_weight[:, None] * column_weight)
        for row, row_weight in ((rows.lower, rows.lower_weight), (rows.upper, rows.upper_weight))
        for column, column_weight in ((columns.lower, columns.lower_weight), (columns.upper, columns.upper_weight))
    ]
    (first, first_weight), (second, second_weight), *others = corners
    total = _fused(first, first_weight, second * second_weight)
    for corner, weight in others:
        total = _fused(corner, weight, total)
    return total


def resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate fp32 (h, w) to (height, width)."""
    if height + width <= SMALL:
        return interpolate_both(values, height, width)
    wide = interpolate(np.ascontiguousarray(values.T), Taps.of(values.shape[1], width))
    return interpolate(np.ascontiguousarray(wide.T), Taps.of(values.shape[0], height))


def _fused(values: np.ndarray, weights: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return values · weights + rest, rounded once."""
    total = np.multiply(values, weights, dtype=np.float64)
    total += rest
    return total.astype(np.float32)
