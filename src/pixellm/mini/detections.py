"""Detections: the objects that a detector is surest of, after non-maximum suppression.

Shapes:  B images · N cells · C classes · K detections of an image
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

MAX_IOU = 0.6  # of two boxes of one class
CANDIDATES = 400  # cells and classes looked at


@dataclass
class Detections:
    """Up to K objects of each image, the surest first.

    Args:
        boxes: (B, K, 4) left, top, right, bottom in pixels of the square; 0 where there is none.
        classes: (B, K) of the detector.
        scores: (B, K) in 0..1; 0 where there is none.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor

    @property
    def valid(self) -> Tensor:
        return self.scores > 0

    def image(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, classes and scores of the objects of one image."""
        valid = self.valid[row]
        return self.boxes[row][valid], self.classes[row][valid], self.scores[row][valid]


def select_detections(
    scores: Tensor, boxes: Tensor, resized_hw: Tensor, count: int, min_score: float = 0.05
) -> Detections:
    """Choose objects among the cells of a detector.

    Args:
        scores: (B, N, C) class probabilities.
        boxes: (B, N, 4) corners in pixels of the square.
        resized_hw: (B, 2) height and width of each image in the top-left corner of the square.
        count: K.
        min_score: of what is an object.
    """
    if scores.is_meta:  # where only shapes are known
        found = scores.new_zeros(len(scores), count)
        return Detections(found[..., None].expand(-1, -1, 4), found.long(), found)
    rows = [
        _select(image_scores, image_boxes, hw, count, min_score)
        for image_scores, image_boxes, hw in zip(scores, boxes, resized_hw, strict=True)
    ]
    stacked = [torch.stack(tensors) for tensors in zip(*rows, strict=True)]
    return Detections(*stacked)


def _select(scores: Tensor, boxes: Tensor, hw: Tensor, count: int, min_score: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (K, 4), classes (K,) and scores (K,) of one image; see `select_detections`."""
    best, flat = scores.flatten().topk(min(CANDIDATES, scores.numel()))
    cells, classes = flat // scores.shape[-1], flat % scores.shape[-1]
    corners = torch.minimum(boxes[cells].clamp(min=0), hw.flip(0).repeat(2).to(boxes.dtype))
    sized = ((corners[:, 2:] - corners[:, :2]) >= 1).all(dim=1) & (best > min_score)
    # Set to 0 rather than left out: an exported graph has one shape. A box without an area suppresses no other.
    best, classes, corners = best * sized, classes * sized, corners * sized[:, None]
    kept = batched_nms(corners.float(), best.float(), classes, MAX_IOU)
    missing = len(best)  # the row of zeros that is appended
    kept = F.pad(kept, (0, count), value=missing)[:count]
    return F.pad(corners, (0, 0, 0, 1))[kept], F.pad(classes, (0, 1))[kept], F.pad(best, (0, 1))[kept]
