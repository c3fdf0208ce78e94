"""Overlap of a predicted with a reference mask, and its sums over many pairs: gIoU and cIoU."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from pixellm.imaging import masks


class Overlap(NamedTuple):
    """Pixels that two masks share (`intersection`) and cover together (`union`)."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; two empty masks agree: 1."""
        return self.intersection / self.union if self.union else 1.0


def overlap(predicted: masks.Rle, target: masks.Rle, ignored: masks.Rle | None = None) -> Overlap:
    """Count the common pixels of two compressed RLEs without decoding them.

    Args:
        predicted: a mask.
        target: another one.
        ignored: pixels that are left out; none of them is the target's.

    Raises:
        ValueError: the masks differ in size.
    """
    if list(predicted["size"]) != list(target["size"]):
        raise ValueError(
            f"expected a predicted mask of the target's size {list(target['size'])}, got {list(predicted['size'])}. "
            "Compare masks at the original image's size."
        )
    shared = masks.intersection_area(predicted, target)
    outside = masks.intersection_area(predicted, ignored) if ignored else 0
    return Overlap(shared, masks.area(predicted) + masks.area(target) - shared - outside)


@dataclass
class IouSum:
    """Running sums over mask pairs.

    `giou` is the mean IoU over pairs (the name used in referring segmentation; it is not Generalized IoU, a loss for
    boxes); `ciou` the cumulative intersection over the cumulative union, to which large masks contribute most. A pair
    of two empty masks counts as IoU 1 and adds nothing to either sum.
    """

    pairs: int = 0
    iou: float = 0.0
    intersection: int = 0
    union: int = 0

    def add(self, counts: Overlap, iou: float | None = None) -> None:
        """Add one pair; `iou` replaces the IoU of its counts where a rule says so (a mask without a partner: 0)."""
        self.pairs += 1
        self.iou += counts.iou if iou is None else iou
        self.intersection += counts.intersection
        self.union += counts.union

    @property
    def giou(self) -> float:
        """Mean IoU, 0..1; NaN without pairs."""
        return self.iou / self.pairs if self.pairs else math.nan

    @property
    def ciou(self) -> float:
        """Σ intersection / Σ union, 0..1; NaN where no mask has a pixel."""
        return self.intersection / self.union if self.union else math.nan
