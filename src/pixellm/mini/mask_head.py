"""Instance masks: what lies inside a detection's box belongs to the object, or to what is around it.

maps of the detector, reduced once per image → a box's part of each → mask of 56 × 56

Shapes:  B images · I instances · C mask width · r side of a box's part
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

SIDE = 28  # cells of a box's part; its mask has twice as many
CLASS_WIDTH = 16
EVIDENCE_RANGE = 6.0  # logits of the dense classifier are clamped to ±this
DILATIONS = (1, 2, 4)
SMALLEST_EXTENT = 1.01  # cells of the grid on which masks are placed: one centre always lies inside
MARGIN = 0.1  # of a box's width and height, on each side: detections often cut off a part


class MaskHead(nn.Module):
    """Masks of instances from their boxes.

    Args:
        channels: of each map that it reads.
        width: C.
        num_classes: of the detector.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList([nn.Conv2d(count, width, 1) for count in channels])
        self.class_embedding = nn.Embedding(num_classes, CLASS_WIDTH)
        layers: list[nn.Module] = []
        inputs = width + CLASS_WIDTH + 6  # image 3 · evidence 1 · place 2
        for dilation in DILATIONS:
            convolution = nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
            layers += [convolution, nn.GroupNorm(8, width), nn.ReLU(inplace=True)]
            inputs = width
        self.convolutions = nn.Sequential(*layers)
        self.upscale = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.output = nn.Conv2d(width // 2, 1, 1)

    def prepare(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Reduce maps (B, c, h, w) to (B, C, h, w), once per image."""
        return [reduce(map_) for reduce, map_ in zip(self.reduce, maps, strict=True)]

    def forward(
        self,
        maps: Sequence[Tensor],
        pixels: Tensor,
        evidence: Tensor,
        boxes: Tensor,
        image_index: Tensor,
        classes: Tensor,
    ) -> Tensor:
        """Return mask logits (I, 2r, 2r) inside boxes.

        Args:
            maps: what `prepare` gave.
            pixels: (B, 3, S, S), normalised.
            evidence: (I, h, w) logits of each instance's class, of the dense classifier over the whole square.
            boxes: (I, 4) corners in pixels of the square.
            image_index: (I,) row of `maps`.
            classes: (I,).
        """
        size = pixels.shape[-1]
        rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)
        own = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes.dtype), boxes], dim=1)
        parts = torch.stack([_part(map_, rois, size) for map_ in maps]).sum(dim=0)
        scaled = evidence[:, None].clamp(-EVIDENCE_RANGE, EVIDENCE_RANGE) / EVIDENCE_RANGE
        side = torch.linspace(-1, 1, SIDE, device=boxes.device, dtype=pixels.dtype)
        places = torch.stack(torch.meshgrid(side, side, indexing="ij")).expand(len(boxes), -1, -1, -1)
        names = self.class_embedding(classes)[..., None, None].expand(-1, -1, SIDE, SIDE)
        inputs = [parts, _part(pixels, rois, size), _part(scaled.to(pixels.dtype), own, size), places, names]
        return self.output(F.relu(self.upscale(self.convolutions(torch.cat(inputs, dim=1)))))[:, 0]


def _part(map_: Tensor, rois: Tensor, size: int) -> Tensor:
    """Parts (I, c, r, r) of maps (B, c, h, w) over squares of `size` pixels, for boxes (I, 5) with their row."""
    # In fp32: torchvision has no other kernel on every device.
    part = roi_align(map_.float(), rois.float(), SIDE, map_.shape[-1] / size, sampling_ratio=2, aligned=True)
    return part.to(map_.dtype)


def with_margin(boxes: Tensor) -> Tensor:
    """Enlarge boxes (I, 4) by `MARGIN` on each side; they may exceed the image."""
    size = (boxes[:, 2:] - boxes[:, :2]) * MARGIN
    return torch.cat([boxes[:, :2] - size, boxes[:, 2:] + size], dim=1)


def paste(logits: Tensor, boxes: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """Place mask logits (I, r, r) of boxes (I, 4) in pixels on a grid over the square.

    Args:
        logits: of `MaskHead`.
        boxes: corners in pixels of the square; smaller ones than a cell of the grid are enlarged to one.
        size: of the square, in pixels.
        side: of the grid.

    Returns:
        (I, side, side), beyond a box the logits of its border; and bool (I, side, side), True inside the box.
    """
    centres = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) * size / side
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=SMALLEST_EXTENT * size / side)
    x = (centres[None] - middle[:, :1]) / extent[:, :1] * 2  # I side
    y = (centres[None] - middle[:, 1:]) / extent[:, 1:] * 2
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    pasted = F.grid_sample(logits[:, None], grid.to(logits.dtype), padding_mode="border", align_corners=False)[:, 0]
    return pasted, (grid.abs() <= 1).all(dim=-1)
