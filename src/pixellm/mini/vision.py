"""Vision encoder of pixellm-mini: a timm backbone with a dense classifier, and a detector.

Shapes:  B images · C channels · h, w grid sides · V categories of the vocabulary · S side of the square
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.detections import Detections, select_detections
from pixellm.mini.nanodet import NanoDet
from pixellm.model.vision import TimmEncoder, VisionFeatures, valid_area

# Of the pixels that the timm backbone reads, in 0..1: what EfficientNet-Lite was trained with.
PIXEL_MEAN = PIXEL_STD = 0.5
MIN_PROBABILITY = 1e-6  # keeps logits finite


@dataclass
class DetectedObjects:
    """Result of the detector.

    Args:
        detections: its objects.
        maps: its maps (B, c, h, w), the finest first.
        pixels: (B, 3, S, S), normalised for it.
        evidence: (B, classes, 2) that a category is present: logit of its best score, and the classifier's presence.
    """

    detections: Detections
    maps: list[Tensor]
    pixels: Tensor
    evidence: Tensor


@dataclass
class ClassifiedFeatures(VisionFeatures):
    """Feature maps with the classifier's scores.

    Args:
        class_logits: (B, V, h, w), for each category at the finest scale.
        presence_logits: (B, V), whether the image shows the category at all.
        objects: what the detector gives; None without one.
    """

    class_logits: Tensor
    presence_logits: Tensor
    objects: DetectedObjects | None = None


class ClassifyingEncoder(TimmEncoder):
    """A timm backbone, its feature pyramid, the dense classifier over both, and a detector beside them."""

    def __init__(self, config: MiniVisionConfig) -> None:
        super().__init__(config)
        deep, count = self.map_channels[0], len(config.vocabulary)
        self.classifier = DenseClassifier(deep, config.hidden_size, count, config.classifier_dropout)
        self.detector = ObjectDetector(config) if config.detector_classes else None

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> ClassifiedFeatures:
        maps = self.backbone_maps(pixel_values)
        scales = self.scales(maps)
        valid = valid_area(resized_hw, pixel_values.shape[-1], maps[0].shape[-1])
        class_logits, presence = self.classifier(maps[0], scales[-1], valid)
        if self.detector is None:
            return ClassifiedFeatures(scales, class_logits, presence)
        objects, presence = self.detector(pixel_values, resized_hw, presence)
        return ClassifiedFeatures(scales, class_logits, presence, objects)


class ObjectDetector(nn.Module):
    """NanoDet on the pixels of the timm backbone; its scores correct the presence of the categories that it knows."""

    def __init__(self, config: MiniVisionConfig) -> None:
        super().__init__()
        self.network = NanoDet(len(config.detector_classes))
        self.count, self.columns = config.num_detections, config.detector_columns
        # Presence = evidence · gains + bias, see `calibrate`.
        self.presence_gains = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.presence_bias = nn.Parameter(torch.zeros(()))

    def forward(
        self, pixel_values: Tensor, resized_hw: Tensor, presence_logits: Tensor
    ) -> tuple[DetectedObjects, Tensor]:
        """Detect objects in the normalised pixels (B, 3, S, S) of the backbone.

        Returns:
            what is detected, and the presence logits (B, V) with those of the detector's categories corrected.
        """
        inside = valid_area(resized_hw, pixel_values.shape[-1], pixel_values.shape[-1])[:, None]
        rgb = (pixel_values * PIXEL_STD + PIXEL_MEAN) * 255
        pixels = (self.network.normalise(rgb) * inside).contiguous(memory_format=torch.channels_last)
        output = self.network(pixels)
        detections = select_detections(output.scores, output.boxes, resized_hw, self.count)
        best = output.scores.amax(dim=1).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit()
        evidence = torch.stack([best, presence_logits[:, self.columns].float()], dim=-1)
        corrected = (evidence @ self.presence_gains.float() + self.presence_bias).to(presence_logits.dtype)
        objects = DetectedObjects(detections, [output.fine, *output.pyramid], pixels, evidence)
        columns = torch.tensor(self.columns, device=corrected.device)
        return objects, presence_logits.index_copy(1, columns, corrected)


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
