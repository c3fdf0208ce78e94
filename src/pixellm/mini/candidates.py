"""Candidates: the objects and regions of an image that an answer may mean, as tokens that the language model reads.

An object is what the detector found; a region stands for all that the image shows of a category without an object. Of
categories that the detector does not know, there is one only where the dense classifier sees a pixel of them.

Shapes:  B images · K candidates of an image · M detections of an image · D LLM width · G targets
         N tokens of a codebook group · V categories
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniConfig
from pixellm.mini.vision import ClassifiedFeatures

UNSURE = -2.0  # scores: from here on a category counts as there where it is asked for by name, from 0 always
SCORE_RANGE = 6.0  # scores are clamped to ±this
FREQUENCIES = (1, 2, 4, 8)
PLACE_FEATURES = 9 + 4 * len(FREQUENCIES)
INITIAL_GAIN, INITIAL_BIAS = 24.0, -2.5  # of cosines; most candidates are not meant
COUNTED_SCORE = 0.35  # of a further detection of a category
SAME_SHARE = 0.7  # of the smaller of two boxes of a category that lies in the other: they are of one object
REGION = -1  # in place of the number of a detection
FIRST = 1000.0  # the best candidate of each category comes before all others


@dataclass
class Candidates:
    """Candidates of each image: those of one category beside each other from left to right, the surest category first.

    Args:
        classes: (B, K) place of each category in the vocabulary.
        objects: (B, K) number of the detection; `REGION` for a region.
        boxes: (B, K, 4) left, top, right, bottom as fractions of the image.
        scores: (B, K) how sure it is that the category is there, see `UNSURE`.
        valid: bool (B, K).
    """

    classes: Tensor
    objects: Tensor
    boxes: Tensor
    scores: Tensor
    valid: Tensor


class CandidateSelection(nn.Module):
    """Choose the candidates of images.

    Scores are presence logits on another scale: · `gain` + `bias`, which `calibrate_presence` fits.
    """

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        self.count, self.size = config.num_candidates, config.vision_config.image_size
        self.columns = config.vision_config.detector_columns
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def forward(self, features: ClassifiedFeatures, resized_hw: Tensor) -> Candidates:
        """Return the candidates in images of height and width (B, 2).

        Regions, and the best detection of each category, come before further detections where there are more than K.
        """
        scores = features.presence_logits.float() * self.gain.float() + self.bias.float()
        resized_hw = resized_hw.to(scores.device)
        numbers = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        columns = torch.tensor(self.columns, dtype=torch.long, device=scores.device)
        detected = (numbers[..., None] == columns).any(dim=2)
        there = (scores >= UNSURE) & (detected | (features.class_logits.flatten(2).amax(dim=2) > 0))
        if features.objects is None:
            classes, priority = numbers, (FIRST + scores).where(there, -torch.inf)
            objects = torch.full_like(classes, REGION)
        else:
            classes, priority, objects = self._all(features, scores, numbers, there)
        kept = priority.topk(min(self.count, priority.shape[1]), dim=1)
        classes, objects = classes.gather(1, kept.indices), objects.gather(1, kept.indices)
        valid = kept.values > -torch.inf
        maps = features.class_logits.gather(
            1, classes[..., None, None].expand(-1, -1, *features.class_logits.shape[2:])
        )
        boxes = region_boxes(maps.float(), self.size, resized_hw)
        if features.objects is not None:
            found = features.objects.detections.boxes / resized_hw.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
            own = found.gather(1, objects.clamp(min=0)[..., None].expand(-1, -1, 4)).to(boxes.dtype)
            boxes = torch.where((objects == REGION)[..., None], boxes, own)
        fields = (classes, objects, boxes, scores.gather(1, classes), valid)
        order = _order(classes, boxes[..., 0] + boxes[..., 2], fields[3].where(valid, -torch.inf))
        missing = self.count - order.shape[1]
        return Candidates(*(_pad(_take(field, order), missing) for field in fields))

    def _all(
        self, features: ClassifiedFeatures, scores: Tensor, numbers: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return categories, priorities and numbers (B, M + V) of all detections and regions."""
        assert features.objects is not None
        detections = features.objects.detections
        classes = torch.tensor(self.columns, device=scores.device)[detections.classes]
        sureness = scores.gather(1, classes)
        possible = detections.valid & (sureness >= UNSURE)
        same = (classes[:, :, None] == classes[:, None]) & possible[:, None]  # detections come the surest first
        best = possible & ~same.tril(diagonal=-1).any(dim=2)
        again = (same & (shared_part(detections.boxes) >= SAME_SHARE)).tril(diagonal=-1).any(dim=2)
        sure = possible & (sureness >= 0) & (detections.scores >= COUNTED_SCORE) & ~again
        shown = ((classes[..., None] == numbers[:, None]) & possible[..., None]).any(dim=1)
        objects = torch.arange(classes.shape[1], device=scores.device).expand_as(classes)
        own = torch.where(best, FIRST + sureness, detections.scores.float()).where(best | sure, -torch.inf)
        regions = (FIRST + scores).where(there & ~shown, -torch.inf)
        return (
            torch.cat([classes, numbers], dim=1),
            torch.cat([own, regions], dim=1),
            torch.cat([objects, torch.full_like(numbers, REGION)], dim=1),
        )


