"""Matching against all permutations, and what a phrase names."""

from itertools import permutations

import numpy as np
import pytest

from pixellm.data.categories import CATEGORIES, SYNONYMS
from pixellm.eval.matching import match, names_category
from pixellm.eval.overlap import Overlap, overlap
from pixellm.imaging.masks import Rle, encode


def row(*pixels: int) -> Rle:
    return encode(np.array([pixels], dtype=bool))


LEFT, MIDDLE, RIGHT = row(1, 1, 0, 0, 0, 0), row(0, 0, 1, 1, 0, 0), row(0, 0, 0, 0, 1, 1)
EMPTY = row(0, 0, 0, 0, 0, 0)


def partners(pairs):
    return [(pair.predicted, pair.target) for pair in pairs]


def test_swapped_order_is_no_mistake():
    pairs = match([RIGHT, LEFT, MIDDLE], [LEFT, MIDDLE, RIGHT])
    assert partners(pairs) == [(1, 0), (2, 1), (0, 2)]
    assert [pair.iou for pair in pairs] == [1.0, 1.0, 1.0]


def test_extra_mask():
    pairs = match([MIDDLE, LEFT], [LEFT])
    assert partners(pairs) == [(1, 0), (0, None)]
    assert [pair.iou for pair in pairs] == [1.0, 0.0]
    assert pairs[1].counts == Overlap(0, 2)


def test_missing_mask():
    pairs = match([MIDDLE], [LEFT, MIDDLE])
    assert partners(pairs) == [(None, 0), (0, 1)]
    assert [pair.iou for pair in pairs] == [0.0, 1.0]
    assert pairs[0].counts == Overlap(0, 2)


def test_ignored_pixels_count_as_nothing():
    pairs = match([row(1, 1, 1, 0, 0, 0), row(0, 0, 0, 1, 1, 1)], [LEFT], ignored=row(0, 0, 1, 1, 0, 0))
    assert [pair.counts for pair in pairs] == [Overlap(2, 2), Overlap(0, 2)]


def test_empty_masks():
    assert [pair.iou for pair in match([EMPTY], [EMPTY])] == [1.0]
    assert [pair.iou for pair in match([EMPTY, LEFT], [LEFT])] == [1.0, 0.0]  # an extra mask is one, even if empty
    assert [pair.iou for pair in match([EMPTY], [LEFT])] == [0.0]


@pytest.mark.parametrize(("predicted", "targets"), [(0, 0), (0, 2), (2, 0)])
def test_one_side_without_masks(predicted, targets):
    pairs = match([LEFT, RIGHT][:predicted], [LEFT, RIGHT][:targets])
    assert len(pairs) == max(predicted, targets)
    assert all(pair.iou == 0 for pair in pairs)


def test_masks_that_do_not_touch_are_still_a_pair():
    assert partners(match([LEFT], [RIGHT])) == [(0, 0)]


def test_best_sum_wins_over_the_best_pair():
    pairs = match([row(1, 1, 1, 1, 0, 0), LEFT], [LEFT, MIDDLE])
    assert partners(pairs) == [(1, 0), (0, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_equals_all_permutations(seed):
    rng = np.random.default_rng(seed)
    count, total = (int(number) for number in rng.integers(1, 5, size=2))
    predicted = [encode(mask) for mask in rng.random((count, 6, 6)) < rng.uniform(0.1, 0.7)]
    targets = [encode(mask) for mask in rng.random((total, 6, 6)) < rng.uniform(0.1, 0.7)]
    if count <= total:
        orders = [list(enumerate(order)) for order in permutations(range(total), count)]
    else:
        orders = [[(p, t) for t, p in enumerate(order)] for order in permutations(range(count), total)]
    best = max(sum(overlap(predicted[p], targets[t]).iou for p, t in order) for order in orders)
    pairs = match(predicted, targets)
    assert sum(pair.iou for pair in pairs) == pytest.approx(best)
    assert sorted(p.predicted for p in pairs if p.predicted is not None) == list(range(count))
    assert sorted(p.target for p in pairs if p.target is not None) == list(range(total))
    assert match(predicted, targets) == pairs


@pytest.mark.parametrize(
    ("phrase", "category"),
    [
        ("The cat", "cat"),
        ("the two brown dogs", "dog"),
        ("the people", "person"),
        ("THE TVs", "tv"),
        ("a sofa", "couch"),
        ("the woman on the bench", "person"),
        ("the skis", "skis"),
        ("the knives", "knife"),
        ("the broccoli", "broccoli"),
    ],
)
def test_a_phrase_names_its_category(phrase, category):
    assert names_category(phrase, category)


@pytest.mark.parametrize(
    ("phrase", "category"),
    [
        ("the hot dog", "dog"),
        ("the teddy bears", "bear"),
        ("the cup on the dining table", "dining table"),
        ("the category", "cat"),
        ("the carrot", "car"),
        ("", "cat"),
        ("them", "person"),
    ],
)
def test_a_phrase_does_not_name_another_category(phrase, category):
    assert not names_category(phrase, category)


def test_every_name_and_synonym_is_understood():
    for name in CATEGORIES:
        for word in (name.split(" (")[0], *SYNONYMS.get(name, ())):
            assert names_category(f"the {word}", name), (word, name)


def test_categories_outside_the_tables():
    assert names_category("The red widgets", "widget")
