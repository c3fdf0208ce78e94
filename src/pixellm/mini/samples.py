"""Annotated images → training samples: questions are phrased after augmentation, from the masks that are left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from pixellm.data.coco import AnnotatedImage
from pixellm.data.describe import noun
from pixellm.data.grammar import Turn, build_turns
from pixellm.data.mixture import Mixture, fit
from pixellm.mini.class_targets import class_targets
from pixellm.model.modeling import IGNORE_INDEX
from pixellm.types import Conversation, Sample

NAMES_PER_IMAGE = 12


@dataclass
class ConversationSamples(Dataset):
    """Samples with up to `questions` conversations each.

    Args:
        mixture: the augmented images.
        vocabulary, grid: of the dense classifier's targets; see `class_targets`.
        size: side of the encoder's square in pixels.
        questions: conversations per image.
    """

    mixture: Mixture
    vocabulary: Sequence[str]
    size: int
    grid: int
    questions: int

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Sample:
        annotated, rng = self.mixture.draw(index)
        annotated = fit(annotated, self.size)
        turns = build_turns(
            annotated.instances,
            np.asarray(annotated.image),
            annotated.known,
            annotated.complete,
            rng,
            self.questions,
            annotated.captions,
        )
        target, weight = class_targets(annotated, self.vocabulary, self.size, self.grid)
        conversations = tuple(self._conversation(turn, annotated) for turn in turns)
        return Sample(annotated.image, conversations, str(index), target, weight)

    def _conversation(self, turn: Turn, annotated: AnnotatedImage) -> Conversation:
        masks = [np.any([annotated.instances[i].mask for i in slot], axis=0) for slot in turn.targets]
        empty = np.zeros((0, annotated.image.height, annotated.image.width), dtype=bool)
        categories = [annotated.instances[slot[0]].category for slot in turn.targets]
        other = len(self.vocabulary)
        names = tuple(self.vocabulary.index(c) if c in self.vocabulary else other for c in categories)
        # Half the resolution tells the losses all that masks of a quarter of it can show.
        return Conversation(turn.question, turn.answer, (np.stack(masks) if masks else empty)[:, ::2, ::2], names)


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
