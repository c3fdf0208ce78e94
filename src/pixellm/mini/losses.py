"""Losses of pixellm-mini beside those of PixelLM: of its dense classifier, and the weight of its pointer's.

Shapes:  B images · V categories · h, w grid sides
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pixellm.model.losses import LossWeights


@dataclass(frozen=True)
class MiniLossWeights(LossWeights):
    """Weights of the losses of pixellm-mini.

    Args:
        semantics: loss of the dense classifier, where a sample has class targets.
        pointer: cross-entropy of the candidates that each target means, see `pointer_loss`.
    """

    ce: float = 2.0
    dice: float = 2.0
    semantics: float = 0.5
    pointer: float = 0.5


def semantic_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Compute the loss of a dense classifier where the target is known.

    Args:
        logits: (B, V, h, w).
        target: (B, V, h, w) in 0..1.
        weight: bool (B, V, h, w).

    Returns:
        Cross-entropy summed over categories and averaged over positions, plus the mean DICE loss of those present.
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
    """Compute the loss of the presence scores, where the annotation is complete enough to decide.

    Args:
        logits: (B, V).
        target: (B, V, h, w), as for `semantic_loss`.
        weight: bool (B, V, h, w).
        valid: bool (B, h, w), False in the padding.

    Returns:
        Cross-entropy summed over categories and averaged over images.
    """
    present = target.flatten(2).amax(dim=2) > 0
    absent = (weight.bool() | ~valid[:, None]).flatten(2).all(dim=2) & ~present
    known = (present | absent).float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), present.float(), known, reduction="none")
    return loss.sum(dim=1).mean()
