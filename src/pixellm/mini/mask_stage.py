"""Stage that trains the masks of detections; both encoders keep their weights.

An instance is asked for by the detector's box, or by its own box moved a little where the detector misses it. Where a
source unites the instances of a category in one mask, the detector's boxes that overlap no other of their category are
asked for.

Shapes:  B images · I instances · r side of a box's part · S side of the square · M annotated instances of an image
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.ops import box_iou, masks_to_boxes, roi_align

from pixellm.mini.augment import AugmentedImages, fit, on_square
from pixellm.mini.mask_head import SIDE, with_margin
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model.losses import LossCounts, LossWeights, mask_bce
from pixellm.types import Output

SMALLEST_FIT = 0.6  # of the square: images are shown down to this size
MAX_INSTANCES = 8  # of an image
MIN_SIDE = 4.0  # pixels: smaller boxes are left out
MATCHED_IOU = 0.5  # a detection is the instance that it overlaps by as much
MATCHED_RATE = 0.7  # of instances that are asked for by their detection
BOX_NOISE = 0.08  # of width and height, else
MERGED_SCORE = 0.3  # of detections that take a part of a united mask …
MERGED_COVER = 0.2  # … which covers at least this share of their box …
MERGED_IOU = 0.1  # … and that overlap no other of their category by more
EVIDENCE_NOISE = 0.5  # standard deviation of what is added to the classifier's logits
EVIDENCE_DROPOUT = 0.25
SEEN_DROPOUT, UNSEEN_DROPOUT = 0.5, 0.1  # of the dense classifier's features


@dataclass
class MaskSamples(Dataset):
    """Images in a square of `size` pixels with their instances of the detector's categories.

    Args:
        images: the augmented images.
        classes: of the detector.
        size: S.
        unseen: for each source of the images, whether the dense classifier was not trained on it: only then does it see
            what it will see in new images.
        mean, std: of the pixels.
    """

    images: AugmentedImages
    classes: Sequence[str]
    size: int
    unseen: Sequence[bool]
    mean: float = 0.5
    std: float = 0.5

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        annotated, rng = self.images[index]
        annotated = fit(annotated, round(self.size * rng.uniform(SMALLEST_FIT, 1.0)))
        height, width = annotated.image.height, annotated.image.width
        square = on_square(annotated.image, self.size, self.mean, self.std)
        instances = [instance for instance in annotated.instances if instance.category in self.classes]
        rng.shuffle(instances)
        masks = np.zeros((len(instances), self.size, self.size), dtype=bool)
        for mask, instance in zip(masks, instances, strict=True):
            mask[:height, :width] = instance.mask
        return {
            "pixel_values": torch.from_numpy(square).permute(2, 0, 1),
            "resized_hw": torch.tensor((height, width)),
            "unseen": torch.tensor(self.unseen[self.images.mixture.plan[index].source]),
            "masks": torch.from_numpy(masks),
            "classes": torch.tensor([self.classes.index(i.category) for i in instances], dtype=torch.long),
            "merged": torch.tensor([instance.merged for instance in instances], dtype=torch.bool),
        }


def collate_masks(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """Stack what has one size; instances of each image stay a list."""
    stacked = ("pixel_values", "resized_hw", "unseen")
    return {
        **{key: torch.stack([sample[key] for sample in samples]) for key in stacked},
        **{key: [sample[key] for sample in samples] for key in ("masks", "classes", "merged")},
    }


class MaskTraining(nn.Module):
    """A model with the losses of its instance masks alone, as `Trainer` wants it."""

    def __init__(self, model: MiniForConditionalGeneration) -> None:
        super().__init__()
        assert model.instances is not None
        self.model = model.requires_grad_(False)
        model.instances.mask_head.requires_grad_(True)

    def forward(
        self,
        pixel_values: Tensor,
        resized_hw: Tensor,
        unseen: Tensor,
        masks: list[Tensor],
        classes: list[Tensor],
        merged: list[Tensor],
        counts: LossCounts,
        loss_weights: LossWeights,
    ) -> Output:
        """Compute the losses of the masks of all images; the arguments are those of `MaskSamples`."""
        instances, encoder = self.model.instances, self.model.vision_encoder
        assert instances is not None
        with torch.no_grad():
            features = encoder.eval()(pixel_values, resized_hw)
        objects = features.objects
        rows = [
            _asked(masks[b], classes[b], merged[b], *objects.detections.image(b), resized_hw[b])
            for b in range(len(masks))
        ]
        boxes, names, targets = (torch.cat(tensors) for tensors in zip(*rows, strict=True))
        device = pixel_values.device
        index = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row[0]) for row in rows])).to(device)
        # Features of images that the encoder was trained on say more than those of new ones.
        rate = torch.where(unseen, UNSEEN_DROPOUT, SEEN_DROPOUT)
        kept = (torch.rand(len(rows), device=device) >= rate).float()[:, None, None, None]
        features.scales = [scale * kept for scale in features.scales]
        evidence = features.class_logits[index, torch.tensor(instances.columns, device=device)[names]]
        evidence = evidence + EVIDENCE_NOISE * torch.randn(len(boxes), 1, 1, device=device)
        hidden = (torch.rand(len(boxes), device=device) < EVIDENCE_DROPOUT) | ~unseen[index]
        evidence = evidence.masked_fill(hidden[:, None, None], 0)
        boxes = with_margin(boxes)
        logits = instances.mask_head(instances.prepare(features), objects.pixels, evidence, boxes, index, names)
        return Output([], _losses(logits, _inside(targets, boxes), loss_weights))

    def count_terms(self, resized_hw: Tensor, **_batch: object) -> LossCounts:
        return Counter(images=len(resized_hw))


def _inside(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return what boxes (I, 4) show of masks, bool (I, S, S): (I, 2r, 2r) in 0..1, as `MaskHead` draws it."""
    rows = torch.arange(len(boxes), device=boxes.device)
    rois = torch.cat([rows[:, None].float(), boxes], dim=1)
    return roi_align(masks[:, None].float(), rois, 2 * SIDE, sampling_ratio=2, aligned=True)[:, 0]


