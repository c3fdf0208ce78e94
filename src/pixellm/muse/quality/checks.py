"""Checks of one record, each a function that returns the reason why the record fails, in words, or None.

A check judges one aspect: where the `{seg}` don't add up, `slots` reports it, and `named`, which walks along them,
reports nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pixellm.data.describe import MIN_INSTANCE_AREA
from pixellm.imaging import masks
from pixellm.muse.quality import wording
from pixellm.muse.quality.spatial import wrong_place, wrong_size
from pixellm.muse.records import MuseRecord, MuseTarget
from pixellm.types import SEG_SLOT

ENGINES = ("server", "template")
SAME_MASK_IOU = 0.9  # two annotations of one object; masks of different objects hardly overlap
SAME_BOX_IOU = 0.5  # between the stated box and the mask's own: boxes of COCO and LVIS are tight
QUESTION_WORDS = (3, 80)
TEXT_WORDS = (4, 900)  # 34 targets, the most in MUSE, at 25 words each
DESCRIPTION_WORDS = (1, 90)  # the longest of MUSE have about 105 tokens (its figure of description lengths)
MIN_TARGETS = 2
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W_]+")  # Chinese and its kin don't set words apart


@dataclass(frozen=True)
class Issue:
    """Failed check of a record, with the reason in words."""

    check: str
    reason: str


@dataclass(frozen=True)
class QualityRules:
    """Parameters of the checks.

    Args:
        unsafe: maps question and answer to the reason why they must not be shown, or None.
        language: ISO 639-1 code of the language that questions and answers are to be written in.
        others: returns further instances of a record's image, among which words for place and size are judged.
        repeats: number of records about other images that may share almost the text of a first one.
    """

    unsafe: Callable[[str], str | None] = wording.unsafe_words
    language: str = "en"
    others: Callable[[MuseRecord], Sequence[MuseTarget]] = lambda _record: ()
    repeats: int = 0


DEFAULT = QualityRules()
Check = Callable[[MuseRecord, QualityRules], str | None]


def check(record: MuseRecord, rules: QualityRules = DEFAULT) -> list[Issue]:
    """Run all checks on a record by itself; see `check_all` for near-duplicates in a set.

    A record that fails `schema` is not checked further.
    """
    broken = schema(record, rules)
    if broken:
        return [Issue("schema", broken)]
    reasons = ((function.__name__, function(record, rules)) for function in CHECKS[1:])
    return [Issue(name, reason) for name, reason in reasons if reason]


def schema(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require a value of the right type in every field."""
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


def slots(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require one `{seg}` for each target."""
    if record.slots != len(record.targets):
        return f"its text has {record.slots} {SEG_SLOT} but {len(record.targets)} targets"
    return None


def few_targets(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require two targets at least: MUSE is about several."""
    if len(record.targets) < MIN_TARGETS:
        return f"expected {MIN_TARGETS} targets or more, got {len(record.targets)}"
    return None


def mask(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require a mask with pixels for every target, where its box is."""
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


def repeated_targets(record: MuseRecord, rules: QualityRules) -> str | None:
    """Forbid two targets with the same annotation, mask or description."""
    for target, other in combinations(record.targets, 2):
        if target.annotation_id == other.annotation_id:
            return f"annotation {target.annotation_id} is a target twice"
        if wording.plain(target.description) == wording.plain(other.description):
            return f"targets {target.annotation_id} and {other.annotation_id} are both called {target.description!r}"
        if box_iou(target.box, other.box) >= SAME_BOX_IOU and _mask_iou(record, target, other) >= SAME_MASK_IOU:
            return f"targets {target.annotation_id} and {other.annotation_id} have the same mask"
    return None


def named(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require the description of each target right before its `{seg}`."""
    if slots(record, rules):
        return None
    pieces = record.text.split(SEG_SLOT)
    for target, before in zip(record.targets, pieces, strict=False):
        if not wording.ends_with(before, target.description):
            return f"{target.description!r} is not right before its {SEG_SLOT}, but {before.strip()[-60:]!r}"
    return None


def giveaway(record: MuseRecord, rules: QualityRules) -> str | None:
    """Forbid a question that names a target."""
    for target in record.targets:
        word = wording.name_in(record.question, target.category, target.description)
        if word:
            return f"the question says {word!r}, which is a target"
    return None


def broad(record: MuseRecord, rules: QualityRules) -> str | None:
    """Forbid a question that fits any image."""
    if not wording.content_words(record.question):
        return f"the question asks for nothing in particular: {record.question!r}"
    return None


def place(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require words for place to be true of the boxes."""
    return next(filter(None, (wrong_place(target, _with_others(record, rules)) for target in record.targets)), None)


def size(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require words for size to be true of boxes and masks."""
    return next(filter(None, (wrong_size(target, _with_others(record, rules)) for target in record.targets)), None)


def _with_others(record: MuseRecord, rules: QualityRules) -> MuseRecord:
    """Add all other known instances that are large enough to be seen to the targets."""
    ids = {target.annotation_id for target in record.targets}
    least = MIN_INSTANCE_AREA * record.image.height * record.image.width
    others = [row for row in rules.others(record) if row.annotation_id not in ids and row.area >= least]
    return replace(record, targets=(*record.targets, *others)) if others else record


def foreign(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require question and answer in the language of the rules."""
    for name, text in (("question", record.question), ("text", record.text.replace(SEG_SLOT, ""))):
        other = wording.foreign_language(rules.language, text)
        if other:
            return f"the {name} seems to be in the language {other!r}"
    return None


def length(record: MuseRecord, rules: QualityRules) -> str | None:
    """Require texts that say something, and that a user would read to the end."""
    texts = [("question", record.question, QUESTION_WORDS), ("text", record.text.replace(SEG_SLOT, ""), TEXT_WORDS)]
    texts += [(f"description of {row.annotation_id}", row.description, DESCRIPTION_WORDS) for row in record.targets]
    for name, text, (low, high) in texts:
        count = len(WORD.findall(text))
        if not low <= count <= high:
            return f"the {name} has {count} words, expected {low} to {high}"
    return None


def unsafe(record: MuseRecord, rules: QualityRules) -> str | None:
    """Forbid what must not be shown, by the rule that is plugged in."""
    return rules.unsafe(f"{record.question}\n{record.text}")


CHECKS: tuple[Check, ...] = (
    *(schema, slots, few_targets, mask, repeated_targets, named, giveaway, broad),
    *(place, size, foreign, length, unsafe),
)


def _rle(record: MuseRecord, target: MuseTarget) -> masks.Rle:
    height, width = record.image.height, record.image.width
    return masks.union([masks.to_rles(target.segmentation, height, width)], height, width)


def _mask_iou(record: MuseRecord, target: MuseTarget, other: MuseTarget) -> float:
    try:
        first, second = _rle(record, target), _rle(record, other)
    except ValueError:
        return 0.0  # `mask` reports it
    shared = masks.intersection_area(first, second)
    return shared / max(1, masks.area(first) + masks.area(second) - shared)


def box_iou(first: Iterable[float], second: Iterable[float]) -> float:
    """Return the IoU of two boxes x, y, width, height."""
    (x, y, width, height), (u, v, breadth, depth) = first, second
    across, down = min(x + width, u + breadth) - max(x, u), min(y + height, v + depth) - max(y, v)
    shared = max(0.0, across) * max(0.0, down)
    return shared / max(1e-9, width * height + breadth * depth - shared)


NAMES = (*(function.__name__ for function in CHECKS), "near_duplicate")
