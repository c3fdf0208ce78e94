"""Checks of one record, each a function that gives the reason why it fails, in words, or None.

A check looks at one thing and leaves the others to theirs: where the `{seg}` don't add up, `slots` says so, and
`named`, which walks along them, says nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pixellm.data.describe import MIN_INSTANCE_AREA
from pixellm.imaging import masks
from pixellm.muse.quality import language, wording
from pixellm.muse.quality.places import wrong_place, wrong_size
from pixellm.muse.records import MuseRecord, MuseTarget
from pixellm.types import SEG_SLOT

ENGINES = ("server", "template")
SAME_MASK_IOU = 0.9  # two annotations of one thing; masks of different things hardly overlap
SAME_BOX_IOU = 0.5  # between the stated box and the mask's own: boxes of COCO and LVIS are tight
QUESTION_WORDS = (3, 80)
TEXT_WORDS = (4, 900)  # 34 targets, the most in MUSE, at 25 words each
DESCRIPTION_WORDS = (1, 90)  # the longest of MUSE have about 105 tokens (its figure of description lengths)
MIN_TARGETS = 2
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W_]+")  # Chinese and its kin don't set words apart


@dataclass(frozen=True)
class Fault:
    """What is wrong with a record: the check that says so, and its reason in words."""

    check: str
    reason: str


def _nothing(_record: MuseRecord) -> Sequence[MuseTarget]:
    return ()


@dataclass(frozen=True)
class Rules:
    """What the checks depend on.

    Args:
        unsafe: the question with the answer → why it must not be shown, or None.
        language: ISO 639-1 code that questions and answers are to be written in.
        others: things in a record's image that need not be targets, for what is said of place and size among a kind.
        repeats: how many records about other images may have almost the same question and answer as a first one.
    """

    unsafe: Callable[[str], str | None] = wording.unsafe_words
    language: str = "en"
    others: Callable[[MuseRecord], Sequence[MuseTarget]] = _nothing
    repeats: int = 0


DEFAULT = Rules()
Check = Callable[[MuseRecord, Rules], str | None]


def check(record: MuseRecord, rules: Rules = DEFAULT) -> list[Fault]:
    """All that is wrong with a record, by itself; see `check_all` for what the whole set tells.

    A record that `schema` rejects is not looked at further.
    """
    broken = schema(record, rules)
    if broken:
        return [Fault("schema", broken)]
    found = ((one.__name__, one(record, rules)) for one in CHECKS[1:])
    return [Fault(name, reason) for name, reason in found if reason]


def schema(record: MuseRecord, rules: Rules) -> str | None:
    """Every field has a value of its kind."""
    image, maker = record.image, record.provenance
    texts = {
        **{"record_id": record.record_id, "question": record.question, "text": record.text},
        **{"image.file_name": image.file_name, "provenance.model": maker.model, "provenance.prompt": maker.prompt},
    }
    for name, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            return f"{name}: expected words, got {value!r}"
    if not all(_is_number(side) and side >= 1 for side in (image.height, image.width)):
        return f"image: expected a height and a width in pixels, got {image.height!r} and {image.width!r}"
    if maker.engine not in ENGINES or not isinstance(maker.synthetic, bool):
        return f"provenance: expected an engine of {ENGINES} and synthetic as a bool, got {maker}"
    return next(filter(None, map(_target_schema, record.targets)), None)


def _target_schema(target: MuseTarget) -> str | None:
    for name in ("category", "description"):
        value = getattr(target, name)
        if not isinstance(value, str) or not value.strip():
            return f"target {target.annotation_id}: {name}: expected words, got {value!r}"
    if len(target.box) != 4 or not all(map(_is_number, target.box)) or min(target.box[2:]) <= 0:
        return f"target {target.annotation_id}: expected a box x, y, width, height, got {target.box}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def slots(record: MuseRecord, rules: Rules) -> str | None:
    """One `{seg}` for each target."""
    if record.slots != len(record.targets):
        return f"its text has {record.slots} {SEG_SLOT} but {len(record.targets)} targets"
    return None


def few_targets(record: MuseRecord, rules: Rules) -> str | None:
    """Two targets at least: that is what MUSE is for."""
    if len(record.targets) < MIN_TARGETS:
        return f"expected {MIN_TARGETS} targets or more, got {len(record.targets)}"
    return None


def mask(record: MuseRecord, rules: Rules) -> str | None:
    """Every target has a mask with pixels, where its box is."""
    for target in record.targets:
        try:
            own = _rle(record, target)
        except ValueError as error:
            return f"target {target.annotation_id}: {error}"
        if not masks.area(own):
            return f"target {target.annotation_id}: its mask is empty"
        if box_iou(masks.box(own), target.box) < SAME_BOX_IOU:
            return f"target {target.annotation_id}: its mask is at {masks.box(own)}, its box says {target.box}"
    return None


def repeated_targets(record: MuseRecord, rules: Rules) -> str | None:
    """No thing is shown twice, and no two are called the same."""
    for one, other in combinations(record.targets, 2):
        if one.annotation_id == other.annotation_id:
            return f"annotation {one.annotation_id} is a target twice"
        if wording.plain(one.description) == wording.plain(other.description):
            return f"targets {one.annotation_id} and {other.annotation_id} are both called {one.description!r}"
        if box_iou(one.box, other.box) >= SAME_BOX_IOU and _mask_iou(record, one, other) >= SAME_MASK_IOU:
            return f"targets {one.annotation_id} and {other.annotation_id} have the same mask"
    return None


def named(record: MuseRecord, rules: Rules) -> str | None:
    """The words for a target stand right before its `{seg}`."""
    if slots(record, rules):
        return None
    pieces = record.text.split(SEG_SLOT)
    for target, before in zip(record.targets, pieces, strict=False):
        if not wording.ends_with(before, target.description):
            return f"{target.description!r} is not right before its {SEG_SLOT}, but {before.strip()[-60:]!r}"
    return None


def giveaway(record: MuseRecord, rules: Rules) -> str | None:
    """The question doesn't name what it asks for."""
    for target in record.targets:
        word = wording.name_in(record.question, target.category, target.description)
        if word:
            return f"the question says {word!r}, which is a target"
    return None


