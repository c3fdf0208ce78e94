"""Words for place and size, compared with boxes and masks.

Only what the targets can decide is judged. "On the left" is about the image or the instances of a category; "left of
the bed" and "its left side" are about something else, and are ignored. So is what lies near the middle.
"""

import re

from pixellm.muse.quality.wording import name_in
from pixellm.muse.records import MuseRecord, MuseTarget

MIDDLE = 0.1  # fraction of the side, about the centre: there, either word may do
SAME_PLACE = 0.02  # fraction of the side: of centres that are closer, neither is further left
SMALL, LARGE = 0.005, 0.25  # fractions of the image: below, nothing is "large"; above, nothing is "small"
SIZE_RATIO = 1.5  # between instances of a category: then one is the larger

# "Left" in the image: not "left of the bed", "the left side of the bed", nor a body's left. Parts are matched
# possessively, so that "side" can't be given back to hide the "of" behind it.
OF_IMAGE = r"(?! of (?!the (?:image|picture|photo|photograph|frame|scene|shot)\b))"
PART = r"(?:(?:[ -]hand)?[ -](?:side|edge|corner|half|part|end|third|foreground|background))?+"
BODY = r"(?![ -](?:hand|arm|leg|foot|feet|eye|ear|paw|wing|shoulder|knee|wrist|thumb|finger)s?\b)"
WHERE = r"\b(?:on|at|in|to|near|nearest|towards?|along) the (?:far |very |extreme )?"
CLOSE = r"\b(?:at|near|nearest|towards?|along) the (?:far |very |extreme )?"


def _sideways(side: str) -> str:
    """Return a pattern for "on the (upper) left" and "the left cup"."""
    adjective = rf"^(?:the )?{side}(?:[- ]hand)?{BODY} (?!of\b|side\b|edge\b|corner\b|half\b|part\b|end\b)"
    return rf"{WHERE}(?:(?:lower|bottom|upper|top)[ -])?{side}{PART}{OF_IMAGE}{BODY}|{adjective}"


def _upright(words: str) -> str:
    """Return a pattern for "at the top" and "in the top left corner", not "on the top shelf"."""
    region = r"[ -](?:(?:left|right)(?:(?:[ -]hand)? (?:side|corner|part))?+|half|part|corner|edge|third)"
    return rf"{CLOSE}(?:{words}){PART}{OF_IMAGE}|{WHERE}(?:{words}){region}{OF_IMAGE}"


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
    """Return the reason why the words for a target's place are not true."""
    words = target.description.lower()
    sides = (_wrong_side(side, words, target, record) for side in AXES)
    reasons = (*sides, _wrong_count(words, target, record), _wrong_beside(words, target, record))
    return next(filter(None, reasons), None)


def _wrong_side(side: str, words: str, target: MuseTarget, record: MuseRecord) -> str | None:
    axis, sign = AXES[side]
    here = sign * _centre(target, record)[axis]
    kin = _kin_positions(target, record, axis, sign)
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
    """Judge "the third cup from the left"."""
    match = COUNTED.search(words)
    if not match:
        return None
    axis, sign = AXES[match[2]]
    here = sign * _centre(target, record)[axis]
    least = 1 + sum(other < here - SAME_PLACE for other in _kin_positions(target, record, axis, sign))
    place = 1 + ORDINALS.index(match[1])
    # Among the targets alone there may be fewer before it than there are in the image, never more.
    return f"{target.description!r} has {least - 1} of its kind before it" if place < least else None


def _wrong_beside(words: str, target: MuseTarget, record: MuseRecord) -> str | None:
    """Judge "left of the bed", where the bed is another target."""
    for match in BESIDE.finditer(words):
        side = match[1] or SIDE_OF[match[2] or match[3]]
        named = [row for row in record.targets if row is not target and name_in(match[4], row.category, "")]
        if len(named) != 1:
            continue  # nothing that is known, or ambiguous
        axis, sign = AXES[side]
        here, there = (sign * _centre(row, record)[axis] for row in (target, named[0]))
        if here > there + SAME_PLACE:
            return f"{target.description!r} is on the other side of {named[0].description!r}"
    return None


def wrong_size(target: MuseTarget, record: MuseRecord) -> str | None:
    """Return the reason why the words for a target's size are not true."""
    words, kin = target.description.lower(), _kin(target, record)
    larger = [other for other in kin if _is_larger(other, target, 1.0)]
    smaller = [other for other in kin if _is_larger(target, other, 1.0)]
    if BIGGEST.search(words) and larger:
        return f"{target.description!r} is not the largest of the targets of its kind"
    if SMALLEST.search(words) and smaller:
        return f"{target.description!r} is not the smallest of the targets of its kind"
    share = target.box[2] * target.box[3] / (record.image.height * record.image.width)
    dwarfed = bool(kin) and all(_is_larger(other, target, SIZE_RATIO) for other in kin)
    towers = bool(kin) and all(_is_larger(target, other, SIZE_RATIO) for other in kin)
    if BIG.search(words) and (dwarfed or (not towers and share < SMALL)):
        return f"{target.description!r} is small: {share:.1%} of the image"
    if LITTLE.search(words) and (towers or (not dwarfed and share > LARGE)):
        return f"{target.description!r} is large: {share:.1%} of the image"
    return None


def _is_larger(target: MuseTarget, other: MuseTarget, ratio: float) -> bool:
    """Compare box and mask: where they disagree, either target may be called the larger."""
    boxes = target.box[2] * target.box[3] > ratio * other.box[2] * other.box[3]
    return boxes and target.area > ratio * other.area


def _kin(target: MuseTarget, record: MuseRecord) -> list[MuseTarget]:
    return [other for other in record.targets if other is not target and other.category == target.category]


def _kin_positions(target: MuseTarget, record: MuseRecord, axis: int, sign: int) -> list[float]:
    return [sign * _centre(other, record)[axis] for other in _kin(target, record)]


def _centre(target: MuseTarget, record: MuseRecord) -> tuple[float, float]:
    """Return the centre of the box, in fractions of width and height."""
    x, y, width, height = target.box
    return (x + width / 2) / record.image.width, (y + height / 2) / record.image.height
