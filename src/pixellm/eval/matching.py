"""Which predicted mask answers for which target (Hungarian matching by IoU), and whether its phrase names it.

The order in which an answer names things is free, so every answer is scored under its best assignment.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pixellm.data.categories import CATEGORIES, SINGLE_PERSON_WORDS, SYNONYMS
from pixellm.data.describe import noun, pluralize, spoken
from pixellm.eval.metrics import Overlap, overlap
from pixellm.imaging import masks


@dataclass(frozen=True)
class Pair:
    """A predicted mask and its target, by index; None stands for an empty partner."""

    predicted: int | None
    target: int | None
    counts: Overlap

    @property
    def iou(self) -> float:
        """IoU, 0..1; 0 where a partner is missing, even if the mask left over is empty."""
        return 0.0 if self.predicted is None or self.target is None else self.counts.iou


@dataclass(frozen=True)
class Score:
    """A target and the mask that answers for it.

    `name` is the target's category, None for a mask too many; `phrase` the words for the mask, None for a missing mask.
    """

    name: str | None
    phrase: str | None
    intersection: int
    union: int
    named: bool

    @property
    def iou(self) -> float:
        """0..1; 0 where the target or the mask is missing."""
        return 0.0 if self.name is None or self.phrase is None else Overlap(self.intersection, self.union).iou


def match(predicted: Sequence[masks.Rle], targets: Sequence[masks.Rle], ignored: masks.Rle | None = None) -> list[Pair]:
    """Pair predicted and target masks one to one with the largest sum of IoU.

    As many pairs are made as the smaller side allows, even of masks that do not touch; whoever is left over is paired
    with an empty mask. The same input always gives the same pairs.

    Args:
        predicted: P masks at the photograph's size, as compressed RLEs.
        targets: T masks, likewise.
        ignored: pixels that count as nothing; none of them is a target's.

    Returns:
        max(P, T) pairs: the targets in their order, then the predicted masks that are left over.

    Raises:
        ValueError: masks differ in size.
    """
    from scipy.optimize import linear_sum_assignment

    table = [[overlap(mask, target, ignored) for target in targets] for mask in predicted]
    cost = np.array([[1 - counts.iou for counts in row] for row in table]).reshape(len(predicted), len(targets))
    partner = {int(column): int(row) for row, column in zip(*linear_sum_assignment(cost), strict=True)}
    pairs = []
    for index, target in enumerate(targets):
        row = partner.get(index)
        pairs.append(Pair(row, index, Overlap(0, masks.area(target)) if row is None else table[row][index]))
    for index in sorted(set(range(len(predicted))) - set(partner.values())):
        nothing = masks.empty(*predicted[index]["size"])
        pairs.append(Pair(index, None, overlap(predicted[index], nothing, ignored)))
    return pairs


def names_category(phrase: str, category: str, known: frozenset[str] = CATEGORIES) -> bool:
    """Whether the thing that a phrase names first is `category`, by its name, plural or a synonym.

    The longest name counts: "the hot dog" names no dog, "the cup on the table" no table.
    """
    pattern, meanings = _lexicon(known | CATEGORIES | {category})
    found = pattern.search(phrase.lower())
    return found is not None and category in meanings[found[0]]


@cache
def _lexicon(categories: frozenset[str]) -> tuple[re.Pattern, dict[str, set[str]]]:
    """A pattern that finds any word for any of the categories, the longest first, and what each word means."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for name in categories:
        words = [spoken(name), *SYNONYMS.get(name, ()), *(SINGLE_PERSON_WORDS if name == "person" else ())]
        # The noun's own plural first: it knows "skis" and "broccoli".
        for form in (noun(name).plural, *words, *(pluralize(word) for word in words)):
            meanings[form.lower()].add(name)
    words = "|".join(re.escape(word) for word in sorted(meanings, key=lambda word: (-len(word), word)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)"), meanings
