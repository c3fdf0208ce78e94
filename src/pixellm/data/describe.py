"""Words for objects: nouns in their right form, and phrases that tell an instance from the others of its category.

Shapes:  N instances of one category · H, W image
Places are fractions of the image, (0, 0) top left; masks and image are taken after augmentation, so that left is left.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

MIN_INSTANCE_AREA = 0.0005  # of the image: smaller ones are hardly to be seen at the sizes that the model works at
CLEAR_OFFSET = 0.08  # of the image's side, to the next instance: below, "leftmost" is a matter of taste
CLEAR_SIZE_RATIO = 1.5
CLEAR_SIDE = 0.35  # a lone object is "on the left" when its centre is in this part of the width
READING_OFFSET = 0.03  # of the image's width, between instances that are counted from left to right
OWN_COLOUR = 0.55  # an object's colour covers at least this part of it …
OTHERS_COLOUR = 0.30  # … and less than this of any other of its category
MIN_COLOUR_AREA = 0.003  # of the image: smaller ones are mostly border and shadow
COLOUR_SAMPLES = 4096  # pixels looked at per object; enough for a share to within 2 %

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
ORDINALS = ("first", "second", "third", "fourth", "fifth")

# Last words of names. Names that are plural already, names of stuff, and irregular plurals.
PLURAL_ONLY = frozenset(
    (
        *("skis", "scissors", "pants", "jeans", "shorts", "tights", "leggings", "stockings", "trousers"),
        *("glasses", "sunglasses", "eyeglasses", "spectacles", "noodles"),
        *("goggles", "headphones", "pliers"),
    )
)
MASS = frozenset(
    (
        *("hair", "skin", "rice", "soup", "broccoli", "tofu", "tempeh", "sushi", "satay", "ice cream"),
        *("chicken (food)", "fried chicken", "grilled chicken", "chicken porridge", "meatball soup"),
        *("fish (food)", "squid (food)", "fruit"),
    )
)
IRREGULAR = {
    **{"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese"},
    **{"foot": "feet", "tooth": "teeth", "sheep": "sheep", "deer": "deer", "shrimp": "shrimp", "fish": "fish"},
    **{"aircraft": "aircraft", "knife": "knives", "leaf": "leaves", "loaf": "loaves", "scarf": "scarves"},
    **{"shelf": "shelves", "wolf": "wolves", "calf": "calves", "potato": "potatoes", "tomato": "tomatoes"},
}
# Where the instances of a class are merged, these are hardly ever alone.
PAIRED = frozenset(
    ("shoe", "pump shoe", "high heel shoe", "flat shoe", "loafer", "sneaker", "sandal", "boot", "sock", "glove")
)


def spoken(name: str) -> str:
    """Return the category as a word: "date (fruit)" and "date_(fruit)" → "date"."""
    return re.sub(r"\s*\(.*?\)", "", name.replace("_", " ")).strip()


def pluralize(word: str) -> str:
    """Return the plural of a singular noun, by its last word: "wine glass" → "wine glasses"."""
    *front, last = word.split(" ")
    if last in PLURAL_ONLY:
        plural = last
    elif last in IRREGULAR:
        plural = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        plural = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        plural = last[:-1] + "ies"
    else:
        plural = last + "s"
    return " ".join((*front, plural))


@dataclass(frozen=True)
class Noun:
    """Forms of one noun. `many` says whether it stands for several objects; names of stuff ignore it."""

    singular: str
    plural: str
    countable: bool  # False: plural-only ("skis") or stuff ("broccoli"), never "a", "every" or "two"

    def form(self, many: bool) -> str:
        return self.plural if many else self.singular

    def is_plural(self, many: bool) -> bool:
        return many if self.countable else self.singular.rsplit(" ", 1)[-1] in PLURAL_ONLY

    def be(self, many: bool) -> str:
        return "are" if self.is_plural(many) else "is"

    def the(self, many: bool) -> str:
        return f"the {self.form(many)}"

    def every(self) -> str:
        return f"every {self.singular}" if self.countable else f"all the {self.plural}"

    def some(self, many: bool) -> str:
        """Return it with the indefinite article, where there is one: "a dog", "dogs", "skis"."""
        if many or not self.countable:
            return self.form(many)
        # By sound, not by letter: a unicycle, an hourglass.
        vowel = re.match(r"(?!uni|eu|one|use|ute)[aeiou]|hour", self.singular)
        return f"{'an' if vowel else 'a'} {self.singular}"

    def counted(self, count: int) -> str:
        """Return it with its number: "a dog", "two dogs", "many dogs" (above five), "skis"."""
        if count == 1 or not self.countable:
            return self.some(count > 1)
        return f"{COUNT_WORDS.get(count, 'many')} {self.plural}"

    def there_is_no(self) -> str:
        return f"there {self.be(many=False)} no {self.singular}"


@cache
def noun(name: str, word: str | None = None) -> Noun:
    """Return the noun for a category `name`, or for another `word` that means the same."""
    singular = spoken(name) if word is None else word
    if name in MASS and word is None:
        return Noun(singular, singular, countable=False)
    return Noun(singular, pluralize(singular), countable=singular.rsplit(" ", 1)[-1] not in PLURAL_ONLY)


@dataclass(frozen=True)
class Description:
    """Instance `index` with its name in an answer and phrases to ask for it with, all with an article."""

    index: int
    answer: str
    phrases: tuple[str, ...]


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Return the centroid (x, y) of a bool (H, W) mask, as fractions of width and height."""
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    height, width = mask.shape
    area = columns.sum()
    return (
        float(columns @ (np.arange(width) + 0.5) / (area * width)),
        float(rows @ (np.arange(height) + 0.5) / (area * height)),
    )


