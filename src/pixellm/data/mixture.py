"""Mixing sources: which photograph is sample number i.

`dataset[i]` depends on (seed, i) alone, so a run can be resumed, split over processes, and repeated.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import Dataset

from pixellm.data.augment import Augmentation, augment, window
from pixellm.data.coco import CocoSource, Photograph
from pixellm.data.plan import Plan
from pixellm.imaging.geometry import resized_hw


@dataclass(frozen=True)
class SourceConfig:
    """One COCO-format source of a recipe; see `CocoSource` for the fields."""

    annotations: str
    images: str
    weight: float = 1.0
    captions: str | None = None
    complete: bool = True
    merged: bool = False

    def load(self, root: Path) -> CocoSource:
        captions = root / self.captions if self.captions else None
        return CocoSource(root / self.annotations, root / self.images, captions, self.complete, self.merged)


@dataclass
class Mixture(Dataset):
    """Augmented photographs drawn from weighted sources.

    Args:
        sources: the sources.
        weights: how often each is drawn, in any unit.
        length: number of samples.
        augmentation: None leaves the photographs as they are.
        seed: of everything random.
    """

    sources: Sequence[CocoSource]
    weights: Sequence[float]
    length: int
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        self.plan = Plan(tuple(map(len, self.sources)), tuple(self.weights), self.length, self.seed)

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int) -> tuple[Photograph, random.Random]:
        """Photograph number `index`, and the generator for whatever else is random about it."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        draw = self.plan[index]
        photograph, rng = self.sources[draw.source][draw.record], draw.rng
        if self.augmentation is not None:
            other = rng.choices(self.sources, self.weights)[0]
            photograph = augment(photograph, other[rng.randrange(len(other))], self.augmentation, rng)
        return photograph, rng


def fit(photograph: Photograph, size: int) -> Photograph:
    """Resize image, masks and boxes so that the longest side is `size` pixels."""
    width, height = photograph.image.size
    h, w = resized_hw(height, width, size)
    return window(photograph, (0, 0, width, height), (w, h))
