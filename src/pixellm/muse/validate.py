"""Whether files in MUSE's layout, anyone's, are consistent: what users of the released one ran into, and what we would.

A file is one split; with several, no photograph may be in two.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixellm.data.records import Segments
from pixellm.imaging import masks
from pixellm.muse.layout import Pair, pairs_of, photograph
from pixellm.muse.quality.checks import SAME_BOX_IOU, box_iou
from pixellm.types import SEG_SLOT

OVERHANG = 1.0  # pixels that a coordinate may lie outside: annotators' borders are rounded
YEARS = ("", "train2017", "val2017", "train2014")
FAULTS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class Problem:
    """An inconsistency.

    Args:
        file: where.
        record: the entry's id, or its number in the file, and the question's number.
        kind: one word for counting.
        reason: in words.
    """

    file: str
    record: str
    kind: str
    reason: str


@dataclass
class Validator:
    """Goes through entries one by one, and remembers what must not come twice.

    Args:
        images: a folder of images, or of their years' folders: every entry's image must be there, in its size.
    """

    images: Path | None = None
    _ids: set[tuple[str, str]] = field(default_factory=set)
    _places: dict[str, str] = field(default_factory=dict)  # photograph → file
    _categories: dict[Any, Any] = field(default_factory=dict)  # id → name

    def problems(self, file: str, number: int, one: Any) -> Iterator[Problem]:
        """All that is wrong with an entry, which is the `number`th of a file."""
        if not isinstance(one, Mapping):
            yield Problem(file, f"#{number}", "entry", f"expected an image entry, got {str(one)[:60]!r}")
            return
        name = str(one.get("id", f"#{number}"))
        for kind, reason in self._entry(file, one):
            yield Problem(file, name, kind, reason)
        for question, kind, reason in self._pairs(one):
            yield Problem(file, name if question is None else f"{name}, question {question}", kind, reason)

    def _entry(self, file: str, one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if "id" in one:
            key = (file, str(one["id"]))
            if key in self._ids:
                yield "duplicate_id", f"another entry has the id {one['id']}"
            self._ids.add(key)
        if _size(one) is None:
            yield "size", f"expected height and width in pixels, got {one.get('height')!r} and {one.get('width')!r}"
        annotations = one.get("ann_list")
        ids = [t["id"] for t in annotations or () if isinstance(t, Mapping) and "id" in t]
        if len(set(map(str, ids))) < len(ids):
            yield "duplicate_id", "two instances of ann_list have the same id"
        if not annotations:
            yield "no_instances", "ann_list is empty or not there: the released loader skips the image"
        try:
            image = photograph(one)
        except ValueError as error:
            yield "image", str(error)
            return
        before = self._places.setdefault(image, file)
        if before != file:
            yield "leak", f"the image {image} is in {before}, too"
        yield from self._image(one)

    def _image(self, one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """With a folder of images: it is there, and has the size that the masks were made for."""
        if self.images is None:
            return
        names = [str(one[key]) for key in ("coco_url", "file_name") if one.get(key)]
        names += [Path(name).name for name in names]
        paths = [self.images / year / name for name in names if "://" not in name for year in YEARS]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            yield "image", f"{names[-1]} is not in {self.images}"
            return
        try:
            with Image.open(found) as image:
                size = (image.height, image.width)
        except OSError as error:
            yield "image", f"{found} can't be read ({error})"
            return
        if _size(one) and size != _size(one):
            yield "size", f"the image is {size[0]}×{size[1]}, the entry says {one['height']}×{one['width']}"

    def _pairs(self, one: Mapping[str, Any]) -> Iterator[tuple[int | None, str, str]]:
        try:
            pairs = pairs_of(one)
        except ValueError as error:
            yield None, "lists", str(error)
            return
        seen = set()
        for number, pair in enumerate(pairs):
            reasons = [*_words(pair)]
            if not isinstance(pair.answer, list) or not pair.answer:
                reasons.append(("no_targets", "there is no target"))
            else:
                for target in pair.answer:
                    reasons += self._target(target, pair, _size(one))
                shapes = [
                    str(t["segmentation"]) for t in pair.answer if isinstance(t, Mapping) and t.get("segmentation")
                ]
                if len(set(shapes)) < len(shapes):
                    reasons.append(("repeated_target", "two targets have the same segmentation"))
            said = (pair.question, pair.text, str(pair.answer))
            if said in seen:
                reasons.append(("repeated_question", "an earlier question has the same words and targets"))
            seen.add(said)
            yield from ((number, kind, reason) for kind, reason in reasons)

    def _target(self, target: Any, pair: Pair, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
        if not isinstance(target, Mapping):
            yield "mask", f"expected an instance, got {str(target)[:60]!r}"
            return
        name, number = target.get("category_name"), target.get("category_id")
        if pair.text is None and not (target.get("rephrased_name") or name):
            yield "no_name", "there is neither a text nor a name for a target"
        if name is not None and number is not None and self._categories.setdefault(str(number), name) != name:
            yield "category", f"category {number} is {self._categories[str(number)]!r} elsewhere, {name!r} here"
        if not target.get("segmentation"):
            yield "mask", f"a target ({name}) has no segmentation"
        elif size:
            yield from _mask(target, size)


def _words(pair: Pair) -> Iterator[tuple[str, str]]:
    if not isinstance(pair.question, str) or not pair.question.strip():
        yield "empty_text", "the question is empty"
    if pair.text is None:
        return
    if not isinstance(pair.text, str) or not pair.text.strip():
        yield "empty_text", "the answer's text is empty: null stands for none"
        return
    count, targets = pair.text.count(SEG_SLOT), len(pair.answer or ())
    if count != targets:
        yield "slots", f"its text has {count} {SEG_SLOT} but there are {targets} targets"
    rest = pair.text.replace(SEG_SLOT, "")
    if "{" in rest or "}" in rest:
        yield "braces", "its text has braces other than {seg}'s: the released loader formats it and fails"


def _mask(target: Mapping[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    height, width = size
    name = target.get("category_name")
    segmentation = target["segmentation"]
    try:
        rle = masks.united([Segments((segmentation,)).checked().rles(height, width)], height, width)
    except FAULTS as error:
        yield "mask", f"the segmentation of a target ({name}) can't be read: {error}"
        return
    if not masks.area(rle):
        yield "mask", f"the mask of a target ({name}) is empty"
    parts = segmentation if isinstance(segmentation, list) else []
    polygons = [np.reshape(one, (-1, 2)) for one in parts if not isinstance(one, dict) and len(one) >= 6]
    if _outside(polygons, size):
        yield "outside", f"a polygon of a target ({name}) leaves the image of {height}×{width} pixels"
    box = target.get("bbox")
    if box is None:
        return
    try:
        x, y, across, down = (float(side) for side in box)
    except FAULTS:
        yield "box", f"expected a bbox x, y, width, height, got {str(box)[:60]}"
        return
    if _outside([np.array([[x, y], [x + across, y + down]])], size):
        yield "outside", f"the box of a target ({name}) leaves the image of {height}×{width} pixels"
    elif masks.area(rle) and box_iou(masks.box(rle), (x, y, across, down)) < SAME_BOX_IOU:
        yield "box", f"the mask of a target ({name}) is at {masks.box(rle)}, its box says {box}"


def _outside(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> bool:
    low, far = -OVERHANG, np.array([size[1], size[0]]) + OVERHANG
    return any((points < low).any() or (points > far).any() for points in outlines)


def _size(one: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = (one.get("height"), one.get("width"))
    good = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    return (int(sides[0] or 0), int(sides[1] or 0)) if good else None


def counts(problems: Sequence[Problem]) -> Counter[str]:
    """How many of each kind."""
    return Counter(one.kind for one in problems)
