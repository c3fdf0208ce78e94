"""Refinement of one target's mask by visual prompts, in the region of the image where it lies.

    pixels, prompt maps and previous mask of the region ─► convolutions ──► + features of both encoders ─┐
    prompt tokens (SAM's encoding) ◄─────────────────── two-way attention ◄──────────────────────────────┘─► logits

The region is that of `imaging/prompt_region.py`. Prompts are a user's, or for an answer's own masks the detector's
boxes (`prompted_instances.py`).

Shapes:  T targets · P prompt points · c channels of a map · r = SIDE · H, W image height and width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from pixellm.imaging.prompt_region import INPUTS, SIDE, PromptedRegion, Region, put_back, region_of
from pixellm.imaging.visual_prompts import NOTHING, Prompts
from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.refine_maps import map_channels
from pixellm.model.pixel_decoder import position_code
from pixellm.model.prompts import VisualPromptEncoder
from pixellm.model.two_way import TwoWayTransformer

HEADS = 4


@dataclass
class RegionInputs:
    """Input of the refiner, of T regions; see `region_inputs`.

    Args:
        dense: (T, INPUTS, r, r).
        fine: (T, c, r/2, r/2), the finest map.
        coarse: (T, Σc, r/4, r/4), the others side by side.
        points: (T, P, 2) in 0..1 of the region.
        labels: (T, P).
    """

    dense: Tensor
    fine: Tensor
    coarse: Tensor
    points: Tensor
    labels: Tensor

    @classmethod
    def stack(cls, inputs: "list[RegionInputs]") -> "RegionInputs":
        """Concatenate targets; shorter lists of points are padded with `NOTHING`."""
        most = max(row.labels.shape[1] for row in inputs)
        return cls(
            *(torch.cat([getattr(row, name) for row in inputs]) for name in ("dense", "fine", "coarse")),
            torch.cat([F.pad(row.points, (0, 0, 0, most - row.points.shape[1])) for row in inputs]),
            torch.cat([F.pad(row.labels, (0, most - row.labels.shape[1]), value=NOTHING) for row in inputs]),
        )


def region_inputs(pixels: Tensor, maps: list[Tensor], mask: Tensor, prompts: Prompts, region: Region) -> RegionInputs:
    """Cut a region out of what is known about an image.

    Args:
        pixels: uint8 (3, H, W).
        maps: (c, h, w) each, of `refinement_sources`, cropped to the image.
        mask: bool (H, W), the previous mask.
        prompts: at least one.
        region: where to look.
    """
    device, dtype = maps[0].device, maps[0].dtype
    sizes = [(map_.shape[1], map_.shape[2]) for map_ in maps]
    found = PromptedRegion.read(pixels.cpu().numpy(), mask.cpu().numpy(), prompts, region, sizes)
    dense, points, labels, boxes = (
        torch.from_numpy(values).to(device) for values in (found.dense, found.points, found.labels, found.boxes)
    )
    fine, coarse = region_features([map_[None].float() for map_ in maps], boxes)
    return RegionInputs(dense[None].to(dtype), fine.to(dtype), coarse.to(dtype), points[None], labels[None])


def region_features(maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return `fine` and `coarse` of one region: its boxes (M, 4) in cells of M fp32 maps (1, c, h, w)."""
    rois = F.pad(boxes, (1, 0))  # all in the first image
    parts = [
        roi_align(map_, rois[at : at + 1], SIDE // 4 if at else SIDE // 2, sampling_ratio=1 if at else 2, aligned=True)
        for at, map_ in enumerate(maps)
    ]
    return parts[0], torch.cat(parts[1:], dim=1)


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside a skip; the first is dilated."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.ReLU(inplace=True))


class Refiner(nn.Module):
    """Previous mask and prompts → new mask.

    Args:
        config: of the vision encoder, with a detector.
        width: channels at a quarter of the region's side, a multiple of 32; half of it at a half, a quarter in full.
    """

    def __init__(self, config: MiniVisionConfig, width: int) -> None:
        super().__init__()
        channels = map_channels(config)
        full, half = width // 4, width // 2
        self.stem = nn.Sequential(_conv(INPUTS, full), _conv(full, full))
        self.to_half, self.fine_features = _conv(full, half, 2), nn.Conv2d(channels[0], half, 1)
        self.half_block = Residual(half)
        self.to_quarter, self.coarse_features = _conv(half, width, 2), nn.Conv2d(sum(channels[1:]), width, 1)
        self.quarter_blocks = nn.Sequential(Residual(width), Residual(width, 2))
        self.prompt_encoder = VisualPromptEncoder(width)
        self.attention = TwoWayTransformer(width, HEADS, 2 * width, 2)
        self.after = Residual(width, 4)
        self.from_quarter, self.from_half = nn.Conv2d(width, half, 1), nn.Conv2d(half, full, 1)
        self.half_again, self.full_again = Residual(half), _conv(full, full)
        self.output = nn.Conv2d(full, 1, 1)
        # Starts as "the mask stays as it is".
        self.previous_gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Return logits (T, r, r) of the regions' new masks."""
        full = self.stem(inputs.dense)
        half = self.half_block(self.to_half(full) + self.fine_features(inputs.fine))
        quarter = self.quarter_blocks(self.to_quarter(half) + self.coarse_features(inputs.coarse))
        tokens = self.prompt_encoder(inputs.points, inputs.labels).to(quarter.dtype)
        code = position_code(self.prompt_encoder.frequencies, quarter.shape[-1]).to(quarter.dtype)
        _, image = self.attention(tokens, quarter.flatten(2).transpose(1, 2), code)
        quarter = self.after(image.transpose(1, 2).unflatten(2, quarter.shape[-2:]))
        half = self.half_again(half + _twice(self.from_quarter(quarter)))
        full = self.full_again(full + _twice(self.from_half(half)))
        return self.output(full)[:, 0] + self.previous_gain * inputs.dense[:, 3]

    @torch.no_grad()
    def refine(self, pixels: Tensor, maps: list[Tensor], mask: Tensor, prompts: Prompts) -> tuple[Tensor, float]:
        """Correct one mask; see `PixelLMForConditionalGeneration.refine_mask`.

        A mask that is empty stays so where nothing but background is marked.
        """
        region = region_of(mask.cpu().numpy(), prompts)
        if region is None:
            return mask, 0.0
        logits = self(region_inputs(pixels, maps, mask, prompts, region))[0]
        new, score = put_back(logits.float().cpu().numpy(), region, (mask.shape[0], mask.shape[1]))
        return torch.from_numpy(new), score


def _twice(map_: Tensor) -> Tensor:
    return F.interpolate(map_, scale_factor=2, mode="bilinear", align_corners=False)
