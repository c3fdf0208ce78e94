"""Region of an image that refinement looks at, cut out and put back.

Shapes:  c channels · H, W image height and width · r side of a region in cells
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.model.prompts import FOREGROUND, Prompts

MARGIN = 0.25  # of the extent, on each side: the target may be larger than its mask
SMALLEST = 1 / 12  # of the image's longest side
UNKNOWN = 0.5  # of it, around a point without a mask


class Region(NamedTuple):
    """Box in pixels of the image, without its right and bottom sides."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def region_of(mask: Tensor, prompts: Prompts) -> Region | None:
    """Return the region around a box, or a mask, bool (H, W), and what was added to it; None: nothing is marked."""
    height, width = mask.shape
    longest = max(height, width)
    corners = [point for point, label in zip(prompts.points, prompts.labels, strict=True) if label == FOREGROUND]
    least = SMALLEST * longest
    if prompts.box is not None:
        corners += [prompts.box[:2], prompts.box[2:]]
    elif bool(mask.any()):
        inside = mask.cpu().numpy()
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        corners += [(float(columns[0]), float(rows[0])), (float(columns[-1] + 1), float(rows[-1] + 1))]
    elif corners:
        least = UNKNOWN * longest
    else:
        return None
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    extent = high - low
    extra = np.maximum(MARGIN * extent, (least - extent) / 2)
    left, top = np.maximum(0, np.floor(low - extra)).astype(int).tolist()
    right, bottom = np.minimum((width, height), np.ceil(high + extra)).astype(int).tolist()
    return Region(left, top, right, bottom)


def cut(map_: Tensor, region: Region, side: int) -> Tensor:
    """Resize the region of a map (c, H, W) to fp32 (c, r, r), with antialiasing."""
    part = map_[:, region.top : region.bottom, region.left : region.right].float()
    return F.interpolate(part[None], (side, side), mode="bilinear", align_corners=False, antialias=True)[0]


def put_back(logits: Tensor, region: Region, size: tuple[int, int]) -> tuple[Tensor, float]:
    """Return the new mask, bool (H, W), nothing of which lies outside of its region, and its pixels' mean probability.

    Args:
        logits: (r, r) of the region.
        region: see there.
        size: (H, W).
    """
    mask = torch.zeros(size, dtype=torch.bool)
    shape = (region.height, region.width)
    part = F.interpolate(logits[None, None].float(), shape, mode="bilinear", align_corners=False)[0, 0]
    inside = part > 0
    mask[region.top : region.bottom, region.left : region.right] = inside
    score = float(part[inside].sigmoid().mean()) if bool(inside.any()) else 0.0
    return mask, score
