"""Annotated images → training samples: questions are composed after augmentation, from the masks that are left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pixellm.data.describe import noun
from pixellm.data.grammar import Grammar
from pixellm.mini.augment import AugmentedImages, fit
from pixellm.mini.class_targets import class_targets
from pixellm.model import PixelLMProcessor
from pixellm.model.modeling import IGNORE_INDEX
from pixellm.types import Conversation, Sample


@dataclass(frozen=True)
class MiniSample(Sample):
    """A sample with targets for the dense classifier.

    Args:
        class_target, class_weight: (V, g, g), see `class_targets`.
        target_classes: for each mask of each conversation, its index in the vocabulary; V for another category, -100
            where nothing is to be learned.
    """

    class_target: np.ndarray | None = None
    class_weight: np.ndarray | None = None
    target_classes: tuple[int, ...] = ()


NAMES_PER_IMAGE = 12
MASK_STRIDE = 2  # half the resolution tells the losses all that masks of a quarter of it can show


@dataclass
class ConversationSamples(Dataset):
    """Samples with up to `questions` conversations each.

    Args:
        images: the augmented images.
        vocabulary, grid: of the dense classifier's targets; see `class_targets`.
        size: side of the encoder's square in pixels.
        questions: conversations per image.
    """

    images: AugmentedImages
    vocabulary: Sequence[str]
    size: int
    grid: int
    questions: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> MiniSample:
        annotated, rng = self.images[index]
        annotated = fit(annotated, self.size)
        height, width = annotated.image.height, annotated.image.width
        exchanges = Grammar(self.questions).build(annotated, rng)
        conversations = [exchange.decode(height, width, MASK_STRIDE) for exchange in exchanges]
        classes = [self._index(target.category) for exchange in exchanges for target in exchange.targets]
        target, weight = class_targets(annotated, self.vocabulary, self.size, self.grid)
        return MiniSample(annotated.image, tuple(conversations), str(index), target, weight, tuple(classes))

    def _index(self, category: str) -> int:
        return self.vocabulary.index(category) if category in self.vocabulary else len(self.vocabulary)


def naming_samples(vocabulary: Sequence[str], samples: ConversationSamples) -> Iterator[list[MiniSample]]:
    """Every name of the vocabulary in the forms that answers use, said of any image; masks are left empty."""
    forms = []
    for index, name in enumerate(vocabulary):
        word = noun(name)
        for phrase in (f"The {word.singular}", f"The {word.plural}"):
            forms.append((index, f"Segment the {word.singular}.", phrase))
            forms.append((index, "What do you see in this image?", f"A chair {{seg}} and {phrase.lower()}"))
    for start in range(0, len(forms), NAMES_PER_IMAGE):
        image = samples[start // NAMES_PER_IMAGE % len(samples)].image
        conversations, classes = [], []
        for index, question, phrase in forms[start : start + NAMES_PER_IMAGE]:
            slots = phrase.count("{seg}")
            classes += [*[IGNORE_INDEX] * slots, index]
            masks = np.zeros((slots + 1, 1, 1), dtype=bool)
            conversations.append(Conversation(question, f"{phrase} {{seg}}.", masks))
        yield [MiniSample(image, tuple(conversations), f"names {start}", target_classes=tuple(classes))]


@dataclass(frozen=True)
class MiniCollator:
    """Collate samples to the keyword arguments of `MiniForConditionalGeneration.forward`."""

    processor: PixelLMProcessor

    def __call__(self, samples: Sequence[MiniSample]) -> dict[str, Tensor | list[Tensor]]:
        batch = {name: value for name, value in vars(self.processor(samples)).items() if value is not None}
        classes = [index for sample in samples for index in sample.target_classes]
        batch["target_classes"] = torch.tensor(classes, dtype=torch.long)
        for name in ("class_target", "class_weight"):
            arrays = [getattr(sample, name) for sample in samples]
            if all(array is not None for array in arrays):
                batch[name] = torch.from_numpy(np.stack(arrays))
        return batch
