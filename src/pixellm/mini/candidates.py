"""Candidates: the objects and regions of an image that an answer may mean, as tokens that the language model reads.

Objects are what the detector found; regions are categories that only the dense classifier knows, each with all that the
image shows of it.

Shapes:  B images · K candidates of an image · D LLM width · G targets · N tokens of a codebook group · V categories
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.vision import ClassifiedFeatures

MIN_REGION_SCORE = -2.0  # logit
SCORE_RANGE = 6.0  # logits of presence are clamped to ±this
FREQUENCIES = (1, 2, 4, 8)
PLACE_FEATURES = 9 + 4 * len(FREQUENCIES)
POINTER_WIDTH = 256
INITIAL_BIAS = -2.0  # most candidates are not meant


@dataclass
class Candidates:
    """Candidates of each image, those of one name beside each other and from left to right, the surest name first.

    Args:
        classes: (B, K) place of each name in the vocabulary.
        objects: (B, K) number of the detection; -1 for a region.
        boxes: (B, K, 4) left, top, right, bottom as fractions of the image.
        scores: (B, K) logits of presence.
        valid: bool (B, K).
    """

    classes: Tensor
    objects: Tensor
    boxes: Tensor
    scores: Tensor
    valid: Tensor


def gather_candidates(
    features: ClassifiedFeatures, resized_hw: Tensor, config: MiniVisionConfig, count: int, regions: int
) -> Candidates:
    """Choose the candidates of images.

    Args:
        features: of the images.
        resized_hw: (B, 2).
        config: of the encoder.
        count: K; the first regions, then the surest objects.
        regions: how many of them are regions at most.
    """
    rows = [
        _candidates(features, image, resized_hw[image], config, count, regions)
        for image in range(len(resized_hw))
    ]
    return Candidates(*(torch.stack(tensors) for tensors in zip(*rows, strict=True)))


def _candidates(
    features: ClassifiedFeatures, image: int, hw: Tensor, config: MiniVisionConfig, count: int, regions: int
) -> tuple[Tensor, ...]:
    """Return the fields of `Candidates` of one image."""
    columns = config.detector_columns
    presence, maps = features.presence_logits[image].float(), features.class_logits[image].float()
    known = torch.ones_like(presence, dtype=torch.bool)
    known[columns] = False
    ranked = presence.masked_fill(~known, -torch.inf).topk(regions)
    shown = [int(c) for c, score in zip(ranked.indices, ranked.values, strict=True) if score > MIN_REGION_SCORE]
    rows = [(c, -1, _extent(maps[c], config.image_size, hw), float(presence[c])) for c in shown]
    if features.objects is not None:
        boxes, classes, scores = features.objects.detections.image(image)
        whole = hw.flip(0).repeat(2).to(boxes.dtype)
        found = zip(classes.tolist(), (boxes / whole).tolist(), scores.logit().tolist(), strict=True)
        rows += [(columns[c], number, box, score) for number, (c, box, score) in enumerate(found)]
    rows = rows[:count]
    best: dict[int, float] = {}
    for category, _, _, score in rows:
        best[category] = max(score, best.get(category, score))
    rows.sort(key=lambda row: (-best[row[0]], row[0], row[2][0] + row[2][2]))
    padding = count - len(rows)
    device = presence.device
    return (
        F.pad(torch.tensor([row[0] for row in rows], dtype=torch.long, device=device), (0, padding)),
        F.pad(torch.tensor([row[1] for row in rows], dtype=torch.long, device=device), (0, padding), value=-1),
        F.pad(torch.tensor([row[2] for row in rows], device=device).reshape(-1, 4), (0, 0, 0, padding)),
        F.pad(torch.tensor([row[3] for row in rows], device=device), (0, padding)),
        torch.arange(count, device=device) < len(rows),
    )


def _extent(logits: Tensor, size: int, hw: Tensor) -> list[float]:
    """Return the box around the logits (h, w) > 0 of a category, as fractions of the image; without any, all of it."""
    inside = logits > 0
    if not bool(inside.any()):
        return [0.0, 0.0, 1.0, 1.0]
    box = masks_to_boxes(inside[None])[0]
    box[2:] += 1
    fractions = box * (size / logits.shape[-1]) / hw.flip(0).repeat(2)
    return fractions.clamp(max=1).tolist()


class CandidateTokens(nn.Module):
    """What a candidate is, where it is, how sure that is, and which of the K it is."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(PLACE_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Linear(2, width)
        self.slot = nn.Embedding(count, width)

    def forward(self, words: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """Return tokens (B, K, D) of names' embeddings (B, K, D), boxes (B, K, 4) as fractions and logits (B, K)."""
        clamped = scores.clamp(-SCORE_RANGE, SCORE_RANGE)
        sureness = torch.stack([clamped / SCORE_RANGE, clamped.sigmoid()], dim=-1).to(words.dtype)
        place = self.place(place_features(boxes).to(words.dtype))
        return words + place + self.score(sureness) + self.slot.weight

    def scale_to(self, size: float) -> None:
        """Initialise with parts about as large as words, whose embeddings have the root mean square `size`."""
        with torch.no_grad():
            last = self.place[-1]
            nn.init.normal_(last.weight, std=size / math.sqrt(last.in_features))
            nn.init.zeros_(last.bias)
            nn.init.normal_(self.score.weight, std=size)
            nn.init.zeros_(self.score.bias)
            nn.init.normal_(self.slot.weight, std=size)


def place_features(boxes: Tensor) -> Tensor:
    """Corners, centre, size and waves of the centre of boxes (…, 4): (…, PLACE_FEATURES)."""
    left, top, right, bottom = boxes.unbind(-1)
    x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    area = (width * height).clamp(min=0).sqrt()
    waves = [wave(math.pi * f * centre) for centre in (x, y) for f in FREQUENCIES for wave in (torch.sin, torch.cos)]
    return torch.stack([left, top, right, bottom, x, y, width, height, area, *waves], dim=-1)


class Pointer(nn.Module):
    """Which candidates the states of a codebook group mean."""

    def __init__(self, width: int, group_size: int) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(width)
        self.query = nn.Linear(group_size * width, POINTER_WIDTH)
        self.key = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, POINTER_WIDTH), nn.GELU(), nn.Linear(POINTER_WIDTH, POINTER_WIDTH)
        )
        self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (G, K) of group states (G, N, D) for the candidates' tokens (G, K, D)."""
        query = self.query(self.normalise(states).flatten(1))
        return torch.einsum("gw,gkw->gk", query, self.key(tokens)) / math.sqrt(POINTER_WIDTH) + self.bias


def pointer_loss(logits: Tensor, meant: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of logits (G, K) for bool targets, summed over valid candidates and targets."""
    loss = F.binary_cross_entropy_with_logits(logits, meant.to(logits.dtype), reduction="none")
    return (loss * valid).sum()
