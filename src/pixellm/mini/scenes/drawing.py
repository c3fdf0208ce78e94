"""Scenes that are made up: a place with plausible objects, their numbers, sizes and positions."""

import random
from dataclasses import dataclass
from functools import cache

from pixellm.data.categories import COCO
from pixellm.mini.scenes.acting import ACTIONS
from pixellm.mini.scenes.lexicon import groups, names, overlapping, read_table
from pixellm.mini.scenes.scene import Scene, SceneObject

Box = tuple[float, float, float, float]
MIXED_RATE = 0.25  # of scenes: names from anywhere
COCO_RATE = 0.35  # of scenes: only names of COCO
COUNTS, COUNT_WEIGHTS = (1, 2, 3, 4, 5, 6, 8, 11), (60, 18, 9, 5, 3, 2, 1.5, 1)
MAX_OBJECTS = 26
DRAWS = 2  # tries for a scene of three categories or more
# Height of the box as a fraction of the image, by size: from, to.
HEIGHTS = {"large": (0.25, 0.75), "medium": (0.14, 0.45), "small": (0.04, 0.16)}
WIDE = (
    "couch",
    "bus",
    "train",
    "bench",
    "bed",
    "dining table",
    "car",
    "truck",
    "boat",
    "surfboard",
    "skateboard",
    "airplane",
    "desk",
    "skis",
    "snowboard",
    "knife",
    "fork",
    "spoon",
    "keyboard",
    "remote",
    "bicycle",
    "motorcycle",
    "coffee table",
    "horse",
    "cow",
)
TALL = (
    "person",
    "bottle",
    "refrigerator",
    "giraffe",
    "lamp",
    "tree",
    "vase",
    "tie",
    "wine glass",
    "parking meter",
    "traffic light",
    "street lamp",
    "ladder",
    "dress",
    "pants",
    "broom",
    "mop",
    "christmas tree",
    "ostrich",
    "candle",
)
IN_THE_AIR = frozenset(
    (
        "kite",
        "airplane",
        "helicopter",
        "fighter jet",
        "hot-air balloon",
        "seagull",
        "traffic light",
        "clock",
        "picture",
        "mirror",
        "balloon",
        "chandelier",
        "eagle",
        "frisbee",
        "street sign",
        "stop sign",
    )
)
SUPPORTS = frozenset(("dining table", "coffee table", "desk", "shelf"))
ACTION_RATE = 0.7


@dataclass(frozen=True)
class _Drawn:
    category: str
    box: Box


@cache
def _places() -> dict[str, dict[str, tuple[tuple[str, ...], ...] | float]]:
    """Return each place with its pools by size: a pool is a group's names, or one name."""
    found = {}
    for place, row in read_table("places.yaml").items():
        pools = {size: tuple(tuple(sorted(groups().get(v, {v}))) for v in row[size]) for size in HEIGHTS}
        for pool in (pool for several in pools.values() for pool in several):
            assert set(pool) <= names(), f"places.yaml: {place}: {sorted(set(pool) - names())} are not in lexicon.yaml"
        found[place] = {**pools, "people": row["people"]}
    return found


def draw_scene(rng: random.Random) -> Scene:
    """Return a made-up scene of up to 26 objects; all names that it could have are known, or those of COCO."""
    coco = rng.random() < COCO_RATE
    chosen: list[tuple[str, str]] = []
    for _ in range(DRAWS):
        chosen = _distinct(_mixed(rng) if rng.random() < MIXED_RATE else _of_place(rng))
        if coco:
            chosen = [(name, size) for name, size in chosen if name in COCO]
        if len(chosen) >= 3:
            break
    chosen = chosen or [("person", "large")]
    placed: list[_Drawn] = []
    for name, size in sorted(chosen, key=lambda row: (row[1] != "large", row[1] == "small")):
        count = (
            rng.choices(COUNTS, COUNT_WEIGHTS)[0] if size != "large" or name == "person" else rng.choice((1, 1, 1, 2))
        )
        count = min(count, MAX_OBJECTS - len(placed))
        placed += _place(name, size, count, placed, rng)
    placed = _act(placed, rng)
    objects = [SceneObject(item.category, item.box) for item in placed]
    rng.shuffle(objects)
    known = frozenset(COCO) if coco and rng.random() < 0.6 else names()
    return Scene(tuple(objects), known)


def _mixed(rng: random.Random) -> list[tuple[str, str]]:
    pools = sorted(key for key, members in groups().items() if len(members) < 20)
    found = []
    for _ in range(rng.randint(2, 8)):
        draw = rng.random()
        group = groups()[rng.choice(pools)] if draw < 0.35 else names() if draw < 0.7 else COCO
        name = rng.choice(sorted(group))
        found.append((name, rng.choice(tuple(HEIGHTS))))
    return found


