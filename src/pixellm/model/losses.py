"""Losses: next token, mask cross-entropy with target refinement, and DICE.

Shapes:  G masks · H, W size at which they are compared
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.imaging import geometry

# The released code scales DICE's sums before smoothing them (its utils.py): 1000 and 1e-6.
DICE_SCALE = 1000.0
DICE_EPS = 1e-6

LossCounts = Counter[str]  # by what it counts: numbers that the losses of a step, on all processes, are averaged over

IGNORE_INDEX = -100


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses (arXiv 2312.02228, section 3.3).

    Args:
        ce: next-token cross-entropy.
        bce: cross-entropy of the masks.
        dice: DICE loss of the masks.
        overlap: α of the target refinement loss, the weight of a pixel that two or more masks of one answer claim
            (1 switches it off).
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    overlap: float = 2.0


def without_labels(labels: Tensor, ids: Sequence[int]) -> Tensor:
    """Return labels of any shape with `IGNORE_INDEX` in place of the token ids `ids`."""
    return labels.masked_fill(torch.isin(labels, torch.tensor(list(ids), dtype=labels.dtype)), IGNORE_INDEX)


def text_loss(head: nn.Module, states: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the next token, summed over all labels of the batch; only those states meet the head.

    Args:
        head: output embeddings of the language model.
        states: (B, T, D).
        labels: (B, T), `IGNORE_INDEX` where nothing is learned.
        weights: (B, T) of the labels; None: all count once.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    labelled = targets != IGNORE_INDEX
    logits = head(states[labelled]).float()
    if weights is None:
        return F.cross_entropy(logits, targets[labelled], reduction="sum")
    each = F.cross_entropy(logits, targets[labelled], reduction="none")
    return (each * F.pad(weights[:, 1:], (0, 1))[labelled]).sum()


def refinement_weight(logits: Tensor, overlap_weight: float) -> Tensor:
    """Target refinement: pixels that two or more masks of one answer claim weigh more.

    Args:
        logits: (G, H, W) of one answer.
        overlap_weight: α ≥ 1; the released code's form adds the overlap's loss once more, which is α = 2.

    Returns:
        (H, W): α where two or more logits are > 0, else 1. No gradient flows through it.
    """
    claimed = (logits.detach() > 0).sum(dim=0) >= 2
    return torch.where(claimed, overlap_weight, 1.0).to(logits.dtype)


def mask_bce(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Weighted cross-entropy averaged over the pixels of each mask and summed over the G masks of (G, H, W)."""
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return (loss * weight).flatten(1).mean(dim=1).sum()


def mask_dice(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """DICE loss of each mask of (G, H, W), its pixels weighted, summed over the G masks."""
    probability = (logits.sigmoid() * weight).flatten(1)
    target = (target.to(logits.dtype) * weight).flatten(1)
    overlap = 2 * (probability / DICE_SCALE * target).sum(dim=1)
    total = (probability / DICE_SCALE).sum(dim=1) + (target / DICE_SCALE).sum(dim=1)
    return (1 - (overlap + DICE_EPS) / (total + DICE_EPS)).sum()


def mask_losses(
    mask_logits: list[Tensor],
    target_masks: list[Tensor],
    resized_hw: Tensor,
    answers: Sequence[Tensor],
    counts: LossCounts,
    weights: LossWeights,
    ignored: list[Tensor] | None = None,
) -> dict[str, Tensor]:
    """BCE with target refinement, and DICE, of the masks of all images.

    Args:
        mask_logits: of each image (M, S, S).
        target_masks: of each image bool (M, H, W), at the size at which they are compared.
        resized_hw: (B, 2).
        answers: of each image (M,), which answer each mask belongs to.
        counts: `masks` is the number that the losses are averaged over.
        weights: of the losses.
        ignored: of each image bool (M, H, W), pixels that add nothing to the losses.
    """
    # Without a target, too, a part of the graph: processes that train together wait for each other's gradients.
    bce = dice = 0 * torch.stack([logits.sum() for logits in mask_logits]).sum().float()
    for index, (logits, target) in enumerate(zip(mask_logits, target_masks, strict=True)):
        if len(logits) != len(target):
            raise ValueError(
                f"image {index} of the batch: its answers have {len(logits)} codebook groups but {len(target)} "
                "masks. Write one {seg} for each mask, in the same order."
            )
        height, width = resized_hw[index].tolist()
        restored = geometry.restore(logits, (height, width), tuple(target.shape[-2:]))
        counted = torch.ones_like(restored) if ignored is None else (~ignored[index]).to(restored.dtype)
        for answer in answers[index].unique():
            rows = answers[index] == answer
            weight = refinement_weight(restored[rows], weights.overlap)
            bce = bce + mask_bce(restored[rows], target[rows], weight * counted[rows])
        dice = dice + mask_dice(restored, target, counted)
    count = max(1, counts["masks"])
    return {"bce": weights.bce * bce / count, "dice": weights.dice * dice / count}
