"""NanoDet-g (Apache-2.0, github.com/RangiLyu/nanodet) in plain torch: a one-stage detector trained on COCO train2017.

pixels → cross-stage partial stages → feature pyramid → class probabilities and boxes of each cell

Shapes:  B images · N cells at strides 8, 16 and 32, row by row · C classes · h, w sides of a map
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
BINS = 11  # the distance to a side is a distribution over 0..10 strides
WIDTH = 128
FINE_WIDTH = 64  # channels at stride 4
# In the range 0..255, blue first: what it was trained with.
MEAN_BGR, DEVIATION_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


@dataclass
class DetectorOutput:
    """Maps, class probabilities and boxes of NanoDet.

    Args:
        fine: (B, 64, h, w) at stride 4.
        pyramid: three maps (B, 128, h, w) at strides 8, 16 and 32.
        scores: (B, N, C) class probabilities.
        boxes: (B, N, 4) corners in pixels. Like the scores in fp32, whatever the weights are.
    """

    fine: Tensor
    pyramid: list[Tensor]
    scores: Tensor
    boxes: Tensor


class NanoDet(nn.Module):
    """Detector; BatchNorm is folded into its convolutions.

    Args:
        num_classes: C; 80 in the published weights.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(_conv(3, 32, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList([_Stage(32, 32, 1, 1), _Stage(64, 64, 2), _Stage(128, 128, 2), _Stage(256, 256, 3)])
        self.lateral = nn.ModuleList([nn.Conv2d(channels, WIDTH, 1) for channels in (128, 256, 512)])
        self.heads = nn.ModuleList([_conv(WIDTH, WIDTH) for _ in STRIDES])
        self.outputs = nn.ModuleList([nn.Conv2d(WIDTH, num_classes + 4 * BINS, 1) for _ in STRIDES])

    def normalise(self, rgb: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in the range 0..255, red first, as `forward` takes them."""
        mean, deviation = rgb.new_tensor(MEAN_BGR), rgb.new_tensor(DEVIATION_BGR)
        return (rgb.flip(1) - mean[:, None, None]) / deviation[:, None, None]

    def restore(self, pixels: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) in the range 0..255, red first, that `normalise` was given."""
        mean, deviation = pixels.new_tensor(MEAN_BGR), pixels.new_tensor(DEVIATION_BGR)
        return (pixels * deviation[:, None, None] + mean[:, None, None]).flip(1)

    def forward(self, pixels: Tensor) -> DetectorOutput:
        """Detect on normalised images (B, 3, H, W); 0 is padding."""
        fine = self.stages[0](self.stem(pixels))
        maps, pyramid = fine, []
        for stage, lateral in zip(list(self.stages)[1:], self.lateral, strict=True):
            maps = stage(maps)
            pyramid.append(lateral(maps))
        for index in (1, 0):  # from deep to fine, then back
            pyramid[index] = pyramid[index] + _resize(pyramid[index + 1], pyramid[index])
        for index in (1, 2):
            pyramid[index] = pyramid[index] + _resize(pyramid[index - 1], pyramid[index])
        outputs = [out(head(maps)) for out, head, maps in zip(self.outputs, self.heads, pyramid, strict=True)]
        classes = [output[:, : self.num_classes].flatten(2) for output in outputs]
        scores = torch.cat(classes, dim=2).float().sigmoid()
        boxes = [_boxes(output[:, self.num_classes :], stride) for output, stride in zip(outputs, STRIDES, strict=True)]
        return DetectorOutput(fine, pyramid, scores.transpose(1, 2), torch.cat(boxes, dim=1))


class _Block(nn.Module):
    """(B, W, h, w) → (B, W, h, w): half of the channels, and the same convolved once more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width // 2), _conv(width // 2, width // 2)

    def forward(self, maps: Tensor) -> Tensor:
        half = self.first(maps)
        return torch.cat([self.second(half), half], dim=1)


class _Stage(nn.Module):
    """(B, I, h, w) → (B, 2W, h / stride, w / stride): what passed the blocks beside what did not."""

    def __init__(self, inputs: int, width: int, depth: int, stride: int = 2) -> None:
        super().__init__()
        self.down = _conv(inputs, width, stride)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.fuse = _conv(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.down(maps)
        return torch.cat([self.fuse(self.blocks(maps)), maps], dim=1)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.1, inplace=True))


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


def _boxes(logits: Tensor, stride: int) -> Tensor:
    """Boxes (B, h·w, 4) of distributions (B, 4·BINS, h, w) of the distances from a cell's centre."""
    height, width = logits.shape[-2:]
    steps = torch.arange(BINS, dtype=torch.float32, device=logits.device)[:, None, None]
    left, top, right, bottom = (logits.float().unflatten(1, (4, BINS)).softmax(2) * steps).sum(2).unbind(1)
    rows, columns = (torch.arange(side, device=logits.device) + 0.5 for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return stride * torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)
