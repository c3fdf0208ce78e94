"""Phrases for an instance that fit no other one in the image: by place, size, colour, and what is beside it.

Places are those of boxes, as fractions of the image from its top left corner: the checks judge by the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from pixellm.data.describe import (
    CLEAR_SIDE,
    CLEAR_SIZE_RATIO,
    COLOURS,
    MIN_COLOUR_AREA,
    OTHERS_COLOUR,
    OWN_COLOUR,
    colour_shares,
    spoken,
)
from pixellm.imaging import masks
from pixellm.muse.records import ImageAnnotations, MuseTarget

# Category names of COCO and LVIS that nobody would say.
COMMON_NAMES = {
    **{"automatic washer": "washing machine", "edible corn": "corn cob", "fireplug": "fire hydrant"},
    **{"domestic ass": "donkey", "baguet": "baguette", "cantaloup": "cantaloupe", "cock": "rooster", "hog": "pig"},
    **{"icecream": "ice cream", "jean": "pair of jeans", "monitor (computer equipment) computer monitor": "monitor"},
    **{"legging (clothing)": "leggings", "short pants": "shorts", "crisp (potato chip)": "potato chip"},
    **{"cellular telephone": "mobile phone", "crescent roll": "croissant", "loveseat": "small sofa"},
    **{"hair drier": "hair dryer", "tv": "TV", "pop (soda)": "soda", "wineglass": "wine glass", "sports ball": "ball"},
    **{"mouse": "computer mouse", "mouse (computer equipment)": "computer mouse", "remote": "remote control"},
}
COLOURLESS = frozenset(("person", "baby"))  # a colour would be that of clothes, and read as that of a body
EDGE = 0.3  # fraction of a side: a box whose centre is within it from a corner is in that corner
TOUCHING = 0.02  # fraction of the longer side, between the boxes of instances that are beside each other
BESIDE_AREA = 0.01  # fraction of the image: what others are beside must be noticed at once
CLEAR_OFFSET = 0.05  # fraction of the side, between the centres of boxes: then one is further that way
READING_OFFSET = 0.025  # fraction of the width, between instances that are counted from left to right
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
MANY = 10  # instances of a category: more are not counted from left to right


@dataclass(frozen=True)
class _Placed:
    target: MuseTarget
    noun: str
    x: float
    y: float


class PhraseWriter:
    """Writer of phrases for the instances of an image.

    Args:
        image: the image with its instances.
        pixels: uint8 (H, W, 3), at the size of the annotations.
    """

    def __init__(self, image: ImageAnnotations, pixels: np.ndarray) -> None:
        self._image, self._pixels = image, pixels
        self._height, self._width = image.image.height, image.image.width
        self._placed = [self._place(target) for target in (*image.instances, *image.others)]
        self._shares: dict[int, np.ndarray] = {}

    def _place(self, target: MuseTarget) -> _Placed:
        x, y, width, height = target.box
        return _Placed(target, noun(target.category), (x + width / 2) / self._width, (y + height / 2) / self._height)

    @cached_property
    def phrases(self) -> dict[int, tuple[str, ...]]:
        """Phrases by annotation id; none where an instance can't be distinguished from others."""
        placed = self._placed[: len(self._image.instances)]
        return {row.target.annotation_id: tuple(dict.fromkeys(self._phrases(row))) for row in placed}

    def _phrases(self, row: _Placed) -> list[str]:
        if row.target.category not in self._image.complete:
            return []  # there may be others
        kin = [other for other in self._placed if other.noun == row.noun and other.target is not row.target]
        phrases = [f"the {colour} {row.noun}" for colour in self._colour(row, kin)]
        phrases += [f"the {row.noun} {where}" for where in (*self._corner(row, kin), *self._beside(row, kin))]
        if not kin:
            return [f"the {row.noun}", *phrases, *self._lone_side(row)]
        return [*phrases, *self._extreme(row, kin), *self._counted(row, kin), *self._size(row, kin)]

    def _lone_side(self, row: _Placed) -> list[str]:
        if row.x < CLEAR_SIDE:
            return [f"the {row.noun} on the left", f"the {row.noun} on the left side of the picture"]
        if row.x > 1 - CLEAR_SIDE:
            return [f"the {row.noun} on the right", f"the {row.noun} on the right side of the picture"]
        return [f"the {row.noun} in the middle"] if abs(row.x - 0.5) < 0.1 and abs(row.y - 0.5) < 0.15 else []

    def _corner(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """Name the corner of a box, if no other one of its category is near."""
        across, down = _side(row.x, "left", "right"), _side(row.y, "upper", "lower")
        if not across or not down:
            return []
        if any(abs(other.x - row.x) < EDGE and abs(other.y - row.y) < EDGE for other in kin):
            return []
        signs = (("x", 1 if across == "left" else -1), ("y", 1 if down == "upper" else -1))
        if kin and any(all(s * getattr(other, a) < s * getattr(row, a) for other in kin) for a, s in signs):
            return []  # all others are further that way
        return [f"in the {down} {across} corner"]

    def _beside(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """Name the only instance of another category next to this one, if no other one of its own is near it."""
        phrases = []
        for other in self._placed:
            alone = sum(each.noun == other.noun for each in self._placed) == 1
            large = other.target.area >= BESIDE_AREA * self._height * self._width
            if not (alone and large) or other.noun == row.noun or other.target.category not in self._image.complete:
                continue
            if self._near(row, other) and not any(self._near(each, other, 2) for each in kin):
                phrases.append(f"beside the {other.noun}")
        return phrases

    def _near(self, row: _Placed, other: _Placed, times: float = 1) -> bool:
        """Return True if two boxes are side by side with a small gap or none, neither in front of the other."""
        (x, y, width, height), (u, v, breadth, depth) = row.target.box, other.target.box
        gap = max(u - x - width, x - u - breadth)
        level = min(y + height, v + depth) - max(y, v)
        limit = TOUCHING * max(self._height, self._width) * times
        overlap = -gap / min(width, breadth)
        return gap <= limit and overlap <= (0.25 if times == 1 else 1) and level >= 0.4 * min(height, depth)

    def _extreme(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        phrases = []
        for axis, (low, high) in (("x", ("left", "right")), ("y", ("top", "bottom"))):
            here, there = getattr(row, axis), [getattr(other, axis) for other in kin]
            if here <= min(there) - CLEAR_OFFSET:
                side, in_its_half = low, here < 0.5
            elif here >= max(there) + CLEAR_OFFSET:
                side, in_its_half = high, here > 0.5
            else:
                continue
            if axis == "x":
                phrases += [f"the {side}most {row.noun}"]
                phrases += [f"the {row.noun} on the far {side}"] * in_its_half
                phrases += [f"the {row.noun} on the {side}"] * (in_its_half and len(kin) == 1)
            elif in_its_half:
                phrases += [f"the {row.noun} nearest the {side} of the picture"]
        return phrases

    def _counted(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        line = sorted([row, *kin], key=lambda each: each.x)
        if not 2 < len(line) <= MANY or any(b.x - a.x < READING_OFFSET for a, b in pairwise(line)):
            return []
        place = line.index(row)
        back = len(line) - 1 - place
        phrases = [f"the {ORDINALS[place]} {row.noun} from the left"] if place > 0 else []
        phrases += [f"the {ORDINALS[back]} {row.noun} from the right"] if back > 0 else []
        return phrases + [f"the {row.noun} in the middle of the row"] * (place == back and _is_level(line))

    def _size(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """Compare box and mask with those of all others."""
        areas = [(each.target.area, each.target.box[2] * each.target.box[3]) for each in (row, *kin)]
        own, others = areas[0], areas[1:]
        if all(own[i] >= CLEAR_SIZE_RATIO * other[i] for other in others for i in (0, 1)):
            return [f"the largest {row.noun}", f"the biggest {row.noun}"]
        if all(other[i] >= CLEAR_SIZE_RATIO * own[i] for other in others for i in (0, 1)):
            return [f"the smallest {row.noun}"]
        return []

    def _colour(self, row: _Placed, kin: Sequence[_Placed]) -> list[str]:
        if row.target.category in COLOURLESS or row.target.area < MIN_COLOUR_AREA * self._height * self._width:
            return []
        own = self._share(row)
        colour = int(own.argmax())
        if own[colour] < OWN_COLOUR or any(self._share(other)[colour] >= OTHERS_COLOUR for other in kin):
            return []
        return [COLOURS[colour]]

    def _share(self, row: _Placed) -> np.ndarray:
        number = row.target.annotation_id
        if number not in self._shares:
            try:
                mask = masks.decode(row.target.segmentation, self._height, self._width)
                self._shares[number] = colour_shares(self._pixels, mask)
            except (ValueError, ZeroDivisionError):
                self._shares[number] = np.ones(len(COLOURS))  # unknown: no other one has a colour of its own
        return self._shares[number]


def noun(category: str) -> str:
    """Return the category as people say it."""
    return COMMON_NAMES.get(category) or spoken(category)


def _side(at: float, low: str, high: str) -> str | None:
    return low if at < EDGE else high if at > 1 - EDGE else None


def _is_level(line: Sequence[_Placed]) -> bool:
    heights = [row.y for row in line]
    return max(heights) - min(heights) < CLEAR_OFFSET
