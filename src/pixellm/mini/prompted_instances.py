"""Masks of detections, refined with the detector's box and the likeliest place in it as prompts.

The regions are those of `imaging/prompt_region.py`, cut out of the square that the detector reads.

Shapes:  P pairs of target and detection · S side of the square · s of the masks' grid · r = SIDE · c channels of a map
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from pixellm.imaging.prompt_region import MARGIN, NARROW, PIXEL_DEVIATION, PIXEL_MEAN, SIDE, SMALLEST, WIDE
from pixellm.imaging.visual_prompts import BOTTOM_RIGHT, FOREGROUND, TOP_LEFT
from pixellm.mini.mask_head import paste
from pixellm.mini.refiner import Refiner, RegionInputs

SAMPLES = 4  # of the square a cell of a region and dimension; regions may be larger than their cells
WINDOW = 15  # cells: the likeliest place is the middle of the likeliest window
PEAK_SHARE = 0.5  # of the highest probability: what belongs to a mask none of whose pixels is likely


def refine_instances(
    refiner: Refiner,
    rgb: Tensor,
    maps: Sequence[Tensor],
    logits: Tensor,
    boxes: Tensor,
    resized_hw: Tensor,
    image_index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Refine masks of detections.

    Args:
        refiner: reads what is prompted.
        rgb: (B, 3, S, S) pixels in 0..1.
        maps: (B, c, h, w) each, of `refinement_sources`.
        logits: (P, s, s) over the square, low outside of the boxes.
        boxes: (P, 4) of the detector, corners in pixels of the square.
        resized_hw: (P, 2) height and width of each pair's image in the square.
        image_index: (P,) row of `rgb` and `maps`.

    Returns:
        Logits (P, s, s), and bool (P, s, s), True inside the regions, outside of which nothing is known.
    """
    size, side = rgb.shape[-1], logits.shape[-1]
    regions = _regions(boxes.float(), resized_hw)
    images = _rois(image_index, regions)
    own = _rois(torch.arange(len(regions), device=regions.device), regions)
    probability = logits.float().sigmoid()
    peak = probability.amax(dim=(1, 2), keepdim=True)
    previous = (probability > torch.clamp(PEAK_SHARE * peak, max=0.5)).float()
    place = _likeliest(_cut(probability[:, None], own, size, SIDE, SAMPLES)[:, 0])
    corners = (boxes.float().unflatten(1, (2, 2)) - regions[:, None, :2]) / (regions[:, 2:] - regions[:, :2])[:, None]
    dense = torch.cat(
        [
            (_cut(rgb, images, size, SIDE, SAMPLES) - PIXEL_MEAN) / PIXEL_DEVIATION,
            2 * _cut(previous[:, None], own, size, SIDE, SAMPLES) - 1,
            _bumps(place),
            _box_map(corners),
        ],
        dim=1,
    )
    fine = _cut(maps[0], images, size, SIDE // 2, 2)
    coarse = torch.cat([_cut(map_, images, size, SIDE // 4, 1) for map_ in maps[1:]], dim=1)
    labels = torch.tensor([FOREGROUND, TOP_LEFT, BOTTOM_RIGHT], device=boxes.device).expand(len(boxes), -1)
    inputs = RegionInputs(dense, fine, coarse, torch.cat([place[:, None], corners], dim=1), labels)
    refined = refiner(RegionInputs(*(_as(value, maps[0]) for value in vars(inputs).values())))
    return paste(refined.float(), regions, size, side)


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype) if value.is_floating_point() else value


def _regions(boxes: Tensor, resized_hw: Tensor) -> Tensor:
    """Return the boxes (P, 4) with their margins, at least `SMALLEST`, inside the images."""
    extent = boxes[:, 2:] - boxes[:, :2]
    least = SMALLEST * resized_hw.amax(dim=1, keepdim=True)
    extra = torch.maximum(MARGIN * extent, (least - extent) / 2)
    low, high = (boxes[:, :2] - extra).clamp(min=0), boxes[:, 2:] + extra
    return torch.cat([low, torch.minimum(high, resized_hw.flip(1).to(high.dtype))], dim=1)


def _rois(rows: Tensor, regions: Tensor) -> Tensor:
    return torch.cat([rows[:, None].to(regions.dtype), regions], dim=1)


def _cut(map_: Tensor, rois: Tensor, size: int, side: int, samples: int) -> Tensor:
    """Parts (P, c, side, side) of maps (B, c, h, w) over squares of `size` pixels, in fp32."""
    return roi_align(map_.float(), rois, side, map_.shape[-1] / size, sampling_ratio=samples, aligned=True)


def likeliest_places(probability: Tensor, boxes: Tensor, resized_hw: Tensor, size: int) -> Tensor:
    """Return the likeliest place (P, 2) of each mask, in pixels of the square.

    Args:
        probability: (P, s, s) over the square of `size` pixels.
        boxes: (P, 4) of the detector.
        resized_hw: (P, 2).
        size: S.
    """
    regions = _regions(boxes.float(), resized_hw)
    own = _rois(torch.arange(len(regions), device=regions.device), regions)
    place = _likeliest(_cut(probability[:, None], own, size, SIDE, SAMPLES)[:, 0])
    return regions[:, :2] + place * (regions[:, 2:] - regions[:, :2])


def _likeliest(probability: Tensor) -> Tensor:
    """Return the middle (P, 2) of the window with the highest mean of probabilities (P, r, r): x, y in 0..1."""
    windows = F.avg_pool2d(probability[:, None], WINDOW, stride=1, padding=WINDOW // 2)
    at = windows.flatten(1).argmax(dim=1)
    return (torch.stack([at % SIDE, at // SIDE], dim=1) + 0.5) / SIDE


def _bumps(place: Tensor) -> Tensor:
    """Mark places (P, 2) as `PromptedRegion` marks points of the object; the background has none: (P, 4, r, r)."""
    centre = (torch.arange(SIDE, device=place.device) + 0.5) / SIDE
    x, y = (centre - place[:, :1]) ** 2, (centre - place[:, 1:]) ** 2
    distance = (y[:, :, None] + x[:, None]) * SIDE**2
    own = torch.stack([torch.exp(-distance / (2 * deviation**2)) for deviation in (NARROW, WIDE)], dim=1)
    return torch.cat([own, torch.zeros_like(own)], dim=1)


def _box_map(corners: Tensor) -> Tensor:
    """Return 1 inside boxes and -1 outside: corners (P, 2, 2) in 0..1 of the region → (P, 1, r, r)."""
    centre = (torch.arange(SIDE, device=corners.device) + 0.5) / SIDE
    inside = (centre >= corners[:, :1].mT) & (centre <= corners[:, 1:].mT)  # P, x and y, r
    return 2 * (inside[:, 1, :, None] & inside[:, 0, None]).float()[:, None] - 1
