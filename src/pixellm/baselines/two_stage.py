"""Two stages: one model names the targets in words, another segments each phrase (LISA_rec, and others like it).

    question → Namer → NamedObjects → Grounder → one mask for each

The construction is ours: that of the paper's LISA_rec was not published (docs/baselines.md).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image

from pixellm.baselines.phrases import NOTHING, PhraseMask, PhraseSegmenter
from pixellm.baselines.seem import SeemPredictor
from pixellm.data.templates import join
from pixellm.imaging import masks
from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.postprocess import Binary
from pixellm.predictor import Predictor
from pixellm.types import Answer, Segmenter, Target

IN_WORDS = "Answer in words."
SHORT_QUESTION = "Segment {phrase}."
_SEPARATOR = re.compile(r"\s*(?:,|;|\band\b|\n)\s*")
_ARTICLE = re.compile(
    r"^(?:\W*(?:the|a|an|some|every|all|sure|yes|it is|they are|here (?:is|are))\b\s*)+", re.IGNORECASE
)
_DENIAL = re.compile(
    r"^\W*(?:no|none|nothing|there (?:is|are) (?:no|nothing)|i (?:see|find) no(?:thing)?)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class NamedObject:
    """An object in words, and where the namer knows it, a point on it (x, y) as shares of width and height."""

    phrase: str
    point: tuple[float, float] | None = None


class PresentMask(NamedTuple):
    """A mask with its score and presence score, see `Target`."""

    rle: masks.Rle
    score: float | None
    presence: float | None


class Namer(Protocol):
    """First stage: names in words the objects that a question asks for."""

    def set_image(self, image: Image.Image) -> None: ...

    def names(self, question: str) -> list[NamedObject]:
        """Return the objects in the order of the answer; none where the question has no target."""
        ...


class Grounder(Protocol):
    """Second stage: segments the objects that were named."""

    def set_image(self, image: Image.Image) -> None: ...

    def ground(self, objects: Sequence[NamedObject]) -> Sequence[Binary | PhraseMask | PresentMask]:
        """Return a mask at the image's size for each object."""
        ...


class ModelNamer:
    """A trained model, asked to answer in words; masks in its answer are ignored."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def set_image(self, image: Image.Image) -> None:
        self.predictor.set_image(image)

    def names(self, question: str) -> list[NamedObject]:
        return [NamedObject(name) for name in parse_names(self.predictor.ask(f"{question} {IN_WORDS}").text)]


class ModelGrounder:
    """A trained model that is asked for one phrase at a time, in the same words."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._hw = (0, 0)

    def set_image(self, image: Image.Image) -> None:
        self._hw = (image.height, image.width)
        self.predictor.set_image(image)

    def ground(self, objects: Sequence[NamedObject]) -> list[PresentMask]:
        answers = self.predictor.ask_many([SHORT_QUESTION.format(phrase=item.phrase) for item in objects])
        empty = PresentMask(masks.as_text(masks.empty(*self._hw)), 0.0, None)
        first = [answer.targets[0] if answer.targets else None for answer in answers]
        return [PresentMask(t.rle, t.score or 0.0, t.presence) if t else empty for t in first]


class PhraseGrounder:
    """A model that segments phrases."""

    def __init__(self, model: SeemPredictor | PhraseSegmenter) -> None:
        self.model = model

    def set_image(self, image: Image.Image) -> None:
        self.model.set_image(image)

    def ground(self, objects: Sequence[NamedObject]) -> Sequence[Binary | PhraseMask]:
        return self.model.ground([item.phrase for item in objects])


class TwoStage(Segmenter):
    """A `Segmenter` of a namer and a grounder.

    Args:
        namer: first stage.
        grounder: second stage.
        shared: whether both are one model, which then encodes an image once.
    """

    def __init__(self, namer: Namer, grounder: Grounder, shared: bool = False) -> None:
        self.namer, self.grounder, self._shared = namer, grounder, shared
        self._image: Image.Image | None = None

    def set_image(self, image: ImageSource) -> None:
        self._image = load_image(image)
        self.grounder.set_image(self._image)
        if not self._shared:
            self.namer.set_image(self._image)

    def ask(self, question: str) -> Answer:
        """Name, then segment: the answer's text is the list of phrases, each with its mask."""
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        if not question.strip():
            raise ValueError("expected a question, got an empty text.")
        hw = (self._image.height, self._image.width)
        objects = self.namer.names(question)
        if not objects:
            return Answer(question, NOTHING, (), hw, self._image)
        text = join([f"the {item.phrase}" for item in objects])
        text = f"{text[0].upper()}{text[1:]}."
        targets, start = [], 0
        for item, mask in zip(objects, self.grounder.ground(objects), strict=True):
            start = text.index(item.phrase, start)
            end = start + len(item.phrase)
            targets.append(Target(item.phrase, (start, end), *mask))
            start = end
        return Answer(question, text, tuple(targets), hw, self._image).above(self.min_score)


def parse_names(text: str) -> list[str]:
    """Return the objects that the first sentence of an answer names, without articles, each once."""
    sentence = re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0].strip().rstrip(".!")
    if not sentence or _DENIAL.match(sentence):
        return []
    names = [_ARTICLE.sub("", name).strip(" \"':*-") for name in _SEPARATOR.split(sentence)]
    return list(dict.fromkeys(name for name in names if name))
