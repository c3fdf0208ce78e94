"""Regions around masks and prompts by hand, and what is cut out and put back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixellm.imaging.prompt_region import MARGIN, SMALLEST, UNKNOWN, Region, cropped, cut, put_back, region_of
from pixellm.imaging.visual_prompts import Prompts

HW = (90, 120)


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(HW, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def prompts(*points, box=None) -> Prompts:
    return Prompts.read(points, box, original_hw=HW)


def test_a_region_holds_mask_and_added_points_with_a_margin():
    mask = rectangle(40, 30, 80, 50)
    assert MARGIN == 0.25
    assert region_of(mask, prompts((60, 40, 0), (5, 5, 0))) == Region(30, 25, 90, 55)  # what is taken away is no part
    assert region_of(mask, prompts((84, 40, 1))) == Region(29, 25, 95, 55)


def test_small_targets_get_the_smallest_region():
    least = SMALLEST * 120
    assert least == 10
    assert region_of(rectangle(50, 50, 52, 52), prompts((50, 50, 0))) == Region(46, 46, 56, 56)


def test_a_region_stays_inside_the_image():
    assert region_of(rectangle(0, 0, 120, 90), prompts((1, 1, 0))) == Region(0, 0, 120, 90)


def test_without_a_mask_it_lies_around_the_point():
    nothing = np.zeros(HW, dtype=bool)
    assert UNKNOWN == 0.5
    assert region_of(nothing, prompts((60, 45, 1))) == Region(30, 15, 90, 75)
    assert region_of(nothing, prompts((60, 45, 0))) is None


def test_a_box_takes_the_place_of_the_mask():
    region = region_of(rectangle(0, 0, 120, 90), prompts((60, 45, 1), box=(50, 40, 20, 20)))
    assert region == Region(45, 35, 75, 65)


def test_cutting_and_putting_back_a_mask_gives_it_again():
    mask = rectangle(40, 30, 80, 50)
    region = Region(20, 20, 100, 60)
    part = cut(mask[None], region, 80)
    assert part.shape == (1, 80, 80)
    back, score = put_back(part[0] * 8 - 4, region, HW)
    assert np.array_equal(back, mask)
    assert score == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=0.05)


def test_nothing_lies_outside_of_the_region():
    mask, score = put_back(np.full((8, 8), 3.0, np.float32), Region(10, 20, 30, 60), HW)
    assert np.array_equal(mask, rectangle(10, 20, 30, 60))
    assert score == pytest.approx(torch.tensor(3.0).sigmoid().item())
    nothing, score = put_back(np.full((8, 8), -3.0, np.float32), Region(10, 20, 30, 60), HW)
    assert not nothing.any()
    assert score == 0


@pytest.mark.parametrize("region", [Region(0, 0, 120, 90), Region(30, 5, 41, 80), Region(7, 9, 15, 13)])
def test_cutting_is_that_of_torch(region):
    """Larger and smaller than the cells that it is cut into, on either side."""
    map_ = np.random.default_rng(0).integers(0, 256, (3, *HW), dtype=np.uint8)
    part = torch.from_numpy(map_)[:, region.top : region.bottom, region.left : region.right].float()
    expected = F.interpolate(part[None], (32, 32), mode="bilinear", align_corners=False, antialias=True)[0]
    np.testing.assert_allclose(cut(map_, region, 32), expected, rtol=1e-5, atol=1e-3)


def test_maps_without_padding():
    maps = [np.arange(2 * side * side).reshape(2, 1, side, side) for side in (8, 4)]
    fine, coarse = cropped(maps, 1, (33, 64), 64)
    np.testing.assert_array_equal(fine, maps[0][1, :, :5])
    np.testing.assert_array_equal(coarse, maps[1][1, :, :3])