def _of_place(rng: random.Random) -> list[tuple[str, str]]:
    row = rng.choice(list(_places().values()))
    found: list[tuple[str, str]] = []
    assert isinstance(row["people"], float)
    if rng.random() < row["people"] * 0.85:
        found.append(("person", rng.choice(("large", "medium"))))
    for size, most in (("large", 2), ("medium", 3), ("small", 5)):
        pools = row[size]
        assert isinstance(pools, tuple)
        for pool in rng.sample(pools, min(len(pools), rng.randint(0, most))):
            found.append((rng.choice(pool), size))
    return found or [("person", "large")]


def _distinct(chosen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out names that may be said of the same object as one before them."""
    kept: dict[str, str] = {}
    for name, size in chosen:
        if name not in kept and not overlapping(name) & kept.keys():
            kept[name] = size
    return list(kept.items())


def _size(name: str, size: str, rng: random.Random) -> tuple[float, float]:
    low, high = HEIGHTS[size]
    height = rng.uniform(low, high)
    ratio = rng.uniform(1.3, 2.6) if name in WIDE else rng.uniform(0.25, 0.6) if name in TALL else rng.uniform(0.6, 1.5)
    return min(height * ratio, 0.9), height


def _place(name: str, size: str, count: int, before: list[_Drawn], rng: random.Random) -> list[_Drawn]:
    """Place objects of one category: on a table if they are small and there is one, else beside each other."""
    width, height = _size(name, size, rng)
    tables = [item.box for item in before if item.category in SUPPORTS]
    table = rng.choice(tables) if size == "small" and tables and name not in IN_THE_AIR and rng.random() < 0.7 else None
    slots = max(count, rng.randint(1, 4))
    columns = sorted(rng.sample(range(slots), count))
    found = []
    bottom = rng.uniform(0.3, 0.6) if name in IN_THE_AIR else rng.uniform(max(0.4, height), 1.0)
    for column in columns:
        scale = rng.uniform(0.6, 1.1) if rng.random() < 0.6 else 1.0
        w, h = width * scale, height * scale
        left, right = (table[0], table[2]) if table else (0.0, 1.0)
        centre = left + (right - left) * (column + rng.uniform(0.2, 0.8)) / slots
        low = (
            rng.uniform(table[1] + 0.03, table[1] + 0.5 * (table[3] - table[1]))
            if table
            else bottom + rng.uniform(-0.06, 0.06)
        )
        found.append(_Drawn(name, _clip((centre - w / 2, low - h, centre + w / 2, low))))
    return found


def _clip(box: Box) -> Box:
    """Cut a box to the image; at least two hundredths of it remain."""
    left, top, right, bottom = box
    left, top = min(max(left, 0.0), 0.98), min(max(top, 0.0), 0.98)
    right, bottom = max(min(right, 1.0), left + 0.02), max(min(bottom, 1.0), top + 0.02)
    return round(left, 3), round(top, 3), round(right, 3), round(bottom, 3)


def _act(placed: list[_Drawn], rng: random.Random) -> list[_Drawn]:
    """Move persons to where they ride, hold or wear something."""
    hows = {item: action.close for action in ACTIONS for item in action.items}
    free = [i for i, item in enumerate(placed) if item.category == "person"]
    rng.shuffle(free)
    for number, item in enumerate(placed):
        if item.category in hows and free and rng.random() < ACTION_RATE:
            person = free.pop()
            if hows[item.category] == "ridden":
                placed[person] = _Drawn("person", _rider(item.box, rng))
            else:
                placed[number] = _Drawn(item.category, _held(placed[person].box, hows[item.category], rng))
    return placed


def _rider(box: Box, rng: random.Random) -> Box:
    left, top, right, bottom = box
    height, centre = (bottom - top) * rng.uniform(0.9, 1.6), (left + right) / 2
    width, low = min(0.5 * height, (right - left) * 0.9), top + (bottom - top) * rng.uniform(0.5, 0.95)
    return _clip((centre - width / 2, low - height, centre + width / 2, low))


def _held(person: Box, how: str, rng: random.Random) -> Box:
    left, top, right, bottom = person
    width, height = (right - left) * rng.uniform(0.3, 0.5), (bottom - top) * rng.uniform(0.1, 0.25)
    x = rng.uniform(left + width / 2, right - width / 2) if how == "worn" else rng.choice((left, right))
    y = rng.uniform(top + 0.15 * (bottom - top), bottom - 0.4 * (bottom - top))
    return _clip((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
