import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pixellm.imaging import masks
from pixellm.utils import limits

BOOL_MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25))


@given(BOOL_MASKS)
def test_rle_round_trip(mask):
    rle = json.loads(json.dumps(masks.encode(mask)))
    assert rle["size"] == list(mask.shape)
    decoded = masks.decode(rle, *mask.shape)
    assert decoded.dtype == bool
    assert (decoded == mask).all()


@given(BOOL_MASKS)
def test_uncompressed_rle(mask):
    counts, value = [0], False  # runs in column order, beginning with False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    decoded = masks.decode({"size": list(mask.shape), "counts": counts}, *mask.shape)
    assert (decoded == mask).all()


@given(BOOL_MASKS)
def test_counts_as_bytes(mask):
    rle = masks.encode(mask)
    decoded = masks.decode({"size": rle["size"], "counts": rle["counts"].encode()}, *mask.shape)
    assert (decoded == mask).all()


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


SPAN = st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda s: (min(s[0], s[1] - 1), max(s[0] + 1, s[1])))


@given(st.lists(st.tuples(SPAN, SPAN), min_size=1, max_size=4))
def test_rectangles(spans):
    """Whole-pixel rectangles, which polygons give exactly; they may overlap, and stay a union."""
    expected = np.zeros((20, 22), bool)
    for (x0, x1), (y0, y1) in spans:
        expected[y0:y1, x0:x1] = True
    polygons = [rectangle(x0, y0, x1, y1) for (x0, x1), (y0, y1) in spans]
    decoded = masks.decode(polygons, 20, 22)
    assert decoded.dtype == bool
    assert (decoded == expected).all()
    assert (masks.decode(masks.encode(decoded), 20, 22) == expected).all()


def test_overlapping_polygons_are_a_union():
    decoded = masks.decode([rectangle(0, 0, 6, 6), rectangle(3, 3, 9, 9)], 10, 10)
    assert decoded.sum() == 36 + 36 - 9
    assert decoded[4, 4]  # a sum modulo 2 would leave a hole here


def test_parts_too_small_for_a_polygon_are_left_out():
    assert (
        masks.decode([[1, 1, 2, 2], rectangle(0, 0, 3, 2)], 5, 5) == masks.decode([rectangle(0, 0, 3, 2)], 5, 5)
    ).all()


BAD = {
    "no polygon": [],
    "a line": [[1, 2, 3, 4]],
    "not a list": 5,
    "none": None,
    "text": "abc",
    "words": [["a"] * 6],
    "half a point": [[0, 0, 3, 0, 3, 3, 1]],
    "number among polygons": [rectangle(0, 0, 3, 3), 5],
    "no size": {"counts": [16]},
    "no counts": {"size": [4, 4]},
    "short size": {"size": [4], "counts": [16]},
    "size in words": {"size": ["a", 4], "counts": [16]},
    "counts none": {"size": [4, 4], "counts": None},
    "counts garbage": {"size": [4, 4], "counts": "zzzzzzzzzz"},
    "counts too long": {"size": [4, 4], "counts": [100]},
    "counts too short": {"size": [4, 4], "counts": [3, 2]},
    "compressed counts too short": {"size": [4, 4], "counts": masks.encode(np.ones((2, 2), bool))["counts"]},
    "counts negative": {"size": [4, 4], "counts": [-3, 19]},
    "counts wrap to the right sum": {"size": [4, 4], "counts": [2**62 + 100, 2**62, 2**62, 2**62 - 84]},
    "counts beyond 64 bits": {"size": [4, 4], "counts": [2**64, 16]},
    "a run of 0 after the first": {"size": [4, 4], "counts": [0, 0, 16]},
    "a run of 0 at the end": {"size": [4, 4], "counts": [16, 0]},
    "many runs of 0": {"size": [4, 4], "counts": [0] * 1000 + [16]},
    "compressed runs of 0": {"size": [4, 4], "counts": "000000`0"},
    "no runs": {"size": [4, 4], "counts": []},
    "no letters": {"size": [4, 4], "counts": ""},
    "bools among counts": {"size": [4, 4], "counts": [True, 15]},
    "floats among counts": {"size": [4, 4], "counts": [1.0, 15.0]},
    "words among counts": {"size": [4, 4], "counts": ["16"]},
    "letters outside ASCII": {"size": [4, 4], "counts": "１６"},
    "seven groups": {"size": [4, 4], "counts": "`PPPPP0"},
    "other size": {"size": [4, 5], "counts": [20]},
    "negative size": {"size": [-4, -4], "counts": [16]},
    "bool size": {"size": [True, 16], "counts": [16]},
    "float size": {"size": [4.0, 4.0], "counts": [16]},
    "sizes in words": [[4, 4, "4", 4, 4, "4"]],
    "huge numbers": [[0, 0, 2**80, 0, 3, 3]],
    "polygon of polygons": [[rectangle(0, 0, 3, 3)] * 6],
    "text among polygons": [rectangle(0, 0, 3, 3), "abc"],
    "transposed": masks.encode(np.ones((2, 8), bool)),
}


