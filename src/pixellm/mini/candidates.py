"""Candidates: the objects and regions of an image that an answer may mean, as tokens that the language model reads.

An object is what the detector found; a region stands for all that the image shows of a category without an object.

Shapes:  B images · K candidates of an image · D LLM width · G targets · N tokens of a codebook group · V categories
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from pixellm.mini.configuration import MiniConfig
from pixellm.mini.instances import SURE_SCORE
from pixellm.mini.vision import ClassifiedFeatures

UNSURE = -2.0  # scores: from here on a category counts as there where it is asked for by name, from 0 always
SCORE_RANGE = 6.0  # scores are clamped to ±this
FREQUENCIES = (1, 2, 4, 8)
PLACE_FEATURES = 9 + 4 * len(FREQUENCIES)
INITIAL_GAIN, INITIAL_BIAS = 24.0, -2.5  # of cosines; most candidates are not meant
REGION = -1  # in place of the number of a detection


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


@dataclass(frozen=True)
class _Candidate:
    category: int
    number: int
    box: list[float]
    score: float
    detection: float


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
        """Return the candidates in images of height and width (B, 2)."""
        scores = features.presence_logits.float() * self.gain.float() + self.bias.float()
        if scores.is_meta:  # where only shapes are known
            found = scores.new_zeros(len(scores), self.count)
            return Candidates(found.long(), found.long(), found[..., None].expand(-1, -1, 4), found, found.bool())
        fields = [self._fields(features, image, hw, scores[image]) for image, hw in enumerate(resized_hw)]
        return Candidates(*(torch.stack(tensors) for tensors in zip(*fields, strict=True)))

    def _fields(
        self, features: ClassifiedFeatures, image: int, hw: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the fields of `Candidates` of one image."""
        found = list(self._objects(features, image, hw, scores.tolist()))
        shown = {candidate.category for candidate in found}
        maps = features.class_logits[image].float()
        for category in (scores >= UNSURE).nonzero()[:, 0].tolist():
            if category not in shown:
                box = _extent(maps[category], self.size, hw)
                found.append(_Candidate(category, REGION, box, float(scores[category]), 1.0))
        rows = ordered(found, self.count)
        padding, device = self.count - len(rows), scores.device
        return (
            F.pad(torch.tensor([row.category for row in rows], dtype=torch.long, device=device), (0, padding)),
            F.pad(torch.tensor([row.number for row in rows], dtype=torch.long, device=device), (0, padding), value=-1),
            F.pad(torch.tensor([row.box for row in rows], device=device).reshape(-1, 4), (0, 0, 0, padding)),
            F.pad(torch.tensor([row.score for row in rows], device=device), (0, padding)),
            torch.arange(self.count, device=device) < len(rows),
        )

    def _objects(
        self, features: ClassifiedFeatures, image: int, hw: Tensor, scores: list[float]
    ) -> Iterator[_Candidate]:
        """Yield the sure detections of each category that may be there; of one that is unsure, the best."""
        if features.objects is None:
            return
        boxes, classes, confidences = features.objects.detections.image(image)
        fractions = (boxes / hw.flip(0).repeat(2).to(boxes.dtype)).tolist()
        seen: set[int] = set()
        for number, (kind, confidence) in enumerate(zip(classes.tolist(), confidences.tolist(), strict=True)):
            category = self.columns[kind]
            sure = scores[category] >= 0 and confidence >= SURE_SCORE
            if scores[category] >= UNSURE and (sure or category not in seen):
                yield _Candidate(category, number, fractions[number], scores[category], confidence)
            seen.add(category)


def ordered(found: Iterable[_Candidate], count: int) -> list[_Candidate]:
    """Keep `count` candidates, one of each category first, and order them as `Candidates` says."""
    best_first = sorted(found, key=lambda row: -row.detection)
    first = {row.category: row for row in reversed(best_first)}
    leading = sorted(first.values(), key=lambda row: -row.score)
    others = [row for row in best_first if row is not first[row.category]]
    kept = [*leading, *others][:count]
    return sorted(kept, key=lambda row: (-row.score, row.category, row.box[0] + row.box[2]))


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
    """Which candidates the states of a codebook group mean.

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
