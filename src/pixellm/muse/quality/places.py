"""Whether words of place and size are true of the boxes.

Only what can be told from the targets is judged. "On the left" is said of the image or among things of a kind, "left of
the bed" and "its left side" of something else: those are left alone. So is what lies near the middle.
"""

import re

from pixellm.muse.quality.wording import name_in
from pixellm.muse.records import MuseRecord, MuseTarget

MIDDLE = 0.1  # of the side, about the centre: there, either word may do
SAME_PLACE = 0.02  # of the side: centres that are closer don't say which is further left
SMALL, LARGE = 0.005, 0.25  # shares of the image: below, nothing is "large"; above, nothing is "small"
SIZE_RATIO = 1.5  # between things of a kind: then one is the larger

# "Left" of the picture: not "left of the bed", "the left side of the bed", nor a body's left. Parts are matched
# possessively, so that "side" can't be given back to hide the "of" behind it.
OF_IMAGE = r"(?! of (?!the (?:image|picture|photo|photograph|frame|scene|shot)\b))"
PART = r"(?:(?:[ -]hand)?[ -](?:side|edge|corner|half|part|end|third|foreground|background))?+"
BODY = r"(?![ -](?:hand|arm|leg|foot|feet|eye|ear|paw|wing|shoulder|knee|wrist|thumb|finger)s?\b)"
WHERE = r"\b(?:on|at|in|to|near|nearest|towards?|along) the (?:far |very |extreme )?"
CLOSE = r"\b(?:at|near|nearest|towards?|along) the (?:far |very |extreme )?"


def _sideways(side: str) -> str:
    """As in "on the (upper) left" and "the left cup"."""
    adjective = rf"^(?:the )?{side}(?:[- ]hand)?{BODY} (?!of\b|side\b|edge\b|corner\b|half\b|part\b|end\b)"
    return rf"{WHERE}(?:(?:lower|bottom|upper|top)[ -])?{side}{PART}{OF_IMAGE}{BODY}|{adjective}"


def _upright(words: str) -> str:
    """As in "at the top" and "in the top left corner"; not "on the top shelf"."""
    part = r"[ -](?:(?:left|right)(?:(?:[ -]hand)? (?:side|corner|part))?+|half|part|corner|edge|third)"
    return rf"{CLOSE}(?:{words}){PART}{OF_IMAGE}|{WHERE}(?:{words}){part}{OF_IMAGE}"


PLACES = {
    **{side: re.compile(_sideways(side)) for side in ("left", "right")},
    **{"top": re.compile(_upright("top|upper")), "bottom": re.compile(_upright("bottom|lower"))},
}
MOST = {
    **{side: re.compile(rf"\b(?:{side}[- ]?most|furthest (?:to the )?{side})\b") for side in ("left", "right")},
    "top": re.compile(r"\b(?:top[- ]?most|uppermost|highest)\b"),
    "bottom": re.compile(r"\b(?:bottom[- ]?most|lowermost|lowest)\b"),
}
AXES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, sign: smaller is further that way
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
COUNTED = re.compile(rf"\b({'|'.join(ORDINALS)}) [^,.;]*?\bfrom the (left|right)\b")
BESIDE = re.compile(r"\b(?:(left|right) of|(above)|(below)) ((?:the|a|an) [^,.;]+)")
SIDE_OF = {"above": "top", "below": "bottom"}
BIGGEST, SMALLEST = re.compile(r"\b(?:largest|biggest)\b"), re.compile(r"\bsmallest\b")
BIG, LITTLE = re.compile(r"\b(?:large|big|huge|larger|bigger)\b"), re.compile(r"\b(?:small|tiny|little|smaller)\b")


def wrong_place(target: MuseTarget, record: MuseRecord) -> str | None:
    """Why what is said of the place of a target is not true."""
    words = target.description.lower()
    reasons = (_wrong_side(side, words, target, record) for side in AXES)
    return next(
        filter(None, (*reasons, _wrong_count(words, target, record), _wrong_beside(words, target, record))), None
    )