def shared_part(boxes: Tensor) -> Tensor:
    """Return what two boxes of (B, K, 4) share, as a part of the smaller one: (B, K, K)."""
    low, high = (
        boxes[:, :, None, :2].maximum(boxes[:, None, :, :2]),
        boxes[:, :, None, 2:].minimum(boxes[:, None, :, 2:]),
    )
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    smaller = area[:, :, None].minimum(area[:, None])
    return (high - low).clamp(min=0).prod(dim=-1) / smaller.clamp(min=1e-6)


def _order(classes: Tensor, places: Tensor, scores: Tensor) -> Tensor:
    """Return the order (B, K) by score, the highest first, then category, then place; each row is a permutation."""
    index = torch.arange(classes.shape[1], device=classes.device).expand_as(classes)
    before = index[..., None] < index[:, None]
    for values in (places, classes, -scores):
        one, other = values[..., None], values[:, None]
        before = (one < other) | ((one == other) & before)
    return before.sum(dim=1).argsort(dim=1)


def _take(values: Tensor, order: Tensor) -> Tensor:
    index = order if values.ndim == 2 else order[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, index)


def _pad(values: Tensor, missing: int) -> Tensor:
    return F.pad(values, (*(0, 0) * (values.ndim - 2), 0, missing))


def region_boxes(logits: Tensor, size: int, resized_hw: Tensor) -> Tensor:
    """Return boxes (B, K, 4) around logits (B, K, h, w) > 0, as fractions of the images; without any, all of them."""
    inside = logits > 0
    sides = []
    for dim in (2, 3):  # any row, any column
        line = inside.any(dim=dim).int()
        first = line.argmax(dim=2)
        sides.append((first, line.shape[2] - line.flip(2).argmax(dim=2)))
    (left, right), (top, bottom) = sides
    scale = size / logits.shape[-1] / resized_hw.flip(1).repeat(1, 2)[:, None].to(logits.dtype)
    boxes = (torch.stack([left, top, right, bottom], dim=-1) * scale).clamp(max=1)
    whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return torch.where(inside.flatten(2).any(dim=2)[..., None], boxes, whole)


class CandidateTokens(nn.Module):
    """Tokens that tell what a candidate is, where it is, how sure that is, and which of the K it is."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(PLACE_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Linear(2, width)
        self.slot = nn.Embedding(count, width)

    def forward(self, words: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """Return tokens (B, K, D) of names' embeddings (B, K, D), boxes (B, K, 4) as fractions and scores (B, K)."""
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
    """Point from the states of a codebook group at the candidates that they mean.

    It starts as the cosine of states and candidates around their means: a language model with tied embeddings that is
    about to write a word has a state like it, and what it has read it can copy.
    """

    def __init__(self, width: int, group_size: int) -> None:
        super().__init__()
        self.state_centre = nn.Parameter(torch.zeros(group_size, width))
        self.token_centre = nn.Parameter(torch.zeros(width))
        self.query = nn.Linear(group_size * width, width)
        self.key = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))
        with torch.no_grad():
            self.query.weight.copy_((INITIAL_GAIN / group_size * torch.eye(width)).repeat(1, group_size))
            self.key.weight.copy_(torch.eye(width))
            nn.init.zeros_(self.query.bias)
            nn.init.zeros_(self.key.bias)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (G, K) of group states (G, N, D) for the candidates' tokens (G, K, D)."""
        query = self.query(F.normalize(states - self.state_centre, dim=-1).flatten(1))
        key = self.key(F.normalize(tokens - self.token_centre, dim=-1))
        return torch.einsum("gw,gkw->gk", query, key) + self.bias

    @torch.no_grad()
    def centre_on(self, states: Tensor, tokens: Tensor) -> None:
        """Set both centres to the means of group states (G, N, D) and candidates (K, D)."""
        self.state_centre.copy_(states.mean(dim=0))
        self.token_centre.copy_(tokens.mean(dim=0))


def pointer_loss(logits: Tensor, meant: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of logits (G, K) for bool targets, summed over valid candidates and targets."""
    loss = F.binary_cross_entropy_with_logits(logits, meant.to(logits.dtype), reduction="none")
    return (loss * valid).sum()
