"""Losses: next token, mask cross-entropy with target refinement, and DICE.

Shapes:  G masks · H, W size at which they are compared
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The released code scales DICE's sums before smoothing them (its utils.py): 1000 and 1e-6.
DICE_SCALE = 1000.0
DICE_EPS = 1e-6


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


def semantic_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Loss of a dense classifier where the target is known.

    Args:
        logits: (B, V, h, w).
        target: (B, V, h, w) in 0..1.
        weight: bool (B, V, h, w).

    Returns:
        Cross-entropy summed over names and averaged over positions, plus the mean DICE loss of the names present.
    """
    logits, target, weight = logits.float(), target.float(), weight.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none").mean(dim=(2, 3)).sum(dim=1)
    probability = logits.sigmoid() * weight
    overlap = (probability * target).sum(dim=(2, 3))
    area = target.sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(2, 3)) + area + 1)
    present = area > 0.5
    return bce.mean() + dice[present].sum() / present.sum().clamp(min=1)


def presence_loss(logits: Tensor, target: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """Loss of the scores that say whether an image shows a name at all, where the sources tell.

    Args:
        logits: (B, V).
        target: (B, V, h, w), as for `semantic_loss`.
        weight: likewise.
        valid: bool (B, h, w), False in the padding.

    Returns:
        Cross-entropy summed over names and averaged over images.
    """
    present = target.flatten(2).amax(dim=2) > 0
    absent = (weight.bool() | ~valid[:, None]).flatten(2).all(dim=2) & ~present
    known = (present | absent).float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), present.float(), known, reduction="none")
    return loss.sum(dim=1).mean()
