"""Segmenters of phrases: systems that segment what a phrase names, and write no text.

A question is taken as one phrase. `ground` takes the phrases of known objects.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image

from pixellm.imaging import masks
from pixellm.imaging.images import ImageSource, load_image
from pixellm.types import Answer, Segmenter, Target

NOTHING = "Nothing here fits that."
# What people write around a phrase, here and in other systems' boxes; a question in other words stays as it is.
_COMMAND = re.compile(r"^\s*(?:please\s+)?(?:segment|find|detect|locate|mark)\s+(?=\S)", re.IGNORECASE)
_CONTROL = str.maketrans("<>", "  ")  # the tokenizers' control tokens are in angle brackets


class PhraseMask(NamedTuple):
    """A mask at the image's size, and its score, 0..1; None where the system gives none."""

    rle: masks.Rle
    score: float | None


class PhraseSegmenter(Segmenter):
    """A `Segmenter` of phrases; a system implements `encode` and `segment`."""

    def __init__(self) -> None:
        self._image: Image.Image | None = None

    @abstractmethod
    def encode(self, image: Image.Image) -> None:
        """Keep what `segment` needs of an image."""

    @abstractmethod
    def segment(self, phrase: str) -> list[PhraseMask]:
        """Return the masks of a phrase, none to many; it has no control tokens and is not empty."""

    def set_image(self, image: ImageSource) -> None:
        """Encode an image: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        loaded = load_image(image)
        self.encode(loaded)
        self._image = loaded

    @torch.inference_mode()
    def ground(self, phrases: Sequence[str]) -> list[PhraseMask]:
        """Return the union of the masks of each phrase with the highest of their scores.

        A phrase without a mask gets an empty one with the score 0. Results do not depend on the other phrases.

        Raises:
            ValueError: no image yet, or an empty phrase.
        """
        return [self._united(found) for found in self.instances(phrases)]

    @torch.inference_mode()
    def instances(self, phrases: Sequence[str]) -> list[list[PhraseMask]]:
        """Return all masks of each phrase; errors as in `ground`."""
        self._current()
        return [self.segment(_checked_phrase(phrase)) for phrase in phrases]

    def ask(self, question: str) -> Answer:
        """Return every mask of the phrase that a question is; the answer's text is the phrase."""
        image = self._current()
        phrase = phrase_of(question)
        (found,) = self.instances([phrase])
        targets = tuple(Target(phrase, (0, len(phrase)), mask.rle, mask.score) for mask in found)
        text = phrase if targets else NOTHING
        return Answer(question, text, targets, (image.height, image.width), image).above(self.min_score)

    def _united(self, found: Sequence[PhraseMask]) -> PhraseMask:
        image = self._current()
        if not found:
            return PhraseMask(masks.as_text(masks.empty(image.height, image.width)), 0.0)
        rle = masks.union([[mask.rle for mask in found]], image.height, image.width)
        scores = [mask.score for mask in found if mask.score is not None]
        return PhraseMask(masks.as_text(rle), max(scores) if scores else None)

    def _current(self) -> Image.Image:
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._image


def phrase_of(question: str) -> str:
    """Return a question as a phrase: without "segment" before it, and without a full stop."""
    return _COMMAND.sub("", question).strip().rstrip(".").strip()


def _checked_phrase(phrase: str) -> str:
    """Return a phrase without control tokens; a ValueError if it is empty."""
    plain = " ".join(phrase.translate(_CONTROL).split())
    if not plain:
        raise ValueError("expected a question, got an empty text.")
    return plain