def _losses(logits: Tensor, wanted: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Cross-entropy and DICE of masks (I, r, r), averaged over instances."""
    count = max(1, len(logits))
    bce = mask_bce(logits, wanted) / count
    probability = logits.sigmoid()
    overlap, total = (probability * wanted).sum(dim=(1, 2)), (probability + wanted).sum(dim=(1, 2))
    dice = (1 - (2 * overlap + 1) / (total + 1)).sum() / count
    return {"bce": weights.bce * bce, "dice": weights.dice * dice}


def _asked(
    masks: Tensor, classes: Tensor, merged: Tensor, boxes: Tensor, found: Tensor, scores: Tensor, hw: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose what an image is asked for.

    Args:
        masks: bool (M, S, S) of the annotated instances.
        classes: (M,) of them.
        merged: bool (M,) of them.
        boxes: (K, 4) corners of the detections.
        found: (K,) classes of the detections.
        scores: (K,) of the detections.
        hw: height and width of the image.

    Returns:
        boxes (I, 4), classes (I,) and masks (I, S, S).
    """
    rows: list[tuple[int, Tensor]] = []
    own = masks_to_boxes(masks) if len(masks) else boxes[:0]
    own[:, 2:] += 1  # to the far side of the last pixel
    for number in range(len(masks)):
        same = found == classes[number]
        if merged[number]:
            rows += [(number, box) for box in _merged_boxes(masks[number], boxes[same & (scores > MERGED_SCORE)])]
        elif bool((own[number, 2:] - own[number, :2]).min() >= MIN_SIDE):
            rows.append((number, _instance_box(own[number], boxes[same], hw)))
    rows = [(n, box) for n, box in rows if bool((box[2:] - box[:2]).min() >= MIN_SIDE)][:MAX_INSTANCES]
    numbers = torch.tensor([n for n, _ in rows], dtype=torch.long, device=boxes.device)
    chosen = torch.stack([box for _, box in rows]) if rows else boxes[:0]
    return chosen, classes[numbers], masks[numbers]


def _instance_box(own: Tensor, candidates: Tensor, hw: Tensor) -> Tensor:
    """Return the detection that is the instance with the box `own` (4,), or that box moved a little."""
    overlaps = box_iou(own[None], candidates)[0]
    if len(overlaps) and float(overlaps.max()) > MATCHED_IOU and float(torch.rand(())) < MATCHED_RATE:
        return candidates[overlaps.argmax()]
    noise = BOX_NOISE * torch.randn(4, device=own.device) * (own[2:] - own[:2]).repeat(2)
    return torch.minimum((own + noise).clamp(min=0), hw.flip(0).repeat(2).float())


def _merged_boxes(mask: Tensor, candidates: Tensor) -> list[Tensor]:
    """Return the boxes of detections that hold a part of a united mask (S, S) of their own."""
    apart = box_iou(candidates, candidates).fill_diagonal_(0).amax(dim=1) <= MERGED_IOU if len(candidates) else []
    boxes = []
    for box, alone in zip(candidates, apart, strict=True):
        left, top, right, bottom = box.round().int().tolist()
        part = mask[top:bottom, left:right]
        if alone and part.numel() and float(part.float().mean()) > MERGED_COVER:
            boxes.append(box)
    return boxes
