"""Decoded ids and masks → an `Answer`: text with a span for each mask.

The phrase of a mask is the text from the mask before it, or the start of the clause, up to the mask, without words
that only introduce it ("Sure, it is …", "and …"): "the chair" of "You could sit on the chair".
"""

import re
from dataclasses import dataclass, field

from PIL import Image

from pixellm.imaging.masks import Rle
from pixellm.types import Answer, Target

_CLAUSE_START = re.compile(r"[.!?;:\n]\s+|\n")
_OPENING = re.compile(
    r"(?:(?:[\s,;:]|and\b|or\b|then\b|sure\b,?|yes\b,?|here (?:is|are)\b|there (?:is|are)\b|it is\b|they are\b|"
    r"(?:the )?segmentation result of\b)\s*)+",
    re.IGNORECASE,
)
# The verb of a clause, but not of "the person who is …", and what it says something of.
_VERB = re.compile(
    r"(?<!who )(?<!that )(?<!which )"
    r"\b(?:could|would|can|should|might|may|must|will|is|are|has|have|see|shows?|contains?)\b",
    re.IGNORECASE,
)
_NOUN_PHRASE = re.compile(
    r"\b(?:the|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|both|each|every|some|\d+)\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(r"[\s,:;]+$|\s+(?:is|are)\s*$", re.IGNORECASE)


def phrase_span(text: str, start: int) -> tuple[int, int]:
    """Span (start, end) in characters of the phrase that ends `text`, not before `start`; empty if there is none."""
    for match in _CLAUSE_START.finditer(text, start):
        if match.end() < len(text):
            start = match.end()
    opening = _OPENING.match(text, start)
    start = opening.end() if opening else start
    end = len(text)
    while (closing := _CLOSING.search(text, start, end)) and closing.start() >= start:
        end = closing.start()
    verb = max((match.end() for match in _VERB.finditer(text, start, end)), default=end)
    noun_phrase = _NOUN_PHRASE.search(text, verb, end)
    start = noun_phrase.start() if noun_phrase else start
    return (start, end) if end > start else (len(text), len(text))


@dataclass
class AnswerBuilder:
    """Gathers an answer piece by piece; `text` and `targets` are what there is so far.

    Targets below a minimum score are gathered, too: the phrase of the next one begins after theirs.
    """

    question: str
    image: Image.Image
    text: str = ""
    targets: list[Target] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    _last: int = 0
    _space: str = ""

    def add_text(self, piece: str) -> str:
        """Append a decoded piece and return what was really added.

        A space is put after a mask where one is missing; white space at the end waits for what follows, so that the
        pieces returned are exactly `text` also where a mask follows (the space before it is dropped).
        """
        if self.targets and len(self.text) == self._last:
            after_mask = piece.lstrip()
            glued = bool(re.match(r"[.,;:!?)\]'’]", after_mask)) or not self.text
            piece = after_mask if glued or not after_mask else " " + after_mask
        piece = self._space + piece
        self._space = piece[len(piece.rstrip()) :]
        piece = piece.rstrip()
        self.text += piece
        return piece

    def add_target(self, rle: Rle, score: float, presence: float | None = None) -> Target:
        """Append a mask at the image's size, see `Target`, for the phrase that the text ends with."""
        self._space = ""
        span = phrase_span(self.text, self._last)
        self._last = len(self.text)
        target = Target(self.text[slice(*span)], span, rle, score, presence)
        self.targets.append(target)
        return target

    def finish(self) -> Answer:
        hw, ids = (self.image.height, self.image.width), tuple(self.token_ids)
        return Answer(self.question, self.text, tuple(self.targets), hw, self.image, token_ids=ids)
