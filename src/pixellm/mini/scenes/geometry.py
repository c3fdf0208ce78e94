"""Relations between boxes: each is True, False, or None where opinions may differ."""

from collections.abc import Callable

from pixellm.mini.scenes.scene import SceneObject

Place = tuple[str, str]  # across and down: ("left", ""), ("", "top"), ("right", "bottom"), ("middle", "")
SIDE, NOT_SIDE = 0.36, 0.45  # an object's centre is on the left below the first, and surely not above the second
CORNER, NOT_CORNER = 0.33, 0.42
BESIDE, APART = 0.04, 0.12  # gap across, as a fraction of the width
OFFSET = 0.08  # between centres: then one is further that way
CLEAR_SIZE = 1.5
CLEAR_LENGTH = 1.3
CLEAR_DISTANCE = 1.4


def within(value: float, limit: float, outside: float) -> bool | None:
    return True if value <= limit else False if value >= outside else None


def both(*answers: bool | None) -> bool | None:
    return False if False in answers else None if None in answers else True


def in_place(item: SceneObject, place: Place) -> bool | None:
    """Return whether the centre is in the left, right, top or bottom third, in a corner, or in the middle."""
    limits = (CORNER, NOT_CORNER) if all(place) else (SIDE, NOT_SIDE)
    if place == ("middle", ""):
        return within(abs(item.x - 0.5), 0.1, 0.16)
    distances = {"left": item.x, "right": 1 - item.x, "top": item.y, "bottom": 1 - item.y}
    return both(*(within(distances[side], *limits) for side in place if side))


def left_of(item: SceneObject, anchor: SceneObject) -> bool | None:
    return within(item.x - anchor.x, -OFFSET, -OFFSET / 4)


def right_of(item: SceneObject, anchor: SceneObject) -> bool | None:
    return left_of(anchor, item)


def next_to(item: SceneObject, anchor: SceneObject) -> bool | None:
    """Return whether two objects stand side by side: a small gap across, at about the same height."""
    gap = max(item.box[0], anchor.box[0]) - min(item.box[2], anchor.box[2])
    shared = min(item.box[3], anchor.box[3]) - max(item.box[1], anchor.box[1])
    level = shared / max(min(item.height, anchor.height), 1e-6)
    if gap >= APART or level <= 0:
        return False
    size = min(item.height, anchor.height) / max(item.height, anchor.height, 1e-6)
    return True if -0.02 <= gap <= BESIDE and level >= 0.5 and size >= 0.2 else None


def above(item: SceneObject, anchor: SceneObject) -> bool | None:
    """Return whether an object is right above another: over it, with no overlap down."""
    shared = min(item.box[2], anchor.box[2]) - max(item.box[0], anchor.box[0])
    narrow = max(min(item.width, anchor.width), 1e-6)
    if shared <= 0 or item.y >= anchor.y:
        return False
    return True if shared >= 0.6 * narrow and item.box[3] <= anchor.box[1] + 0.02 else None


def below(item: SceneObject, anchor: SceneObject) -> bool | None:
    return above(anchor, item)


def on_top(item: SceneObject, support: SceneObject) -> bool | None:
    """Return whether a small object stands on a large one: its lower end is within the other's box."""
    inside = support.box[0] + 0.02 <= item.x <= support.box[2] - 0.02
    lower = support.box[1] + 0.02 <= item.box[3] <= support.box[1] + 0.75 * support.height
    if item.box[2] <= support.box[0] or item.box[0] >= support.box[2]:
        return False
    if item.box[3] < support.box[1] - 0.03 or item.box[1] > support.box[3]:
        return False
    return True if inside and lower and item.area < 0.4 * support.area and item.y < support.y + 0.1 else None


def distance(item: SceneObject, anchor: SceneObject) -> float:
    return ((item.x - anchor.x) ** 2 + (item.y - anchor.y) ** 2) ** 0.5


def best(items: list[int], measure: Callable[[int], float], ratio: float) -> int | None:
    """Return the one with the largest measure, if it is `ratio` times that of the next."""
    order = sorted(items, key=measure, reverse=True)
    if len(order) < 2 or measure(order[0]) < ratio * measure(order[1]):
        return None
    return order[0]
