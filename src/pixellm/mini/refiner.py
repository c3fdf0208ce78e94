"""Refinement of one target's mask by visual prompts, in the region of the image where it lies.

    pixels, prompt maps and previous mask of the region ─► convolutions ──► + features of both encoders ─┐
    prompt tokens (SAM's encoding) ◄─────────────────── two-way attention ◄──────────────────────────────┘─► logits

A region is resized to SIDE × SIDE cells whatever its size: small targets are seen as large ones are. The answer's own
masks come from the pixel decoder alone; this head only changes a mask that somebody has marked.

Shapes:  T targets · P prompt points · c channels of a map · r = SIDE · H, W image height and width
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.refine_maps import map_channels
from pixellm.mini.refine_region import Region, cut, put_back, region_of
from pixellm.model.pixel_decoder import position_code
from pixellm.model.prompts import BACKGROUND, FOREGROUND, NOTHING, Prompts, VisualPromptEncoder
from pixellm.model.two_way import TwoWayTransformer

SIDE = 64  # cells of a region; a multiple of 4
NARROW, WIDE = 1.5, 8.0  # cells: standard deviations of the bumps that mark points
HEADS = 4
INPUTS = 3 + 1 + 4 + 1  # pixels · previous mask · bumps of both labels · box
PIXEL_MEAN, PIXEL_DEVIATION = 0.45, 0.25


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
        maps: of `refinement_maps`.
        mask: bool (H, W), the previous mask.
        prompts: at least one.
        region: where to look.
    """
    height, width = mask.shape
    device, dtype = maps[0].device, maps[0].dtype
    points, labels = prompts.tensors(device)
    origin, size = torch.tensor([region.left, region.top]), torch.tensor([region.width, region.height])
    points = (points - origin.to(points)) / size.to(points)
    rgb = cut(pixels, region, SIDE) / 255
    previous = cut(mask[None], region, SIDE)
    dense = [(rgb - PIXEL_MEAN) / PIXEL_DEVIATION, 2 * previous - 1, _bumps(points, labels), _box_map(prompts, region)]
    shares = torch.tensor([[0, region.left / width, region.top / height, region.right / width, region.bottom / height]])
    parts = []
    for map_ in maps:
        scale = torch.tensor([1, map_.shape[2], map_.shape[1], map_.shape[2], map_.shape[1]])
        side = SIDE // 4 if parts else SIDE // 2
        roi = (shares * scale).to(device)
        parts.append(roi_align(map_[None].float(), roi, side, sampling_ratio=1 if parts else 2, aligned=True))
    stacked = torch.cat([part.to(device) for part in dense])[None]
    return RegionInputs(
        stacked.to(dtype), parts[0].to(dtype), torch.cat(parts[1:], dim=1).to(dtype), points[None], labels[None]
    )


def _bumps(points: Tensor, labels: Tensor) -> Tensor:
    """Mark points (P, 2) of each label by their nearest one's Gaussian bump: (4, r, r)."""
    centre = (torch.arange(SIDE, device=points.device) + 0.5) / SIDE
    x, y = (centre[None] - points[:, :1]) ** 2, (centre[None] - points[:, 1:]) ** 2
    distance = (y[:, :, None] + x[:, None, :]) * SIDE**2  # P r r, squared, in cells
    maps = []
    for label in (FOREGROUND, BACKGROUND):
        own = distance[labels == label]
        nearest = own.amin(dim=0) if len(own) else torch.full_like(distance[0], torch.inf)
        maps += [(-nearest / (2 * deviation**2)).exp() for deviation in (NARROW, WIDE)]
    return torch.stack(maps)


def _box_map(prompts: Prompts, region: Region) -> Tensor:
    """Return 1 inside the box and -1 outside; 0 without one: (1, r, r)."""
    if prompts.box is None:
        return torch.zeros(1, SIDE, SIDE)
    left, top, right, bottom = prompts.box
    centre = (torch.arange(SIDE) + 0.5) / SIDE
    x, y = region.left + centre * region.width, region.top + centre * region.height
    inside = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]
    return 2 * inside[None].float() - 1


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
        region = region_of(mask, prompts)
        if region is None:
            return mask, 0.0
        logits = self(region_inputs(pixels, maps, mask, prompts, region))[0]
        return put_back(logits.cpu(), region, (mask.shape[0], mask.shape[1]))


def _twice(map_: Tensor) -> Tensor:
    return F.interpolate(map_, scale_factor=2, mode="bilinear", align_corners=False)
