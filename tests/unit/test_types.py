"""Targets: what an RLE says of a mask is what its pixels say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
from pixellm.types import Answer, Target

BOOL_MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25))


@given(BOOL_MASKS)
def test_a_target_of_a_mask(mask):
    target = Target.of_mask("the cat", (0, 7), mask, 0.12345)
    assert target.mask.dtype == bool
    assert np.array_equal(target.mask, mask)
    assert target.rle == masks.encode(mask)
    assert target.area == mask.sum()
    assert target.box == masks.bounding_box(mask)
    row = json.loads(json.dumps(target.to_json()))
    assert row == {
        "phrase": "the cat",
        "span": [0, 7],
        "score": 0.1235,
        "area": int(mask.sum()),
        "box": list(target.box) if target.box else None,
        "segmentation": target.rle,
    }


@given(BOOL_MASKS, st.booleans())
def test_equal_masks_make_equal_targets(mask, change):
    target, other = (Target.of_mask("it", (0, 2), mask, 1.0) for _ in range(2))
    assert target == other
    assert replace(target, phrase="them").rle == target.rle
    mask[0, 0] ^= change
    assert (target == Target.of_mask("it", (0, 2), mask, 1.0)) is not change


def test_what_goes_out_is_a_copy():
    target = Target.of_mask("it", (0, 2), np.eye(3, dtype=bool), 1.0)
    target.mask[:] = False
    target.to_json()["segmentation"]["counts"] = ""
    assert target.area == 3
    with pytest.raises(AttributeError):
        target.score = 0.0


def test_a_presence_score_is_kept_beside_the_score():
    target = Target.of_mask("the cat", (0, 7), np.eye(3, dtype=bool), 0.8)
    assert target.confidence == 0.8
    sure = replace(target, presence=0.123456)
    assert (sure.confidence, sure.to_json()["score"], sure.to_json()["presence"]) == (0.123456, 0.8, 0.1235)
    assert list(target.to_json()) == [name for name in sure.to_json() if name != "presence"]
    again = Target.from_json(json.loads(json.dumps(sure.to_json())), "the cat", (3, 3))
    assert again == replace(sure, presence=0.1235)
    assert Target.from_json(target.to_json(), "the cat", (3, 3)) == target
    with pytest.raises(ValueError, match=r"expected a presence score in 0\.\.1, got 2"):
        Target.from_json(target.to_json() | {"presence": 2}, "the cat", (3, 3))


def test_answers_above_a_score():
    mask = np.eye(3, dtype=bool)
    dog, cat = Target.of_mask("the dog", (0, 7), mask, 0.9), Target.of_mask("the cat", (12, 19), mask, 0.4)
    answer = Answer("Which?", "the dog and the cat", (dog, replace(cat, presence=0.7)), (3, 3))
    assert answer.above(0) is answer
    assert answer.above(0.7) == answer
    assert answer.above(0.8) == replace(answer, targets=(dog,))
    assert answer.above(1).text == answer.text
    unscored = replace(answer, id="7/0", targets=(dog, replace(cat, score=None)))
    assert unscored.above(0) is unscored
    with pytest.raises(
        ValueError, match=r"7/0: expected a score for every target, which min_score 0\.5 is compared with"
    ):
        unscored.above(0.5)


def test_marks_that_follow_others():
    first = Marks([(1, 2, 1), (3, 4, 0)], (0, 0, 5, 5), [([(1, 1), (2, 2)], True)])
    both = first.followed_by(Marks([[3, 4, 0], [5, 6, 1]], None, [([(7, 7)], False)]))
    assert both.points == ((1, 2, 1), (3, 4, 0), (5, 6, 1))
    assert both.box == (0, 0, 5, 5)
    assert both.followed_by(Marks(box=(1, 1, 2, 2))).box == (1, 1, 2, 2)
    assert json.loads(json.dumps(both.to_json())) == {
        "points": [[1, 2, 1], [3, 4, 0], [5, 6, 1]],
        "box": [0, 0, 5, 5],
        "strokes": [{"points": [[1, 1], [2, 2]], "positive": True}, {"points": [[7, 7]], "positive": False}],
    }


def test_marks_one_after_another():
    points, strokes = [(1, 2, 1), (3, 4, 0)], [([(1, 1)], True)]
    steps = list(Marks(points, (0, 0, 5, 5), strokes).in_turn())
    box = (0, 0, 5, 5)
    assert steps == [Marks(box=box), Marks(points[:1], box), Marks(points, box), Marks(points, box, strokes)]
    assert list(Marks().in_turn()) == []
