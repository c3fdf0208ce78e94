"""Annotated images → training samples: questions are composed after augmentation, from the masks that are left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from pixellm.data.describe import noun
from pixellm.data.grammar import Grammar
from pixellm.mini.augment import AugmentedImages, fit
from pixellm.mini.class_targets import class_targets
from pixellm.model.modeling import IGNORE_INDEX
from pixellm.types import Conversation, Sample

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

    def __getitem__(self, index: int) -> Sample:
        annotated, rng = self.images[index]
        annotated = fit(annotated, self.size)
        height, width = annotated.image.height, annotated.image.width
        conversations = []
        for exchange in Grammar(self.questions).build(annotated, rng):
            names = tuple(self._index(target.category) for target in exchange.targets)
            conversations.append(replace(exchange.decode(height, width, MASK_STRIDE), names=names))
        target, weight = class_targets(annotated, self.vocabulary, self.size, self.grid)
        return Sample(annotated.image, tuple(conversations), str(index), target, weight)

    def _index(self, category: str) -> int:
        return self.vocabulary.index(category) if category in self.vocabulary else len(self.vocabulary)


def naming_samples(vocabulary: Sequence[str], samples: ConversationSamples) -> Iterator[list[Sample]]:
    """Every name of the vocabulary in the forms that answers use, said of any image; masks are left empty."""
    forms = []
    for index, name in enumerate(vocabulary):
        word = noun(name)
        for phrase in (f"The {word.singular}", f"The {word.plural}"):
            forms.append((index, f"Segment the {word.singular}.", phrase))
            forms.append((index, "What do you see in this image?", f"A chair {{seg}} and {phrase.lower()}"))
    for start in range(0, len(forms), NAMES_PER_IMAGE):
        image = samples[start // NAMES_PER_IMAGE % len(samples)].image
        conversations = []
        for index, question, phrase in forms[start : start + NAMES_PER_IMAGE]:
            slots = phrase.count("{seg}")
            names = (*[IGNORE_INDEX] * slots, index)
            masks = np.zeros((slots + 1, 1, 1), dtype=bool)
            conversations.append(Conversation(question, f"{phrase} {{seg}}.", masks, names))
        yield [Sample(image, tuple(conversations), f"names {start}")]
