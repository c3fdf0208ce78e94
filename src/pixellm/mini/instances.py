"""Masks of detections joined with the pixel decoder's mask of their category.

Small objects get the mask that is drawn inside their box; the larger an object, the more its category's mask counts,
since boxes cut off what is large.

Shapes:  B images · G targets · K detections of an image · P pairs of target and detection · V categories · s side
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniConfig
from pixellm.mini.mask_head import MaskHead, paste, with_margin
from pixellm.mini.nanodet import FINE_WIDTH, STRIDES, WIDTH
from pixellm.mini.vision import ClassifiedFeatures, DetectedObjects

CHOSEN_SHARE = 0.3  # a target means a category, and with it its detections, from this probability
SURE_SCORE = 0.3  # of a detection; below, only the best of its category is chosen
SMALL, LARGE = 0.02, 0.1  # of the image: boxes below the first get no part of the category's mask, above the second all
OUTSIDE = -4.0  # logit of what lies in no chosen box; relative to the box's maximum where that is below 0
# Mask logits (P, 2s, 2s), boxes (P, 4), images (P,) → better logits, and bool (P, 2s, 2s): outside, nothing is known.
Refine = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class InstanceDecoder(nn.Module):
    """Choose detections for targets, segment them, and join their masks with those of the categories."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        vision = config.vision_config
        channels = (FINE_WIDTH, *[WIDTH] * len(STRIDES), *[vision.hidden_size] * len(vision.reductions))
        self.mask_head = MaskHead(channels, config.mask_width, len(vision.detector_classes))
        self.columns = vision.detector_columns

    def prepare(self, features: ClassifiedFeatures) -> list[Tensor]:
        """Return what the mask head reads of both encoders' maps, once per image."""
        assert features.objects is not None
        return self.mask_head.prepare([*features.objects.maps, *features.scales[::-1]])

    def choose(self, objects: DetectedObjects, shares: Tensor, image_index: Tensor) -> Tensor:
        """Return which detections each target means: bool (G, K), by its category probabilities (G, V)."""
        detections = objects.detections
        scores, classes = detections.scores[image_index], detections.classes[image_index]
        fitting = (shares[:, self._columns(classes)].gather(1, classes) >= CHOSEN_SHARE) & detections.valid[image_index]
        best = (scores * fitting).argmax(dim=1, keepdim=True)
        best_only = torch.zeros_like(fitting).scatter(1, best, value=True)
        return fitting & ((scores >= SURE_SCORE) | best_only)

    def forward(
        self,
        objects: DetectedObjects,
        maps: list[Tensor],
        class_logits: Tensor,
        chosen: Tensor,
        region_logits: Tensor,
        resized_hw: Tensor,
        image_index: Tensor,
        refine: Refine | None = None,
    ) -> Tensor:
        """Return mask logits (G, 2s, 2s); a target without a detection keeps its region.

        Args:
            objects: of the images.
            maps: what `prepare` gave of them.
            class_logits: (B, V, h, w) of the dense classifier.
            chosen: bool (G, K), the detections that each target means.
            region_logits: (G, s, s), the pixel decoder's masks.
            resized_hw: (B, 2).
            image_index: (G,) the image of each target.
            refine: see `Refine`; None: masks stay as the mask head and the category's mask make them.
        """
        side, size = 2 * region_logits.shape[-1], objects.pixels.shape[-1]
        regions = F.interpolate(region_logits[:, None].float(), (side, side), mode="bilinear", align_corners=False)
        regions = regions[:, 0]
        pairs = chosen.nonzero()
        if torch.compiler.is_exporting():  # onnxruntime can't normalise no rows at all: one more, which is left out
            pairs = F.pad(pairs, (0, 0, 0, 1))
        targets, numbers = pairs.unbind(1)
        images = image_index[targets]
        found = objects.detections.boxes[images, numbers]
        boxes, classes = with_margin(found), objects.detections.classes[images, numbers]
        logits = self.segment(objects, maps, class_logits, boxes, images, classes)
        pasted, inside = paste(logits.float(), boxes, size, side)
        pasted = pasted + region_share(found, resized_hw[images])[:, None, None] * regions[targets]
        # Lower than the box's likeliest pixel, however unsure: `peak_share` may still take that one.
        peaks = pasted.where(inside, -torch.inf).amax(dim=(1, 2), keepdim=True)
        masks = pasted.where(inside, OUTSIDE + peaks.clamp(max=0))
        if refine is not None:
            masks, inside = refine(masks, found, images)
            masks = masks.where(inside, OUTSIDE + masks.amax(dim=(1, 2), keepdim=True).clamp(max=0))
        masks = masks.masked_fill(~chosen[targets, numbers][:, None, None], -torch.inf)
        without = regions.masked_fill(chosen.any(dim=1)[:, None, None], -torch.inf)
        joined = without.scatter_reduce(0, targets[:, None, None].expand_as(masks), masks, "amax")
        return joined.to(region_logits.dtype)

    def segment(
        self,
        objects: DetectedObjects,
        maps: list[Tensor],
        class_logits: Tensor,
        boxes: Tensor,
        image_index: Tensor,
        classes: Tensor,
    ) -> Tensor:
        """Return mask logits (P, r, r) inside boxes (P, 4) of objects with the detector's `classes` (P,)."""
        evidence = class_logits[image_index, self._columns(classes)[classes]]
        return self.mask_head(maps, objects.pixels, evidence, boxes, image_index, classes)

    def _columns(self, like: Tensor) -> Tensor:
        # Not a buffer: those that no checkpoint has are lost when a model is loaded.
        return torch.tensor(self.columns, device=like.device)


def region_share(boxes: Tensor, image_hw: Tensor) -> Tensor:
    """Return how much of a category's mask counts in boxes (P, 4) of images of height and width (P, 2): 0..1."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / image_hw.prod(dim=1)
    return ((area.log() - math.log(SMALL)) / (math.log(LARGE) - math.log(SMALL))).clamp(0, 1)
