"""Losses of grounding: the choice of the query, and its mask.

Queries of a phrase's row are matched with the masks of that phrase; equal phrases share a row, and so their targets.
Everything is computed at sampled points of the image, none of them in the padding.

Shapes:  P phrases · N targets · K matched pairs · Q queries · S side of the square · n points
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import sample_point

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.decoder import DecoderOutput

# Importance sampling of points (Mask2Former's): candidates per point, and the share that has the logits nearest 0.
OVERSAMPLING, UNCERTAIN_SHARE = 3, 0.75


@dataclass
class GroundingTargets:
    """Target masks of a batch.

    Args:
        masks: (N, 1, S, S) in 0..1, in the square; in the padding their edge is repeated, for interpolation.
        ignored: like `masks`, pixels that add nothing to the losses, or None.
        row: (N,) index of each mask's phrase.
        extent: (N, 2) share of the square's width and height that the image takes.
    """

    masks: Tensor
    ignored: Tensor | None
    row: Tensor
    extent: Tensor


def place_targets(
    target_masks: list[Tensor], ignored: list[Tensor] | None, resized_hw: Tensor, row: Tensor, size: int
) -> GroundingTargets:
    """Resize masks from their images' sizes into the square.

    Args:
        target_masks: for each image bool (M, H, W).
        ignored: the same, or None.
        resized_hw: (I, 2).
        row: (N,) phrase of each of the N = ΣM masks.
        size: S.
    """
    counts = torch.tensor([len(stack) for stack in target_masks], device=resized_hw.device)
    extent = (resized_hw.flip(1) / size).repeat_interleave(counts, dim=0)
    return GroundingTargets(
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
            placed.append(F.pad(inside, (0, size - width, 0, size - height), mode="replicate"))
    return torch.cat(placed) if placed else torch.zeros(0, 1, size, size, device=resized_hw.device)


def grounding_losses(
    output: DecoderOutput, similarity: Tensor, targets: GroundingTargets, config: SeemConfig
) -> Tensor:
    """Return the sums over the targets of the choice's cross-entropy, BCE and DICE, each with its weight: (3,).

    Args:
        output: of the grounding queries.
        similarity: (P, Q) of their vectors with their phrase.
        targets: with at least one mask.
        config: weights and number of points.
    """
    queries, matched = match(output, similarity, targets, config)
    rows = targets.row[matched]
    correct = torch.zeros_like(similarity).index_put((rows, queries), similarity.new_ones(len(rows)), accumulate=True)
    ce = -(correct.clamp(max=1) * similarity.log_softmax(dim=1)).sum()
    bce, dice = mask_losses(output.mask_logits[rows, queries][:, None], targets, matched, config.num_points)
    return torch.stack([config.ce_weight * ce, config.bce_weight * bce, config.dice_weight * dice])


@torch.no_grad()
def match(
    output: DecoderOutput, similarity: Tensor, targets: GroundingTargets, config: SeemConfig
) -> tuple[Tensor, Tensor]:
    """Assign each target a query of its row at the least cost (Hungarian): (K,) queries and (K,) targets."""
    points = torch.rand(len(similarity), config.num_points, 2, device=similarity.device)  # of each row
    costs = matching_costs(output, similarity, targets, points, config).cpu().numpy()
    rows = targets.row.cpu()
    queries, matched = [], []
    for row in rows.unique():
        indices = (rows == row).nonzero()[:, 0]
        assigned, columns = linear_sum_assignment(costs[indices.numpy()])
        queries.append(torch.from_numpy(columns))
        matched.append(indices[torch.from_numpy(assigned)])
    device = similarity.device
    return torch.cat(queries).to(device), torch.cat(matched).to(device)


def matching_costs(
    output: DecoderOutput, similarity: Tensor, targets: GroundingTargets, points: Tensor, config: SeemConfig
) -> Tensor:
    """Return the cost of each query of its row for each target, at points (P, n, 2) in 0..1: (N, Q)."""
    row = targets.row
    inside = points[row] * targets.extent[:, None]
    wanted = _at(targets.masks, inside)  # N 1 n
    logits = _at(output.mask_logits[row].float(), inside)  # N Q n
    bce = (F.softplus(logits) - logits * wanted).mean(dim=2)
    probability = logits.sigmoid()
    overlap, total = (probability * wanted).sum(dim=2), probability.sum(dim=2) + wanted.sum(dim=2)
    dice = 1 - (2 * overlap + 1) / (total + 1)
    choice = -similarity.softmax(dim=1)[row]
    return config.class_cost * choice + config.bce_cost * bce + config.dice_cost * dice


def mask_losses(logits: Tensor, targets: GroundingTargets, indices: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """Return BCE and DICE of logits (K, 1, h, w) with the targets at indices (K,), each summed over the pairs."""
    extent = targets.extent[indices]
    logits = logits.float()
    with torch.no_grad():
        points = uncertain_points(logits, extent, num_points)
        wanted = _at(targets.masks[indices], points)[:, 0]
        counted = 1.0 if targets.ignored is None else 1 - _at(targets.ignored[indices], points)[:, 0]
    sampled = _at(logits, points)[:, 0]
    bce = (F.binary_cross_entropy_with_logits(sampled, wanted, reduction="none") * counted).mean(dim=1)
    probability, wanted = sampled.sigmoid() * counted, wanted * counted
    dice = 1 - (2 * (probability * wanted).sum(dim=1) + 1) / (probability.sum(dim=1) + wanted.sum(dim=1) + 1)
    return bce.sum(), dice.sum()


def uncertain_points(logits: Tensor, extent: Tensor, count: int) -> Tensor:
    """Sample points (K, count, 2) within `extent` (K, 2), most of them where logits (K, 1, h, w) are near 0."""
    points = torch.rand(len(logits), OVERSAMPLING * count, 2, device=logits.device) * extent[:, None]
    uncertain = int(UNCERTAIN_SHARE * count)
    nearest = _at(logits, points)[:, 0].abs().topk(uncertain, dim=1, largest=False).indices
    selected = points.gather(1, nearest[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(logits), count - uncertain, 2, device=logits.device) * extent[:, None]
    return torch.cat([selected, rest], dim=1)


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate maps (N, Q, h, w) at points (N, n, 2), x and y in 0..1: (N, Q, n)."""
    return sample_point(maps, points, align_corners=False, padding_mode="border")
