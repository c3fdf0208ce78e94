"""Masks → polygons → masks, filled by those who read the formats: pycocotools, Pillow (labelme), supervision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from pixellm.export.outlines import filled, iou, polygons
from pixellm.imaging import masks
from pixellm.imaging.overlay import supervision

sv = supervision()

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


RING = drawn(".......", ".#####.", ".#...#.", ".#.#.#.", ".#...#.", ".#####.", ".......")  # with an island
TWO_HOLES = drawn("########", "#.##.#.#", "########")
CORNERS = drawn("#.#", ".#.", "#.#")
CASES = {
    "one pixel": drawn("...", ".#.", "..."),
    "a line": drawn("....", "####"),
    "a ring with an island": RING,
    "holes in a row": TWO_HOLES,
    "corners that touch": CORNERS,
    "everything": np.ones((3, 4), dtype=bool),
    "a hole at a corner": drawn("###.", "#.##", "####"),
    "a spur": drawn("#....", "#####", "#...."),
}


def as_coco(found: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    return masks.decode([one.ravel().tolist() for one in found], *mask.shape)


def by_supervision(found: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    return np.any([sv.polygon_to_mask(one, (width, height)) for one in found], axis=0)


@pytest.mark.parametrize("mask", CASES.values(), ids=CASES.keys())
def test_nothing_is_lost(mask):
    along, through = polygons(mask), polygons(mask, centres=True)
    assert np.array_equal(as_coco(along, mask), mask)
    assert np.array_equal(filled(through, *mask.shape), mask)
    assert np.array_equal(by_supervision(through, mask), mask)
    assert len(along) == len(through) == ndimage.label(mask)[1]
    assert all(len(one) >= 3 for one in (*along, *through))


@given(arrays.arrays(bool, SHAPES))
def test_nothing_is_lost_of_any_mask(mask):
    found, through = polygons(mask), polygons(mask, centres=True)
    assert len(found) == ndimage.label(mask)[1]
    if mask.any():
        assert np.array_equal(as_coco(found, mask), mask)
    assert np.array_equal(filled(through, *mask.shape), mask)


@given(arrays.arrays(bool, SHAPES))
def test_one_polygon_for_all_parts_holds_at_least_the_mask(mask):
    found = polygons(mask, centres=True, together=True)
    assert len(found) == bool(mask.any())
    assert filled(found, *mask.shape)[mask].all()
    if ndimage.label(mask)[1] == 1:
        assert np.array_equal(filled(found, *mask.shape), mask)


def test_parts_that_are_tied_lose_a_line():
    mask = drawn("##....##", "##....##")
    (found,) = polygons(mask, centres=True, together=True)
    assert filled([found], *mask.shape).sum() == mask.sum() + 4


def test_many_parts_are_tied_in_one_walk():
    mask = np.zeros((90, 90), dtype=bool)
    mask[::3, ::3] = True
    mask[:40, :40] = True
    (found,) = polygons(mask, centres=True, together=True)
    assert filled([found], *mask.shape)[mask].all()
    assert len(found) < 4 * ndimage.label(mask)[1]


def test_points_that_change_nothing_are_left_out():
    (square,) = polygons(np.pad(np.ones((50, 80), dtype=bool), 3))
    assert sorted(map(tuple, square.tolist())) == [(3, 3), (3, 53), (83, 3), (83, 53)]


def test_the_largest_part_comes_first():
    first, second = polygons(drawn("#..###", "...###"))
    assert first[:, 0].min() == 3
    assert second[:, 0].max() == 1


def test_a_tolerance_leaves_points_out_and_costs_little():
    y, x = np.mgrid[:200, :200]
    disc = (x - 100) ** 2 + (y - 90) ** 2 < 80**2
    (exact,), (rough,) = polygons(disc), polygons(disc, tolerance=1)
    assert len(rough) < len(exact) / 4
    assert 0.97 < iou(disc, as_coco([rough], disc)) < 1
    assert len(polygons(CASES["one pixel"], tolerance=9)[0]) >= 3


def test_empty():
    assert polygons(np.zeros((3, 4), dtype=bool)) == []
    assert polygons(np.zeros((3, 4), dtype=bool), together=True) == []
    assert iou(np.zeros((3, 4), dtype=bool), np.zeros((3, 4), dtype=bool)) == 1
