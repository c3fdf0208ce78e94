"""Boundary IoU by hand, against erosion written out, and against SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from pixellm.eval.boundary import band, band_width, boundary_overlap
from pixellm.imaging import masks
from tests.support import cases

BOOL_MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30))


def released_band(mask: np.ndarray, width: int) -> np.ndarray:
    """The definition: a rim of zeros, `width` erosions by a 3×3 square, what they take away."""
    eroded = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)
    return mask & ~eroded[1:-1, 1:-1]


def test_widths():
    assert band_width((480, 640)) == 16  # 2 % of 800
    assert band_width((300, 400)) == 10
    assert band_width((1, 10)) == 1  # at least 1


@settings(max_examples=150)
@given(BOOL_MASKS, st.integers(1, 6))
def test_a_band_is_what_erosion_takes_away(mask, width):
    assert np.array_equal(band(mask, width), released_band(mask, width))
    assert np.array_equal(band(np.asfortranarray(mask), width), released_band(mask, width))


def test_by_hand():
    """30×40: d = 1. A square of 6×6 has a band of 20 pixels; moved by one pixel to the right, 10 of them stay."""
    square, moved = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    square[10:16, 10:16], moved[10:16, 11:17] = True, True
    found = boundary_overlap(masks.encode(square), masks.encode(moved))
    assert found == (10, 30)  # rows 10 and 15: 5 columns each; no column of one lies on a column of the other
    assert found.iou == pytest.approx(1 / 3)
    filled = masks.encode(square)
    square[12:14, 12:14] = False
    hollow = boundary_overlap(masks.encode(square), filled)
    assert hollow == (20, 32)  # all around the hole, too


def test_the_images_border_is_a_boundary():
    whole = masks.encode(np.ones((30, 40), bool))
    assert boundary_overlap(whole, whole) == (136, 136)


def test_ignored_pixels_are_in_no_band_and_make_none():
    target, predicted, ignored = (np.zeros((30, 40), bool) for _ in range(3))
    target[5:15, 5:15], predicted[5:15, 5:25], ignored[:, 15:] = True, True, True
    rles = [masks.encode(mask) for mask in (predicted, target, ignored)]
    assert boundary_overlap(*rles) == (28, 36)  # the target's right side is no boundary of the longer mask


@settings(max_examples=100)
@given(st.data())
def test_equals_brute_force(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=60))
    corners = arrays(bool, (3, *shape), fill=st.just(True))
    one, other, hidden = data.draw(corners)
    other &= ~hidden  # as in data sets
    width = band_width(shape)
    bands = [released_band(mask, width) & ~hidden for mask in (one, other)]
    expected = (int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum()))
    assert boundary_overlap(masks.encode(one), masks.encode(other), masks.encode(hidden)) == expected


# --- as a metric ---

SQUARE, MOVED, OTHER = (np.zeros((30, 40), bool) for _ in range(3))
SQUARE[10:16, 10:16], MOVED[10:16, 11:17], OTHER[0:3, 0:3] = True, True, True


def boundary_giou(*of, **options):
    return cases.scored(*of, **options).overall.values["boundary_giou"]


def test_over_the_pairs_of_giou():
    asked = [cases.question([SQUARE, OTHER])]
    assert boundary_giou(asked, [cases.answer([MOVED])]) == pytest.approx((1 / 3 + 0) / 2)  # one is missing
    assert boundary_giou(asked, [cases.answer([OTHER, MOVED, ~SQUARE])]) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert boundary_giou(asked, [cases.answer([OTHER, MOVED])], name="multi-refer", protocol="ordered") == 0


def test_united_masks_have_one_band():
    left, right = SQUARE.copy(), SQUARE.copy()
    left[:, 13:], right[:, :13] = False, False
    assert boundary_giou([cases.question([SQUARE])], [cases.answer([left, right])], name="grefcoco") == 1
    nothing = cases.question([], hw=(30, 40))
    assert boundary_giou([nothing], [cases.answer([])], name="grefcoco") == 1
    assert boundary_giou([nothing], [cases.answer([SQUARE])], name="grefcoco") == 0


def test_a_phrase_that_is_rated_too_low_loses_its_boundary_too():
    asked, wrong = [cases.question([SQUARE], names=["cup"])], [cases.answer([SQUARE], phrases=["nothing"])]
    assert boundary_giou(asked, wrong, protocol="paper") == 0
    assert boundary_giou(asked, [cases.answer([SQUARE], phrases=["the cup"])], protocol="paper") == 1