def colour_names(rgb: np.ndarray) -> np.ndarray:
    """Return the index into `COLOURS` of each uint8 pixel (P, 3), or -1 between two colours."""
    pixels = rgb.astype(np.float32) / 255
    value, low = pixels.max(axis=1), pixels.min(axis=1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    red, green, blue = pixels.T
    safe = np.maximum(chroma, 1e-6)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    hue = hue * 60

    dull = saturation < 0.15
    reddish = (hue < 45) | (hue >= 330)
    # First match wins. The limits are set by eye on images; gaps between them keep doubtful pixels without a name.
    rules = (
        ("black", (value < 0.1) | ((value < 0.2) & (saturation < 0.45))),
        ("black", (value < 0.27) & (saturation < 0.3)),
        ("white", dull & (value > 0.75)),
        ("grey", dull & (value > 0.3) & (value < 0.68)),
        ("pink", reddish & ((hue >= 330) | (hue < 15)) & (saturation > 0.2) & (saturation < 0.55) & (value > 0.7)),
        ("brown", (hue >= 8) & (hue < 45) & (saturation > 0.25) & (value < np.where(saturation < 0.7, 0.62, 0.45))),
        ("red", ((hue < 12) | (hue >= 342)) & (saturation > 0.55) & (value > 0.3)),
        ("orange", (hue >= 16) & (hue < 40) & (saturation > 0.6) & (value > 0.65)),
        ("yellow", (hue >= 46) & (hue < 66) & (saturation > 0.45) & (value > 0.6)),
        ("green", (hue >= 75) & (hue < 165) & (saturation > 0.22)),
        ("blue", (hue >= 195) & (hue < 250) & (saturation > 0.3)),
        ("purple", (hue >= 260) & (hue < 310) & (saturation > 0.22)),
        ("pink", (hue >= 310) & (hue < 342) & (saturation > 0.25) & (value > 0.55)),
    )
    return np.select([match for _, match in rules], [COLOURS.index(name) for name, _ in rules], default=-1)


def colour_shares(image_rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the share of the masked pixels that each of `COLOURS` covers: (11,). image_rgb: uint8 (H, W, 3)."""
    pixels = image_rgb[mask]
    pixels = pixels[:: max(1, len(pixels) // COLOUR_SAMPLES)]
    names = colour_names(pixels)
    return np.bincount(names[names >= 0], minlength=len(COLOURS)) / len(pixels)


def describe_instances(
    category: str, masks: Sequence[np.ndarray], image_rgb: np.ndarray, coloured: bool, complete: bool
) -> list[Description]:
    """Describe what tells one instance of `category` from the others by place, size or colour.

    Args:
        category: the name of their category.
        masks: N ≥ 1 bool (H, W), one for each instance.
        image_rgb: uint8 (H, W, 3).
        coloured: the category's colour means anything.
        complete: these are all instances in the image; if not, only what others hardly make untrue is returned.
    """
    word = noun(category)
    if not word.countable:
        return []
    areas = np.array([mask.mean() for mask in masks])
    descriptions = []
    if coloured and (complete or len(masks) == 1):
        descriptions += _by_colour(word.singular, masks, image_rgb)
    if len(masks) == 1:
        descriptions += _lone_place(word.singular, masks[0])
    else:
        descriptions += _by_size(word.singular, areas, complete)
        if complete:
            descriptions += _by_place(word.singular, masks)
    return [description for description in descriptions if areas[description.index] >= MIN_INSTANCE_AREA]


def left_to_right(masks: Sequence[np.ndarray]) -> list[int] | None:
    """Return the order of the instances from left to right, or None where two centres are too close to tell."""
    across = [centre(mask)[0] for mask in masks]
    order = sorted(range(len(masks)), key=across.__getitem__)
    gaps = (across[right] - across[left] for left, right in pairwise(order))
    return order if all(gap >= READING_OFFSET for gap in gaps) else None


def _lone_place(name: str, mask: np.ndarray) -> list[Description]:
    x, _ = centre(mask)
    side = "left" if x < CLEAR_SIDE else "right" if x > 1 - CLEAR_SIDE else None
    if side is None:
        return []
    answer = f"the {name} on the {side}"
    return [Description(0, answer, (answer, f"the {name} on the {side} side"))]


def _by_place(name: str, masks: Sequence[np.ndarray]) -> list[Description]:
    descriptions = []
    centres = np.array([centre(mask) for mask in masks])  # N 2
    for axis, ends in ((0, ("left", "right")), (1, ("top", "bottom"))):
        order = np.argsort(centres[:, axis], kind="stable")
        for side, (first, second) in zip(ends, ((order[0], order[1]), (order[-1], order[-2])), strict=True):
            if abs(centres[first, axis] - centres[second, axis]) < CLEAR_OFFSET:
                continue
            answer = f"the {side}most {name}"
            # "On the left" may fit several of three; of two it fits one.
            pair = (f"the {name} on the {side}",) if axis == 0 and len(masks) == 2 else ()
            far = f"the {name} on the far {side}" if axis == 0 else f"the {name} nearest the {side}"
            descriptions.append(Description(int(first), answer, (answer, far, *pair)))
    return descriptions


def _by_size(name: str, areas: np.ndarray, complete: bool) -> list[Description]:
    order = np.argsort(areas, kind="stable")
    descriptions = []
    if areas[order[-1]] >= CLEAR_SIZE_RATIO * areas[order[-2]]:
        descriptions.append(
            Description(int(order[-1]), f"the largest {name}", (f"the largest {name}", f"the biggest {name}"))
        )
    if complete and areas[order[1]] >= CLEAR_SIZE_RATIO * areas[order[0]]:
        descriptions.append(Description(int(order[0]), f"the smallest {name}", (f"the smallest {name}",)))
    return descriptions


def _by_colour(name: str, masks: Sequence[np.ndarray], image_rgb: np.ndarray) -> list[Description]:
    shares = np.stack([colour_shares(image_rgb, mask) for mask in masks])  # N 11
    descriptions = []
    for index, own in enumerate(shares):
        colour = int(own.argmax())
        others = np.delete(shares[:, colour], index)
        large = masks[index].mean() >= MIN_COLOUR_AREA
        if large and own[colour] >= OWN_COLOUR and (others < OTHERS_COLOUR).all():
            answer = f"the {COLOURS[colour]} {name}"
            descriptions.append(Description(index, answer, (answer, f"the {name} that is {COLOURS[colour]}")))
    return descriptions
