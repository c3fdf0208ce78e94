"""Interactive segmentation: simulated clicks, and the metrics of how many are needed.

Protocol (arXiv 1603.04042; that of RITM, arXiv 2102.06583): each next click goes to the centre of the largest error
region, the pixel that is farthest from its border; it adds where the mask lacks pixels, and takes away where it has too
many. An object gets at most 20 clicks.

Shapes:  H, W image height and width · N objects
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import distance_transform_edt

MAX_CLICKS = 20
Click = tuple[float, float, bool]  # x, y in pixels, and whether it adds


def next_click(mask: np.ndarray, wanted: np.ndarray) -> Click | None:
    """Return the click that corrects the largest error of a mask, bool (H, W); None: there is no error.

    Places are the centres of pixels. The largest error region is the one with the largest inscribed circle.
    """
    missing, excess = wanted & ~mask, mask & ~wanted
    missed, added = depths(missing), depths(excess)
    best, positive = (missed, True) if missed[0] >= added[0] else (added, False)
    depth, (row, column) = best
    return None if depth == 0 else (column + 0.5, row + 0.5, positive)


def depths(region: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the largest distance in pixels to the border of a region, bool (H, W), and the (row, column) there."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return 0.0, (0, 0)
    top, left = int(rows[0]), int(columns[0])
    part = region[top : rows[-1] + 1, left : columns[-1] + 1]  # outside of its box there is nothing to measure
    distance = np.asarray(distance_transform_edt(np.pad(part, 1)))
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return float(distance[row, column]), (top + int(row) - 1, left + int(column) - 1)


def iou(mask: np.ndarray, wanted: np.ndarray) -> float:
    """Return the IoU of two masks; 1 if both are empty."""
    union = int((mask | wanted).sum())
    return int((mask & wanted).sum()) / union if union else 1.0


def click_through(
    first: np.ndarray,
    wanted: np.ndarray,
    refine: Callable[[np.ndarray, list[Click]], np.ndarray],
    clicks: int = MAX_CLICKS,
    enough: float = 1.0,
) -> list[float]:
    """Click until the mask is good enough.

    Args:
        first: bool (H, W), the mask before any click.
        wanted: bool (H, W).
        refine: the current mask and all clicks so far, the newest last → the new mask.
        clicks: at most.
        enough: IoU from which nobody clicks on.

    Returns:
        IoU before any click and after each.
    """
    mask, given, curve = first, list[Click](), [iou(first, wanted)]
    while len(given) < clicks and curve[-1] < enough:
        click = next_click(mask, wanted)
        if click is None:
            break
        given.append(click)
        mask = refine(mask, given)
        curve.append(iou(mask, wanted))
    return curve


@dataclass
class ClickCurves:
    """IoU of N objects before any click and after each; a curve that ends early stays where it is."""

    curves: list[Sequence[float]] = field(default_factory=list)

    def mean_iou(self, clicks: int) -> float:
        """Return the mean IoU after as many clicks."""
        return float(np.mean([curve[min(clicks, len(curve) - 1)] for curve in self.curves]))

    def clicks_to(self, threshold: float, most: int = MAX_CLICKS) -> float:
        """Return the mean number of clicks until IoU first reaches the threshold; `most` where it never does."""
        return float(np.mean([_first(curve, threshold, most) for curve in self.curves]))

    def reached(self, threshold: float, most: int = MAX_CLICKS) -> float:
        """Return the share of objects that reach the threshold within `most` clicks."""
        return float(np.mean([max(curve[: most + 1]) >= threshold for curve in self.curves]))


def _first(curve: Sequence[float], threshold: float, most: int) -> int:
    return next((count for count, value in enumerate(curve[: most + 1]) if value >= threshold), most)
