"""Losses of grounding: which query is meant, and what its mask is.

Queries of a phrase's row are matched with the masks of that phrase; phrases that read the same share a row, and so their
targets. Everything is computed at sampled points of the photograph, none of them in the padding.

Shapes:  P phrases · N targets · K matched pairs · Q queries · S side of the square · n points
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import sample_point

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.decoder import Prediction

# Points of the losses are mostly where a mask is unsure: of so many times as many, this share are the most unsure.
OVERSAMPLED, UNSURE_SHARE = 3, 0.75


@dataclass
class Targets:
    """The masks of a batch.

    Args:
        masks: (N, 1, S, S) in 0..1, inside the padded square.
        ignored: likewise, pixels that add nothing to the losses, or None.
        row: (N,) whose phrase each is.
        extent: (N, 2) share of the square's width and height that the image takes.
    """

    masks: Tensor
    ignored: Tensor | None
    row: Tensor
    extent: Tensor


def place_targets(
    target_masks: list[Tensor], ignored: list[Tensor] | None, resized_hw: Tensor, row: Tensor, size: int
) -> Targets:
    """Masks at their photographs' sizes → inside the square.

    Args:
        target_masks: of each image bool (M, H, W).
        ignored: likewise, or None.
        resized_hw: (I, 2).
        row: (N,) phrase of each of the N = ΣM masks.
        size: S.
    """
    counts = torch.tensor([len(stack) for stack in target_masks], device=resized_hw.device)
    extent = (resized_hw.flip(1) / size).repeat_interleave(counts, dim=0)
    return Targets(
        _placed(target_masks, resized_hw, size),
        None if ignored is None else _placed(ignored, resized_hw, size),
        row,
        extent,
    )


def _placed(stacks: list[Tensor], resized_hw: Tensor, size: int) -> Tensor:
    placed = []
    for stack, (height, width) in zip(stacks, resized_hw.tolist(), strict=True):
        if len(stack):
            inside = F.interpolate(stack[:, None].float(), (height, width), mode="bilinear", align_corners=False)
            placed.append(F.pad(inside, (0, size - width, 0, size - height)))
    return torch.cat(placed) if placed else torch.zeros(0, 1, size, size, device=resized_hw.device)


def grounding_losses(prediction: Prediction, similarity: Tensor, targets: Targets, config: SeemConfig) -> Tensor:
    """Sums over the targets of the choice's cross-entropy, of BCE and of DICE, each with its weight: (3,).

    Args:
        prediction: of the grounding queries.
        similarity: (P, Q) of their vectors with their phrase.
        targets: with at least one mask.
        config: weights and number of points.
    """
    queries, matched = match(prediction, similarity, targets, config)
    rows = targets.row[matched]
    meant = torch.zeros_like(similarity).index_put((rows, queries), similarity.new_ones(len(rows)), accumulate=True)
    ce = -(meant.clamp(max=1) * similarity.log_softmax(dim=1)).sum()
    bce, dice = mask_losses(prediction.mask_logits[rows, queries][:, None], targets, matched, config.num_points)
    return torch.stack([config.ce_weight * ce, config.bce_weight * bce, config.dice_weight * dice])


@torch.no_grad()
def match(
    prediction: Prediction, similarity: Tensor, targets: Targets, config: SeemConfig
) -> tuple[Tensor, Tensor]:
    """One query of its row for each target, at the least cost (Hungarian): (K,) queries and (K,) targets."""
    points = torch.rand(len(similarity), config.num_points, 2, device=similarity.device)  # of each row
    costs = matching_costs(prediction, similarity, targets, points, config).cpu().numpy()
    rows = targets.row.cpu()
    queries, matched = [], []
    for row in rows.unique():
        mine = (rows == row).nonzero()[:, 0]
        chosen, assigned = linear_sum_assignment(costs[mine].T)
        queries.append(torch.from_numpy(chosen))
        matched.append(mine[torch.from_numpy(assigned)])
    device = similarity.device
    return torch.cat(queries).to(device), torch.cat(matched).to(device)


def matching_costs(
    prediction: Prediction, similarity: Tensor, targets: Targets, points: Tensor, config: SeemConfig
) -> Tensor:
    """What it would cost to take each query of its row for each target, at points (P, n, 2) in 0..1: (N, Q)."""
    row = targets.row
    inside = points[row] * targets.extent[:, None]
    wanted = _at(targets.masks, inside)  # N 1 n
    logits = _at(prediction.mask_logits[row].float(), inside)  # N Q n
    bce = (F.softplus(logits) - logits * wanted).mean(dim=2)
    probability = logits.sigmoid()
    overlap, total = (probability * wanted).sum(dim=2), probability.sum(dim=2) + wanted.sum(dim=2)
    dice = 1 - (2 * overlap + 1) / (total + 1)
    choice = -similarity.softmax(dim=1)[row]
    return config.class_cost * choice + config.bce_cost * bce + config.dice_cost * dice


def mask_losses(logits: Tensor, targets: Targets, chosen: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """BCE and DICE of logits (K, 1, h, w) with the targets of indexes (K,), each summed over the pairs."""
    extent = targets.extent[chosen]
    logits = logits.float()
    with torch.no_grad():
        points = unsure_points(logits, extent, num_points)
        wanted = _at(targets.masks[chosen], points)[:, 0]
        counted = 1.0 if targets.ignored is None else 1 - _at(targets.ignored[chosen], points)[:, 0]
    found = _at(logits, points)[:, 0]
    bce = (F.binary_cross_entropy_with_logits(found, wanted, reduction="none") * counted).mean(dim=1)
    probability, wanted = found.sigmoid() * counted, wanted * counted
    dice = 1 - (2 * (probability * wanted).sum(dim=1) + 1) / (probability.sum(dim=1) + wanted.sum(dim=1) + 1)
    return bce.sum(), dice.sum()


def unsure_points(logits: Tensor, extent: Tensor, count: int) -> Tensor:
    """Random points (K, count, 2) of the square in 0..1 within `extent` (K, 2), most where logits (K, 1, h, w) are near 0."""
    points = torch.rand(len(logits), OVERSAMPLED * count, 2, device=logits.device) * extent[:, None]
    unsure = int(UNSURE_SHARE * count)
    nearest = _at(logits, points)[:, 0].abs().topk(unsure, dim=1, largest=False).indices
    chosen = points.gather(1, nearest[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(logits), count - unsure, 2, device=logits.device) * extent[:, None]
    return torch.cat([chosen, rest], dim=1)


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (N, Q, h, w) at points (N, n, 2), x and y in 0..1: (N, Q, n)."""
    return sample_point(maps, points, align_corners=False)
