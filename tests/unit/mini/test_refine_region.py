"""Regions around masks and prompts by hand, and what is cut out and put back."""

import pytest
import torch

from pixellm.mini.refine_region import MARGIN, SMALLEST, UNKNOWN, Region, cut, put_back, region_of
from pixellm.model.prompts import Prompts

HW = (90, 120)


def rectangle(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(HW, dtype=torch.bool)
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
    nothing = torch.zeros(HW, dtype=torch.bool)
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
    assert torch.equal(back, mask)
    assert score == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=0.05)


def test_nothing_lies_outside_of_the_region():
    mask, score = put_back(torch.full((8, 8), 3.0), Region(10, 20, 30, 60), HW)
    assert torch.equal(mask, rectangle(10, 20, 30, 60))
    assert score == pytest.approx(torch.tensor(3.0).sigmoid().item())
    nothing, score = put_back(torch.full((8, 8), -3.0), Region(10, 20, 30, 60), HW)
    assert not nothing.any()
    assert score == 0
