"""Targets: what an RLE says of a mask is what its pixels say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pixellm.imaging import masks
from pixellm.types import Target

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
