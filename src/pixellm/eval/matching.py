"""Which predicted mask answers for which target (Hungarian matching by IoU), and whether its phrase names it.

The order in which an answer names things is free, so every answer is scored under its best assignment.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pixellm.data.describe import noun, pluralize, spoken
from pixellm.data.names import NAMES, SINGLE_PERSON_WORDS, SYNONYMS
from pixellm.eval.metrics import Overlap, overlap


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


def match(predicted: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[Pair]:
    """Pair predicted and target masks one to one with the largest sum of IoU.

    As many pairs are made as the smaller side allows, even of masks that do not touch; whoever is left over is paired
    with an empty mask. The same input always gives the same pairs.

    Args:
        predicted: P bool (H, W) masks at the photograph's size.
        targets: T bool (H, W) masks.

    Returns:
        max(P, T) pairs: the targets in their order, then the predicted masks that are left over.

    Raises:
        ValueError: masks differ in size.
    """
    table = [[overlap(mask, target) for target in targets] for mask in predicted]
    areas = [[int(np.count_nonzero(mask)) for mask in side] for side in (predicted, targets)]
    return pair_up(table, *areas)


def pair_up(table: Sequence[Sequence[Overlap]], predicted_areas: Sequence[int], areas: Sequence[int]) -> list[Pair]:
    """As `match`, from the overlap of every predicted mask (rows) with every target, and the pixels of each."""
    from scipy.optimize import linear_sum_assignment

    cost = np.array([[1 - counts.iou for counts in row] for row in table]).reshape(len(predicted_areas), len(areas))
    partner = {int(column): int(row) for row, column in zip(*linear_sum_assignment(cost), strict=True)}
    pairs = []
    for index, area in enumerate(areas):
        row = partner.get(index)
        pairs.append(Pair(row, index, Overlap(0, area) if row is None else table[row][index]))
    taken = set(partner.values())
    return pairs + [Pair(i, None, Overlap(0, area)) for i, area in enumerate(predicted_areas) if i not in taken]


def names_category(phrase: str, category: str, known: frozenset[str] = NAMES) -> bool:
    """Whether the thing that a phrase names first is `category`, by its name, plural or a synonym.

    The longest name counts: "the hot dog" names no dog, "the cup on the table" no table.
    """
    pattern, meanings = _lexicon(known | NAMES | {category})
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
