"""Mask metrics against hand cases and brute force."""

import math

import numpy as np
import pytest

from pixellm.eval.overlap import IouSum, Overlap, overlap
from pixellm.imaging.masks import Rle, encode


def row(*pixels: int) -> Rle:
    return encode(np.array([pixels], dtype=bool))


def test_hand_cases():
    sums = IouSum()
    sums.add(overlap(row(1, 1, 0, 0), row(0, 1, 1, 0)))  # 1 of 3
    sums.add(overlap(row(1, 1, 1, 1), row(1, 1, 1, 1)))  # 4 of 4
    assert sums.giou == pytest.approx((1 / 3 + 1) / 2)
    assert sums.ciou == pytest.approx(5 / 7)
    assert sums.pairs == 2


def test_two_empty_masks_agree_and_add_no_pixels():
    sums = IouSum()
    sums.add(overlap(row(0, 0), row(0, 0)))
    assert sums.giou == 1.0
    assert (sums.intersection, sums.union) == (0, 0)
    assert math.isnan(sums.ciou)
    sums.add(overlap(row(1, 0), row(1, 1)))
    assert sums.giou == pytest.approx(0.75)
    assert sums.ciou == pytest.approx(0.5)


def test_one_empty_mask_scores_zero():
    sums = IouSum()
    sums.add(overlap(row(0, 0), row(1, 1)))
    sums.add(overlap(row(1, 0), row(0, 0)))
    assert (sums.giou, sums.ciou, sums.union) == (0.0, 0.0, 3)


def test_a_rule_may_replace_the_iou():
    sums = IouSum()
    sums.add(Overlap(0, 0), 0.0)
    assert sums.giou == 0.0


def test_nothing_added_is_not_a_number():
    assert math.isnan(IouSum().giou)
    assert math.isnan(IouSum().ciou)


def test_masks_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r"expected a predicted mask of the target's size \[1, 2\]"):
        overlap(row(1, 1, 1), row(1, 1))


def test_equals_brute_force():
    rng = np.random.default_rng(0)
    sums, ious, intersections, unions = IouSum(), [], 0, 0
    for density in (0.0, 0.1, 0.5, 0.9, 1.0) * 4:
        predicted, target = rng.random((2, 7, 5)) < density
        sums.add(overlap(encode(predicted), encode(target)))
        both = sum(bool(p) and bool(t) for p, t in zip(predicted.flat, target.flat, strict=True))
        either = sum(bool(p) or bool(t) for p, t in zip(predicted.flat, target.flat, strict=True))
        ious.append(both / either if either else 1.0)
        intersections, unions = intersections + both, unions + either
    assert sums.giou == pytest.approx(np.mean(ious))
    assert sums.ciou == pytest.approx(intersections / unions)


def test_ignored_pixels_count_as_nothing():
    rng = np.random.default_rng(1)
    for _ in range(10):
        predicted, target, ignored = rng.random((3, 7, 5)) < 0.5
        target &= ~ignored
        counted = overlap(encode(predicted & ~ignored), encode(target))
        assert overlap(encode(predicted), encode(target), encode(ignored)) == counted
