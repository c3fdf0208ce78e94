"""Matching of predicted masks and targets (Hungarian, by IoU), and of phrases and categories.

The order in which an answer names objects is free, so every answer is scored under its best assignment.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pixellm.data.categories import CATEGORIES, SINGLE_PERSON_WORDS, SYNONYMS
from pixellm.data.describe import noun, pluralize, spoken
from pixellm.eval.overlap import Overlap, overlap
from pixellm.imaging import masks


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask and its target, by index (None: there is none), and what they count.

    Args:
        predicted, target: indices in the answer and in the question.
        counts: pixels, which go into cIoU.
        iou: 0..1, which goes into gIoU; 0 where a partner is missing, even if the mask left over is empty.
        named: the mask's phrase names the target's category; None where that is not scored.
        rating: 1–10, of the phrase, where phrases are rated.
        boundary_iou: 0..1, of the bands along both contours (`pixellm.eval.boundary`); 0 where `iou` is 0; None where
            it is not scored.
    """

    predicted: int | None
    target: int | None
    counts: Overlap
    iou: float
    named: bool | None = None
    rating: int | None = None
    boundary_iou: float | None = None


def match(
    predicted: Sequence[masks.Rle], targets: Sequence[masks.Rle], ignored: masks.Rle | None = None
) -> list[MaskPair]:
    """Pair predicted and target masks one to one with the largest sum of IoU.

    As many pairs are made as the smaller side allows, even of masks that do not touch; every mask left over is paired
    with an empty mask. The same input always gives the same pairs.

    Args:
        predicted: P masks at the image's size, as compressed RLEs.
        targets: T masks, likewise.
        ignored: pixels that are left out; none of them is a target's.

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
        if row is None:
            pairs.append(MaskPair(None, index, Overlap(0, masks.area(target)), 0.0))
        else:
            pairs.append(MaskPair(row, index, table[row][index], table[row][index].iou))
    for index in sorted(set(range(len(predicted))) - set(partner.values())):
        empty = masks.empty(*predicted[index]["size"])
        pairs.append(MaskPair(index, None, overlap(predicted[index], empty, ignored), 0.0))
    return pairs


def names_category(phrase: str, category: str, known: frozenset[str] = CATEGORIES) -> bool:
    """Return whether the object that a phrase names first is `category`, by its name, plural or a synonym.

    The longest name counts: "the hot dog" names no dog, "the cup on the table" no table.
    """
    pattern, meanings = _lexicon(known | CATEGORIES | {category})
    first = pattern.search(phrase.lower())
    return first is not None and category in meanings[first[0]]


@cache
def _lexicon(categories: frozenset[str]) -> tuple[re.Pattern, dict[str, set[str]]]:
    """Return a pattern that matches any word for any of the categories, the longest first, and their categories."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for name in categories:
        words = [spoken(name), *SYNONYMS.get(name, ()), *(SINGLE_PERSON_WORDS if name == "person" else ())]
        # The noun's own plural first: it knows "skis" and "broccoli".
        for form in (noun(name).plural, *words, *(pluralize(word) for word in words)):
            meanings[form.lower()].add(name)
    words = "|".join(re.escape(word) for word in sorted(meanings, key=lambda word: (-len(word), word)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)"), meanings