@pytest.mark.parametrize("segmentation", BAD.values(), ids=BAD)
def test_malformed_segmentation(segmentation):
    with pytest.raises(ValueError, match=r"."):
        masks.decode(segmentation, 4, 4)


def test_crafted_text_is_refused():
    """Runs beyond 2^63 in the text form, which add up to 64×64 modulo 2^64."""
    with pytest.raises(ValueError, match="text form"):
        masks.to_rles({"size": [64, 64], "counts": "P0oVoPVPPPPPPPPPOP2"}, 64, 64)


@pytest.mark.parametrize("size", [(0, 0), (-4, -4), (4, True), (4.0, 4), ("4", 4), (10**9, 10**9), (None, None)])
def test_sizes(size):
    """Of the image, which comes from a file, too."""
    for segmentation in ([rectangle(0, 0, 3, 3)], {"size": list(size), "counts": [16]}):
        with pytest.raises(ValueError, match=r"expected a height and a width|million pixels"):
            masks.to_rles(segmentation, *size)


def test_polygons_are_limited(monkeypatch):
    monkeypatch.setattr(limits, "MAX_POLYGON_POINTS", 9)
    monkeypatch.setattr(limits, "MAX_OUTLINE", 100)
    assert masks.decode([rectangle(0, 0, 3, 3)] * 2, 4, 4).sum() == 9
    with pytest.raises(ValueError, match="at most 9 points in the polygons of a mask, got 12"):
        masks.to_rles([rectangle(0, 0, 3, 3)] * 3, 4, 4)
    with pytest.raises(ValueError, match="at most 100 pixels along the polygons of a mask, got 120"):
        masks.to_rles([rectangle(0, 0, 20, 20)] * 2, 4, 4)


def test_nothing_unchecked_reaches_pycocotools():
    """Neither as an argument of the other functions; that of another size isn't zero pixels, but an error."""
    crafted, good = {"size": [4, 4], "counts": "000000`0"}, masks.encode(np.ones((4, 4), bool))
    for use in (masks.area, masks.box, masks.as_text, lambda rle: masks.intersection_area(good, rle)):
        with pytest.raises(ValueError, match="got a run of 0"):
            use(crafted)
    with pytest.raises(ValueError, match="got a run of 0"):
        masks.union([[good, crafted]], 4, 4)
    with pytest.raises(ValueError, match="4×4 pixels, got 2×8"):
        masks.intersection_area(good, masks.encode(np.ones((2, 8), bool)))


def test_longest_text_fits():
    """Pycocotools keeps six letters for a run, and none for the zero byte that it writes behind them.

    malloc's blocks have room for it but where all of four runs take six: 2^24 each, one 1 (as a difference).
    """
    assert limits.MAX_PIXELS < 2**24 + (2**24 + 2) + 2**24 + 1


def test_union_of_many_polygons():
    """More than are merged at once."""
    polygons = [rectangle(x, y, x + 1, y + 1) for x in range(0, 20, 2) for y in range(0, 20, 2)]
    assert masks.decode(polygons, 20, 20).sum() == 100


def test_wild_coordinates_do_not_end_the_process():
    """Pycocotools walks along every edge: coordinates out of all range would make it write where it must not."""
    script = """
import resource
from pixellm.imaging import masks
from pixellm.utils import limits
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # else such a polygon takes all memory of the machine
for wild in (float("inf"), float("nan"), 1e12, -1e300):
    try:
        masks.decode([[wild, 0, 3, 0, 3, 3]], 4, 4)
        raise SystemExit(f"{wild} was accepted")
    except ValueError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_size_in_the_message():
    with pytest.raises(ValueError, match="expected a mask of 4×4 pixels, got 4×5"):
        masks.decode({"size": [4, 5], "counts": [20]}, 4, 4)


@given(BOOL_MASKS)
def test_bounding_box(mask):
    box = masks.bounding_box(mask)
    points = np.argwhere(mask)
    if not len(points):
        assert box is None
        return
    x, y, width, height = box
    assert (y, x) == tuple(points.min(axis=0))
    assert (y + height - 1, x + width - 1) == tuple(points.max(axis=0))
    assert all(type(value) is int for value in box)


def test_bounding_box_by_hand():
    mask = np.zeros((6, 9), bool)
    mask[2:4, 3:8] = True
    assert masks.bounding_box(mask) == (3, 2, 5, 2)
    assert masks.bounding_box(np.zeros((3, 3), bool)) is None


@given(BOOL_MASKS)
def test_from_edges(mask):
    """Every column ends the run that it is in; in the RLE runs go on over columns, as pycocotools writes them."""
    edges, height = [], len(mask)
    for column, pixels in enumerate(mask.T):
        for row in np.flatnonzero(np.diff(np.r_[False, pixels, False].astype(int))):
            edges.append(column * height + row)
    assert masks.from_edges(np.array(edges, dtype=np.int64), *mask.shape) == masks.encode(mask)


def test_counts_as_text():
    rle = masks.encode(np.eye(3, dtype=bool))
    assert masks.as_text({"size": (3, 3), "counts": rle["counts"].encode()}) == masks.as_text(rle) == rle
