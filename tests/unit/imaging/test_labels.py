"""Places of labels: in the widest part of a mask, inside the image, apart from each other."""

import numpy as np
import pytest
from PIL import Image, ImageFont
from scipy import ndimage

from pixellm.imaging import labels


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (40, 25), (33, 70)], ids=str)
def test_depths_are_euclidean(shape):
    random = np.random.default_rng(0)
    for share in (0.5, 0.95, 1.0):
        mask = random.random(shape) < share
        expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        assert np.allclose(labels.depths(mask), expected)
    assert not labels.depths(np.zeros(shape, dtype=bool)).any()


def test_an_anchor_is_inside_a_wide_mask_and_above_a_narrow_one():
    mask = np.zeros((100, 200), dtype=bool)
    mask[20:81, 100:161] = True
    assert labels.anchor(mask, 20) == (130, 40)
    x, y = labels.anchor(mask, 60)
    assert (x, y) == (130, 50 - 31 - 60)


def test_labels_do_not_overlap_and_stay_inside():
    scene = Image.new("RGB", (300, 200))
    at = [(150.0, 100.0), (150.0, 100.0), (-20.0, -5.0), (160.0, 105.0)]
    drawn = [labels.Label("cat", place, "#FF0000", "#FF0000") for place in at]
    labels.draw(scene, drawn, ImageFont.load_default(14), 3)
    red = np.asarray(scene)[..., 0] > 200
    found, count = ndimage.label(red, structure=np.ones((3, 3)))
    assert count == 4
    heights = {part[0].stop - part[0].start for part in ndimage.find_objects(found)}
    assert len(heights) == 1  # none is cut off
