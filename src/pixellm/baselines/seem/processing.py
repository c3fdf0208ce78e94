"""Processor of the SEEM-style baseline: images and phrases → tensors.

Shapes:  I images · P phrases · T tokens · S side of the square
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from pixellm.inference.answer_builder import phrase_span
from pixellm.model import PixelLMImageProcessor
from pixellm.model.training_rows import check_slots
from pixellm.types import SEG_SLOT, Conversation, Sample


@dataclass
class SeemBatch:
    """Images with the phrases asked about them.

    Args:
        pixel_values: (I, 3, S, S).
        resized_hw: (I, 2) size in pixels of each image inside the square.
        input_ids, attention_mask: (P, T), padded on the right.
        image_index: (P,) the image of each phrase, ascending.
        target_masks: for each image bool (M, H, W).
        target_phrase: (ΣM,) the phrase of each mask.
        ignored: for each image bool, like its target masks: pixels of each that count as nothing; None: there are none.
    """

    pixel_values: Tensor
    resized_hw: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    image_index: Tensor
    target_masks: list[Tensor]
    target_phrase: Tensor
    ignored: list[Tensor] | None = None


@dataclass
class ImagePhrases:
    """Phrases of one image and their masks, without duplicates."""

    phrases: list[str] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    ignored: list[np.ndarray | None] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)  # index of each mask's phrase

    def add(self, phrase: str, mask: np.ndarray, ignored: np.ndarray | None) -> None:
        if phrase not in self.phrases:
            self.phrases.append(phrase)
        number = self.phrases.index(phrase)
        known = [other for other, owner in zip(self.masks, self.owner, strict=True) if owner == number]
        if not any(np.array_equal(mask, other) for other in known):
            self.masks.append(mask)
            self.ignored.append(ignored)
            self.owner.append(number)


class SeemProcessor(ProcessorMixin):
    """Tokenizer and image settings of a checkpoint.

    Args:
        image_processor: see `PixelLMImageProcessor`.
        tokenizer: of the text encoder.
        max_tokens: of a phrase; the rest of a longer one is left out.
    """

    def __init__(
        self,
        image_processor: PixelLMImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 77,
        **kwargs,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_tokens = max_tokens

    def images(self, images: Sequence[Image.Image]) -> BatchFeature:
        """Letterbox RGB images to `pixel_values` (I, 3, S, S) and `resized_hw` (I, 2)."""
        return self.image_processor.preprocess(images)

    def phrases(self, phrases: Sequence[str], max_length: int | None = None) -> tuple[Tensor, Tensor]:
        """Convert phrases to token ids (P, T), and a mask (P, T), 0 in the padding; control tokens are plain text.

        Raises:
            ValueError: a phrase without a word.
        """
        if not all(phrase.strip() for phrase in phrases):
            raise ValueError("expected a phrase, got an empty text.")
        if not phrases:
            return torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long)
        room = min(self.max_tokens, max_length or self.max_tokens)
        rows = [
            self.tokenizer.encode(phrase.strip(), truncation=True, max_length=room, split_special_tokens=True)
            for phrase in phrases
        ]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])

    def __call__(self, samples: Sequence[Sample], max_length: int | None = None) -> SeemBatch:
        """Convert samples with answers to a training batch; see `image_phrases` for the phrases.

        Args:
            samples: images with conversations.
            max_length: tokens of a phrase at most, if fewer than `max_tokens`.

        Raises:
            ValueError: slots and masks of a conversation differ in number.
        """
        pixels = self.images([sample.image for sample in samples])
        rows = [image_phrases(sample) for sample in samples]
        ids, valid = self.phrases([phrase for row in rows for phrase in row.phrases], max_length)
        counts = torch.tensor([len(row.phrases) for row in rows])
        first = counts.cumsum(0) - counts  # phrase of each image
        owners = [start + owner for row, start in zip(rows, first.tolist(), strict=True) for owner in row.owner]
        return SeemBatch(
            pixel_values=pixels["pixel_values"],
            resized_hw=pixels["resized_hw"],
            input_ids=ids,
            attention_mask=valid,
            image_index=torch.arange(len(samples)).repeat_interleave(counts),
            target_masks=[_stacked(row.masks) for row in rows],
            target_phrase=torch.tensor(owners, dtype=torch.long),
            ignored=_ignored(rows),
        )


def image_phrases(sample: Sample) -> ImagePhrases:
    """Collect the phrases of an image and their masks.

    A mask's phrase is the words right before it in the answer, or the question where there are none; a question with a
    single mask is a phrase as well, since `SeemPredictor.ask` passes whole questions.
    """
    phrases = ImagePhrases()
    for conversation in sample.conversations:
        check_slots(conversation, sample.record_id)
        for phrase, mask in zip(phrases_of(conversation), conversation.masks, strict=True):
            phrases.add(phrase, mask, conversation.ignored)
        if len(conversation.masks) == 1 and conversation.question.strip():
            phrases.add(conversation.question.strip(), conversation.masks[0], conversation.ignored)
    return phrases


def phrases_of(conversation: Conversation) -> list[str]:
    """Return the words right before each mask of an answer; the question where there are none."""
    text, last, phrases = "", 0, []
    for piece in conversation.answer.split(SEG_SLOT)[:-1]:
        text = (text + piece).rstrip()
        phrase = text[slice(*phrase_span(text, last))]
        phrases.append(phrase if any(map(str.isalnum, phrase)) else conversation.question.strip())
        last = len(text)
    return phrases


def _stacked(masks: Sequence[np.ndarray]) -> Tensor:
    """Stack masks to bool (M, H, W)."""
    return torch.from_numpy(np.stack(masks).astype(bool) if masks else np.zeros((0, 1, 1), dtype=bool))


def _ignored(rows: Sequence[ImagePhrases]) -> list[Tensor] | None:
    if all(ignored is None for row in rows for ignored in row.ignored):
        return None

    def of(mask: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
        return np.zeros_like(mask) if ignored is None else ignored

    return [_stacked([of(m, i) for m, i in zip(row.masks, row.ignored, strict=True)]) for row in rows]
