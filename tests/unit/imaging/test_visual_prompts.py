"""Visual prompts: reading, joining, strokes."""

import math

import pytest

from pixellm.imaging.visual_prompts import (
    BACKGROUND,
    BOTTOM_RIGHT,
    FOREGROUND,
    TOP_LEFT,
    Prompts,
    sample_stroke,
)

HW = (40, 60)


def test_prompts_are_read_in_order():
    prompts = Prompts.read([(3, 4, 1), (5.5, 6, False)], (10, 12, 20, 8), [([(0, 0), (7, 0)], True)], HW)
    assert prompts.points[:2] == ((3, 4), (5.5, 6))
    assert prompts.labels[:2] == (FOREGROUND, BACKGROUND)
    assert prompts.points[2:10] == tuple((float(x), 0.0) for x in range(8))
    assert set(prompts.labels[2:10]) == {FOREGROUND}
    assert prompts.points[10:] == ((10, 12), (30, 20))
    assert prompts.labels[10:] == (TOP_LEFT, BOTTOM_RIGHT)
    assert prompts.box == (10, 12, 30, 20)
    assert Prompts.read([(1, 1, 1)], original_hw=HW).box is None


def test_a_box_is_cut_at_the_image():
    assert Prompts.read(box=(-5, -5, 100, 10), original_hw=HW).box == (0, 0, 60, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": [(1, 2)]}, "3 finite numbers"),
        ({"points": [(1, 2, 3)]}, "positive 1 or 0"),
        ({"points": [(61, 2, 1)]}, "inside the image of 60×40"),
        ({"points": [(1, math.nan, 1)]}, "finite"),
        ({"points": ["abc"]}, "3 numbers"),
        ({"points": [4]}, "3 numbers"),
        ({"box": (1, 2, 3)}, "4 finite numbers"),
        ({"box": (70, 2, 3, 3)}, "a pixel or more inside"),
        ({"strokes": [([], True)]}, "stroke with points"),
        ({"points": [(1, 1, 1)] * 257}, "at most 256"),
    ],
)
def test_malformed_prompts(given, message):
    with pytest.raises(ValueError, match=message):
        Prompts.read(**given, original_hw=HW)


def test_later_prompts_are_added_and_a_box_is_replaced():
    first = Prompts.read([(1, 1, 1), (2, 2, 0)], (0, 0, 10, 10), original_hw=HW)
    later = Prompts.read([(2, 2, 0), (3, 3, 1)], original_hw=HW)
    joined = first.followed_by(later)
    assert joined.points == ((1, 1), (2, 2), (3, 3), (0, 0), (10, 10))
    assert joined.box == (0, 0, 10, 10)
    other = joined.followed_by(Prompts.read(box=(5, 5, 10, 10), original_hw=HW))
    assert other.box == (5, 5, 15, 15)
    assert len(other) == 5
    assert first.followed_by(first) == first


def test_a_stroke_is_sampled_at_equal_distances_around_its_corners():
    points = sample_stroke([(0.0, 0.0), (3.0, 0.0), (3.0, 4.0)], 8)
    assert points[0] == (0, 0)
    assert points[3] == pytest.approx((3, 0))
    assert points[-1] == (3, 4)
    assert points[5] == pytest.approx((3, 2))
    assert sample_stroke([(2.0, 5.0), (2.0, 5.0)]) == [(2, 5)]
    assert sample_stroke([(2.0, 5.0)]) == [(2, 5)]