def _wrong_side(side: str, words: str, target: MuseTarget, record: MuseRecord) -> str | None:
    axis, sign = AXES[side]
    here = sign * _centre(target, record)[axis]
    kin = [sign * _centre(one, record)[axis] for one in _of_its_kind(target, record)]
    if MOST[side].search(words) and any(other < here - SAME_PLACE for other in kin):
        return f"{target.description!r} is not the {side}most of the targets of its kind"
    if not PLACES[side].search(words):
        return None
    if kin and all(other < here - SAME_PLACE for other in kin):
        return f"{target.description!r} has all targets of its kind further to the {side}"
    beyond = here - sign * 0.5 > MIDDLE
    if beyond and not any(other > here + SAME_PLACE for other in kin):
        x, y = _centre(target, record)
        return f"{target.description!r} has its centre at {x:.0%} of the width and {y:.0%} of the height"
    return None


def _wrong_count(words: str, target: MuseTarget, record: MuseRecord) -> str | None:
    """As in "the third cup from the left"."""
    found = COUNTED.search(words)
    if not found:
        return None
    axis, sign = AXES[found[2]]
    here = sign * _centre(target, record)[axis]
    kin = [sign * _centre(one, record)[axis] for one in _of_its_kind(target, record)]
    least = 1 + sum(other < here - SAME_PLACE for other in kin)
    place = 1 + ORDINALS.index(found[1])
    # Among the targets alone there may be fewer before it than there are in the image, never more.
    return f"{target.description!r} has {least - 1} of its kind before it" if place < least else None


def _wrong_beside(words: str, target: MuseTarget, record: MuseRecord) -> str | None:
    """As in "left of the bed", where the bed is another target."""
    for found in BESIDE.finditer(words):
        side = found[1] or SIDE_OF[found[2] or found[3]]
        named = [one for one in record.targets if one is not target and name_in(found[4], one.category, "")]
        if len(named) != 1:
            continue  # nothing that is known, or not known which
        axis, sign = AXES[side]
        here, there = (sign * _centre(one, record)[axis] for one in (target, named[0]))
        if here > there + SAME_PLACE:
            return f"{target.description!r} is on the other side of {named[0].description!r}"
    return None


def wrong_size(target: MuseTarget, record: MuseRecord) -> str | None:
    """Why what is said of the size of a target is not true."""
    words, kin = target.description.lower(), _of_its_kind(target, record)
    larger = [one for one in kin if _is_larger(one, target, 1.0)]
    smaller = [one for one in kin if _is_larger(target, one, 1.0)]
    if BIGGEST.search(words) and larger:
        return f"{target.description!r} is not the largest of the targets of its kind"
    if SMALLEST.search(words) and smaller:
        return f"{target.description!r} is not the smallest of the targets of its kind"
    share = target.box[2] * target.box[3] / (record.image.height * record.image.width)
    dwarfed = bool(kin) and all(_is_larger(one, target, SIZE_RATIO) for one in kin)
    towers = bool(kin) and all(_is_larger(target, one, SIZE_RATIO) for one in kin)
    if BIG.search(words) and (dwarfed or (not towers and share < SMALL)):
        return f"{target.description!r} is small: {share:.1%} of the image"
    if LITTLE.search(words) and (towers or (not dwarfed and share > LARGE)):
        return f"{target.description!r} is large: {share:.1%} of the image"
    return None


def _is_larger(one: MuseTarget, other: MuseTarget, ratio: float) -> bool:
    """By its box and by its mask: where they disagree, either may be called the larger."""
    boxes = one.box[2] * one.box[3] > ratio * other.box[2] * other.box[3]
    return boxes and one.area > ratio * other.area


def _of_its_kind(target: MuseTarget, record: MuseRecord) -> list[MuseTarget]:
    return [one for one in record.targets if one is not target and one.category == target.category]


def _centre(target: MuseTarget, record: MuseRecord) -> tuple[float, float]:
    """Of the box, as fractions of width and height."""
    x, y, width, height = target.box
    return (x + width / 2) / record.image.width, (y + height / 2) / record.image.height
