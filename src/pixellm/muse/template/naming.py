"""Words for a thing that fit no other thing in the photograph: by place, size, colour, and what is beside it.

Places are those of boxes, as fractions of the image from its top left corner: what the checks judge by.
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
from pixellm.muse.records import MuseTarget
from pixellm.muse.scene import Scene

# Names of the sources that nobody would say.
SAID = {
    **{"automatic washer": "washing machine", "edible corn": "corn cob", "fireplug": "fire hydrant"},
    **{"domestic ass": "donkey", "baguet": "baguette", "cantaloup": "cantaloupe", "cock": "rooster", "hog": "pig"},
    **{"icecream": "ice cream", "jean": "pair of jeans", "monitor (computer equipment) computer monitor": "monitor"},
    **{"legging (clothing)": "leggings", "short pants": "shorts", "crisp (potato chip)": "potato chip"},
    **{"cellular telephone": "mobile phone", "crescent roll": "croissant", "loveseat": "small sofa"},
    **{"hair drier": "hair dryer", "tv": "TV", "pop (soda)": "soda", "wineglass": "wine glass", "sports ball": "ball"},
    **{"mouse": "computer mouse", "mouse (computer equipment)": "computer mouse", "remote": "remote control"},
}
COLOURLESS = frozenset(("person", "baby"))  # a colour would be said of a body, and means clothes
EDGE = 0.3  # of a side: a thing whose box ends within it from a corner is in that corner
TOUCHING = 0.02  # of the image's longer side, between the boxes of things that are beside each other
BESIDE_AREA = 0.01  # of the image: what others are said to be beside must be seen at once
CLEAR_OFFSET = 0.05  # of the side, between the centres of boxes: then one is further that way
READING_OFFSET = 0.025  # of the width, between things that are counted from left to right
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
MANY = 10  # of a kind: more are not counted from left to right


@dataclass(frozen=True)
class _Placed:
    thing: MuseTarget
    noun: str
    x: float
    y: float


class Names:
    """The words for the things of a scene.

    Args:
        scene: the photograph and what is in it.
        image: uint8 (H, W, 3), the photograph at the source's size.
    """

    def __init__(self, scene: Scene, image: np.ndarray) -> None:
        self._scene, self._image = scene, image
        self._height, self._width = scene.image.height, scene.image.width
        self._placed = [self._place(one) for one in (*scene.things, *scene.others)]
        self._shares: dict[int, np.ndarray] = {}

    def _place(self, thing: MuseTarget) -> _Placed:
        x, y, width, height = thing.box
        return _Placed(thing, noun(thing.category), (x + width / 2) / self._width, (y + height / 2) / self._height)

    @cached_property
    def words(self) -> dict[int, tuple[str, ...]]:
        """By annotation id: what may be said of a thing; nothing where it can't be told from others."""
        return {one.annotation_id: tuple(dict.fromkeys(self._words(self._place(one)))) for one in self._scene.things}

    def _words(self, one: _Placed) -> list[str]:
        if one.thing.category not in self._scene.complete:
            return []  # there may be others
        kin = [other for other in self._placed if other.noun == one.noun and other.thing is not one.thing]
        found = [f"the {colour} {one.noun}" for colour in self._colour(one, kin)]
        found += [f"the {one.noun} {where}" for where in (*self._corner(one, kin), *self._beside(one, kin))]
        if not kin:
            return [f"the {one.noun}", *found, *self._lone_side(one)]
        return [*found, *self._extreme(one, kin), *self._counted(one, kin), *self._size(one, kin)]

    def _lone_side(self, one: _Placed) -> list[str]:
        if one.x < CLEAR_SIDE:
            return [f"the {one.noun} on the left", f"the {one.noun} on the left side of the picture"]
        if one.x > 1 - CLEAR_SIDE:
            return [f"the {one.noun} on the right", f"the {one.noun} on the right side of the picture"]
        return [f"the {one.noun} in the middle"] if abs(one.x - 0.5) < 0.1 and abs(one.y - 0.5) < 0.15 else []

    def _corner(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """A whole box in a quarter that no other of the kind reaches into."""
        across, down = _side(one.x, "left", "right"), _side(one.y, "upper", "lower")
        if not across or not down:
            return []
        if any(abs(other.x - one.x) < EDGE and abs(other.y - one.y) < EDGE for other in kin):
            return []
        signs = (("x", 1 if across == "left" else -1), ("y", 1 if down == "upper" else -1))
        if kin and any(all(s * getattr(other, a) < s * getattr(one, a) for other in kin) for a, s in signs):
            return []  # all others are further that way
        return [f"in the {down} {across} corner"]

    def _beside(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """Next to the only thing of another kind, where no other of its own kind is."""
        found = []
        for other in self._placed:
            alone = sum(each.noun == other.noun for each in self._placed) == 1
            large = other.thing.area >= BESIDE_AREA * self._height * self._width
            if not (alone and large) or other.noun == one.noun or other.thing.category not in self._scene.complete:
                continue
            if self._near(one, other) and not any(self._near(each, other, 2) for each in kin):
                found.append(f"beside the {other.noun}")
        return found

    def _near(self, one: _Placed, other: _Placed, times: float = 1) -> bool:
        """Side by side with a small gap or none, neither in front of the other."""
        (x, y, width, height), (u, v, breadth, depth) = one.thing.box, other.thing.box
        gap = max(u - x - width, x - u - breadth)
        level = min(y + height, v + depth) - max(y, v)
        limit = TOUCHING * max(self._height, self._width) * times
        overlap = -gap / min(width, breadth)
        return gap <= limit and overlap <= (0.25 if times == 1 else 1) and level >= 0.4 * min(height, depth)

    def _extreme(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        found = []
        for axis, ends in (("x", ("left", "right")), ("y", ("top", "bottom"))):
            here, there = getattr(one, axis), [getattr(other, axis) for other in kin]
            for side, clear in zip(
                ends, (here <= min(there) - CLEAR_OFFSET, here >= max(there) + CLEAR_OFFSET), strict=True
            ):
                there_indeed = here < 0.5 if side in ("left", "top") else here > 0.5
                if not clear:
                    continue
                if axis == "x":
                    found += [f"the {side}most {one.noun}"]
                    found += [f"the {one.noun} on the far {side}"] * there_indeed
                    found += [f"the {one.noun} on the {side}"] * (there_indeed and len(kin) == 1)
                elif there_indeed:
                    found += [f"the {one.noun} nearest the {side} of the picture"]
        return found

    def _counted(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        row = sorted([one, *kin], key=lambda each: each.x)
        if not 2 < len(row) <= MANY or any(b.x - a.x < READING_OFFSET for a, b in pairwise(row)):
            return []
        place = row.index(one)
        found = [f"the {ORDINALS[place]} {one.noun} from the left"] if place > 0 else []
        back = len(row) - 1 - place
        found += [f"the {ORDINALS[back]} {one.noun} from the right"] if back > 0 else []
        return found + [f"the {one.noun} in the middle of the row"] * (place == back and _in_a_row(row))

    def _size(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        """By box and mask, far enough from all others."""
        areas = [(each.thing.area, each.thing.box[2] * each.thing.box[3]) for each in (one, *kin)]
        own, others = areas[0], areas[1:]
        if all(own[i] >= CLEAR_SIZE_RATIO * other[i] for other in others for i in (0, 1)):
            return [f"the largest {one.noun}", f"the biggest {one.noun}"]
        if all(other[i] >= CLEAR_SIZE_RATIO * own[i] for other in others for i in (0, 1)):
            return [f"the smallest {one.noun}"]
        return []

    def _colour(self, one: _Placed, kin: Sequence[_Placed]) -> list[str]:
        if one.thing.category in COLOURLESS or one.thing.area < MIN_COLOUR_AREA * self._height * self._width:
            return []
        own = self._share(one)
        colour = int(own.argmax())
        if own[colour] < OWN_COLOUR or any(self._share(other)[colour] >= OTHERS_COLOUR for other in kin):
            return []
        return [COLOURS[colour]]

    def _share(self, one: _Placed) -> np.ndarray:
        number = one.thing.annotation_id
        if number not in self._shares:
            try:
                pixels = masks.decode(one.thing.segmentation, self._height, self._width)
                self._shares[number] = colour_shares(self._image, pixels)
            except (ValueError, ZeroDivisionError):
                self._shares[number] = np.ones(len(COLOURS))  # unknown: no other of the kind has a colour of its own
        return self._shares[number]


def noun(category: str) -> str:
    """The category as people say it."""
    return SAID.get(category) or spoken(category)


def _side(at: float, low: str, high: str) -> str | None:
    return low if at < EDGE else high if at > 1 - EDGE else None


def _in_a_row(row: Sequence[_Placed]) -> bool:
    heights = [one.y for one in row]
    return max(heights) - min(heights) < CLEAR_OFFSET
