"""Vision encoder of pixellm-mini: a timm backbone with a dense classifier.

Shapes:  B images · C channels · h, w grid sides · V categories of the vocabulary
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.model.vision import TimmEncoder, VisionFeatures, valid_area


@dataclass
class ClassifiedFeatures(VisionFeatures):
    """Feature maps with the classifier's scores.

    Args:
        class_logits: (B, V, h, w), for each category at the finest scale.
        presence_logits: (B, V), whether the image shows the category at all.
    """

    class_logits: Tensor
    presence_logits: Tensor


class ClassifyingEncoder(TimmEncoder):
    """A timm backbone, its feature pyramid, and the dense classifier over both."""

    def __init__(self, config: MiniVisionConfig) -> None:
        super().__init__(config)
        deep, count = self.map_channels[0], len(config.vocabulary)
        self.classifier = DenseClassifier(deep, config.hidden_size, count, config.classifier_dropout)

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> ClassifiedFeatures:
        maps = self.backbone_maps(pixel_values)
        scales = self.scales(maps)
        valid = valid_area(resized_hw, pixel_values.shape[-1], maps[0].shape[-1])
        return ClassifiedFeatures(scales, *self.classifier(maps[0], scales[-1], valid))


class DenseClassifier(nn.Module):
    """Score each category at each position from the deepest and the finest features.

    Presence in the whole image is scored separately: objects too small or too unusual for a mask still leave a trace in
    the deepest features.
    """

    def __init__(self, deep_channels: int, fine_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.deep = nn.Conv2d(deep_channels, num_classes, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(fine_channels, fine_channels, 3, padding=1), nn.GroupNorm(8, fine_channels), nn.ReLU(inplace=True)
        )
        self.fine = nn.Conv2d(fine_channels, num_classes, 1)
        self.presence = nn.Conv2d(deep_channels, num_classes, 1)
        self.peak_gain = nn.Parameter(torch.full((), 0.5))

    def forward(self, deep: Tensor, fine: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps (B, C, h, w); `valid`, bool (B, h, w), is False in the padding of the deepest.

        Returns:
            class logits (B, V, h, w) and presence logits (B, V).
        """
        deep = self.dropout(deep)
        coarse = F.interpolate(self.deep(deep), fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = coarse + self.fine(self.refine(fine))
        evidence = self.presence(deep).float().masked_fill(~valid[:, None], -torch.inf)
        presence = evidence.flatten(2).logsumexp(dim=2) + self.peak_gain * logits.flatten(2).amax(dim=2)
        return logits, presence.to(logits.dtype)
