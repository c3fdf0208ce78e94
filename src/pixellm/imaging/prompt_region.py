"""Region of an image in which a mask is corrected by visual prompts: cut out as a model reads it, and put back.

A region is resized to SIDE × SIDE cells whatever its size: small targets are seen as large ones are.

Shapes:  c channels · H, W image height and width · r = SIDE · P prompt points · M feature maps
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pixellm.imaging.interpolation import resize
from pixellm.imaging.visual_prompts import BACKGROUND, FOREGROUND, Prompts

SIDE = 64  # cells of a region; a multiple of 4
MARGIN = 0.25  # of the extent, on each side: the target may be larger than its mask
SMALLEST = 1 / 12  # of the image's longest side
UNKNOWN = 0.5  # of it, around a point without a mask
NARROW, WIDE = 1.5, 8.0  # cells: standard deviations of the bumps that mark points
INPUTS = 3 + 1 + 4 + 1  # pixels · previous mask · bumps of both labels · box
PIXEL_MEAN, PIXEL_DEVIATION = 0.45, 0.25


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


@dataclass(frozen=True)
class PromptedRegion:
    """A region with what is known of it.

    Args:
        dense: fp32 (INPUTS, r, r): pixels, previous mask as ±1, bumps around points, the box as ±1.
        points: fp32 (P, 2), x and y in 0..1 of the region.
        labels: int64 (P,).
        boxes: fp32 (M, 4): left, top, right, bottom of the region in cells of each feature map.
    """

    dense: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray

    @classmethod
    def read(
        cls,
        pixels: np.ndarray,
        mask: np.ndarray,
        prompts: Prompts,
        region: Region,
        map_sizes: Sequence[tuple[int, int]],
    ) -> "PromptedRegion":
        """Cut a region out of an image.

        Args:
            pixels: uint8 (3, H, W).
            mask: bool (H, W), the previous mask.
            prompts: at least one.
            region: where to look.
            map_sizes: height and width of each feature map of the whole image.
        """
        height, width = mask.shape
        points, labels = prompts.arrays()
        points = (points - np.array(region[:2], np.float32)) / np.array((region.width, region.height), np.float32)
        rgb = (cut(pixels, region, SIDE) / 255 - PIXEL_MEAN) / PIXEL_DEVIATION
        previous = 2 * cut(mask[None], region, SIDE) - 1
        dense = np.concatenate([rgb, previous, _bumps(points, labels), _box_map(prompts, region)], dtype=np.float32)
        shares = (region.left / width, region.top / height, region.right / width, region.bottom / height)
        sizes = np.array([(w, h, w, h) for h, w in map_sizes], np.float32)
        return cls(dense, points, labels, np.array(shares, np.float32) * sizes)


def region_of(mask: np.ndarray, prompts: Prompts) -> Region | None:
    """Return the region around a box, or a mask, bool (H, W), and what was added to it; None: nothing is marked."""
    height, width = mask.shape
    longest = max(height, width)
    corners = [point for point, label in zip(prompts.points, prompts.labels, strict=True) if label == FOREGROUND]
    least = SMALLEST * longest
    if prompts.box is not None:
        corners += [prompts.box[:2], prompts.box[2:]]
    elif mask.any():
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
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


def cropped(maps: Sequence[Any], row: int, resized_hw: Sequence[int], size: int) -> list[Any]:
    """Return the feature maps (c, h, w) of one image, without the square's padding.

    Args:
        maps: tensors or arrays (B, c, s, s) over the square.
        row: of the image.
        resized_hw: height and width of the image in the square, in pixels.
        size: side of the square in pixels.
    """
    height, width = resized_hw
    cells = [(math.ceil(height * m.shape[-1] / size), math.ceil(width * m.shape[-1] / size)) for m in maps]
    return [map_[row, :, :h, :w] for map_, (h, w) in zip(maps, cells, strict=True)]


def cut(map_: np.ndarray, region: Region, side: int) -> np.ndarray:
    """Resize the region of a map (c, H, W) to fp32 (c, r, r), linearly and with antialiasing."""
    part = map_[:, region.top : region.bottom, region.left : region.right].astype(np.float32)
    return _antialiased(region.height, side) @ part @ _antialiased(region.width, side).T


def _antialiased(size: int, new_size: int) -> np.ndarray:
    """Return the weights (n, size) of each position in each new one: a triangle, as wide as what it stands for."""
    scale = size / new_size
    centre = scale * (np.arange(new_size) + 0.5)
    distance = np.abs(np.arange(size) + 0.5 - centre[:, None]) / max(1.0, scale)
    weights = np.maximum(0, 1 - distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _bumps(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mark points (P, 2) of each label by their nearest one's Gaussian bump: (4, r, r)."""
    centre = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / SIDE
    x, y = (centre[None] - points[:, :1]) ** 2, (centre[None] - points[:, 1:]) ** 2
    distance = (y[:, :, None] + x[:, None, :]) * SIDE**2  # P r r, squared, in cells
    maps = []
    for label in (FOREGROUND, BACKGROUND):
        nearest = distance[labels == label].min(axis=0, initial=np.inf)
        maps += [np.exp(-nearest / np.float32(2 * deviation**2)) for deviation in (NARROW, WIDE)]
    return np.stack(maps)


def _box_map(prompts: Prompts, region: Region) -> np.ndarray:
    """Return 1 inside the box and -1 outside; 0 without one: (1, r, r)."""
    if prompts.box is None:
        return np.zeros((1, SIDE, SIDE), np.float32)
    left, top, right, bottom = prompts.box
    centre = (np.arange(SIDE) + 0.5) / SIDE
    x, y = region.left + centre * region.width, region.top + centre * region.height
    inside = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]
    return 2 * inside[None].astype(np.float32) - 1


def put_back(logits: np.ndarray, region: Region, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Return the new mask, bool (H, W), nothing of which lies outside of its region, and its pixels' mean probability.

    Args:
        logits: fp32 (r, r) of the region.
        region: see there.
        size: (H, W).
    """
    mask = np.zeros(size, dtype=bool)
    part = resize(logits, region.height, region.width)
    inside = part > 0
    mask[region.top : region.bottom, region.left : region.right] = inside
    score = float((1 / (1 + np.exp(-part[inside].astype(np.float64)))).mean()) if inside.any() else 0.0
    return mask, score
