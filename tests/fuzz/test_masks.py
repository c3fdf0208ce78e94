"""RLEs and polygons from outside: a mask or a ValueError, and no write outside of pycocotools' buffers."""

import json
from contextlib import suppress

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pixellm.data.records import Segments
from pixellm.eval.predictions import read_answer
from pixellm.imaging import masks
from pixellm.utils import limits

HEIGHT, WIDTH = 5, 7
PIXELS = HEIGHT * WIDTH
ALPHABET = [chr(48 + group) for group in range(64)]
OTHER = ["\0", " ", "/", "p", "é", "０", "\ud800"]


def outcome(segmentation, height=HEIGHT, width=WIDTH):
    """Return the mask of a segmentation, having used it in all ways, or None if it is refused."""
    try:
        rles = masks.to_rles(segmentation, height, width)
    except ValueError:
        return None
    rle = masks.union([rles], height, width)
    mask = masks.decode(rle, height, width)
    assert mask.shape == (height, width)
    assert masks.area(rle) == masks.intersection_area(rle, rles[0] if len(rles) == 1 else rle) == mask.sum()
    assert masks.box(rle) == (masks.bounding_box(mask) or (0, 0, 0, 0))
    assert masks.as_text(masks.read_rle(json.loads(json.dumps(masks.as_text(rle))))) == masks.encode(mask)
    return mask


def fill(runs):
    """Return the mask of runs that fill it, None for others."""
    if not runs or runs[0] < 0 or min(runs[1:], default=1) < 1 or sum(runs) != PIXELS:
        return None
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(WIDTH, HEIGHT).T


def decompress(text):
    """Decode the text form in whole numbers of any size, as its definition reads; None for other text."""
    runs, value, groups = [], 0, 0
    for letter in text:
        group = ord(letter) - 48
        if not 0 <= group <= 63 or groups == masks.MAX_GROUPS:
            return None
        value |= (group & 31) << 5 * groups
        groups += 1
        if not group & 32:
            value -= (group & 16) >> 4 << 5 * groups
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, groups = 0, 0
    return None if groups else runs


def check(counts, runs):
    expected, mask = fill(runs or []), outcome({"size": [HEIGHT, WIDTH], "counts": counts})
    assert (mask is None) == (expected is None)
    assert mask is None or (mask == expected).all()


RUNS = st.lists(st.one_of(st.integers(0, 9), st.integers(-(2**70), 2**70)), max_size=50)


@st.composite
def filling(draw):
    """Runs that add up, as integers and modulo 2^64."""
    runs = draw(RUNS)
    modulus = draw(st.sampled_from([0, 0, 0, 2**32, 2**63, 2**64]))
    return [*runs, PIXELS - sum(runs) + modulus]


@given(filling())
@example([0] * 100_000 + [PIXELS])
@example([2**62 + 100, 2**62, 2**62, 2**62 - 100 + PIXELS])
@example([PIXELS, 0])
@example([0, PIXELS])
@example([2**64])
def test_runs(counts):
    check(counts, counts)


@given(st.text(ALPHABET, max_size=30) | st.text(ALPHABET + OTHER, max_size=12), st.booleans())
@example("P0oVoPVPPPPPPPPPOP2", False)
@example("S1PPPPP0", False)
@example("", True)
def test_text(text, as_bytes):
    assume(not as_bytes or text.isascii())
    check(text.encode() if as_bytes else text, decompress(text))


@given(st.lists(st.booleans(), min_size=PIXELS, max_size=PIXELS), st.data())
def test_changed_text(pixels, data):
    """A legal text with some letters replaced, left out, or put in."""
    text = list(masks.encode(np.reshape(pixels, (HEIGHT, WIDTH)))["counts"])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(text)))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(st.lists(st.sampled_from(ALPHABET), max_size=7))
    check("".join(text), decompress("".join(text)))


NUMBER = st.one_of(
    st.floats(-20, 20),
    st.integers(-20, 20),
    st.floats(),
    st.floats(-2000, 2000),
    st.integers(-(2**80), 2**80),
)


@given(st.lists(st.lists(NUMBER, max_size=14), max_size=5))
@example([[float("inf"), 0, 3, 0, 3, 3]])
@example([[0, 0, 2e5, 3, 0, 5] * 9])
@example([[1, 1, 1, 1, 1, 1]])
@example([[0, 0, limits.MAX_COORDINATE / 4, 0, 3, limits.MAX_COORDINATE / 4]])
@example([[0, 0, limits.MAX_COORDINATE, 0, 3, limits.MAX_COORDINATE + 1]])
def test_polygons(polygons):
    outcome(polygons)


SIDE = st.one_of(
    st.integers(-700, 700), st.integers(), st.floats(), st.booleans(), st.none(), st.text(OTHER, max_size=3)
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(OTHER, max_size=8)),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(OTHER, max_size=4), inner, max_size=3),
    max_leaves=12,
)
RLE = st.fixed_dictionaries(
    {"size": st.lists(SIDE, max_size=3) | JSON, "counts": st.one_of(RUNS, st.text(ALPHABET, max_size=20), JSON)}
)


@given(st.one_of(RLE, JSON, st.lists(RLE, max_size=3)), SIDE, SIDE)
@example({"size": [-480, -640], "counts": [480 * 640]}, -480, -640)
@example({"size": [True, 1], "counts": [1]}, 1, 1)
@example({"size": [2**32, 2**32], "counts": [2**64]}, 2**32, 2**32)
def test_any_json(segmentation, height, width):
    outcome(segmentation, height, width)
    with suppress(ValueError):
        read_answer({"id": "1", "text": "<seg>", "masks": [segmentation]})
    with suppress(ValueError):
        Segments((segmentation,)).checked().decode(height, width)