def broad(record: MuseRecord, rules: Rules) -> str | None:
    """The question is about something: another image would have another answer, for a reason."""
    if not wording.content_words(record.question):
        return f"the question asks for nothing in particular: {record.question!r}"
    return None


def place(record: MuseRecord, rules: Rules) -> str | None:
    """What is said to be left, right, at the top or bottom is there."""
    return next(filter(None, (wrong_place(one, _whole(record, rules)) for one in record.targets)), None)


def size(record: MuseRecord, rules: Rules) -> str | None:
    """What is said to be large or small is so."""
    return next(filter(None, (wrong_size(one, _whole(record, rules)) for one in record.targets)), None)


def _whole(record: MuseRecord, rules: Rules) -> MuseRecord:
    """With everything else in the image that is known, and large enough to be seen, among the targets."""
    ids = {one.annotation_id for one in record.targets}
    least = MIN_INSTANCE_AREA * record.image.height * record.image.width
    others = [one for one in rules.others(record) if one.annotation_id not in ids and one.area >= least]
    return replace(record, targets=(*record.targets, *others)) if others else record


def foreign(record: MuseRecord, rules: Rules) -> str | None:
    """Question and answer are in the language asked for."""
    for name, text in (("question", record.question), ("text", record.text.replace(SEG_SLOT, ""))):
        other = language.other_than(rules.language, text)
        if other:
            return f"the {name} seems to be in the language {other!r}"
    return None


def length(record: MuseRecord, rules: Rules) -> str | None:
    """Neither too short to say anything, nor longer than a user reads."""
    texts = [("question", record.question, QUESTION_WORDS), ("text", record.text.replace(SEG_SLOT, ""), TEXT_WORDS)]
    texts += [(f"description of {one.annotation_id}", one.description, DESCRIPTION_WORDS) for one in record.targets]
    for name, text, (low, high) in texts:
        count = len(WORD.findall(text))
        if not low <= count <= high:
            return f"the {name} has {count} words, expected {low} to {high}"
    return None


def unsafe(record: MuseRecord, rules: Rules) -> str | None:
    """Nothing that must not be shown, by the rule that is plugged in."""
    return rules.unsafe(f"{record.question}\n{record.text}")


CHECKS: tuple[Check, ...] = (
    *(schema, slots, few_targets, mask, repeated_targets, named, giveaway, broad),
    *(place, size, foreign, length, unsafe),
)


def _rle(record: MuseRecord, target: MuseTarget) -> masks.Rle:
    height, width = record.image.height, record.image.width
    return masks.united([masks.to_rles(target.segmentation, height, width)], height, width)


def _mask_iou(record: MuseRecord, one: MuseTarget, other: MuseTarget) -> float:
    try:
        first, second = _rle(record, one), _rle(record, other)
    except ValueError:
        return 0.0  # `mask` tells
    shared = masks.common(first, second)
    return shared / max(1, masks.area(first) + masks.area(second) - shared)


def box_iou(one: Iterable[float], other: Iterable[float]) -> float:
    """Of two boxes x, y, width, height."""
    (x, y, width, height), (u, v, breadth, depth) = one, other
    across, down = min(x + width, u + breadth) - max(x, u), min(y + height, v + depth) - max(y, v)
    shared = max(0.0, across) * max(0.0, down)
    return shared / max(1e-9, width * height + breadth * depth - shared)


# Of all checks, the one of the whole set last.
NAMES = (*(one.__name__ for one in CHECKS), "near_duplicate")
