"""Mixing sources: which image is sample number i.

`dataset[i]` depends on (seed, i) alone, so a run can be resumed, split over processes, and repeated.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import Dataset

from pixellm.data.augment import Augmentation, augment, window
from pixellm.data.coco import AnnotatedImage, CocoSource
from pixellm.data.plan import MixturePlan
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
    """Augmented images drawn from weighted sources.

    Args:
        sources: the sources.
        weights: how often each is drawn, in any unit.
        length: number of samples.
        augmentation: None leaves the images as they are.
        seed: of everything random.
    """

    sources: Sequence[CocoSource]
    weights: Sequence[float]
    length: int
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        self.plan = MixturePlan(tuple(map(len, self.sources)), tuple(self.weights), self.length, self.seed)

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int) -> tuple[AnnotatedImage, random.Random]:
        """AnnotatedImage number `index`, and the generator for whatever else is random about it."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        draw = self.plan[index]
        annotated, rng = self.sources[draw.source][draw.record], draw.rng
        if self.augmentation is not None:
            other = rng.choices(self.sources, self.weights)[0]
            annotated = augment(annotated, other[rng.randrange(len(other))], self.augmentation, rng)
        return annotated, rng


def fit(annotated: AnnotatedImage, size: int) -> AnnotatedImage:
    """Resize image, masks and boxes so that the longest side is `size` pixels."""
    width, height = annotated.image.size
    h, w = resized_hw(height, width, size)
    return window(annotated, (0, 0, width, height), (w, h))
