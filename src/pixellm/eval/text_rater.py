"""Ratings of how well the phrase of a mask fits its target, 1–10, by rule or by a language model.

`OfflineRater` needs nothing and always gives the same; `text_server.py` asks an OpenAI-compatible server.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pixellm.data.describe import spoken
from pixellm.eval.matching import MaskPair, names_category
from pixellm.eval.protocols import ScoredAnswer, with_ratings
from pixellm.imaging import masks

WORST, BEST = 1, 10
# Words that say nothing about an object.
EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those his her its their some of in on at to by with and or is are was be being it he "
        "she they which who near next beside left right front back",
    )
)


@dataclass(frozen=True)
class PairText:
    """Text of a pair that is to be rated.

    Args:
        question: the question.
        answer: the answer with the target's description put behind each phrase (the paper's "modified answer").
        phrase: of the mask; the whole answer where the file does not give one.
        description: of the target that the mask was paired with.
        category: the name of its class.
        box: x, y, width, height of the target, in pixels.
        hw: the image's height and width.
    """

    question: str
    answer: str
    phrase: str
    description: str
    category: str
    box: tuple[int, int, int, int]
    hw: tuple[int, int]


class Rater(Protocol):
    """Rates pairs; `fingerprint` goes into the report."""

    @property
    def fingerprint(self) -> dict[str, Any]: ...

    def rate(self, pairs: Sequence[PairText]) -> list[int]:
        """A rating of 1–10 for each pair."""
        ...


def rate(scored: Sequence[ScoredAnswer], rater: Rater) -> list[ScoredAnswer]:
    """Return every answer with its pairs rated; those that are rated too low lose their intersection."""
    texts = [[_text(answer, pair) for pair in answer.pairs] for answer in scored]
    ratings = iter(rater.rate([text for row in texts for text in row if text is not None]))
    return [
        replace(answer, pairs=tuple(with_ratings(answer.pairs, [text and next(ratings) for text in row])))
        for answer, row in zip(scored, texts, strict=True)
    ]


def _text(scored: ScoredAnswer, pair: MaskPair) -> PairText | None:
    """None where the mask or the target is missing: there is nothing to rate, the pair counts 0 already."""
    if pair.predicted is None or pair.target is None:
        return None
    target = scored.question.targets[pair.target]
    phrase = scored.answer.targets[pair.predicted].phrase
    description = target.description or target.category
    about = (scored.question.expression, modified_answer(scored), phrase, description, target.category)
    return PairText(*about, masks.box(target.rle), scored.question.hw)


def modified_answer(scored: ScoredAnswer) -> str:
    """The answer's text with each mask's target in brackets after its phrase."""
    partner = {pair.predicted: pair.target for pair in scored.pairs if pair.predicted is not None}
    named = [
        scored.question.targets[t] if (t := partner.get(i)) is not None else None
        for i in range(len(scored.answer.targets))
    ]
    notes = [f"({target.description or target.category})" if target else "(nothing)" for target in named]
    text = scored.answer.text
    ends = [target.span[1] for target in scored.answer.targets]
    for end, note in reversed(sorted(zip(ends, notes, strict=True), key=lambda item: item[0])):
        text = f"{text[:end]} {note}{text[end:]}"
    return text


class OfflineRater:
    """Rater by rule: 10 where the phrase names the target's category, else by how many words it shares.

    The category counts as named by its own words, its plural or a synonym. Otherwise 1 + 9 × 2 S / (A + B), rounded,
    for S words that phrase and description share of A and B in all, without `EMPTY_WORDS`.
    """

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"rater": "offline", "version": 1}

    def rate(self, pairs: Sequence[PairText]) -> list[int]:
        return [self._rate(pair) for pair in pairs]

    def _rate(self, pair: PairText) -> int:
        phrase, category = _words(pair.phrase), spoken(pair.category)
        if category and (_words(category) <= phrase or names_category(pair.phrase, category)):
            return BEST
        described = _words(pair.description)
        share = 2 * len(phrase & described) / max(1, len(phrase) + len(described))
        return WORST + round((BEST - WORST) * share)


def _words(text: str) -> frozenset[str]:
    """Return the words in lower case, without a plural "s"."""
    words = re.findall(r"[^\W_]+", text.lower())
    return frozenset(re.sub(r"(?<=[a-z]{2})s$", "", word) for word in words if word not in EMPTY_WORDS)
